"""Hidden attention: the selective scan written as a matrix of who takes how much from whom. Notebook 13.

    y_i = sum over j <= i of alpha[i, j] u_j + D u_i        in each channel d
    alpha[d, i, j] = sum over n of C_i[n] exp(A[d, n] (S_i - S_j)) delta_j[d] B_j[n]        S: delta's running sum

Unlike attention's weights these are signed and do not sum to 1, and there is a matrix a channel where a transformer has
one a head. Between the tokens and u lies a causal convolution: u_j is made of token j and the few before it (three in
Mamba), so a column of alpha is a place in the sequence rather than that token alone. `vlmlab.explain.lrp` follows the
whole chain. Sources: Ali et al. 2024 (arXiv 2403.01590); with the gate, Zimerman et al. 2024 (2405.16504).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmlab.errors import BadInput, UnknownName
from vlmlab.explain.inside import Inside
from vlmlab.explain.states import Scan, by_layer, fading, place, predicting, read

CHANNELS: dict[str, Callable[[Tensor], Tensor]] = {"mean": lambda x: x.mean(-1), "absolute": lambda x: x.abs().mean(-1)}
"""Summaries of channels. "mean" is signed: channels of opposite sign cancel. "absolute", the mean of absolute values,
says how much is taken, and not which way."""
WEIGHTS = {"alpha": (False, False), "gated": (True, False), "input": (False, True), "gated input": (True, True)}
"""What a row holds: alpha; times silu(z)_i, the gate of the token that takes; times u_j, the number that is taken, so
that the row's sum is y_i without D's path; or both, what reaches out_proj. The flags: the gate, the input."""


def alpha_row(scan: Scan, position: int, weight: str = "alpha") -> Tensor:
    """Row i = position of the hidden attention of every channel: (L, inner), 0 where j > i. weight: of WEIGHTS.

    Memory O(L inner). Raises UnknownName, and BadInput for a position outside or a gate that the scan has not.
    """
    if weight not in WEIGHTS:
        raise UnknownName("weight", weight, WEIGHTS)
    gate, taken = WEIGHTS[weight]
    i = place(position, len(scan.u))
    match = (scan.B[: i + 1] * scan.C[i]).to(scan.A.dtype)  # (i + 1, N)
    found = torch.zeros_like(scan.delta)
    for channels, left in fading(scan, i):
        found[: i + 1, channels] = torch.einsum("jdn,jn->jd", left, match)
    found *= scan.delta
    if taken:
        found *= scan.u
    if gate:
        if scan.z is None:
            raise BadInput(f"weight={weight!r}: this scan has no gate; take 'alpha' or 'input'")
        found *= F.silu(scan.z[i])
    return found


def alpha_matrix(scan: Scan, channels: str = "absolute", weight: str = "alpha") -> Tensor:
    """The hidden attention of a layer (L, L), a row a token that takes, channels summarised. channels: of CHANNELS.

    Row by row: time O(L^2 inner N), memory O(L inner). Raises UnknownName, and BadInput as `alpha_row` does.
    """
    summary = _summary(channels)
    return torch.stack([summary(alpha_row(scan, i, weight)) for i in range(len(scan.u))])


def word_maps(inside: Inside, word: int, channels: str = "absolute", weight: str = "alpha") -> Tensor:
    """What the position that predicts a word of the answer takes from each patch, by layer: (layers, rows, columns).

    word: counted from 0. Raises BadInput for a word that is not there; otherwise as `alpha_matrix`.
    """
    summary, i = _summary(channels), predicting(inside, word)
    return inside.on_grid(torch.stack(by_layer(inside, lambda scan: summary(alpha_row(scan, i, weight)))))


def hidden_attention_map(inside: Inside) -> Tensor:
    """Absolute hidden attention from the answer's words to the patches, mean over words and layers: (rows, columns).

    Each row is divided by its sum over all positions, as attention's are: otherwise the layers with the largest
    numbers would decide alone.
    """
    at = range(inside.words.start - 1, inside.words.stop - 1)

    def rows(scan: Scan) -> Tensor:
        found = torch.stack([alpha_row(scan, i).abs().mean(-1) for i in at])  # (words, L)
        return (found / found.sum(-1, keepdim=True)).mean(0)

    return inside.on_grid(torch.stack(by_layer(inside, rows)).mean(0))


def contributions(inside: Inside, layer: int, row: int) -> Tensor:
    """What each position j gives to the mixer's output at position `row`: (L, D), exact.

    out_proj(alpha_ij u_j silu(z_i)). Their sum and `direct` are the mixer's output at that position.
    """
    return _projected(inside, layer, alpha_row(read(inside, layer), row, "gated input"))


def direct(inside: Inside, layer: int, row: int) -> Tensor:
    """What the path D u past the scan gives to the mixer's output at a position: (D,)."""
    scan = read(inside, layer)
    i = place(row, len(scan.u))
    assert scan.z is not None
    return _projected(inside, layer, scan.D * scan.u[i] * F.silu(scan.z[i]))


def _projected(inside: Inside, layer: int, values: Tensor) -> Tensor:
    weight = inside.vlm.language.layers[layer].mixer.out_proj.weight.detach()
    return F.linear(values.to(weight.dtype), weight)


def _summary(channels: str) -> Callable[[Tensor], Tensor]:
    if channels not in CHANNELS:
        raise UnknownName("summary of channels", channels, CHANNELS)
    return CHANNELS[channels]
