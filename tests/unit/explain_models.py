"""A small random transformer to look into, in float64, and one whose weights are made by hand to read one patch."""

from dataclasses import replace

import torch
from scan_models import SHAPE, draw, picture
from torch import Tensor, nn

from vlmlab.explain import Inside
from vlmlab.explain.attention import without
from vlmlab.language import LlamaConfig
from vlmlab.vision import ViTConfig
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import PRESETS

VISION = ViTConfig("clip", **SHAPE)  # 4 x 4 patches
PATCH = 6  # the one that counts in `planted`
QUESTION = "Where is the cat?"


def llava(layers: int = 3, seed: int = 0, **changes) -> VLM:
    language = LlamaConfig(1024, dim=24, layers=layers, heads=4, kv_heads=2, hidden=32, max_positions=64)
    config = replace(PRESETS["llava-tiny"], vision=VISION, language=language, max_length=64, **changes)
    return draw(VLM.from_preset(config, device="cpu", seed=seed), seed)


class OneMarked(nn.Module):
    """Image tokens (B, 16, D), alike but for `PATCH`, which is channel 0 where they are channel 1."""

    def __init__(self, dim: int):
        super().__init__()
        tokens = torch.zeros(16, dim, dtype=torch.float64)
        tokens[:, 1] = 1.0
        tokens[PATCH] = torch.eye(dim)[0]
        self.tokens = nn.Parameter(tokens)

    def forward(self, features: Tensor) -> Tensor:
        return self.tokens.expand(len(features), -1, -1)


def planted(word: str = "yes", layers: int = 2) -> Inside:
    """A question to a model that says `word` because of `PATCH`, and of nothing else.

    In layer 0 every query of head 0 sees keys by their channel 0, which only that patch has; what it copies, into
    channel 2, raises the logit of the word. Everything else is 0, so all other attention is uniform and idle.
    """
    language = LlamaConfig(
        1024, dim=16, layers=layers, heads=2, kv_heads=2, hidden=8, max_positions=64, rope_theta=1e12,
        attention_bias=True, tie_embeddings=False,
    )  # fmt: skip
    config = replace(PRESETS["llava-tiny"], vision=VISION, language=language, max_length=64)
    vlm = VLM.from_preset(config, device="cpu").double().eval()
    vlm.projector = OneMarked(16)
    still = 3  # of a head, the channel that hardly turns with the position: the first of the slowest pair
    with torch.no_grad():
        for name, weight in vlm.language.named_parameters():
            if "norm" not in name:
                weight.zero_()
        vlm.language.embed_tokens.weight[:, 3] = 1.0
        attention = vlm.language.layers[0].self_attn
        attention.q_proj.bias[still] = 10.0
        attention.k_proj.weight[still, 0] = 10.0
        attention.v_proj.weight[0, 0] = 1.0
        attention.o_proj.weight[2, 0] = 1.0
        index = vlm.template.encode_answer(QUESTION, word, vlm.tokenizer, image_id=vlm.image_id)[1][0]
        vlm.language.lm_head.weight[index, 2] = 3.0
    return Inside.ask(vlm, picture(), QUESTION, word)


def flood(inside: Inside, sink: int, share: float, rows: slice) -> None:
    """Make `rows` of every layer give `share` of their attention to one key, whenever the model runs with a tap."""
    plain = inside.vlm.language.hidden

    def hidden(tap=None, **options):
        def flooded(name: str, value: Tensor) -> Tensor:
            if name.endswith(".attn"):
                value = value.clone()
                value[:, :, rows] = without(value[:, :, rows], [sink]) * (1 - share)
                value[:, :, rows, sink] = share
            return tap(name, value)

        return plain(tap=flooded, **options)

    inside.vlm.language.hidden = hidden
