"""Notebook 00. The world: three-dimensional scenes with exact truths, pictures, questions and captions."""

from vlmlab.scenes.kinds import COLOURS, KINDS, MATERIALS, SIZES
from vlmlab.scenes.relations import CATEGORIES, NAMES, Relation, holds
from vlmlab.scenes.sampling import SPLITS, sample
from vlmlab.scenes.scene import Camera, Light, Object, Scene

__all__ = [
    "CATEGORIES", "COLOURS", "KINDS", "MATERIALS", "NAMES", "SIZES", "SPLITS",
    "Camera", "Light", "Object", "Relation", "Scene", "holds", "sample",
]  # fmt: skip
