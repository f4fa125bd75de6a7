"""Image tokens replaced by their mean: does the answer need the object, or any patches at all? Notebook 13.

A set of patches (an object's, with a border, sinks, as many others at random) gives way to the mean of the picture's
tokens, which leaves the number of tokens and their scale as they were. Every set of a question goes in one batch:

    sets = patch_sets(inside, render.mask, index)
    found = ablate(inside, sets, options=["yes", "no"])
    found["object"].change, spread(found, "random")     # beside the mean and the range of random patches
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from vlmlab.errors import BadInput
from vlmlab.explain.attention import find_sinks
from vlmlab.explain.inside import Inside
from vlmlab.explain.interventions import Effect, need_image, room
from vlmlab.explain.regions import SHARE, coverage
from vlmlab.language import Llama, generate
from vlmlab.taps import Tap
from vlmlab.vlm.splice import splice


def object_patches(inside: Inside, mask: np.ndarray, index: int, share: float = SHARE) -> list[int]:
    """The patches, counted row by row, of which an object covers at least `share`.

    mask: int (S, S), i + 1 where object i is seen (`Render.mask`), of the square picture that the encoder sees. Raises
    BadInput for a mask of another shape, or a share outside (0, 1].
    """
    if mask.ndim != 2 or mask.shape[0] != mask.shape[1]:
        raise BadInput(f"a mask is (S, S), as the encoder's picture is; got {mask.shape}")
    if not 0 < share <= 1:
        raise BadInput(f"share={share} of a patch; give more than 0 and at most 1")
    return (coverage(mask, [index], inside.patches)[0] >= share).nonzero().flatten().tolist()


def with_border(patches: Sequence[int], grid: tuple[int, int]) -> list[int]:
    """Patches and all that touch one of them, at a side or a corner."""
    rows, columns = grid
    chosen = np.zeros((rows + 2, columns + 2), bool)
    for row, column in (divmod(patch, columns) for patch in patches):
        chosen[row : row + 3, column : column + 3] = True
    return np.flatnonzero(chosen[1:-1, 1:-1]).tolist()


def random_patches(count: int, among: Sequence[int], seed: int) -> list[int]:
    """`count` different patches of those given, drawn from `seed`. Raises BadInput where there are fewer."""
    if count > len(among):
        raise BadInput(f"{count} patches cannot be drawn from {len(among)}; take a smaller object")
    return sorted(np.random.default_rng(seed).choice(np.asarray(among, int), count, replace=False).tolist())


def patch_sets(
    inside: Inside, mask: np.ndarray, index: int, share: float = SHARE, seeds: Sequence[int] = range(20)
) -> dict[str, list[int]]:
    """Sets of patches for `ablate`: "object", "object and border", "sinks" where attention has some in the image, and
    "random 0", ...: for each seed as many as the object's, none of them its own. Raises BadInput for a hidden object.
    """
    need_image(inside)
    own = object_patches(inside, mask, index, share)
    if not own:
        raise BadInput(f"object {index} covers {share:.0%} of no patch; ask about another, or lower share")
    found = {"object": own, "object and border": with_border(own, inside.grid)}
    if isinstance(inside.vlm.language, Llama):
        sinks = [sink.position - inside.image.start for sink in find_sinks(inside) if sink.group == "image"]
        found.update({"sinks": sorted(sinks)} if sinks else {})
    others = [patch for patch in range(inside.patches) if patch not in own]
    return found | {f"random {seed}": random_patches(len(own), others, seed) for seed in seeds}


def replaced(inside: Inside, patches: Sequence[int], tokens: Tensor, value: Tensor | None = None) -> Tensor:
    """Image tokens (N, P', D), with some patches' replaced by `value` (D,), by default the mean of all patches' own."""
    if any(not 0 <= patch < inside.patches for patch in patches):
        raise BadInput(f"patches {list(patches)}: this image has 0 to {inside.patches - 1}")
    first = tokens.shape[1] - inside.patches  # after a class token, where the model has one
    instead = tokens[:, first:].mean(1, keepdim=True) if value is None else value.to(tokens)
    chosen = torch.zeros(tokens.shape[1], 1, dtype=torch.bool)
    chosen[[first + patch for patch in patches]] = True
    return torch.where(chosen.to(tokens.device), instead, tokens)


def replace_patches(inside: Inside, patches: Sequence[int], value: Tensor | None = None) -> Tap:
    """The same as a tap, to look inside with, or beside other interventions."""
    need_image(inside)
    return lambda name, x: replaced(inside, patches, x, value) if name == "tokens" else x


@torch.no_grad()
def ablate(
    inside: Inside, sets: Mapping[str, Sequence[int]], options: Sequence[str] = (), value: Tensor | None = None
) -> dict[str, Effect]:
    """What replacing each set of patches does to the answer, to the options' probabilities, and to what is said.

    value: what takes their place (D,), by default the mean of the picture's tokens. Raises BadInput without an image,
    or for patches that are not there.
    """
    need_image(inside)
    tokens = inside.run(["tokens"])["tokens"]  # (1, P', D)
    rows = torch.cat([tokens, *(replaced(inside, patches, tokens, value) for patches in sets.values())])
    log_p = inside.scores(tokens=rows).tolist()
    asked = [Inside.ask(inside.vlm, inside.picture, inside.prompt, option) for option in options]
    chances = torch.stack([each.scores(tokens=rows) for each in asked], 1).softmax(1).tolist() if asked else []
    answers = _answers(inside, rows[1:])
    found = {}
    for number, name in enumerate(sets):
        pairs = zip(chances[0], chances[number + 1], strict=True) if asked else ()
        found[name] = Effect(log_p[0], log_p[number + 1], dict(zip(options, pairs, strict=True)), answers[number])
    return found


def spread(effects: Mapping[str, Effect], name: str) -> tuple[float, float, float]:
    """Mean change of log p over the sets whose names begin with `name`, and the 2.5 and 97.5 % points of its values.

    The points say how far single draws lie, not how well their mean is known. Raises BadInput where there are none.
    """
    changes = [effect.change for key, effect in effects.items() if key.startswith(name)]
    if not changes:
        raise BadInput(f"no set is called {name!r}; there are {', '.join(effects)}")
    low, high = np.quantile(changes, (0.025, 0.975))
    return float(np.mean(changes)), float(low), float(high)


def _answers(inside: Inside, tokens: Tensor) -> list[str]:
    """What the model says for each of several sets of image tokens (N, P', D)."""
    if not len(tokens):
        return []
    vlm, prompt = inside.vlm, inside.ids[:, : inside.words.start]
    spliced = splice(vlm.language.embed, prompt.expand(len(tokens), -1), tokens, vlm.image_id)
    longest = min(64, room(inside))
    new = generate(vlm.language, inputs_embeds=spliced.inputs_embeds, max_new_tokens=longest, eos_ids=inside.stop_ids)
    return [inside.text_of(row)[0] for row in new.tolist()]
