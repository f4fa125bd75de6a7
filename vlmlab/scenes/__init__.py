"""Notebook 00. The world: three-dimensional scenes with exact truths, pictures, clips, questions and captions."""

from vlmlab.scenes.clip_events import Event
from vlmlab.scenes.clip_stages import EVENTS
from vlmlab.scenes.clips import Clip, sample_clip
from vlmlab.scenes.kinds import COLOURS, KINDS, MATERIALS, SIZES
from vlmlab.scenes.relations import CATEGORIES, NAMES, Relation, holds
from vlmlab.scenes.sampling import SPLITS, sample
from vlmlab.scenes.scene import Camera, Light, Object, Scene

__all__ = [
    "CATEGORIES", "COLOURS", "EVENTS", "KINDS", "MATERIALS", "NAMES", "SIZES", "SPLITS",
    "Camera", "Clip", "Event", "Light", "Object", "Relation", "Scene", "holds", "sample", "sample_clip",
]  # fmt: skip
