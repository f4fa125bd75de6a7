# %% [markdown]
# # 07 · Selective scan, from recurrence to linear time
#
# *Mamba: Linear-Time Sequence Modeling with Selective State Spaces* (Gu and Dao 2023,
# [arXiv 2312.00752](https://arxiv.org/abs/2312.00752), sections 2 and 3). *Efficiently Modeling Long Sequences with
# Structured State Spaces*, "S4" (Gu, Goel, Ré 2021, [arXiv 2111.00396](https://arxiv.org/abs/2111.00396)). *Prefix Sums
# and Their Applications* (Blelloch 1990). *The Hidden Attention of Mamba Models* (Ali, Zimerman, Wolf 2024,
# [arXiv 2403.01590](https://arxiv.org/abs/2403.01590)).
#
# Attention looks back at every token, so its work grows with the square of the length. A recurrence carries one state
# along and does the same work for every token. For a long time that state was the weak point: it treated all tokens
# alike. Mamba lets the token decide what is written, kept and read. This chapter builds that recurrence from its
# smallest case, makes it fast three times over, and proves the three equal.
#
# **After this chapter you can**
#
# - discretise a state-space model by hand, and say what Mamba does differently;
# - write a fixed state-space model as a recurrence and as a convolution, and say why a selective one has no kernel;
# - build the selective scan: as a loop, in chunks, and by doubling, with the cost of each;
# - measure time, memory and exponents on your own machine, and say what limits the speed;
# - show on a copying task what selectivity is good for;
# - write a scan as a causal attention matrix.
#
# **Time** about 35 s of computing on 2 CPU cores (half a minute more where `make` has not compiled the scan), 1.2 GB of
# memory; 90 to 120 minutes of reading and exercises. Nothing here needs a GPU.
#
# | symbol | meaning | shape |
# |---|---|---|
# | $u$, $y$ | input and output, D channels | (B, D, L) |
# | $\Delta$ | step size | (D), selective: (B, D, L) |
# | $A$ | decay rates of the N states of a channel, negative | (D, N) |
# | $B$, $C$ | what writes into the state, what reads from it | (D, N), selective: (B, N, L) |
# | $D$ | direct path from input to output | (D) |
# | $h$ | state | (B, D, N) |
# | $\bar A$, $\bar B$ | discretised $A$ and $B$, for one step | as $h$ |

# %% tags=["parameters"]
profile = "quick"  # "quick" or "full": longer sequences, and the copying tasks with five seeds
seed = 0  # of inputs, weights and training
device = "cpu"  # "auto", "cpu", "cuda" or "mps": where the copying models train
longest = 4096  # L of the longest timed scan (8 times as long in the full profile)
channels = 128  # D of the timed scans
steps = 300  # of training, each model on each copying task
places = 24  # where the letters of a copying task may stand

# %%
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from vlmlab import figures, report, runtime
from vlmlab.checks import nb07 as check
from vlmlab.figures import scan as diagrams
from vlmlab.figures import show, show_table
from vlmlab.figures.cobra import panels
from vlmlab.scan import backends, selective_scan

runtime.seed_everything(seed)
g = runtime.generator(seed)
backends()

# %% [markdown]
# The package's fastest scan on a CPU, `cpu`, is compiled at its first call, and kept on disk. Should that be this one,
# let it be now, so that no clock below sees it.

# %%
from vlmlab.scan import cpu

start = time.perf_counter()
cpu.compile_ahead()
print(f"{time.perf_counter() - start:.1f} s")

# %% [markdown]
# ## 1. Toy numbers: a leaky integrator
#
# One number of state. At each moment it loses a part of itself and takes in a part of the input:
#
# $$h_t = a\,h_{t-1} + b\,x_t, \qquad y_t = c\,h_t$$

# %%
a, b, c = 0.5, 1.0, 2.0
x = [1.0, 0.0, 0.0, 4.0]
h, y = 0.0, []
for x_t in x:
    h = a * h + b * x_t
    y.append(c * h)
y  # 2 * 1, then 2 * 0.5, 2 * 0.25, and 2 * (0.125 + 4)

# %% [markdown]
# Write the loop out and the state is gone: $y_t = \sum_{l \ge 0} c\,a^l b\,x_{t-l}$. The same numbers $c\,a^l b$ weigh
# the past at every moment. That is a **convolution** with the kernel $K = (cb,\ cab,\ ca^2b,\ \dots)$:

# %%
K = [c * a**l_back * b for l_back in range(len(x))]
print("kernel:", K)
print("convolution:", np.convolve(x, K)[: len(x)].tolist(), " loop:", y)
assert np.allclose(np.convolve(x, K)[: len(x)], y)

# %% [markdown]
# The decay $a$ is the memory. After $\log 0.5 / \log a$ steps half of an input is left:

# %%
ages = np.arange(65)
show(
    figures.losses(
        {f"a = {a_}: half after {math.log(0.5) / math.log(a_):.0f}": (ages, a_**ages) for a_ in (0.5, 0.9, 0.98)},
        smooth=0, xlabel="steps since the input", ylabel="what is left of it", height=2.4,
    ),
    alt="Three decaying curves of what is left of an input: the nearer a is to 1, the longer it stays.",
)  # fmt: skip

# %% [markdown]
# ## 2. From steps to time
#
# S4 does not choose $a$ and $b$. It starts from an equation in continuous time and a **step size** $\Delta$:
#
# $$h'(t) = A\,h(t) + B\,x(t)$$
#
# Hold the input still during a step (**zero-order hold**, ZOH). Then the equation has an exact solution:
#
# $$h(t + \Delta) = \underbrace{e^{\Delta A}}_{\bar A}\,h(t) + \underbrace{\frac{e^{\Delta A} - 1}{A}\,B}_{\bar B}\,x$$
#
# By hand, with $A = -1$, $B = 1$, $\Delta = \log 2$: $\bar A = e^{-\log 2} = \frac12$ and
# $\bar B = (\frac12 - 1) / (-1) = \frac12$. With an input of 4 from $t = 0$ on, the exact solution is
# $h(t) = 4\,(1 - e^{-t})$.

# %%
A, B, delta = -1.0, 1.0, math.log(2)
A_bar = math.exp(delta * A)
B_bar = (A_bar - 1) / A * B
h, by_hand = 0.0, []
for _ in range(4):
    h = A_bar * h + B_bar * 4.0
    by_hand.append(h)
exact = [4 * (1 - math.exp(-k * delta)) for k in (1, 2, 3, 4)]
print("recurrence:", by_hand, " exact:", exact)
assert np.allclose(by_hand, exact, rtol=1e-14)

# %% [markdown]
# A held input is followed exactly, however long the step. If the input moves during the step, the held value is wrong.
# Take $x(t) = \sin 2t$, whose exact solution is known, and halve the step again and again. Three rules:
#
# | rule | $\bar A$ | $\bar B$ |
# |---|---|---|
# | ZOH | $e^{\Delta A}$ | $(e^{\Delta A} - 1) / A \cdot B$ |
# | Mamba's code | $e^{\Delta A}$ | $\Delta B$ |
# | Euler | $1 + \Delta A$ | $\Delta B$ |
#
# The Mamba paper writes ZOH for both (equation 4). Its code, and so every checkpoint, uses $\Delta B$.

# %%
RULES = {
    "ZOH": lambda A, delta: (np.exp(delta * A), (np.exp(delta * A) - 1) / A),
    "Mamba's code": lambda A, delta: (np.exp(delta * A), delta),
    "Euler": lambda A, delta: (1 + delta * A, delta),
}


def at_the_end(rule, A, delta, until=4.0):
    decay, gain = RULES[rule](A, delta)
    h = 0.0
    for t in np.arange(round(until / delta)) * delta:
        h = decay * h + gain * np.sin(2 * t)
    return h


# %%
A, until = -8.0, 4.0
exact = (2 * np.exp(A * until) - A * np.sin(2 * until) - 2 * np.cos(2 * until)) / (A**2 + 4)
step_sizes = 0.5 ** np.arange(1, 9)
errors = {rule: [abs(at_the_end(rule, A, step) - exact) / abs(exact) for step in step_sizes] for rule in RULES}
show(
    diagrams.scaling(
        {rule: (step_sizes, values) for rule, values in errors.items()},
        xlabel="step size Δ", ylabel="relative error at t = 4", title="One state, A = -8, input sin 2t",
    ),
    alt="Error over step size for three rules. For small steps all three fall in proportion to the step, Mamba's rule "
    "with the largest error; for steps above 0.25 Euler's error is enormous.",
)  # fmt: skip
for rule, values in errors.items():
    report.record(f"error at step {step_sizes[0]}, {rule}", values[0])
report.record("error of Mamba's rule over ZOH's, smallest step", errors["Mamba's code"][-1] / errors["ZOH"][-1])

# %% [markdown]
# Three things to take from this.
#
# - With a moving input no rule is exact. All three errors fall in proportion to the step.
# - The exponential is what makes a recurrence safe: $e^{\Delta A}$ lies between 0 and 1 for every negative $A$ and
#   every positive $\Delta$, while Euler's $1 + \Delta A$ leaves $(-1, 1)$ once $\Delta > 2/|A|$. Nothing keeps a
#   network that learns $\Delta$ from going there.
# - As a solver, Mamba's mixture is the worst of the three at small steps. ZOH and Euler both settle at the right value
#   $-B x / A$ when the input stays put; the mixture does not, for its gain is too large by the factor
#   $\Delta A / (e^{\Delta A} - 1)$:

# %%
step_sizes = (0.001, 0.01, 0.1, 1.0)
show_table(
    ["A", *(f"Δ = {step}" for step in step_sizes)],
    [[A, *(round(step * A / math.expm1(step * A), 3) for step in step_sizes)] for A in (-1, -4, -16)],
    "Gain of the input in Mamba's code, as a multiple of ZOH's",
)

# %% [markdown]
# Mamba starts with $\Delta$ between 0.001 and 0.1 and $A$ between -1 and -16, where the factor is about 2 at most. And
# it is no solver: nobody asks it for the solution of an equation. Where $\Delta$ is one number a channel, a learnt $B$
# absorbs the factor. Where each token has its own $\Delta$, $B$ cannot: ZOH's gain levels off at $1/|A|$ and $\Delta B$
# goes on growing. From here on we do what the code does.

# %% [markdown]
# ## 3. N states: one layer, three programs
#
# A single decay forgets at one speed. S4 gives each channel $N$ states. In its diagonal form (S4D,
# [arXiv 2206.11893](https://arxiv.org/abs/2206.11893); Mamba's too) they do not touch one another: $A$ is a list of $N$
# rates, $B$ writes the input into all of them, $C$ adds them up.
#
# First as a loop. The coefficients are the same at all times: the layer is linear and time-invariant (LTI).

# %%
batch, width, N, L = 2, 3, 4, 64
A = -torch.arange(1.0, N + 1, dtype=torch.float64).repeat(width, 1)  # (D, N): -1, -2, -3, -4
B, C = torch.randn(2, width, N, dtype=torch.float64, generator=g)  # (D, N) each
delta = torch.tensor([0.02, 0.1, 0.5], dtype=torch.float64)  # (D,): one step size a channel
u = torch.randn(batch, width, L, dtype=torch.float64, generator=g)  # (B, D, L)
A_bar, B_bar = torch.exp(delta[:, None] * A), delta[:, None] * B  # (D, N) each

# %%
h, outputs = torch.zeros(batch, width, N, dtype=torch.float64), []
for t in range(L):
    h = A_bar * h + B_bar * u[..., t, None]  # (B, D, N)
    outputs.append((C * h).sum(-1))  # (B, D)
y_loop = torch.stack(outputs, -1)  # (B, D, L)
y_loop.shape

# %% [markdown]
# Then as a convolution, $K_l = \sum_n C_n \bar A_n^l \bar B_n$. A fast Fourier transform turns it into a product, in
# $O(L \log L)$ and for all moments at once: that is how S4 trains. The transforms are of length $2L$, because a product
# of two transforms wraps round, and the end must not reach the beginning.


# %%
def convolve(u, K):  # (B, D, L), (D, L) -> (B, D, L)
    L = u.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(u, 2 * L) * torch.fft.rfft(K, 2 * L), 2 * L)[..., :L]


K = torch.einsum("dn,dnl->dl", C * B_bar, A_bar[..., None] ** torch.arange(L))  # (D, L)
y_fft = convolve(u, K)

# %%
show(
    figures.losses(
        {f"Δ = {step}": row / row.abs().max() for step, row in zip(delta.tolist(), K, strict=True)},
        smooth=0, xlabel="steps since the input", ylabel="kernel K", height=2.4,
    ),
    alt="Kernels of three channels: the one with the smallest step size reaches furthest back.",
    caption="Random B and C; each kernel divided by its largest magnitude. Δ sets how far back a channel looks.",
)  # fmt: skip

# %% [markdown]
# Third, the package's `selective_scan`, told to use the same coefficients at every step. **Check**, in float64:


# %%
def gap(found, wanted):
    """Largest difference, relative to the largest wanted magnitude."""
    return ((found.double() - wanted.double()).abs().max() / wanted.double().abs().max()).item()


y_scan = selective_scan(u, delta[:, None].expand_as(u), A, B, C, backend="reference")
lti_gap = max(gap(y_fft, y_loop), gap(y_scan, y_loop))
report.record("recurrence, convolution and scan of a fixed SSM, relative difference", lti_gap)
assert lti_gap < 1e-12

# %% [markdown]
# Two forms of one layer: the convolution trains in parallel, the recurrence decodes with a state of fixed size. The
# price stands in the kernel. $K_l$ depends on the distance $l$ alone; *what* stands there has no say. A layer that must
# keep a name and drop the filler around it cannot do so by distance.

# %% [markdown]
# ## 4. Selective: the token decides
#
# Mamba computes $\Delta$, $B$ and $C$ from the token itself (algorithm 2). $A$ stays fixed, but through $\Delta_t A$ it
# becomes selective as well. The recurrence, as the code has it:
#
# $$h_t = e^{\Delta_t A}\,h_{t-1} + \Delta_t B_t\,u_t, \qquad y_t = C_t\,h_t + D\,u_t$$
#
# What $\Delta_t$ does, by hand: one state, $A = -1$, $B = C = 1$. Two tokens matter, two are filler. Give filler
# $\Delta = 0$: decay $e^0 = 1$, input $0$. The state passes it untouched, over any distance.

# %%
inputs, is_filler = [3.0, 7.0, 7.0, 5.0], [False, True, True, False]
for name, step_of in {"same Δ for all": (1.0, 1.0), "Δ = 0 for filler": (1.0, 0.0)}.items():
    h, states = 0.0, []
    for u_t, filler in zip(inputs, is_filler, strict=True):
        step = step_of[filler]
        h = math.exp(-step) * h + step * u_t
        states.append(round(h, 3))
    print(f"{name:17}", states)

# %% [markdown]
# In the second line the 7s never enter, and the 3 is still whole when the 5 arrives: $3 e^{-1} + 5$. A large $\Delta$
# does the opposite: the past fades and the token fills the state.
#
# The paper's theorem 1 says what this is: with $N = 1$, $A = -1$, $B = 1$ and ZOH, the selective recurrence is the gate
# of a gated RNN, $h_t = (1 - g_t)\,h_{t-1} + g_t\,x_t$ with $g_t = \sigma(s_t)$. It rests on one identity:
# $e^{-\mathrm{softplus}(s)} = 1 - \sigma(s)$.

# %%
s = torch.linspace(-4, 4, 5, dtype=torch.float64)
show_table(
    ["s", "g = sigmoid(s)", "ZOH: 1 - exp(-softplus(s))", "Mamba's code: softplus(s)"],
    [[v.item() for v in row] for row in zip(s, s.sigmoid(), 1 - torch.exp(-F.softplus(s)), F.softplus(s), strict=True)],
    "Gain of the input",
)
assert torch.allclose(s.sigmoid(), 1 - torch.exp(-F.softplus(s)), rtol=1e-12)

# %% [markdown]
# With $\Delta B$ as in the code it is a gate for the past, and for the input a gain that is not bounded by 1.

# %% [markdown]
# ## 5. The scan and its layer
#
# The recurrence for a batch, all channels and all states, line by line. Nothing else in this chapter may differ from
# this function.


# %%
def scan_loop(u, delta, A, B, C):
    """u, delta (B, D, L); A (D, N); B, C (B, N, L) -> y (B, D, L)"""
    h = u.new_zeros(*u.shape[:2], A.shape[1])  # (B, D, N)
    y = []
    for t in range(u.shape[-1]):
        decay = torch.exp(delta[:, :, t, None] * A)  # (B, D, N)
        h = decay * h + (delta * u)[:, :, t, None] * B[:, None, :, t]
        y.append((h * C[:, None, :, t]).sum(-1))  # (B, D)
    return torch.stack(y, -1)


# %% [markdown]
# Its layer, which the paper calls S6. $\Delta$ goes through a bottleneck of `rank` numbers, then softplus makes it
# positive. $A = -e^{A_{\log}}$ is negative whatever is learnt. The bias of $\Delta$ starts where softplus gives step
# sizes between 0.001 and 0.1, spread evenly on a logarithmic scale.


# %%
def step_bias(width):
    delta = torch.exp(torch.empty(width).uniform_(math.log(0.001), math.log(0.1)))
    return delta + torch.log(-torch.expm1(-delta))  # softplus gives delta back


class S6(nn.Module):
    def __init__(self, width, N, rank):
        super().__init__()
        self.sizes = (rank, N, N)
        self.x_proj = nn.Linear(width, rank + 2 * N, bias=False)
        self.dt_proj = nn.Linear(rank, width)
        self.A_log = nn.Parameter(torch.arange(1.0, N + 1).log().repeat(width, 1))  # (D, N)
        self.D = nn.Parameter(torch.ones(width))
        nn.init.normal_(self.x_proj.weight, std=width**-0.5)
        self.dt_proj.bias.data = step_bias(width)

    def select(self, u):  # (B, L, D) -> delta (B, D, L), A (D, N), B and C (B, N, L)
        low, B, C = self.x_proj(u).split(self.sizes, -1)
        return F.softplus(self.dt_proj(low)).mT, -self.A_log.exp(), B.mT, C.mT

    def forward(self, u, scan=selective_scan):  # (B, L, D)
        y = scan(u.mT, *self.select(u))  # (B, D, L)
        return y.mT + self.D * u


# %% [markdown]
# **Check 1.** The loop against the package, in float64.

# %%
layer = S6(width=6, N=4, rank=2).double()
u = torch.randn(2, 64, 6, dtype=torch.float64, generator=g)  # (B, L, D)
with torch.no_grad():
    loop_gap = gap(layer(u, scan_loop), layer(u))
report.record("this notebook's loop against the package, relative difference", loop_gap)
assert loop_gap < 1e-12

# %% [markdown]
# **Check 2.** The layer inside a whole Mamba block. The package's Mamba can say what each part worked with (`record`).
# Copy its weights into this class, give it the block's own $u$, and what leaves the block must be the same. The names
# of the weights are the same; the rest of the block is chapter 08's.

# %%
from vlmlab.language import Mamba, MambaConfig

mamba = Mamba(MambaConfig(vocab_size=50, dim=16, layers=1, state=4), runtime.generator(seed))
mixer, seen = mamba.layers[0].mixer, dict.fromkeys(["layers.0.u", "layers.0.z", "layers.0.mixer"])
mine = S6(width=32, N=4, rank=1)
mine.load_state_dict({name: mixer.state_dict()[name] for name in mine.state_dict()})
with torch.no_grad():
    mamba.hidden(torch.randint(50, (2, 40), generator=g), record=seen)
    out = mixer.out_proj(mine(seen["layers.0.u"], scan_loop) * F.silu(seen["layers.0.z"]))
block_gap = gap(out, seen["layers.0.mixer"])
report.record("S6 inside the package's Mamba block, relative difference", block_gap)
assert block_gap < 1e-5

# %% [markdown]
# **What was lost.** A convolution of a sum is the sum of convolutions. The selective layer is no longer linear in its
# input, so there is no kernel and no Fourier transform. For *given* $\Delta, B, C$ it still is linear, which section 12
# uses.

# %%
one, two = torch.randn(2, 1, 64, 6, dtype=torch.float64, generator=g)
with torch.no_grad():
    coefficients = layer.select(one)
    fixed = lambda u: selective_scan(u.mT, *coefficients)  # noqa: E731
    print(
        f"selective:            f(u + v) and f(u) + f(v) differ by {gap(layer(one + two), layer(one) + layer(two)):.2f}"
    )
    print(
        f"with Δ, B, C of u:    f(u + v) and f(u) + f(v) differ by {gap(fixed(one + two), fixed(one) + fixed(two)):.0e}"
    )

# %% [markdown]
# ## 6. Many steps at once
#
# The loop does little work, $O(B L D N)$, in many steps: $L$, one after the other. A processor with many lanes waits.
# The way out is older than neural networks. A step is the map $h \mapsto a h + b$. Two steps in a row are again such a
# map:
#
# $$(a_1, b_1) \text{ then } (a_2, b_2) \;=\; (a_1 a_2,\; a_2 b_1 + b_2)$$
#
# By hand: halve and add 1, then halve and add 4, is to quarter and add 4.5.


# %%
def then(first, second):
    return first[0] * second[0], second[0] * first[1] + second[1]


steps_three = torch.rand(3, 2, generator=g).double()  # three random steps (a, b)
p, q, r = steps_three
left, right = then(then(p, q), r), then(p, then(q, r))
print("by hand:", then((0.5, 1.0), (0.5, 4.0)), " grouped to the left and to the right:", [*map(float, left + right)])
assert np.allclose([float(v) for v in left], [float(v) for v in right], rtol=1e-14)

# %% [markdown]
# The operation is **associative**: any grouping gives the same. So neighbours can join in pairs, all pairs at once,
# then pairs of pairs. The simplest such scan lets every position join the one `reach` before it, with reach 1, 2, 4,
# ... (Hillis and Steele 1986):

# %%
show(
    diagrams.doubling(8, title="8 positions, 3 levels; a box says which positions it spans"),
    alt="Eight positions in four rows. In each row every position joins the one 1, 2, then 4 places before it; after "
    "three levels every position spans all before it.",
)


# %%
def scan_doubling(u, delta, A, B, C):
    a = torch.exp(delta[:, :, None] * A[..., None])  # (B, D, N, L)
    b = (delta * u)[:, :, None] * B[:, None]  # (B, D, N, L)
    reach = 1
    while reach < u.shape[-1]:
        b = torch.cat([b[..., :reach], a[..., reach:] * b[..., :-reach] + b[..., reach:]], -1)
        a = torch.cat([a[..., :reach], a[..., reach:] * a[..., :-reach]], -1)
        reach *= 2
    return (b * C[:, None]).sum(2)  # the state started at 0, so b is h


# %% [markdown]
# It takes $\log_2 L$ levels, but each level works on all $L$ positions, and $a$ and $b$ are of shape (B, D, N, L).
# Blelloch's scan, which the Mamba paper names, needs twice as many levels and only $2L$ joins.
#
# Between loop and doubling lies the **chunked** scan. Cut the sequence into chunks. All chunks walk together, each from
# a state of zero; then the chunks' ends are carried from one to the next. The decay between two moments is
# $e^{A (S_t - S_s)}$ with $S$ the running sum of $\Delta$, so no product of decays is ever divided by another.


# %%
def scan_chunked(u, delta, A, B, C, size):
    """As scan_loop, in chunks of `size`, which divides L"""
    u, delta, B, C = (x.unflatten(-1, (-1, size)) for x in (u, delta, B, C))  # (B, D or N, M, size)
    h, inside = 0.0, []
    for i in range(size):  # every chunk's i-th step
        decay = torch.exp(delta[:, :, None, :, i] * A[..., None])  # (B, D, N, M)
        h = decay * h + (delta * u)[:, :, None, :, i] * B[:, None, :, :, i]
        inside.append(h)
    inside, since = torch.stack(inside, -1), delta.cumsum(-1)  # (B, D, N, M, size), (B, D, M, size)
    state, y = u.new_zeros(*inside.shape[:3]), []
    for m in range(u.shape[2]):  # every chunk's past
        past = torch.exp(since[:, :, None, m] * A[..., None]) * state[..., None]  # (B, D, N, size)
        h = inside[..., m, :] + past
        y.append((h * C[:, None, :, m]).sum(2))  # (B, D, size)
        state = h[..., -1]
    return torch.cat(y, -1)


# %% [markdown]
# **Check.** The same input through all of them:

# %%
with torch.no_grad():
    given = (u.mT, *layer.select(u))  # L = 64
    wanted = scan_loop(*given)
    ways = {"doubling": scan_doubling(*given)} | {f"chunks of {m}": scan_chunked(*given, m) for m in (1, 8, 64)}
worst = max(gap(found, wanted) for found in ways.values())
report.record("loop, doubling and chunks in float64, relative difference", worst)
assert worst < 1e-12

# %%
T = 4096
root, levels = math.isqrt(T), int(math.log2(T))
show_table(
    ["scan", "steps in a row", "joins", "in letters"],
    [
        ["loop", T, T, "L steps, L joins"],
        [f"chunks of {root}", 2 * root, 2 * T, "2 √L steps, 2 L joins"],
        ["doubling", levels, T * levels, "log L steps, L log L joins"],
        ["Blelloch", 2 * levels, 2 * T, "2 log L steps, 2 L joins"],
        ["attention", 1, T * T, "1 step, L² scores"],
    ],
    f"One channel and one state at L = {T}",
)

# %% [markdown]
# All scans do work that is linear in the length (doubling: nearly). They differ in how much of it waits for something
# else. Which one is fast depends on the machine.

# %% [markdown]
# ## 7. Three implementations, proven equal
#
# The package has three that run everywhere:
#
# - `reference`, the loop;
# - `chunked`, the chunks, in plain PyTorch on any device;
# - `cpu`, a loop again, compiled by numba: 64 channels side by side in the processor's vector registers, the state in
#   its cache, and a backward pass of its own.
#
# "Equal" means forward *and* gradients with respect to all six arguments, in float64 to a relative $10^{-12}$ and in
# float32 to $10^{-5}$ of the float64 reference.


# %%
def random_arguments(L, D, N=16, dtype=torch.float32):
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=g)  # noqa: E731
    u, delta, D_skip = draw(1, L, D).mT, F.softplus(draw(1, L, D) - 3).mT, draw(D)
    A = -torch.arange(1.0, N + 1).repeat(D, 1)
    return [x.to(dtype) for x in (u, delta, A, draw(1, L, N).mT, draw(1, L, N).mT, D_skip)]


def with_gradients(backend, given, dtype):
    leaves = [x.to(dtype).clone().requires_grad_() for x in given]
    y = selective_scan(*leaves, backend=backend)
    weights = torch.linspace(-1, 1, y.numel(), dtype=dtype).view(y.shape)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), leaves)]


# %%
names = ["y", "u", "delta", "A", "B", "C", "D"]  # the output, and the gradients of each argument
given = random_arguments(L=200, D=70, dtype=torch.float64)
wanted = with_gradients("reference", given, torch.float64)
rows, worst = [], {torch.float64: 0.0, torch.float32: 0.0}
for backend in ("reference", "chunked", "cpu"):
    for dtype in worst:
        gaps = [gap(x, y) for x, y in zip(with_gradients(backend, given, dtype), wanted, strict=True)]
        worst[dtype] = max(worst[dtype], *gaps)
        rows.append([backend, str(dtype).removeprefix("torch."), *(f"{value:.0e}" for value in gaps)])
show_table(["backend", "dtype", *names], rows, "Relative difference to the reference in float64: output, gradients")
report.record("backends against the reference, float64, output and gradients", worst[torch.float64])
report.record("backends against the reference, float32, output and gradients", worst[torch.float32])
assert worst[torch.float64] < 1e-12
assert worst[torch.float32] < 1e-5

# %% [markdown]
# ## 8. Timed on this machine
#
# One sequence, float32, forward. Each round runs everybody once, so that whatever else the machine does meets all of
# them; the fastest round counts. Beside the scans stands attention of the same width with one head, in PyTorch's own
# fused form.


# %%
def milliseconds(runs, rounds=4):
    times = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: min(values) for name, values in times.items()}


def contenders(L):
    given = random_arguments(L, channels)
    x = given[0].mT[:, None].contiguous()  # (1, 1, L, D): queries, keys and values
    runs = {backend: lambda b=backend: selective_scan(*given, backend=b) for backend in ("reference", "chunked", "cpu")}
    return runs | {"attention": lambda: F.scaled_dot_product_attention(x, x, x, is_causal=True)}


# %%
top = longest * (8 if profile == "full" else 1)
lengths = [top // 16, top // 8, top // 4, top // 2, top]
with torch.no_grad():
    milliseconds(contenders(lengths[0]), rounds=1)  # warm up
    taken = [milliseconds(contenders(n)) for n in lengths]
times = {name: [row[name] for row in taken] for name in taken[0]}
exponents = {name: np.polyfit(np.log(lengths), np.log(values), 1)[0] for name, values in times.items()}
for name, power in exponents.items():
    report.record(f"time over length, exponent, {name}", power)

# %%
cpu, ratio = times["cpu"][-1], {name: values[-1] / times["cpu"][-1] for name, values in times.items()}
show(
    diagrams.scaling(
        {name: (lengths, values) for name, values in times.items()}, exponents=exponents,
        ylabel="ms", title=f"{channels} channels, N = 16, {torch.get_num_threads()} threads",
    ),
    alt="Time over length on logarithmic axes with fitted exponents: "
    + ", ".join(f"{name} {power:.2f}" for name, power in exponents.items()) + ".",
    caption=f"At L = {top}: cpu {cpu:.1f} ms; times as long: "
    + ", ".join(f"{name} {value:.1f}" for name, value in ratio.items() if name != "cpu") + ".",
)  # fmt: skip
report.record("time of cpu, factor at the last doubling of L", times["cpu"][-1] / times["cpu"][-2])
report.record(f"time of the reference over that of cpu at L = {top}", ratio["reference"])
report.record(f"time of chunked over that of cpu at L = {top}", ratio["chunked"])
report.record(f"time of attention over that of cpu at L = {top}", ratio["attention"])

# %% [markdown]
# An exponent of 1 is linear time: twice as long takes twice as long. What a call costs before it does anything weighs
# most at short lengths and pulls the exponent of a fast scan below 1. The chunked scan makes $2\sqrt L$ calls in place
# of $L$, which pays where calls are what costs, as on a GPU; on a CPU its larger arrays leave the processor's cache,
# and it need not beat the loop. Attention's exponent tends to 2, and at short lengths it may well be the fastest of
# all: its work is matrix products, which processors are built for. Linear time wins where sequences are long enough,
# and *where that is* has to be measured. Chapter 09 does so for whole models.

# %% [markdown]
# ## 9. What is never made: (B, D, L, N)
#
# The output has $B \cdot D \cdot L$ numbers. The states have $N$ times as many. In plain PyTorch, autograd keeps them
# for the backward pass, and decays and products of the same size with them. The compiled scan keeps every 16th state
# and computes those in between again, and so does Mamba's CUDA kernel. Count what each keeps between forward and
# backward:


# %%
def bytes_kept(run):
    kept = {}

    def pack(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        y = run()  # alive until the sum is taken
    return sum(kept.values()), y.shape


# %%
given = [x.requires_grad_() for x in random_arguments(longest, channels)]
one_copy = 4 * channels * longest * 16  # bytes of (B, D, L, N) in float32
copies = {}
for backend in ("reference", "chunked", "cpu"):
    kept, _ = bytes_kept(lambda backend=backend: selective_scan(*given, backend=backend))
    copies[backend] = kept / one_copy
    report.record(f"kept for backward, {backend}, in copies of (B, D, L, N)", copies[backend])
show(
    figures.bars(
        list(copies), {"kept": list(copies.values())}, baselines={"all states once": 1.0},
        xlabel=f"bytes kept for backward / bytes of (B, D, L, N) = {one_copy / 2**20:.0f} MiB",
    ),
    alt="Bytes kept for the backward pass, in copies of all states: "
    + ", ".join(f"{name} {value:.2f}" for name, value in copies.items()) + ".",
)  # fmt: skip

# %% [markdown]
# The same count at the size of Mamba-2.8B, Cobra's language model (64 blocks, D = 5120 inner channels, N = 16):

# %%
from vlmlab.vlm.presets import get_preset

config = get_preset("cobra-3b").language
all_states = 4 * config.layers * config.inner * config.state * 2048
print(f"all states of a batch of one at L = 2048, float32, once: {all_states / 2**30:.0f} GiB")
print(f"input u, step sizes and output y of all its scans:       {all_states * 3 / config.state / 2**30:.1f} GiB")
report.record("Mamba-2.8B, all states at L = 2048 once, GiB", all_states / 2**30)

# %% [markdown]
# ## 10. The state is a memory of fixed size
#
# To write the next token, attention needs the keys and values of all tokens so far. A scan needs its last state. Two
# small models of this suite with language models of like size, and the two published ones:

# %%
from vlmlab.vlm.account import cache_bytes

sizes = [2**k for k in range(3, 14)]
names = {"llava-tiny": "Llama of llava-tiny", "cobra-tiny": "Mamba of cobra-tiny",
         "llava-1.5-7b": "Vicuna-7B (LLaVA)", "cobra-3b": "Mamba-2.8B (Cobra)"}  # fmt: skip
held = {preset: [cache_bytes(get_preset(preset).language, n) for n in sizes] for preset in names}
for preset, name in names.items():
    few, many = (held[preset][i] / 2**20 for i in (4, -1))
    print(f"{name:20} {few:9.2f} MiB at {sizes[4]} tokens {many:9.2f} MiB at {sizes[-1]}")
report.record("Mamba-2.8B, state and convolution inputs in bf16, MiB", held["cobra-3b"][0] / 2**20)

# %%
show(
    diagrams.scaling(
        {name: (sizes, np.array(held[preset]) / 2**20) for preset, name in names.items()},
        xlabel="tokens so far", ylabel="MiB kept, bf16", title="What is kept for the next token",
    ),
    alt="Memory over the number of tokens. The caches of two Llamas grow in proportion to the tokens, the states of "
    "two Mambas stay the same.",
    caption="Keys and values against states and the short convolutions' last inputs; parameters not counted.",
)  # fmt: skip

# %% [markdown]
# Fixed size is also a limit. $D \cdot N$ numbers cannot hold everything about a text of any length: what to keep is a
# decision, and the next section is about who takes it.

# %% [markdown]
# ## 11. Selectivity, seen: copying with and without noise
#
# The paper's test (section 4.1.1, figure 2). **Plain copying**: letters at fixed places, then filler, then the letters
# are asked for. The distance from letter to question is always the same, so a fixed kernel can do it. **Selective
# copying**: the letters stand at random places among the filler. Distance says nothing now; content does.
#
# Ours is small: three letters of four kinds among 24 places, and questions "1st?", "2nd?", "3rd?". (In the paper the
# questions do not say which letter they ask for, sequences are 4096 long, and training takes 400,000 steps.)

# %%
KINDS, WORD = 4, 3
NAMES = [".", "a", "b", "c", "d", "1st?", "2nd?", "3rd?"]  # 0 filler, 1-4 letters, 5-7 questions


def copying(rows, scattered, places, generator):
    word = torch.randint(1, KINDS + 1, (rows, WORD), generator=generator)
    where = torch.arange(WORD).expand(rows, -1)
    if scattered:
        where = torch.rand(rows, places, generator=generator).argsort(1)[:, :WORD].sort(1).values
    text = torch.zeros(rows, places, dtype=torch.long).scatter(1, where, word)
    asked = (1 + KINDS + torch.arange(WORD)).expand(rows, -1)
    return torch.cat([text, asked], 1), word - 1  # (rows, places + 3), (rows, 3)


# %%
TASKS = {"plain": False, "selective": True}
for task, scattered in TASKS.items():
    row = copying(1, scattered, places, g)[0][0].tolist()
    show(
        figures.token_strip(
            [NAMES[i] for i in row],
            ["filler" if i == 0 else "letter" if i <= KINDS else "question" for i in row],
            colours={"filler": "#FFFFFF", "letter": figures.ORANGE, "question": figures.SKY},
            title=f"{task} copying", runs=99,
        ),
        alt=f"{task} copying: " + " ".join(NAMES[i] for i in row),
    )  # fmt: skip

# %% [markdown]
# Three models that differ in one layer:
#
# - **S6**: $\Delta$, $B$, $C$ from the token;
# - **fixed SSM**: the same with $\Delta$, $B$, $C$ as parameters, one set a channel;
# - **any kernel**: a convolution each of whose weights is a parameter. No fixed SSM, whatever its state, can compute
#   what this layer cannot. If it fails, the reason is not a small state.
#
# Around the layer stands Mamba's gated block, without its short convolution (which could shift letters a little and
# would blur the comparison).


# %%
class FixedSSM(nn.Module):
    def __init__(self, width, N):
        super().__init__()
        self.bias = nn.Parameter(step_bias(width))
        self.A_log = nn.Parameter(torch.arange(1.0, N + 1).log().repeat(width, 1))
        self.B, self.C = nn.Parameter(torch.ones(width, N)), nn.Parameter(torch.randn(width, N) * N**-0.5)
        self.D = nn.Parameter(torch.ones(width))

    def forward(self, u):  # (B, L, D)
        delta, age = F.softplus(self.bias)[:, None], torch.arange(u.shape[1], device=u.device)
        decays = torch.exp((delta * -self.A_log.exp())[..., None] * age)  # (D, N, L)
        K = torch.einsum("dn,dnl->dl", self.C * delta * self.B, decays)
        return convolve(u.mT, K).mT + self.D * u


class AnyKernel(nn.Module):
    def __init__(self, width, length):
        super().__init__()
        self.K = nn.Parameter(torch.randn(width, length) * 0.1)
        self.D = nn.Parameter(torch.ones(width))

    def forward(self, u):
        return convolve(u.mT, self.K[:, : u.shape[1]]).mT + self.D * u


# %%
class Copier(nn.Module):
    def __init__(self, mixer, dim):
        super().__init__()
        self.embeddings = nn.Embedding(len(NAMES), dim)
        self.norm, self.norm_f = nn.RMSNorm(dim), nn.RMSNorm(dim)
        self.in_proj, self.out_proj = nn.Linear(dim, 4 * dim, bias=False), nn.Linear(2 * dim, dim, bias=False)
        self.mixer, self.head = mixer, nn.Linear(dim, KINDS)

    def inputs(self, ids):  # (B, L) -> stream (B, L, dim), what the mixer reads and its gate (B, L, 2 dim)
        x = self.embeddings(ids)
        u, z = self.in_proj(self.norm(x)).chunk(2, -1)
        return x, F.silu(u), F.silu(z)

    def forward(self, ids):  # (B, L) -> logits at the questions (B, 3, KINDS)
        x, u, z = self.inputs(ids)
        x = x + self.out_proj(self.mixer(u) * z)
        return self.head(self.norm_f(x[:, -WORD:]))


dim = 32
MIXERS = {
    "S6": lambda: S6(2 * dim, N=8, rank=4),
    "fixed SSM": lambda: FixedSSM(2 * dim, N=8),
    "any kernel": lambda: AnyKernel(2 * dim, places + WORD),
}


# %%
on = runtime.device(device)


def train(name, scattered, with_seed, rate=1e-2, rows=32):
    torch.manual_seed(with_seed)
    model, draws, shares = Copier(MIXERS[name](), dim).to(on), runtime.generator(with_seed), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, fused=True)
    for step in range(steps):
        ids, word = (x.to(on) for x in copying(rows, scattered, places, draws))
        logits = model(ids)
        loss = F.cross_entropy(logits.flatten(0, 1), word.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = rate * min((step + 1) / 20, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        optimizer.step()
        shares.append((logits.argmax(-1) == word).float().mean().item())
    return model, shares


trained = {(name, task): train(name, scattered, seed) for task, scattered in TASKS.items() for name in MIXERS}
for name in MIXERS:
    count = sum(p.numel() for p in trained[name, "plain"][0].parameters())
    report.record(f"parameters, {name}", count)

# %%
curves = {f"{task} copying": {name: trained[name, task][1] for name in MIXERS} for task in TASKS}
show(
    panels(curves, smooth=0.9, limits=(0, 1.03)),
    alt="Share of letters right over the steps. In the last 20 steps: " + "; ".join(
        f"{task}: " + ", ".join(f"{name} {np.mean(values[-20:]):.0%}" for name, values in runs.items())
        for task, runs in curves.items()) + ".",
    caption="Share of letters right, smoothed. Every batch is new; guessing gives a quarter.",
)  # fmt: skip

# %% [markdown]
# **New sequences.** A word counts when all three letters are right; chance is 1 in 64.

# %%
from vlmlab.benchmarks.statistics import proportion


@torch.no_grad()
def words_right(model, scattered, places, rows=512):
    ids, word = copying(rows, scattered, places, runtime.generator(seed + 1000))
    logits = model(ids.to(next(model.parameters()).device))
    return proportion((logits.argmax(-1).cpu() == word).all(1).tolist())


rows = []
for name in MIXERS:
    found = [words_right(trained[name, task][0], scattered, places) for task, scattered in TASKS.items()]
    rows.append(
        [name, *(f"{100 * f['accuracy']:.1f} % ({100 * f['low']:.0f} to {100 * f['high']:.0f})" for f in found)]
    )
    for task, score in zip(TASKS, found, strict=True):
        report.record(f"words right, {task} copying, {name}", score["accuracy"])
show_table(["", *(f"{task} copying" for task in TASKS)], rows, "Words right with 95 % intervals, 512 new sequences")

# %% [markdown]
# How to read this. *Any kernel* copies over a fixed distance without a mistake, so it is neither too small nor badly
# trained. Among the noise it stays behind. Which letter is the second depends on how many came before, and one
# convolution weighs each letter by distance without asking what stands between. It is far above chance all the same:
# an early letter is more often the first than the third. The *fixed SSM* has a worse kernel still. A sum of few real,
# decaying exponentials makes no sharp peak at one distance (S4's own $A$ is complex, which helps there). *S6* solves
# the noisy task, and on the plain one it learns more slowly than a kernel does.
#
# All this is about *one* layer. Two blocks can count in the first and use the count in the second (exercise 7). And it
# is one seed; the full profile takes five more:

# %%
if profile == "full":
    again = {}
    for (name, task), scattered in ((key, TASKS[key[1]]) for key in trained):
        scores = [
            words_right(train(name, scattered, s)[0], scattered, places)["accuracy"] for s in range(seed + 1, seed + 6)
        ]
        again[f"{name}, {task}"] = scores
        report.record(f"words right, five seeds, {task} copying, {name}", scores)
    show_table(["", "worst", "median", "best"], [[k, min(v), float(np.median(v)), max(v)] for k, v in again.items()])

# %% [markdown]
# **Longer sequences.** Whoever skips the noise need not care how much of it there is. The same models, never trained
# again, on sequences with more filler (the free kernel ends where training ended, so it cannot take part):

# %%
spans = [places, 2 * places, 4 * places, 8 * places, 16 * places]
longer = {
    name: (spans, [words_right(trained[name, "selective"][0], True, n, rows=256)["accuracy"] for n in spans])
    for name in ("S6", "fixed SSM")
}
show(
    diagrams.scaling(
        longer, log=False, xlabel="places for the three letters", ylabel="words right", height=2.5,
        title=f"Trained with {places} places",
    ),
    alt="Words right over the number of places: "
    + "; ".join(f"{name} {values[0]:.0%} at {spans[0]}, {values[-1]:.0%} at {spans[-1]}"
                for name, (_, values) in longer.items()) + ".",
)  # fmt: skip
report.record(f"words right at {spans[-1]} places, S6 trained at {places}", longer["S6"][1][-1])

# %% [markdown]
# **What it selects.** The trained S6 on one sequence: the step size of every fourth channel at every token. Channels
# are sorted by how much longer the step is at a letter than at filler.

# %%
copier = trained["S6", "selective"][0].cpu()
ids, word = copying(256, True, places, runtime.generator(seed + 2000))
with torch.no_grad():
    _, read, _ = copier.inputs(ids)  # (B, L, D)
    delta, A, B, C = copier.mixer.select(read)
kinds = {"filler": ids == 0, "letter": (ids > 0) & (ids <= KINDS), "question": ids > KINDS}
mean_step = {kind: delta.mT[which].mean(0) for kind, which in kinds.items()}  # (D,) each
ratio = mean_step["letter"] / mean_step["filler"]
shares = {"letters": (ratio > 2).double().mean().item(), "filler": (ratio < 0.5).double().mean().item()}
labels = [NAMES[i] for i in ids[0]]
show(
    figures.matrix(
        delta[0][ratio.argsort(descending=True)][::4].log10().numpy(), None, labels, numbers=False, limits=(-3, 1),
        column_label="token", row_label="channel", value_label="log10 Δ", title="Step sizes of the trained S6",
    ),
    alt=f"Step sizes by channel and token. {shares['letters']:.0%} of the channels make a step more than twice as long "
    f"at letters as at filler, {shares['filler']:.0%} the other way round.",
)  # fmt: skip
for kind, value in shares.items():
    report.record(f"channels whose step is over twice as long at {kind}, share", value)

# %% [markdown]
# Some channels open for letters and close for filler, as in section 4. Others move on with the filler and stand still
# at letters. A mean over the channels would show neither.
#
# Does the model need all three? Hold one of them at its mean over all tokens, in the trained model:


# %%
class Held(nn.Module):
    def __init__(self, mixer, parts):
        super().__init__()
        self.mixer, self.parts = mixer, parts

    def forward(self, u):
        values = dict(zip(("Δ", "A", "B", "C"), self.mixer.select(u), strict=True))
        for part in self.parts:
            values[part] = values[part].mean((0, 2), keepdim=True).expand_as(values[part])
        return selective_scan(u.mT, *values.values()).mT + self.mixer.D * u


selecting, left = copier.mixer, {}
for parts in ("", "Δ", "B", "C"):
    copier.mixer = Held(selecting, parts)
    left[f"{parts} the same for all tokens" if parts else "as trained"] = words_right(copier, True, places)["accuracy"]
copier.mixer = selecting
show(
    figures.bars(list(left), {"words right": list(left.values())}, percent=True, limits=(0, 1.1)),
    alt="Words right with one part held at its mean: " + ", ".join(f"{k} {v:.0%}" for k, v in left.items()) + ".",
)
for name, value in left.items():
    report.record(f"words right of S6, {name}", value)

# %% [markdown]
# This says what *this* model relies on after it was trained with all three. Whether a model trained without one of them
# would find another way is a different question, and exercise 7.

# %% [markdown]
# ## 12. Preview: a scan is a hidden attention
#
# Given $\Delta, B, C$, the scan is linear in $u$, so there is a matrix with $y = \alpha u + D u$. Unroll the
# recurrence, with $S_t$ the running sum of $\Delta$:
#
# $$\alpha_{ij} = \sum_n C_i[n]\; e^{A[n]\,(S_i - S_j)}\; \Delta_j B_j[n] \qquad (j \le i)$$
#
# One matrix a channel, causal, without softmax: entries may be negative and rows need not sum to 1. (Ali et al. write
# it as a product of decays; the difference of sums is the same and stays stable.) **Check**, in float64:

# %%
wide = [x[:8].double() for x in (delta, B, C)]
step, B64, C64 = wide  # (B, D, L), (B, N, L), (B, N, L)
A64, u64 = A.detach().double(), read[:8].mT.double()
S = step.cumsum(-1)
age = (S[..., :, None] - S[..., None, :]).clamp(min=0)  # (B, D, L, L)
alpha = sum(
    C64[:, None, n, :, None] * torch.exp(A64[:, n, None, None] * age) * (step * B64[:, n, None])[..., None, :]
    for n in range(A.shape[1])
).tril()  # (B, D, L, L)
wanted = selective_scan(u64, step, A64, B64, C64, copier.mixer.D.detach().double())
found = (alpha @ u64[..., None])[..., 0] + copier.mixer.D.detach().double()[:, None] * u64
hidden_gap = gap(found, wanted)
report.record("hidden attention times input against the scan, relative difference", hidden_gap)
assert hidden_gap < 1e-10

# %% [markdown]
# Where do the three questions look? $|\alpha_{ij}|$ as a mean over the channels, each row divided by its sum, for the
# sequence above:

# %%
weights = alpha.abs().mean(1)  # (B, L, L)
weights = weights / weights.sum(-1, keepdim=True)
share = {kind: weights[:, -WORD:].mean(1)[which[:8]].mean().item() for kind, which in kinds.items()}
larger = share["letter"] / share["filler"]
show(
    figures.matrix(
        weights[0, -WORD:].numpy(), labels[-WORD:], labels, numbers=False, limits=(0, 1),
        column_label="token j", row_label="token i", value_label="share of |α|",
    ),
    alt="Hidden attention of the three questions over all tokens. Over eight sequences a letter's share is "
    f"{larger:.0f} times a filler token's.",
)  # fmt: skip
report.record("hidden attention of the questions, a letter's share / a filler's", larger)

# %% [markdown]
# Letters weigh more than filler. *Which* letter is asked for is not to be read off so easily: sign and channel matter,
# and a mean of magnitudes hides both. Chapter 13 takes such maps up again, for pictures, together with the question
# whether they explain anything.

# %% [markdown]
# ## 13. What limits the speed
#
# Each of $B \cdot D \cdot L \cdot N$ decays is one exponential. Around it stand three multiplications and two
# additions. Each number of input and output moves from memory or to it once. What would these two take alone?

# %%
import numba

from vlmlab.scan import kernels

numba.set_num_threads(min(torch.get_num_threads(), numba.get_num_threads()))
given = random_arguments(longest, channels)
some = -torch.rand(channels * longest, generator=g).numpy()  # (B, D, L): one state's decays, N times over
out, moved = np.empty_like(some), torch.rand(3 * channels * longest + 2 * 16 * longest)


def exponentials():
    for _ in range(16):
        kernels.every_exp(some, out)


exponentials()  # warm up
with torch.no_grad():
    alone = milliseconds(
        {"scan": lambda: selective_scan(*given, backend="cpu"), "exponentials": exponentials, "moving": moved.clone}, 8
    )
show(
    figures.bars(
        ["the whole scan, cpu", "its exponentials alone", "its inputs and outputs copied once"],
        {"ms": list(alone.values())}, xlabel=f"ms, fastest of 8, L = {longest}, D = {channels}, N = 16",
    ),
    alt=f"The scan takes {alone['scan']:.1f} ms, its exponentials alone {alone['exponentials']:.1f} ms, a copy of its "
    f"inputs and outputs {alone['moving']:.1f} ms.",
)  # fmt: skip
report.record("exponentials alone / the whole scan, forward", alone["exponentials"] / alone["scan"])
report.record("copying inputs and outputs once / the whole scan, forward", alone["moving"] / alone["scan"])

# %% [markdown]
# On a CPU the exponentials are a large part and the memory traffic a small one; the package's kernel has an `exp` of
# its own that fills the vector registers. On a GPU it is the other way round, says the paper (section 3.3): arithmetic
# is cheap there and memory is not, so Mamba's kernel keeps the states in the chip's own fast memory and never writes
# (B, D, L, N) to the large one. Linear time is a property of the algorithm; how long a step takes is one of the
# machine.

# %% [markdown]
# ## Exercises
#
# Replace each `...` by your own lines. A check says what is right or which mistake it looks like; until you begin, it
# says "not yet".
#
# ### Exercise 1 · Zero-order hold (easy, 5 minutes)
#
# Return $\bar A$ and $\bar B$ of a single state by zero-order hold.


# %%
def zoh(A: float, B: float, delta: float) -> tuple[float, float]:
    return ...  # your code here


check.zoh(zoh)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Section 2 has both formulas. `math.exp` for the first; the second uses the first.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def zoh(A, B, delta):
#     A_bar = math.exp(delta * A)
#     return A_bar, (A_bar - 1) / A * B
# ```
#
# </details>
#
# ### Exercise 2 · The kernel of a fixed SSM (easy, 10 minutes)
#
# One channel with N states, discretised already. Return its convolution kernel of length `L`: `K[l]` weighs the input
# of `l` steps ago. `A_bar`, `B_bar` and `C` are (N,).


# %%
def kernel(A_bar: torch.Tensor, B_bar: torch.Tensor, C: torch.Tensor, L: int) -> torch.Tensor:
    return ...  # your code here


check.kernel(kernel)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `A_bar[:, None] ** torch.arange(L)` holds all powers, (N, L). The input of this very moment has not decayed.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def kernel(A_bar, B_bar, C, L):
#     powers = A_bar[:, None] ** torch.arange(L)  # (N, L)
#     return (C[:, None] * powers * B_bar[:, None]).sum(0)
# ```
#
# </details>
#
# ### Exercise 3 · The selective scan (medium, 20 minutes)
#
# Write the scan of one sequence, without looking at `scan_loop`. `u` and `raw` are (D, L), and `raw` still has to pass
# through softplus to become $\Delta$; `A` is (D, N), `B` and `C` are (N, L), `D` is (D,). Return `y` (D, L), the direct
# path included.


# %%
def selective(
    u: torch.Tensor, raw: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, D: torch.Tensor
) -> torch.Tensor:
    return ...  # your code here


check.selective(selective)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The state `h` is (D, N). In each step: the decay from $\Delta_t$ and $A$, the update of `h`, then what `C[:, t]` reads
# from it. Collect the columns and `torch.stack` them.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def selective(u, raw, A, B, C, D):
#     delta, h, y = F.softplus(raw), torch.zeros_like(A), []
#     for t in range(u.shape[1]):
#         decay = torch.exp(delta[:, t, None] * A)  # (D, N)
#         h = decay * h + (delta[:, t] * u[:, t])[:, None] * B[:, t]
#         y.append(h @ C[:, t] + D * u[:, t])
#     return torch.stack(y, 1)
# ```
#
# </details>
#
# ### Exercise 4 · Join two chunks (medium, 10 minutes)
#
# A stretch of time is a pair `(a, b)` of tensors: it turns the state $h$ into $a h + b$. `first` comes before `second`.
# Return both as one pair.


# %%
def join(first: tuple[torch.Tensor, torch.Tensor], second: tuple[torch.Tensor, torch.Tensor]):
    return ...  # your code here


check.join(join)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Put $h_1 = a_1 h_0 + b_1$ into $h_2 = a_2 h_1 + b_2$ and sort by $h_0$.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def join(first, second):
#     (a1, b1), (a2, b2) = first, second
#     return a1 * a2, a2 * b1 + b2
# ```
#
# </details>
#
# ### Exercise 5 · Bytes (easy, 5 minutes)
#
# For one layer and one sequence of `L` tokens, `width` channels and `N` states a channel, numbers of `each` bytes,
# return three counts of bytes: the states of all moments, the last state alone, and the keys and values of an attention
# layer of the same width.


# %%
def memory(L: int, width: int, N: int, each: int) -> tuple[int, int, int]:
    return ...  # your code here


check.memory(memory)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The last state has no L in it. A cache has one key and one value for each token, each as wide as the layer.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def memory(L, width, N, each):
#     return L * width * N * each, width * N * each, 2 * L * width * each
# ```
#
# </details>
#
# ### Exercise 6 · Hidden attention (harder, 20 minutes)
#
# Return $\alpha$ (L, L) of a single channel, without the path $D$. `delta` is (L,), `A` is (N,), `B` and `C` are
# (N, L). Row $i$ is the token that reads.


# %%
def alpha_of(delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor) -> torch.Tensor:
    return ...  # your code here


check.alpha(alpha_of)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `S = delta.cumsum(0)`; `S[:, None] - S[None, :]` is (L, L). Clamp it at 0 before the exponential, since $e^{A (S_i -
# S_j)}$ grows without bound above the diagonal, and cut that part off at the end with `tril()`.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def alpha_of(delta, A, B, C):
#     S = delta.cumsum(0)
#     age = (S[:, None] - S[None, :]).clamp(min=0)  # (L, L)
#     decay = torch.exp(age[..., None] * A)  # (L, L, N)
#     return (torch.einsum("ni,nj,ijn->ij", C, B, decay) * delta).tril()
# ```
#
# </details>
#
# ### Exercise 7 · Which of the three matters? Does depth help? (open, 30 minutes)
#
# The paper's table 7 makes $\Delta$, $B$ and $C$ selective one at a time and finds $\Delta$ the most important, on
# language. Is that so for selective copying? Write a mixer with one of the three from the token and the others fixed,
# train it with `train` and compare `words_right`. Before you run it, write down what you expect. Take more than one
# seed: the runs of section 11 differ from seed to seed. Or give *any kernel* a second block and see how far it comes.
#
# <details><summary>Hint</summary>
#
# Let `select` of a subclass of `S6` return what it shall not select as a parameter, expanded to the same shape. Add
# your mixer to `MIXERS`.
#
# </details>
# <details><summary>A way to begin</summary>
#
# ```python
# class OnlyDelta(S6):
#     def __init__(self, width, N, rank):
#         super().__init__(width, N, rank)
#         self.B, self.C = nn.Parameter(torch.ones(N, 1)), nn.Parameter(torch.randn(N, 1) * N**-0.5)
#
#     def select(self, u):
#         delta, A, B, C = super().select(u)
#         return delta, A, self.B.expand_as(B), self.C.expand_as(C)
#
#
# MIXERS["only delta"] = lambda: OnlyDelta(2 * dim, N=8, rank=4)
# for s in range(3):
#     print(words_right(train("only delta", True, s)[0], True, places))
# ```
#
# There is no single right answer, and no check. A good one names the number of seeds, the spread, and what a model with
# the same number of *used* parameters does.
#
# </details>

# %% [markdown]
# ## Takeaways
#
# - A state-space model is a leaky integrator with a step size. With fixed coefficients it is a convolution; both forms
#   give the same numbers.
# - Mamba computes $\Delta$, $B$, $C$ from the token. The kernel is gone; the recurrence, its linear cost and its state
#   of fixed size remain. Its code discretises $A$ exactly and $B$ by Euler's rule.
# - Steps of the recurrence join associatively, so it need not be walked one by one. Loop, chunks and compiled kernel
#   agree, gradients included, to 1e-12 in float64.
# - What makes it fast is what is not done: the states of all moments are never written to memory.
# - In one block on selective copying, a convolution with any kernel stays behind a small selective layer; on plain
#   copying it learns faster.
# - A scan is a causal attention without softmax.
#
# Next: [08 · Cobra's architecture](08_cobra_architecture.ipynb).
