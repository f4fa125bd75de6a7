"""The VLM: encoder, projector W and language model f_phi behind one interface. Notebooks 02 to 06.

    X_v -> H_v = encoder(X_v) -> Z_v = W(H_v) -> f_phi([Z_v, H_q]) -> X_a

Source: Visual Instruction Tuning (arXiv 2304.08485), section 4.1.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmlab import runtime
from vlmlab.errors import BadInput, UnknownName
from vlmlab.language import generation
from vlmlab.language.tokenizer import SMALLEST, Tokenizer
from vlmlab.taps import Tap, prefixed, tapped
from vlmlab.vision.images import Preprocess
from vlmlab.vision.mambavision import MambaVision
from vlmlab.vlm import answering
from vlmlab.vlm.answering import Prompt
from vlmlab.vlm.presets import VLMConfig, build_parts, get_preset
from vlmlab.vlm.splice import IGNORE, Spliced, splice
from vlmlab.vlm.templates import Template, get_template

PARTS = ("vision", "projector", "language")


@dataclass(frozen=True)
class LlavaOutput:
    """What training needs. L is the spliced length; labels and attention_mask are aligned with logits.

    loss: scalar, mean cross-entropy of the next token over the labels that are not -100.
    logits: (B, L, V), or None when only the loss was asked for.
    labels: (B, L) long. attention_mask: as given or as built by the splice.
    """

    loss: Tensor
    logits: Tensor | None
    labels: Tensor
    attention_mask: Tensor | None

    @property
    def terms(self) -> Tensor:
        """How many tokens the loss is a mean over."""
        return (self.labels[:, 1:] != IGNORE).sum()


class VLM(nn.Module):
    """A vision-language model: `vision`, `projector` and `language` are ordinary modules that may be replaced.

    vision: has `features(pixel_values, layer)`, `dim`, `patches`. projector: (B, N, D_v) -> (B, N, D).
    language: has `embed`, `hidden`, `head`, `new_cache`. tokenizer: needed for text in and out only; may be set
    later. Raises BadInput when the tokenizer's <image> is not the id that `config.image_id` names.
    """

    vision: Any
    projector: Any
    language: Any

    def __init__(
        self,
        vision: nn.Module,
        projector: nn.Module,
        language: nn.Module,
        tokenizer: Tokenizer | None,
        config: VLMConfig,
    ):
        super().__init__()
        if tokenizer is not None and tokenizer.image_id not in (None, config.image_id):
            raise BadInput(
                f"the tokenizer's <image> is id {tokenizer.image_id}, config.image_id is {config.image_id}; "
                "use the tokenizer that the model was trained with"
            )
        self.vision, self.projector, self.language = vision, projector, language
        self.tokenizer = tokenizer
        self.config = config

    @classmethod
    def from_preset(
        cls,
        name: str | VLMConfig,
        device: str | torch.device = "auto",
        tokenizer: Tokenizer | None = None,
        seed: int = 0,
    ) -> "VLM":
        """A VLM with random weights drawn from `seed`; PyTorch's global generator stays as it was.

        Args:
            name: a key of `PRESETS`, or a `VLMConfig`.
            device: "meta" builds shapes without memory, for accounting.
            tokenizer: by default the preset's shipped one; where that file is missing, plain bytes.

        Raises:
            UnknownName: no preset has that name.
        """
        config = get_preset(name) if isinstance(name, str) else name
        where = runtime.device(device)
        if tokenizer is None and config.tokenizer is not None:
            path = runtime.data_dir() / "checkpoints" / config.tokenizer
            tokenizer = Tokenizer.load(path) if path.is_file() else Tokenizer.train([], SMALLEST)
        cuda = [where] if where.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), torch.device(where):
            torch.manual_seed(seed)
            vision, projector, language = build_parts(config)
        return cls(vision, projector, language, tokenizer, config)

    @classmethod
    def from_transformers(cls, model: Any, tokenizer: Any = None, template: str = "v1") -> "VLM":
        """A copy of a transformers LlavaForConditionalGeneration; see `vlmlab.vlm.convert.from_transformers`."""
        from vlmlab.vlm.convert import from_transformers

        return from_transformers(model, tokenizer, template)

    # ------------------------------------------------------------------ what it is made of
    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.language.parameters()).device

    @property
    def image_id(self) -> int:
        """The id that stands for an image in input_ids."""
        return self.config.image_id

    @property
    def template(self) -> Template:
        """The chat template, with this model's system message."""
        return get_template(self.config.template, self.config.system)

    @property
    def preprocess(self) -> Preprocess:
        """Picture -> pixel values float32 (3, S, S)."""
        return Preprocess(self.config.image_size, self.config.mean, self.config.std, self.config.pad)

    def freeze(self, *parts: str) -> "VLM":
        """Take "vision", "projector" or "language" (all when none is named) out of training."""
        return self._require_grad(parts, False)

    def unfreeze(self, *parts: str) -> "VLM":
        """Let "vision", "projector" or "language" (all when none is named) train."""
        return self._require_grad(parts, True)

    def _require_grad(self, parts: Sequence[str], value: bool) -> "VLM":
        for part in parts or PARTS:
            if part not in PARTS:
                raise UnknownName("part of a VLM", part, PARTS)
            getattr(self, part).requires_grad_(value)
        return self

    def count_parameters(self, trainable: bool = False) -> dict[str, int]:
        """Parameters by part and in total; only those that train if `trainable`. Tied weights count once."""
        counts = {
            part: sum(p.numel() for p in getattr(self, part).parameters() if p.requires_grad or not trainable)
            for part in PARTS
        }
        return {**counts, "total": sum(counts.values())}

    # ------------------------------------------------------------------ the forward pass
    def names(self) -> list[str]:
        """Every intermediate that a tap of `vision_features`, `project` and `language.hidden` knows, in order: the
        encoder's after "vision.", H_v as "features", Z_v as "tokens", the language model's after "language."."""
        vision, language = ([f"{part}.{name}" for name in getattr(self, part).names()] for part in PARTS[::2])
        return [*vision, "features", "tokens", *language]

    def vision_features(self, pixel_values: Tensor, tap: Tap | None = None) -> Tensor:
        """H_v (B, N, D_v): the encoder's hidden state(s) `feature_layer` of images (B, 3, H, W)."""
        return tapped(tap, "features", self._encoded(pixel_values, prefixed(tap, "vision.")))

    def _encoded(self, pixel_values: Tensor, tap: Tap | None) -> Tensor:
        layers = self.config.feature_layers
        pixel_values = pixel_values.to(self.device)
        if isinstance(self.vision, MambaVision):  # levels of different sizes
            return self.vision.features(pixel_values, layers, tap)
        if self.config.select == "full" or len(layers) > 1:
            states = self.vision.hidden_states(pixel_values, tap)
            first = 0 if self.config.select == "full" else self.vision.prefix_tokens
            return torch.cat([states[layer][:, first:] for layer in layers], dim=-1)
        return self.vision.features(pixel_values, layers[0], tap)

    def project(self, features: Tensor, tap: Tap | None = None) -> Tensor:
        """Z_v = W(H_v): (B, N, D_v) -> (B, N, D)."""
        return tapped(tap, "tokens", self.projector(features.to(self.device, next(self.projector.parameters()).dtype)))

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Z_v (B, N, D): images (B, 3, H, W) as tokens of the language model."""
        return self.project(self.vision_features(pixel_values))

    def embed_inputs(
        self,
        pixel_values: Tensor | None,
        input_ids: Tensor,
        labels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        image_features: Tensor | None = None,
        padding: Literal["right", "left"] | None = None,
    ) -> Spliced:
        """The language model's input: text embeddings with image tokens spliced in. Arguments as in `forward`.

        With labels, rows are cut at `config.max_length`; without, a longer row raises BadInput.
        """
        if pixel_values is not None and image_features is not None:
            raise BadInput("give pixel_values or image_features, not both")
        if image_features is not None:
            tokens = self.project(image_features) if len(image_features) else None
        else:
            tokens = None if pixel_values is None or not len(pixel_values) else self.encode_images(pixel_values)
        out = splice(
            self.language.embed,
            input_ids.to(self.device),
            tokens,
            self.image_id,
            None if labels is None else labels.to(self.device),
            None if attention_mask is None else attention_mask.to(self.device),
            padding=padding,
            max_length=None if labels is None else self.config.max_length,
        )
        self._check_length(out.ids.shape[1])
        return out

    def forward(
        self,
        pixel_values: Tensor | None,
        input_ids: Tensor,
        labels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        segments: Tensor | None = None,
        image_features: Tensor | None = None,
        loss_only: bool = False,
    ) -> Tensor | LlavaOutput:
        """Logits, or with labels the loss as well.

        Args:
            pixel_values: (images, 3, H, W), preprocessed, in the order of the placeholders; None without images.
            input_ids: (B, L0) long. A run of placeholder ids, one or N of them, stands for one image; rows may have
                any number of images, also none.
            labels: (B, L0) long, -100 where there is no loss.
            attention_mask: (B, L0) of 1 and 0, padding left or right; for a transformer also (B, L0, L0) boolean, who
                sees whom, combined with causality (rows with N placeholders an image only).
            segments: (B, L0), several questions behind one image: 0 the prefix, k the k-th question, which sees the
                prefix and itself, -1 padding at the end; no mask then (rows with N placeholders an image only).
            image_features: H_v (images, N, D_v), computed before by `vision_features`, instead of pixel_values.
            loss_only: compute logits only where there is a label and return logits=None; saves time in training.

        Returns:
            Logits (B, L, V), L the length of the longest row with its image tokens; with labels a `LlavaOutput`.

        Raises:
            BadInput: images and placeholders do not match, shapes are wrong, a row is too long (see
                `embed_inputs`), or no label carries loss.
        """
        spliced = self.embed_inputs(pixel_values, input_ids, labels, attention_mask, image_features=image_features)
        if segments is not None and segments.shape != spliced.ids.shape:
            raise BadInput("segments need rows that keep their length: write N placeholder ids per image")
        hidden = self.language.hidden(
            inputs_embeds=spliced.inputs_embeds,
            attention_mask=spliced.attention_mask,
            segments=None if segments is None else segments.to(self.device),
        )  # (B, L, D)
        if spliced.labels is None:
            if loss_only:
                raise BadInput("loss_only needs labels")
            return self.language.head(hidden)
        targets = spliced.labels[:, 1:]  # position t predicts token t + 1
        learn = targets != IGNORE
        if not learn.is_meta and not learn.any():
            raise BadInput("no label carries loss: all are -100; check the template and the conversation's answers")
        if loss_only:
            logits, predicted = None, self.language.head(hidden[:, :-1][learn])
        else:
            logits = self.language.head(hidden)
            predicted = logits[:, :-1][learn]  # (labels, V)
        loss = F.cross_entropy(predicted.float(), targets[learn])
        return LlavaOutput(loss, logits, spliced.labels, spliced.attention_mask)

    # ------------------------------------------------------------------ words out
    def generate_ids(
        self,
        pixel_values: Tensor | None,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        max_new_tokens: int = 64,
        eos_ids: int | Iterable[int] | None = None,
        image_features: Tensor | None = None,
        **sampling: Any,
    ) -> Tensor:
        """New ids (B, new) after a batch of prompts, padded left or right; the first four arguments as in `forward`.

        eos_ids: ids that end a row; by default the template's. sampling: temperature, top_k, top_p, pad_id,
        generator, on_token as in `vlmlab.language.generation.generate`.
        """
        with torch.no_grad():
            spliced = self.embed_inputs(
                pixel_values, input_ids, None, attention_mask, image_features=image_features, padding="left"
            )
        if eos_ids is None:
            eos_ids = [] if self.tokenizer is None else self.template.stop_ids(self.tokenizer)
        return generation.generate(
            self.language,
            inputs_embeds=spliced.inputs_embeds,
            attention_mask=spliced.attention_mask,
            max_new_tokens=max_new_tokens,
            eos_ids=eos_ids,
            **sampling,
        )

    @overload
    def generate(
        self,
        image: Any,
        prompt: Prompt,
        max_new_tokens: int = ...,
        temperature: float = ...,
        stream: Literal[False] = ...,
        **sampling: Any,
    ) -> str: ...

    @overload
    def generate(
        self,
        image: Any,
        prompt: Prompt,
        max_new_tokens: int = ...,
        temperature: float = ...,
        *,
        stream: Literal[True],
        **sampling: Any,
    ) -> Iterator[str]: ...

    def generate(
        self,
        image: Any,
        prompt: Prompt,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        stream: bool = False,
        **sampling: Any,
    ) -> str | Iterator[str]:
        """The model's answer to `prompt` about `image`.

        Args:
            image: a path, PIL image, HxWx3 uint8 array, or None for a question without an image.
            prompt: the question, put into the preset's template; all of it is plain text. Or LLaVA turns that end
                with a human one, where "<image>" marks the image's place.
            max_new_tokens: at most so many new tokens, fewer where `config.max_length` is reached.
            temperature: 0 takes the likeliest token each time.
            stream: return an iterator over pieces of the answer as they are made.
            sampling: top_k, top_p, generator as in `vlmlab.language.generation.generate`.

        Returns:
            The answer without white space around it, or the iterator; its pieces joined are the same text.

        Raises:
            BadInput: the prompt is empty or too long (the message says how many tokens it has and how many fit).
            BadImage: the image cannot be read.
        """
        pieces = answering.stream(self, image, prompt, max_new_tokens, temperature, **sampling)
        return pieces if stream else "".join(pieces)

    def stream(self, image: Any, prompt: Prompt, max_new_tokens: int = 64, **sampling: Any) -> Iterator[str]:
        """`generate` with stream=True."""
        return answering.stream(self, image, prompt, max_new_tokens, **sampling)

    def answer_many(self, images: Sequence[Any], prompts: Sequence[Prompt], **options: Any) -> list[str]:
        """Answers to many questions in batches; options as in `vlmlab.vlm.answering.answer_many`."""
        return answering.answer_many(self, images, prompts, **options)

    def score_options(self, image: Any, prompt: Prompt, options: Sequence[str]) -> dict[str, float]:
        """log p(option | image, prompt) for each option, natural logarithm.

        An option is scored as the assistant's whole text, written as the template writes an answer: the sum over
        its tokens of log p(token | image, prompt, the option's earlier tokens). The end token is not part of the
        sum and nothing is divided by the length, so a longer option usually scores lower. The image and the prompt
        run once; the options share their cache in one batch. Raises BadInput and BadImage as `generate` does.
        """
        return answering.score_options(self, image, prompt, options)

    def _check_length(self, length: int) -> None:
        if length > self.config.max_length:
            raise BadInput(
                f"a row has {length} tokens with its images, but {self.config.name} takes at most "
                f"{self.config.max_length}; shorten it"
            )
