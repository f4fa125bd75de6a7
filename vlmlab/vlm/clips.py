"""Clips in a VLM: a few tokens for each frame, one frame after the other. Notebook 12.

The features H_v (P, D_v) of a frame are averaged to K = side * side tokens, and T frames stand where one picture would:
T runs of K placeholders. Nothing in the model changes; the order of the frames is that of their tokens, which rotary
positions and a recurrence both tell apart. Source of the pooling: PLLaVA (Xu et al. 2024, arXiv 2404.16994), which
averages the tokens of frames in the same way, without any weights of its own.
"""

from collections.abc import Sequence
from itertools import takewhile
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vlmlab.errors import BadInput
from vlmlab.language import generation
from vlmlab.language.tokenizer import Tokenizer

if TYPE_CHECKING:
    from vlmlab.vlm.model import VLM

SIDE = 2  # tokens a side that are left of a frame
CHUNK = 64  # frames encoded at once
ANSWER = 56  # new tokens at most
Clip = np.ndarray | Tensor | None
"""Frames uint8 (T, H, W, 3), or their tokens (T * K, D_v) from `clip_features`, or None: a question without a clip."""


def pool(features: Tensor, side: int = SIDE) -> Tensor:
    """Average each square of the token grid: (T, P, D_v) -> (T, side * side, D_v). Raises BadInput for no such grid."""
    grid = round(features.shape[1] ** 0.5)
    if grid**2 != features.shape[1] or not 1 <= side <= grid:
        raise BadInput(f"{features.shape[1]} tokens of a frame cannot be pooled to {side} x {side}; take 1 to {grid}")
    maps = features.transpose(1, 2).unflatten(2, (grid, grid))  # (T, D_v, grid, grid)
    return F.adaptive_avg_pool2d(maps, side).flatten(2).transpose(1, 2)


@torch.no_grad()
def clip_features(vlm: "VLM", frames: np.ndarray, side: int = SIDE) -> Tensor:
    """A clip's tokens before the projector: frames uint8 (T, H, W, 3) -> (T * K, D_v), K = side * side.

    Raises BadInput for what is no clip, and for a model whose projector does not map each token by itself.
    """
    if vlm.config.projector == "fused-ldpnet":
        raise BadInput(f"{vlm.config.name} pools a picture's tokens in its projector; clips need one that keeps them")
    if frames.ndim != 4 or not len(frames):
        raise BadInput(f"a clip is an array of frames (T, H, W, 3) with T of at least 1, got shape {frames.shape}")
    parts = [frames[start : start + CHUNK] for start in range(0, len(frames), CHUNK)]
    return torch.cat([pool(vlm.vision_features(vlm.preprocess.batch(part)), side) for part in parts]).flatten(0, 1)


def ask_clip(vlm: "VLM", clip: Clip, prompt: str, side: int = SIDE, max_new_tokens: int = ANSWER) -> str:
    """The answer to a question about a clip; arguments as in `answer_clips`."""
    return answer_clips(vlm, [clip], [prompt], side, max_new_tokens)[0]


def answer_clips(
    vlm: "VLM",
    clips: Sequence[Clip],
    prompts: Sequence[str],
    side: int = SIDE,
    max_new_tokens: int = ANSWER,
    batch_size: int = 32,
) -> list[str]:
    """Greedy answers to questions about clips of any number of frames, `batch_size` at a time.

    clips: one for each prompt; the same object several times in a batch is encoded once.
    Raises BadInput as `clip_features` does, for clips and prompts that differ in number, and for a clip too long.
    """
    if len(clips) != len(prompts):
        raise BadInput(f"{len(clips)} clips for {len(prompts)} prompts; give one (or None) for each prompt")
    answers: list[str] = []
    for start in range(0, len(prompts), batch_size):
        asked = list(zip(clips[start : start + batch_size], prompts[start : start + batch_size], strict=True))
        known = {id(clip): _tokens(vlm, clip, side) for clip, _ in asked if clip is not None}
        rows = [prompt_ids(vlm, prompt, 0 if clip is None else len(known[id(clip)])) for clip, prompt in asked]
        longest = max(map(len, rows))
        room = vlm.config.max_length - longest
        if room < 1:
            raise BadInput(f"a clip and its question take {longest} tokens, {vlm.config.name} takes fewer than "
                           f"{vlm.config.max_length}; show fewer frames")  # fmt: skip
        seen = [known[id(clip)].unflatten(0, (-1, side**2)) for clip, _ in asked if clip is not None]  # (T, K, D_v)
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        images = torch.cat(seen) if seen else None
        new = vlm.generate_ids(None, ids, mask, max_new_tokens=min(max_new_tokens, room), image_features=images)
        answers += [_text(vlm, row) for row in new.tolist()]
    return answers


def prompt_ids(vlm: "VLM", prompt: str, tokens: int) -> list[int]:
    """Ids that ask `prompt` about a clip of T * K = `tokens` placeholders; 0: without a clip."""
    ids = vlm.template.encode_prompt(prompt, _tokenizer(vlm), image=tokens > 0, image_id=vlm.image_id)
    return [index for each in ids for index in [each] * (tokens if each == vlm.image_id else 1)]


class Watcher:
    """A model that reads a stream frame by frame and keeps only what its language model's cache keeps.

    Of a Mamba that is a state of one size; of a transformer, keys and values of every token so far. A question goes on
    from a copy, so it can be asked at any moment and leaves no trace. What stands before a picture in the model's
    template is read first.
    """

    def __init__(self, vlm: "VLM", side: int = SIDE):
        self.vlm, self.side = vlm, side
        self.frames = 0
        self.cache = vlm.language.new_cache()
        opening = self._around("?")[0]
        if opening:
            self._read(vlm.language.embed(torch.tensor([opening], device=vlm.device)))

    def see(self, frames: np.ndarray) -> None:
        """Read the next frame, uint8 (H, W, 3), or several (T, H, W, 3) at once, which comes to the same."""
        self.read(clip_features(self.vlm, frames[None] if frames.ndim == 3 else frames, self.side))

    @torch.no_grad()
    def read(self, features: Tensor) -> None:
        """The same, from `clip_features` (T * K, D_v)."""
        self._read(self.vlm.project(features[None]))
        self.frames += len(features) // self.side**2

    @torch.no_grad()
    def logits(self, question: str) -> Tensor:
        """Logits (V,) of the answer's first token."""
        hidden = self.vlm.language.hidden(self._question(question), cache=self.fork().cache)
        return self.vlm.language.head(hidden[0, -1])

    def ask(self, question: str, max_new_tokens: int = ANSWER) -> str:
        """The answer, greedily, from what was seen so far. Raises BadInput before the first frame."""
        language, ends = self.vlm.language, self.vlm.template.stop_ids(_tokenizer(self.vlm))
        model: Any = SimpleNamespace(
            embed=language.embed, hidden=language.hidden, head=language.head, new_cache=lambda: self.fork().cache
        )
        ids = self._question(question)
        new = generation.generate(model, input_ids=ids, max_new_tokens=max_new_tokens, eos_ids=ends)
        return _text(self.vlm, new[0].tolist())

    def fork(self) -> "Watcher":
        """A watcher of its own that has seen the same. Raises BadInput before the first frame."""
        if not self.frames:
            raise BadInput("nothing was seen yet; show the first frame before you ask")
        new = object.__new__(Watcher)
        new.vlm, new.side, new.frames, new.cache = self.vlm, self.side, self.frames, self.cache.repeat(1)
        return new

    def bytes(self) -> int:
        """Bytes that are kept of all that was read."""
        return self.cache.bytes()

    def _around(self, question: str) -> tuple[list[int], list[int]]:
        """The ids before the clip and those after it."""
        ids = prompt_ids(self.vlm, question, 1)
        place = ids.index(self.vlm.image_id)
        return ids[:place], ids[place + 1 :]

    def _question(self, question: str) -> Tensor:
        return torch.tensor([self._around(question)[1]], device=self.vlm.device)

    @torch.no_grad()
    def _read(self, embeds: Tensor) -> None:
        self.vlm.language.hidden(inputs_embeds=embeds, cache=self.cache)


def _tokens(vlm: "VLM", clip: np.ndarray | Tensor, side: int) -> Tensor:
    """The clip's tokens (T * K, D_v), computed if need be."""
    return clip if isinstance(clip, Tensor) else clip_features(vlm, clip, side)


def _text(vlm: "VLM", ids: Sequence[int]) -> str:
    """New ids as an answer: up to the template's end, without white space around it."""
    words, stop = _tokenizer(vlm), vlm.template.stop_text
    ends = vlm.template.stop_ids(words)
    text = words.decode(takewhile(lambda index: index not in ends, ids))
    return (text.split(stop)[0] if stop else text).strip()


def _tokenizer(vlm: "VLM") -> Tokenizer:
    if vlm.tokenizer is None:
        raise BadInput(f"{vlm.config.name} has no tokenizer; set vlm.tokenizer")
    return vlm.tokenizer
