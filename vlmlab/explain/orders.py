"""What the order of the patches is worth to a model: read them otherwise, and ask again. Notebook 13.

A recurrence has no positions: which patch came when is all that it knows of where a patch lies. The tokens are
exchanged between encoder and language model, so each has still seen its own place and neighbours.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from vlmlab import runtime
from vlmlab.errors import BadInput
from vlmlab.explain.inside import Inside
from vlmlab.explain.interventions import need_image, room
from vlmlab.language import generate
from vlmlab.taps import Tap


class Reading(NamedTuple):
    """A question read in another order of its image tokens.

    order: its name. log_p: of the whole answer, natural logarithm. change: log_p less that of the usual order.
    answer: what the model then says.
    """

    order: str
    log_p: float
    change: float
    answer: str


def orders(grid: tuple[int, int], seed: int = 0) -> dict[str, Tensor]:
    """Orders of a grid's tokens, each (P,): the token that is read at each place. "shuffle" is drawn from `seed`."""
    rows, columns = grid
    usual = torch.arange(rows * columns)
    return {
        "reverse": usual.flip(0),
        "transpose": usual.view(rows, columns).T.flatten(),  # column by column
        "shuffle": torch.randperm(len(usual), generator=runtime.generator(seed)),
    }


def reordered(order: Tensor) -> Tap:
    """A tap of `Inside.run` that has the image's tokens read in an order (P,); a class token stays in front."""

    def tap(name: str, tokens: Tensor) -> Tensor:
        if name != "tokens":
            return tokens
        first = tokens.shape[1] - len(order)
        return torch.cat([tokens[:, :first], tokens[:, first:][:, order.to(tokens.device)]], 1)

    return tap


def order_sensitivity(inside: Inside, chosen: Mapping[str, Tensor] | None = None) -> list[Reading]:
    """What the model makes of the question in the usual order, then in others (those of `orders` when None).

    chosen: name -> order (P,). Raises BadInput without an image, or for what is no order of its tokens.
    """
    need_image(inside)
    usual = torch.arange(inside.patches)
    others = orders(inside.grid) if chosen is None else chosen
    for name, order in others.items():
        if not torch.equal(order.sort().values, usual):
            raise BadInput(f"order {name!r} must name each of the {inside.patches} image tokens once")
    found: list[Reading] = []
    for name, order in [("usual", usual), *others.items()]:
        tap = reordered(order)
        log_p = float(inside.log_probs(tap).sum())
        found.append(Reading(name, log_p, log_p - found[0].log_p if found else 0.0, _answer(inside, tap)))
    return found


def _answer(inside: Inside, tap: Tap) -> str:
    """The greedy answer with something replaced before the language model, whose cache may then be used."""
    embeds = inside.run(["language.embed"], tap)["language.embed"][:, : inside.words.start]
    new = generate(
        inside.vlm.language, inputs_embeds=embeds, max_new_tokens=min(64, room(inside)), eos_ids=inside.stop_ids
    )
    return inside.text_of(new[0].tolist())[0]
