"""Every chapter's exercises: the notebook's own solution is right; an answer not begun, or an exception, is told."""

import importlib
import inspect
import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from exercises import SOURCES, solutions
from torch import nn

from vlmlab import scenes, vision
from vlmlab.benchmarks import held_out, vqa_text
from vlmlab.checks import Verdict
from vlmlab.scenes.programs import step
from vlmlab.scenes.relations import LEFT, holds
from vlmlab.vision.fused import NORMALISATION

GIVEN = {
    "scenes": scenes, "vision": vision, "held_out": held_out, "LEFT": LEFT, "step": step, "holds": holds,
    "NORMALISATION": NORMALISATION, "torch": torch, "nn": nn, "F": F, "np": np, "math": math, "re": re,
    "vqa_text": vqa_text,
}  # fmt: skip
"""What the chapters' own cells define or import before their exercises."""
CHAPTERS = {
    "00_start_here": ("left_of", "behind_program", "mirror_box", "interval"),
    "01_seeing": ("unpatchify", "sigmoid_loss", "class_embeddings", "vit_parameters"),
    "02_llava_architecture": ("projector_parameters", "splice", "label_mask", "rotate_to", "pictures_that_fit"),
    "03_instruction_data": (
        "box_line", "blocks", "breaks_rule", "restate", "fault_of", "empty_reply", "says_more",
    ),
    "04_training_llava": ("set_stage", "learning_rate", "sees", "rows_of"),
    "05_evaluating": (
        "normalise", "vqa_accuracy", "differ", "parse_pope", "consistency", "relative_score", "questions_needed",
    ),
    "06_shortcomings": ("visible_share", "needed", "illusion_effect", "pool_squares", "equal_at"),
    "07_selective_scan": ("zoh", "kernel", "selective", "join", "memory", "alpha"),
    "08_cobra_architecture": (
        "fuse", "block_parameters", "causal_conv", "break_even", "siglip_in_chunks", "compact_projector",
    ),
    "09_training_cobra": (
        "spliced_labels", "collate", "fork", "local_exponents", "two_parts", "paired_difference",
    ),
    "10_mambavision": (
        "put_back", "mixer_parameters", "attention_blocks", "step_size", "feature_maps", "four_ways",
    ),
    "12_time": ("pair_frames", "frames_that_fit", "watch_and_ask", "backwards", "overshoot", "merged"),
    "13_attention_and_states": (
        "word_map", "roll_out", "relevance_step", "knock_out", "what_is_left", "ledger_shares", "read_out",
    ),
    "14_attribution_and_embeddings": (
        "expected_gradients", "occlude", "gated", "deletion_area", "over_control", "effect", "neighbour_share",
    ),
    "15_spatial_probe": ("pair_lead", "middle", "tag_of", "flipped", "least", "hunt"),
    "16_paper_scale": ("token_ms", "rows_to_balance", "combine", "held_bytes", "pack_q4_1", "own_levels"),
    "17_scoreboard": ("sign_test", "pareto_front", "mean_rank", "skill"),
}  # fmt: skip
"""Chapter -> its checks, each named as the function it asks for. `fooled` of chapter 00 has no one solution."""
NAMED_OTHERWISE = {"alpha": "alpha_of"}
EXERCISES = [(chapter, name) for chapter, names in CHAPTERS.items() for name in names]
each_exercise = pytest.mark.parametrize(("chapter", "name"), EXERCISES, ids=lambda x: x[:40])


def check_of(chapter: str, name: str):
    return getattr(importlib.import_module(f"vlmlab.checks.nb{chapter[:2]}"), name)


@pytest.fixture(scope="module")
def solved():
    """The names that each chapter's solutions define."""
    return {chapter: solutions(f"{chapter}.py", GIVEN, until="\nmy_find = ") for chapter in CHAPTERS}


def test_no_chapter_and_no_check_is_left_out():
    assert sorted(CHAPTERS) == sorted(path.stem for path in SOURCES.glob("*.py"))
    for chapter, names in CHAPTERS.items():
        module = importlib.import_module(f"vlmlab.checks.nb{chapter[:2]}")
        public = {name for name, value in vars(module).items() if inspect.isfunction(value) and name[0] != "_"}
        found = {name for name in public if inspect.signature(getattr(module, name)).return_annotation is Verdict}
        assert found - {"run_check", "fooled"} == set(names)


@each_exercise
def test_the_notebooks_solution_is_right(chapter, name, solved, judged):
    verdict = judged(check_of(chapter, name), solved[chapter][NAMED_OTHERWISE.get(name, name)])
    assert verdict.ok, verdict


@each_exercise
@pytest.mark.parametrize("empty", [None, ..., lambda *_: ..., lambda *_: None], ids=["None", "...", "f ...", "f None"])
def test_an_exercise_that_is_not_begun(chapter, name, empty, judged):
    verdict = judged(check_of(chapter, name), empty)
    assert not verdict.ok
    assert verdict.mistake == "not begun", verdict


@each_exercise
def test_an_exception_is_shown(chapter, name, judged):
    def broken(*_):
        return [][3]

    verdict = judged(check_of(chapter, name), broken)
    assert not verdict.ok
    assert verdict.mistake == "exception"
    assert "IndexError" in verdict.message
