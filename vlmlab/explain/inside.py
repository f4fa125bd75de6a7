"""One question looked into: what a model computed for it, by name, and what it says when that is changed. Notebook 13.

    inside = Inside.ask(vlm, picture, "Where is the cat?")
    inside.get("attention", 2)                          # or "delta", "B", "C", "state", "residual", "tokens"
    inside.run(["vision.blocks.1.attn"])                # any of vlm.names()
    inside.log_probs(tap=lambda name, x: ...)           # the answer's words, with something replaced on the way

The answer is the model's own, or any text; it is put after the prompt as a whole (teacher forcing), so that one pass
gives every step of its generation.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmlab.errors import BadInput, UnknownName
from vlmlab.language import Llama
from vlmlab.taps import Tap, chained, collector, prefixed
from vlmlab.vision import load_image
from vlmlab.vlm.answering import Prompt
from vlmlab.vlm.model import VLM
from vlmlab.vlm.splice import expand

TRANSFORMER = {"attention": ".attn", "scores": ".scores"}
MAMBA = {"u": ".u", "delta": ".delta", "B": ".B", "C": ".C", "y": ".y", "z": ".z"}
BOTH = {"tokens": "", "residual": ""}


@dataclass(frozen=True)
class Inside:
    """A question as a model reads it: L positions, of which some are the image's and the last are the answer's.

    vlm: in evaluation mode. picture: uint8 (H, W, 3), or None. prompt, answer: texts. ids: (1, L) long, image positions
    hold vlm.image_id. pixels: (1, 3, S, S), or None. image: the positions of the image's tokens (empty without one).
    grid: rows and columns of these tokens, (0, 0) without an image. words: the positions of the answer's tokens; the
    position before one predicts it.
    """

    vlm: VLM
    picture: np.ndarray | None
    prompt: Prompt
    answer: str
    ids: Tensor
    pixels: Tensor | None
    image: slice
    grid: tuple[int, int]
    words: slice

    @classmethod
    def ask(cls, vlm: VLM, image: Any, prompt: Prompt, answer: str | None = None) -> "Inside":
        """Prepare a question; nothing runs yet but, without an `answer`, the model's own greedy one.

        image: as `VLM.generate` takes it. Raises BadInput for an empty answer, BadImage for a bad picture.
        """
        vlm.eval()
        picture = None if image is None else load_image(image)
        if answer is None:
            answer = vlm.generate(picture, prompt)
            if not answer:
                raise BadInput(f"{vlm.config.name} answers nothing to {prompt!r}; give the answer to look into")
        if vlm.tokenizer is None:
            raise BadInput(f"{vlm.config.name} has no tokenizer; set vlm.tokenizer")
        before, after = vlm.template.encode_answer(
            prompt, answer, vlm.tokenizer, image=picture is not None, image_id=vlm.image_id
        )
        pixels, tokens, side = None, 1, 0
        if picture is not None:
            pixels = vlm.preprocess(picture)[None].to(vlm.device)
            with torch.no_grad():
                tokens = vlm.encode_images(pixels).shape[1]
            side = int(tokens**0.5)  # with a class token in front, it is the first of the image's positions
        ids = expand(torch.tensor([[*before, *after]]), tokens, vlm.image_id).ids.to(vlm.device)
        places = (ids[0] == vlm.image_id).nonzero().flatten().tolist()
        if picture is not None and len(places) != tokens:
            raise BadInput(f"a question is looked into with one image, and this prompt has {len(places) // tokens}")
        image_at = slice(places[0] + tokens - side**2, places[-1] + 1) if places else slice(0, 0)
        words = slice(ids.shape[1] - len(after), ids.shape[1])
        return cls(vlm, picture, prompt, answer, ids, pixels, image_at, (side, side), words)

    @property
    def length(self) -> int:
        """Positions L."""
        return self.ids.shape[1]

    @property
    def patches(self) -> int:
        """Image tokens P that the language model reads."""
        return self.grid[0] * self.grid[1]

    @property
    def texts(self) -> list[str]:
        """What stands at each of the L positions; an image token is named by its place, column then row: "C4"."""
        assert self.vlm.tokenizer is not None
        texts = [self.vlm.tokenizer.decode([i], skip_special=False) if i >= 0 else "" for i in self._text_ids()]
        columns = self.grid[1]
        for k, place in enumerate(range(self.image.start, self.image.stop)):
            texts[place] = f"{chr(ord('A') + k % columns)}{k // columns + 1}" if columns <= 26 else str(k)
        return texts

    @property
    def groups(self) -> list[str]:
        """ "text", "image" or "answer" for each of the L positions."""
        names = ["text"] * self.length
        names[self.image] = ["image"] * self.patches
        names[self.words] = ["answer"] * (self.words.stop - self.words.start)
        return names

    def kinds(self) -> tuple[str, ...]:
        """What `get` can give for this model."""
        inner = TRANSFORMER if isinstance(self.vlm.language, Llama) else {**MAMBA, "state": ""}
        return (*BOTH, *inner)

    def get(self, kind: str, layer: int | None = None) -> Tensor:
        """An intermediate of the language model, without gradient, of one layer or (layer=None) of all, stacked.

        Returns, for one layer (counted from 0, or from the end where negative):
          "attention", "scores" (H, L, L), a query a row; "residual" (L, D), the stream after the layer;
          "u", "delta", "y", "z" (L, inner), "B", "C" (L, N); "state" (L, inner, N), after each position;
          "tokens" (P, D), the image's tokens, whatever the layer.

        Raises UnknownName for what this model has not, BadInput for a layer that is not there.
        """
        if kind not in self.kinds():
            raise UnknownName("intermediate", kind, self.kinds())
        if kind == "tokens":
            if self.pixels is None:
                raise BadInput("this question has no image, so no image tokens")
            return self.run(["tokens"])["tokens"][0]
        layers = range(self.vlm.language.config.layers)
        if layer is not None and not -len(layers) <= layer < len(layers):
            raise BadInput(f"layer={layer}: this language model has layers 0 to {len(layers) - 1}")
        chosen = layers if layer is None else [layers[layer]]
        if kind == "state":
            from vlmlab.explain.states import states

            found = [states(self, index) for index in chosen]
        else:
            part = {**TRANSFORMER, **MAMBA, **BOTH}[kind]
            names = [f"language.layers.{index}{part}" for index in chosen]
            run = self.run(names)
            found = [run[name][0] for name in names]
        return torch.stack(found) if layer is None else found[0]

    def run(self, names: Iterable[str] = (), tap: Tap | None = None, grad: bool = False) -> dict[str, Tensor]:
        """One forward pass: the intermediates of these names (each with its batch of 1), and "logits" (L, V).

        names: of `vlm.names()`. tap: may replace any of them on the way (vlmlab.taps); what it returns is what is
        collected. grad: leave everything in one graph for gradients. Raises UnknownName.
        """
        wanted, found, collect = collector(names, self.vlm.names())
        with torch.set_grad_enabled(grad):
            out = self.logits(self.pixels, None, chained(tap, collect))
        return {**{name: found[name] for name in wanted}, "logits": out[0]}

    def log_probs(self, tap: Tap | None = None, grad: bool = False) -> Tensor:
        """log p of each token of the answer given all before it, (A,), natural logarithm."""
        return self.word_log_probs(self.run(tap=tap, grad=grad)["logits"][None])[0]

    def scores(self, pixels: Tensor | None = None, tokens: Tensor | None = None, batch: int = 16) -> Tensor:
        """log p of the whole answer (N,) for N other pictures (N, 3, S, S), preprocessed, or sets of image tokens
        (N, P', D) in the place of this one's (P' tokens with a class token, if the model has one)."""
        given = tokens if pixels is None else pixels
        if given is None or (pixels is not None and tokens is not None):
            raise BadInput("give pixels or tokens, and not both")
        found = []
        with torch.no_grad():
            for chunk in given.split(batch):
                logits = self.logits(chunk if tokens is None else None, None if tokens is None else chunk, None)
                found.append(self.word_log_probs(logits).sum(-1))
        return torch.cat(found)

    def generate(self, pixels: Tensor, **options: Any) -> str:
        """The model's answer to the same prompt about another preprocessed picture (1, 3, S, S)."""
        ids = self.ids[:, : self.words.start]
        new = self.vlm.generate_ids(pixels, ids, **options)[0].tolist()
        return self.text_of(new)[0]

    @property
    def stop_ids(self) -> list[int]:
        """Ids that end this model's answers."""
        assert self.vlm.tokenizer is not None
        return self.vlm.template.stop_ids(self.vlm.tokenizer)

    def text_of(self, ids: Sequence[int]) -> tuple[str, bool]:
        """The answer that generated ids stand for, as `VLM.generate` gives it, and whether its end text is in them."""
        assert self.vlm.tokenizer is not None
        ends, stop = self.stop_ids, self.vlm.template.stop_text
        cut = next((place for place, index in enumerate(ids) if index in ends), len(ids))
        text = self.vlm.tokenizer.decode(ids[:cut])
        return (text.partition(stop)[0].strip(), stop in text) if stop else (text.strip(), False)

    def on_grid(self, values: Tensor) -> Tensor:
        """Values of the image's tokens (..., P), or of all positions (..., L), as a map (..., rows, columns)."""
        if values.shape[-1] == self.length:
            values = values[..., self.image]
        if self.pixels is None or values.shape[-1] != self.patches:
            raise BadInput(f"{values.shape[-1]} values for {self.patches} image tokens and {self.length} positions")
        return values.reshape(*values.shape[:-1], *self.grid)

    def _text_ids(self) -> list[int]:
        return [index if index != self.vlm.image_id else -1 for index in self.ids[0].tolist()]

    def logits(self, pixels: Tensor | None, tokens: Tensor | None, tap: Tap | None = None) -> Tensor:
        """Logits (N, L, V) for N pictures or sets of image tokens, or (1, L, V) without either."""
        vlm = self.vlm
        if tokens is None and pixels is not None:
            tokens = vlm.project(vlm.vision_features(pixels, tap), tap)
        count = 1 if tokens is None else len(tokens)
        at = self.ids == vlm.image_id  # (1, L)
        embeds = vlm.language.embed(self.ids.masked_fill(at, 0)).expand(count, -1, -1)  # (N, L, D)
        if tokens is not None:
            embeds = embeds.masked_scatter(at[..., None].expand_as(embeds), tokens.to(embeds.dtype))
        return vlm.language.head(vlm.language.hidden(inputs_embeds=embeds, tap=prefixed(tap, "language.")))

    def word_log_probs(self, logits: Tensor) -> Tensor:
        """log p of the answer's tokens (N, A) by logits (N, L, V)."""
        targets = self.ids[:, self.words].expand(len(logits), -1)
        before = logits[:, self.words.start - 1 : self.words.stop - 1]
        before = before if before.dtype == torch.float64 else before.float()
        return before.log_softmax(-1).gather(-1, targets[..., None])[..., 0]


Method = Callable[[Inside], Tensor]
"""A map of a question: what each image token has to do with the answer, (rows, columns)."""
