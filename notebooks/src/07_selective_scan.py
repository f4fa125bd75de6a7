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
# **Time** about 30 s of computing on 2 CPU cores (and half a minute more the first time, for compiling), 0.8 GB of
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
longest = 2048  # L of the longest timed scan (8 times as long in the full profile)
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
from vlmlab.scan import backends, selective_scan

runtime.seed_everything(seed)
g = runtime.generator(seed)
backends()

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
    alt="Error over step size for three rules. Euler's error is enormous for steps above 0.25 and that of the other two "
    "is not; all three fall in proportion to small steps.",
)  # fmt: skip
report.record("error at the largest step, ZOH", errors["ZOH"][0])
report.record("error at the largest step, Euler", errors["Euler"][0])

# %% [markdown]
# Two things to take from this. With a moving input no rule is exact, and all three errors fall in proportion to the
# step. And the exponential is what makes a recurrence safe: $e^{\Delta A}$ lies between 0 and 1 for every negative $A$
# and every positive $\Delta$, while Euler's $1 + \Delta A$ leaves $(-1, 1)$ once $\Delta > 2/|A|$. A network that
# learns $\Delta$ will go there.
#
# What does $\Delta B$ in place of ZOH change? The gain of the input, by a factor $\Delta A / (e^{\Delta A} - 1)$:

# %%
step_sizes = (0.001, 0.01, 0.1, 1.0)
show_table(
    ["A", *(f"Δ = {step}" for step in step_sizes)],
    [[A, *(round(step * A / math.expm1(step * A), 3) for step in step_sizes)] for A in (-1, -4, -16)],
    "Gain of the input in Mamba's code, as a multiple of ZOH's",
)

# %% [markdown]
# Mamba starts with $\Delta$ between 0.001 and 0.1 and $A$ between -1 and -16. For small steps the two agree. Where
# $\Delta$ is one number a channel, a learnt $B$ absorbs the factor. Where each token has its own $\Delta$, it does not:
# ZOH's gain levels off at $1/|A|$ and $\Delta B$ goes on growing. From here on we do what the code does.

# %% [markdown]
# ## 3. N states: one layer, three programs
#
# A single decay forgets at one speed. S4 gives each channel $N$ states. In its diagonal form (S4D; Mamba's too) they do
# not touch one another: $A$ is a list of $N$ rates, $B$ writes the input into all of them, $C$ adds them up.
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
        {f"Δ = {step}": row for step, row in zip(delta.tolist(), K.numpy(), strict=True)},
        smooth=0, xlabel="steps since the input", ylabel="kernel K", height=2.4,
    ),
    alt="Kernels of three channels: the one with the smallest step size reaches furthest back.",
    caption="Random B and C. The step size sets how far back a channel looks.",
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
    print(f"selective:            f(u + v) and f(u) + f(v) differ by {gap(layer(one + two), layer(one) + layer(two)):.2f}")
    print(f"with Δ, B, C of u:    f(u + v) and f(u) + f(v) differ by {gap(fixed(one + two), fixed(one) + fixed(two)):.0e}")

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
    alt="Eight positions in four rows. In each row every position joins the one 1, 2, then 4 places before; after three "
    "levels every position spans all before it.",
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
# It takes $\log_2 L$ levels, but each level works on all $L$ positions, and $a$ and $b$ hold $B \cdot D \cdot N \cdot L$
# numbers each. Blelloch's scan needs twice as many levels and only $2L$ joins; Mamba's CUDA kernel scans within a block
# of threads that way.
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
# float32 to $10^{-5}$ of the float64 reference. The first calls compile, so they come before any clock.


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


start = time.perf_counter()
for dtype in (torch.float32, torch.float64):
    with_gradients("cpu", random_arguments(3, 2, 2), dtype)
print(f"first calls took {time.perf_counter() - start:.1f} s; what is compiled is kept for the next session")

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
report.record(f"time of the reference over that of cpu at L = {top}", ratio["reference"])
report.record(f"time of chunked over that of cpu at L = {top}", ratio["chunked"])
report.record(f"time of attention over that of cpu at L = {top}", ratio["attention"])

# %% [markdown]
# An exponent of 1 is linear time: twice as long takes twice as long. The chunked scan's may be below 1, since it makes
# only $2\sqrt L$ calls and at small sizes the calls are what costs. Attention's tends to 2, and at short lengths it may
# well be the fastest of all: its work is matrix products, which processors are built for. Linear time wins where
# sequences are long enough, and *where that is* has to be measured. Chapter 09 does so for whole models.

# %% [markdown]
# ## 9. What is never made: (B, D, L, N)
#
# The output has $B \cdot D \cdot L$ numbers. The states have $N$ times as many. A loop that autograd watches keeps them
# all, several times over, for the backward pass. The compiled scan keeps every 16th state and computes those in between
# again, as Mamba's CUDA kernel computes all states again. Count what each keeps between forward and backward:


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
    print(f"{name:20} {held[preset][4] / 2**20:9.2f} MiB at {sizes[4]} tokens {held[preset][-1] / 2**20:9.2f} MiB at {sizes[-1]}")
report.record("Mamba-2.8B, state and convolution inputs in bf16, MiB", held["cobra-3b"][0] / 2**20)

# %%
show(
    diagrams.scaling(
        {name: (sizes, np.array(held[preset]) / 2**20) for preset, name in names.items()},
        xlabel="tokens so far", ylabel="MiB kept, bf16", title="What is kept for the next token",
    ),
    alt="Memory over the number of tokens. Caches of the two Llamas grow in proportion to the tokens; the states of the "
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
            ["padding" if i == 0 else "image" if i <= KINDS else "answer" for i in row],
            colours={}, title=f"{task} copying", runs=99,
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


dim, where = 32, runtime.device(device)
MIXERS = {
    "S6": lambda: S6(2 * dim, N=8, rank=4),
    "fixed SSM": lambda: FixedSSM(2 * dim, N=8),
    "any kernel": lambda: AnyKernel(2 * dim, places + WORD),
}

# %%
def train(name, scattered, with_seed, rate=1e-2, rows=32):
    torch.manual_seed(with_seed)
    model, draws, shares = Copier(MIXERS[name](), dim).to(where), runtime.generator(with_seed), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    for step in range(steps):
        ids, word = (x.to(where) for x in copying(rows, scattered, places, draws))
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
for task in TASKS:
    show(
        figures.losses(
            {name: trained[name, task][1] for name in MIXERS}, smooth=0.9, chance=1 / KINDS, height=2.5,
            ylabel="letters right", title=f"{task} copying",
        ),
        alt=f"Share of letters right over the steps, {task} copying. In the last 20 steps: "
        + ", ".join(f"{name} {np.mean(trained[name, task][1][-20:]):.0%}" for name in MIXERS) + ".",
        caption="Every batch is new.",
    )  # fmt: skip

# %% [markdown]
# **New sequences.** A word counts when all three letters are right; chance is 1 in 64.

# %%
from vlmlab.benchmarks.statistics import proportion


@torch.no_grad()
def words_right(model, scattered, places, rows=512):
    ids, word = copying(rows, scattered, places, runtime.generator(seed + 1000))
    return proportion((model(ids.to(where)).argmax(-1).cpu() == word).all(1).tolist())


rows = []
for name in MIXERS:
    found = [words_right(trained[name, task][0], scattered, places) for task, scattered in TASKS.items()]
    rows.append([name, *(f"{100 * f['accuracy']:.1f} % ({100 * f['low']:.0f} to {100 * f['high']:.0f})" for f in found)])
    for task, score in zip(TASKS, found, strict=True):
        report.record(f"words right, {task} copying, {name}", score["accuracy"])
show_table(["", *(f"{task} copying" for task in TASKS)], rows, "Words right with 95 % intervals, 512 new sequences")
