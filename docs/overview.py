"""Draws docs/overview.png, the picture in README: three held-out scenes and what llava-tiny says about them."""

import textwrap
from pathlib import Path

import matplotlib.pyplot as plt

import vlmlab
from vlmlab.benchmarks.held_out import is_right
from vlmlab.scenes import sample

SEEDS = (9, 18, 24)

vlm = vlmlab.load("llava-tiny", device="cpu")
fig, axes = plt.subplots(1, len(SEEDS), figsize=(9.6, 5.4))
for axis, seed in zip(axes, SEEDS, strict=True):
    scene = sample(seed, split="test")
    axis.imshow(scene.render(256).rgb)
    axis.set_axis_off()
    lines = []
    for question in scene.questions(types=("relation", "attribute", "multi_hop"), count=3):
        said = vlm.generate(scene.render(96).rgb, question.text)
        mark = "right" if is_right(said, question.answer, "sentence") else "WRONG"
        lines += [*textwrap.wrap(question.text, 42), *textwrap.wrap(f"> {said} [{mark}]", 42), ""]
    axis.text(0, -0.04, "\n".join(lines), transform=axis.transAxes, va="top", fontsize=8, family="monospace")
fig.subplots_adjust(left=0.01, right=0.99, top=0.99, bottom=0.38, wspace=0.04)
fig.savefig(Path(__file__).with_name("overview.png"), dpi=110)
