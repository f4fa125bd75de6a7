"""Relevance of each input token to a word, passed back through a Mamba: Mamba-LRP, and gradient x input. Notebook 14.

Mamba-LRP is gradient x input after a change of the gradient, not of the values. Constants for it are: delta, A, B and C
(the scan is then linear in u); SiLU's ratio, silu(x) = x sigmoid(x) with sigmoid(x) fixed; the norm's denominator; and
of the product of y and its gate each factor takes half. So the model is a product of matrices at this input, and what
it puts out is passed back without loss:

    sum of the inputs' relevances + what biases absorb = the number that is explained

Only the convolution's biases absorb. delta's bias does not, as delta is a constant; no other part on the way has one.
Source: Jafari et al. 2024, "MambaLRP" (arXiv 2406.07592).
"""

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmlab.errors import BadInput, UnknownName
from vlmlab.explain.inside import Inside
from vlmlab.explain.states import constants, predicting, wide
from vlmlab.language import Mamba
from vlmlab.language.mamba import Mixer
from vlmlab.scan import selective_scan

Against = int | Literal["runner-up", "nothing"]


class Relevance(NamedTuple):
    """Where an explained number comes from.

    inputs: (L,), of each position's input embedding, signed. absorbed: (layers,), what the convolutions' biases took.
    explained: (), the logit or the log-odds, which is the sum of both.
    """

    inputs: Tensor
    absorbed: Tensor
    explained: Tensor


def mamba_lrp(inside: Inside, word: int | None = None, against: Against = "runner-up") -> Relevance:
    """Relevance of every position's input for a word of the answer, or (word=None) for the sum over its words.

    word: counted from 0. against: what is explained: log-odds of the word against the likeliest other word at its
    place ("runner-up") or against the token of this id, which are differences of two logits; or the word's logit
    ("nothing"). Raises BadInput for another language model than a Mamba or a word that is not there, UnknownName.
    """
    mamba = inside.vlm.language
    if not isinstance(mamba, Mamba):
        raise BadInput(f"{inside.vlm.config.name}: Mamba-LRP passes through a Mamba alone; take gradient_x_input")
    inputs = _inputs(inside)
    hidden, biases = linearised(mamba, inputs)
    explained = _explained(inside, hidden, word, against)
    by_input, *by_bias = torch.autograd.grad(explained, [inputs, *biases])
    absorbed = torch.stack([(g * bias).sum() for g, bias in zip(by_bias, biases, strict=True)])
    return Relevance((by_input * inputs)[0].sum(-1).detach(), absorbed.detach(), explained.detach())


def gradient_x_input(inside: Inside, word: int | None = None, against: Against = "runner-up") -> Tensor:
    """Gradient x input of every position's input embedding (L,), for any language model; arguments as in `mamba_lrp`.

    Nothing is conserved: norms, gates and softmaxes make their own of the sum.
    """
    inputs = _inputs(inside)
    hidden = inside.vlm.language.hidden(inputs_embeds=inputs)
    (by_input,) = torch.autograd.grad(_explained(inside, hidden, word, against), inputs)
    return (by_input * inputs)[0].sum(-1).detach()


def mamba_lrp_map(inside: Inside) -> Tensor:
    """Mamba-LRP's relevance of each patch for the whole answer's log-odds: (rows, columns), signed."""
    return inside.on_grid(mamba_lrp(inside).inputs)


def gradient_x_input_map(inside: Inside) -> Tensor:
    """Gradient x input of each patch for the whole answer's log-odds: (rows, columns), signed."""
    return inside.on_grid(gradient_x_input(inside))


def linearised(mamba: Mamba, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The model's hidden states (1, L, D) of input embeddings, with Mamba-LRP's gradient, and the convolutions' biases
    (inner,), a layer each, as the leaves of the graph that take what they absorb."""
    x, biases = inputs, []
    blocks: Any = mamba.layers
    for block in blocks:
        mixed, bias = _mixed(block.mixer, _normed(block.norm, x))
        x = wide(x) + mixed
        biases.append(bias)
    return _normed(mamba.norm_f, x), biases


def _mixed(mixer: Mixer, x: Tensor) -> tuple[Tensor, Tensor]:
    """The mixer's output (1, L, D) and the leaf that stands for its convolution's bias."""
    assert mixer.conv1d.bias is not None
    bias = mixer.conv1d.bias.detach().clone().requires_grad_()
    u, z = mixer.in_proj(x).transpose(1, 2).chunk(2, 1)  # (1, inner, L) each
    u = _silu(F.conv1d(F.pad(u, (mixer.taps - 1, 0)), mixer.conv1d.weight, bias, groups=len(bias)))
    with torch.no_grad():
        low, B, C = mixer.x_proj(u.transpose(1, 2)).split((mixer.rank, mixer.state, mixer.state), -1)
        delta = F.softplus(wide(F.linear(low, mixer.dt_proj.weight)) + wide(mixer.dt_proj.bias)).transpose(1, 2)
    fixed = constants(mixer)
    y = selective_scan(u, delta, fixed["A"], B.transpose(1, 2), C.transpose(1, 2), fixed["D"])
    assert isinstance(y, Tensor)
    product = y * _silu(z)
    half = (product + product.detach()) / 2  # the same value, half of the gradient to each factor
    return mixer.out_proj(half.transpose(1, 2)), bias


def _silu(x: Tensor) -> Tensor:
    return x * x.sigmoid().detach()


def _normed(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    assert norm.eps is not None
    x = x.to(norm.weight.dtype)
    return x * (x.square().mean(-1, keepdim=True) + norm.eps).rsqrt().detach() * norm.weight


def _inputs(inside: Inside) -> Tensor:
    """The input embeddings (1, L, D), image tokens among them, as a leaf."""
    return inside.run(["language.embed"])["language.embed"].detach().requires_grad_()


def _explained(inside: Inside, hidden: Tensor, word: int | None, against: Against) -> Tensor:
    """The logit or log-odds of one word of the answer or of all, summed; hidden (1, L, D) after the final norm."""
    words = range(inside.words.stop - inside.words.start) if word is None else [word]
    at = [predicting(inside, number) for number in words]
    logits = inside.vlm.language.head(hidden[0, at])  # (words, V)
    ids = inside.ids[0, [position + 1 for position in at]][:, None]
    found = logits.gather(1, ids).sum()
    if against == "nothing":
        return found
    if against == "runner-up":
        return found - logits.scatter(1, ids, -torch.inf).amax(1).sum()
    if isinstance(against, str):
        raise UnknownName("comparison", against, ("runner-up", "nothing"))
    if not 0 <= against < logits.shape[1]:
        raise BadInput(f"against={against}: the vocabulary is 0 to {logits.shape[1] - 1}")
    return found - logits[:, against].sum()
