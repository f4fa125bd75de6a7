"""Draws docs/overview.png, the picture in README: three held-out scenes and what llava-tiny says about them."""

import textwrap
from pathlib import Path

import matplotlib.pyplot as plt

import vlmlab
from vlmlab.scenes import sample

SEEDS = (9, 18, 24)

vlm = vlmlab.load("llava-tiny", device="cpu")
fig, axes = plt.subplots(1, len(SEEDS), figsize=(9.6, 4.3))
for axis, seed in zip(axes, SEEDS, strict=True):
    scene = sample(seed, split="test")
    axis.imshow(scene.render(256).rgb)
    axis.set_axis_off()
    lines = []
    for question in scene.questions(types=("relation", "attribute", "multi_hop"), count=3):
        said = vlm.generate(scene.render(96).rgb, question.text)
        lines += [*textwrap.wrap(question.text, 40), *textwrap.wrap("> " + said, 40), ""]
    axis.text(
        0, 1.03, "\n".join(lines), transform=axis.transAxes, va="bottom", fontsize=8.5, family="monospace", wrap=True
    )
fig.tight_layout()
fig.savefig(Path(__file__).with_name("overview.png"), dpi=110)
