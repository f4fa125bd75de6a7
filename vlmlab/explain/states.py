"""What a Mamba's state holds: the states, how long they last, and the share of each token in them. Notebook 13.

    h_t = exp(delta_t A) h_(t-1) + delta_t B_t u_t
    h_T = sum over j of exp(A (S_T - S_j)) delta_j B_j u_j      S: the running sum of delta

The second line is the first unrolled: an exact ledger of the state at T. What it books under position j is what entered
the scan there, u_j, which a causal convolution made of that token and the few before it (three in Mamba).

Shapes: L positions, inner channels, N numbers of state a channel. What would be (L, inner, N) is worked through a few
channels at a time, but for `states` and `ledger`, which return it. Positions count from the end where negative.
Source: Gu and Dao 2023 (arXiv 2312.00752), equations 2a and 4.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor

from vlmlab.errors import BadInput, UnknownName
from vlmlab.explain.inside import Inside
from vlmlab.language import Mamba

CHUNK = 2**22  # numbers of an intermediate (L, some channels, N): 16 MB in float32
PARTS = ("z", "u", "B", "C", "delta")  # in the order in which a layer computes them
CHANNELS: dict[str, Callable[[Tensor], Tensor]] = {"mean": lambda x: x.mean(-1), "max": lambda x: x.amax(-1)}

T = TypeVar("T")


@dataclass(frozen=True)
class Scan:
    """What a selective scan worked with in one sequence.

    u, delta: (L, inner). B, C: (L, N). A: (inner, N), negative. D: (inner,). z: (L, inner), the gate before its SiLU;
    None where there is no gate.
    """

    u: Tensor
    delta: Tensor
    B: Tensor
    C: Tensor
    A: Tensor
    D: Tensor
    z: Tensor | None = None


# ------------------------------------------------------------------ reading a model
def by_layer(inside: Inside, function: Callable[[Scan], T], layers: Iterable[int] | None = None) -> list[T]:
    """`function` of the scan of each layer, or of the layers named: one forward pass, one layer in memory at a time.

    Raises BadInput for a model without states or a layer that is not there.
    """
    mamba = inside.vlm.language
    if not isinstance(mamba, Mamba):
        raise BadInput(f"{inside.vlm.config.name} has no states: its language model is no Mamba; load cobra-tiny")
    every = range(mamba.config.layers)
    wanted = list(every if layers is None else layers)
    for layer in wanted:
        if not -len(every) <= layer < len(every):
            raise BadInput(f"layer={layer}: this language model has layers 0 to {len(every) - 1}")
    chosen = [every[layer] for layer in wanted]
    held: dict[str, Tensor] = {}
    found: dict[int, T] = {}
    complete = {f"language.layers.{layer}.{PARTS[-1]}": layer for layer in chosen}

    def tap(name: str, value: Tensor) -> Tensor:
        if name.startswith("language.layers."):
            held[name.rpartition(".")[2]] = value[0]
        if name in complete:
            block: Any = mamba.layers[complete[name]]
            parts = {part: held[part] for part in PARTS}
            found[complete[name]] = function(Scan(**parts, **constants(block.mixer)))
        return value

    inside.run(tap=tap)
    return [found[layer] for layer in chosen]


def constants(mixer: Any) -> dict[str, Tensor]:
    """A, at least in float32 as the scan takes it, and D of a mixer."""
    return {"A": -wide(mixer.A_log.detach()).exp(), "D": mixer.D.detach()}


def wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x if x.dtype == torch.float64 else x.float()


def read(inside: Inside, layer: int) -> Scan:
    """The scan of one layer. Raises BadInput as `by_layer` does."""
    return by_layer(inside, lambda scan: scan, [layer])[0]


def place(position: int, length: int) -> int:
    """A position counted from 0. Raises BadInput for one outside the sequence."""
    if not -length <= position < length:
        raise BadInput(f"position={position}: the sequence has positions 0 to {length - 1}")
    return position % length


def predicting(inside: Inside, word: int) -> int:
    """The position that predicts the answer's word number `word` (from 0). Raises BadInput for a word not there."""
    count = inside.words.stop - inside.words.start
    if not 0 <= word < count:
        raise BadInput(f"word={word}: the answer has words 0 to {count - 1}")
    return inside.words.start - 1 + word


def landmarks(inside: Inside) -> dict[str, int]:
    """The last position of the image (where there is one), of the prompt (it predicts the first word), of the
    answer."""
    image = {"image": inside.image.stop - 1} if inside.patches else {}
    return {**image, "prompt": inside.words.start - 1, "answer": inside.words.stop - 1}


# ------------------------------------------------------------------ states
def walk(scan: Scan) -> Iterator[Tensor]:
    """The state h (inner, N) after each position in turn."""
    h = torch.zeros_like(scan.A)
    for u, delta, B in zip(scan.u, scan.delta, scan.B, strict=True):
        h = torch.exp(delta[:, None] * scan.A) * h + (delta * u)[:, None] * B
        yield h


def states(inside: Inside, layer: int) -> Tensor:
    """h (L, inner, N) of a layer after each position."""
    scan = read(inside, layer)
    found = scan.A.new_empty(len(scan.u), *scan.A.shape)
    for t, h in enumerate(walk(scan)):
        found[t] = h
    return found


def states_at(inside: Inside, position: int) -> Tensor:
    """h (layers, inner, N) of all layers after one position, of `landmarks` for example."""
    at = place(position, inside.length)
    return torch.stack(by_layer(inside, lambda scan: next(islice(walk(scan), at, None))))


def state_norms(inside: Inside) -> Tensor:
    """||h_t|| (layers, L), over channels and state."""
    return torch.stack(by_layer(inside, lambda scan: torch.stack([h.norm() for h in walk(scan)])))


# ------------------------------------------------------------------ how long they last
def fading(scan: Scan, position: int) -> Iterator[tuple[slice, Tensor]]:
    """exp(A (S_T - S_j)) (T + 1, c, N), the part left at T = position of what entered at each j up to T: of c channels
    at a time, with the slice that they are."""
    # The steps after j are summed from T backwards: S_T - S_j as a difference would lose digits far from the beginning.
    later = scan.delta[1 : position + 1].flip(0).cumsum(0).flip(0)
    since = torch.cat([later, torch.zeros_like(scan.delta[:1])])  # (T + 1, inner)
    width = max(1, CHUNK // (len(since) * scan.A.shape[1]))
    for start in range(0, len(scan.A), width):
        channels = slice(start, start + width)
        yield channels, torch.exp(since[:, channels, None] * scan.A[channels])


def retention(scan: Scan, position: int) -> Tensor:
    """The part of what each token wrote that is left at `position` (L,), between 0 and 1; 0 for later tokens.

    The mean of exp(A (S_T - S_j)) over channels and state: whether anything much was written it does not say.
    """
    at = place(position, len(scan.u))
    found = scan.A.new_zeros(len(scan.u))
    for _, left in fading(scan, at):
        found[: at + 1] += left.sum((1, 2))
    return found / scan.A.numel()


def retention_maps(inside: Inside, position: int) -> Tensor:
    """`retention` of each patch at a position, by layer: (layers, rows, columns)."""
    return inside.on_grid(torch.stack(by_layer(inside, lambda scan: retention(scan, position))))


def horizons(scan: Scan, quantiles: Sequence[float] = (0.1, 0.5, 0.9)) -> Tensor:
    """The memory's horizon 1 / (delta |A|) in tokens, its quantiles over the sequence's tokens: (Q, inner, N).

    With this step size at every token, a state fades to 1 / e within so many tokens.
    """
    steps = (1 / scan.delta).split(1024, 1)  # torch.quantile takes 16 million numbers at most
    wanted = scan.delta.new_tensor(quantiles)
    found = torch.cat([torch.quantile(part, wanted, dim=0) for part in steps], 1)  # (Q, inner)
    return found[..., None] / scan.A.abs()


def delta_maps(inside: Inside, channels: str = "mean") -> Tensor:
    """The step size delta at each patch, its "mean" or "max" over channels, by layer: (layers, rows, columns).

    A large step forgets the past and takes the token in; one near 0 passes it by. Raises UnknownName.
    """
    if channels not in CHANNELS:
        raise UnknownName("summary of channels", channels, CHANNELS)
    return inside.on_grid(torch.stack(by_layer(inside, lambda scan: CHANNELS[channels](scan.delta))))


def delta_map(inside: Inside) -> Tensor:
    """Mean delta over layers and channels at each patch (rows, columns). The question comes after the image and a
    Mamba reads in one direction: this map is the same whatever is asked."""
    return delta_maps(inside).mean(0)


# ------------------------------------------------------------------ whose they are
def entries(scan: Scan, position: int) -> Iterator[tuple[slice, Tensor]]:
    """What each token up to `position` has in the state there, (T + 1, c, N), as `fading` gives it."""
    drive = scan.delta * scan.u
    for channels, left in fading(scan, position):
        yield channels, left.mul_(drive[: position + 1, channels, None]).mul_(scan.B[: position + 1, None])


def ledger(scan: Scan, position: int) -> Tensor:
    """What each token has in the state after `position`: (L, inner, N), whose sum over L is that state."""
    at = place(position, len(scan.u))
    found = scan.A.new_zeros(len(scan.u), *scan.A.shape)
    for channels, part in entries(scan, at):
        found[: at + 1, channels] = part
    return found


def ledger_norms(scan: Scan, position: int) -> Tensor:
    """||.|| (L,) of what each token has in the state after `position`: how much, whatever its direction."""
    at = place(position, len(scan.u))
    found = scan.A.new_zeros(len(scan.u))
    for _, part in entries(scan, at):
        found[: at + 1] += part.square().sum((1, 2))
    return found.sqrt()


def ledger_shares(scan: Scan, position: int) -> Tensor:
    """The share of each token in the state h after `position`: (L,), signed, with sum 1.

    A share is what a token has in the state, projected onto it: <part_j, h> / ||h||^2. It is negative where a token
    pulls the state the other way. Raises BadInput for a state of zero.
    """
    at = place(position, len(scan.u))
    found, size = scan.A.new_zeros(len(scan.u)), scan.A.new_zeros(())
    for _, part in entries(scan, at):
        h = part.sum(0)
        found[: at + 1] += torch.einsum("jdn,dn->j", part, h)
        size += h.square().sum()
    if not size:
        raise BadInput(f"the state after position {at} is zero, so nobody has a share in it")
    return found / size


def grouped(values: Tensor, groups: Sequence[str]) -> dict[str, float]:
    """Sums of values (L,) over the positions of each group, of `Inside.groups` for example."""
    if len(values) != len(groups):
        raise BadInput(f"{len(values)} values and {len(groups)} groups; give one group a position")
    return {name: float(values[[group == name for group in groups]].sum()) for name in dict.fromkeys(groups)}


def ledger_map(inside: Inside) -> Tensor:
    """The share of each patch in the states that predict the answer's words, mean over layers and words:
    (rows, columns), signed."""
    at = range(inside.words.start - 1, inside.words.stop - 1)
    shares = by_layer(inside, lambda scan: torch.stack([ledger_shares(scan, position) for position in at]).mean(0))
    return inside.on_grid(torch.stack(shares).mean(0))
