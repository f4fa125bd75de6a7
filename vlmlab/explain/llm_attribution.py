"""What each word of an answer rests on, by captum's LLMAttribution: patches, or words of the question. Notebook 14.

captum's language models are transformers'; `AsTransformers` gives a question of ours that interface. Source: Miglani
et al. 2023 (arXiv 2312.05491).
"""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vlmlab.errors import BadInput, UnknownName
from vlmlab.explain.attribution import FILLS, captum, cells, filled, pixels_of
from vlmlab.explain.inside import Inside


class OfWords(NamedTuple):
    """What each token of the answer rests on. features: names of what is taken away, F. words: the answer's A tokens.
    by_word: differences of log p, with less without, (A, F); total: of the whole answer (F,). float32, as captum sums.
    """

    features: list[str]
    words: list[str]
    by_word: Tensor
    total: Tensor


def llm_attribution(inside: Inside, of: str = "image", fill: str = "mean") -> OfWords:
    """captum's LLMAttribution by FeatureAblation, one feature taken away at a time.

    Args:
        of: "image", a patch a feature (ImageMaskInput), in the order of the image tokens, for `Inside.on_grid`; or
            "question", a word a feature (TextTemplateInput), left out of the question.
        fill: "mean" or "grey", the colour of a patch that is taken away, rounded to 8 bits.
    Raises UnknownName, and BadInput without a picture or where the prompt is not one question of two words or more.
    """
    attr, model = captum(), AsTransformers(inside)
    if of == "image":
        features, given = inside.texts[inside.image], _patches(inside, model, fill)
    elif of == "question":
        features = inside.prompt.split() if isinstance(inside.prompt, str) else []
        if len(features) < 2:
            raise BadInput(f"the question must be one text of two words or more, got {inside.prompt!r}")
        given = attr.TextTemplateInput(lambda *words: " ".join(filter(None, words)), features)
    else:
        raise UnknownName("input of LLMAttribution", of, ("image", "question"))
    found = attr.LLMAttribution(attr.FeatureAblation(model), model).attribute(
        given, target=inside.ids[0, inside.words], use_cached_outputs=False, forward_in_tokens=False
    )  # teacher forcing is exact here: the answer needs one pass and no cache
    return OfWords(features, inside.texts[inside.words], found.token_attr, found.seq_attr)


def _patches(inside: Inside, model: "AsTransformers", fill: str) -> Any:
    """The picture as captum's ImageMaskInput, a patch a feature."""
    from PIL import Image

    if fill not in FILLS[:2]:
        raise UnknownName("colour", fill, FILLS[:2])
    blank, preprocess = filled(inside, fill), inside.vlm.preprocess
    red, green, blue = (int(value) for value in preprocess.picture(blank[0])[0, 0])
    return captum().ImageMaskInput(
        Image.fromarray(preprocess.square(inside.picture)),
        mask=cells(inside.grid, (blank.shape[2], blank.shape[3])),
        baseline=(red, green, blue),
        processor_fn=model.process,
    )


class AsTransformers:
    """A question's model and tokenizer with the interface that captum's LLMAttribution expects of transformers.

    The model is called by `forward`, the tokenizer by `encode`, `decode` and as a function. `process` and `encode`
    write the image as its N placeholder ids: captum counts rows of logits by ids, and with one placeholder for N tokens
    it would read the wrong ones.
    """

    def __init__(self, inside: Inside):
        self.inside, self.device = inside, inside.vlm.device

    def process(self, picture: Any) -> dict[str, Tensor]:
        """Model inputs of the same prompt about another picture."""
        pixels = self.inside.vlm.preprocess(picture)[None].to(pixels_of(self.inside))
        return {"input_ids": self.inside.ids[:, : self.inside.words.start], "pixel_values": pixels}

    def forward(self, input_ids: Tensor, pixel_values: Tensor | None = None, **_: Any) -> SimpleNamespace:
        """.logits (1, L, V) of ids (1, L); without pixel values the question's own picture is meant.

        Raises BadInput for an image that is one placeholder.
        """
        logits = self.inside.vlm(self.inside.pixels if pixel_values is None else pixel_values, input_ids)
        if logits.shape[1] != input_ids.shape[1]:
            raise BadInput("write an image as its N placeholder ids; captum would read the wrong rows of the logits")
        return SimpleNamespace(logits=logits)

    def encode(self, text: str, **_: Any) -> Tensor:
        """Ids (1, L) of another question about the same picture, up to where the answer begins."""
        vlm, image = self.inside.vlm, int((self.inside.ids == self.inside.vlm.image_id).sum())
        assert vlm.tokenizer is not None
        ids = vlm.template.encode_prompt(text, vlm.tokenizer, image=image > 0, image_id=vlm.image_id)
        if image:
            place = ids.index(vlm.image_id)
            ids[place : place + 1] = [vlm.image_id] * image
        return torch.tensor([ids], device=self.device)

    def decode(self, ids: Tensor) -> str:
        """Text of ids (any shape)."""
        assert self.inside.vlm.tokenizer is not None
        return self.inside.vlm.tokenizer.decode(ids.reshape(-1), skip_special=False)

    def __call__(self, text: str, **_: Any) -> dict[str, Any]:
        """Ids of a text, and where each begins and ends in it."""
        assert self.inside.vlm.tokenizer is not None
        ids = self.inside.vlm.tokenizer.encode(text)
        ends = [len(self.decode(torch.tensor(ids[:count]))) for count in range(len(ids) + 1)]
        return {"input_ids": ids, "offset_mapping": list(pairwise(ends))}
