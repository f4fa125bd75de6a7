"""Self-distillation of an image encoder on pictures alone, as DINOv2 is trained. Notebook 08.

A student sees crops of a picture and must say what a teacher, the average of its own past, says about the whole: for
the class token across crops (DINO), and for every hidden patch from the patches around it (iBOT). The teacher's
answers are centred and sharpened, so that neither one answer for all pictures nor all answers alike is a way out; the
KoLeo term spreads the class tokens of a batch. No caption and no label is read.

Sources: DINO (Caron et al. 2021, arXiv 2104.14294, section 3.1), iBOT (Zhou et al. 2022, arXiv 2111.07832, section
3.1), DINOv2 (Oquab et al. 2023, arXiv 2304.07193, section 4). Unlike in DINOv2, crops keep their hue and are not
mirrored (in scenes, colour and side are meaning), the centre is DINO's running mean, a head's vectors are normalised
over the batch, and the teacher's temperature stays at DINO's 0.04: scenes are so alike that without the third the
teacher's answers became uniform within 50 steps, and without the fourth within 600.
"""

import copy
import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmlab.taps import Tap
from vlmlab.vision.vit import ViT

STUDENT_TEMPERATURE = 0.1
TEACHER_TEMPERATURE = 0.04
CENTRE_MOMENTUM = 0.9
KOLEO = 0.1  # weight of the term that spreads the class tokens


class CropBatch(NamedTuple):
    """wide (2 * B, 3, S, S): two large crops of each picture, first all first ones. narrow (V * B, 3, s, s): V small
    ones. hidden (2 * B, P) True at the patches of the large crops that the student does not see."""

    wide: Tensor
    narrow: Tensor
    hidden: Tensor


def crop_batch(
    pixels: Tensor, rng: np.random.Generator, patch_size: int, narrow: int = 4, masked: float = 0.5
) -> CropBatch:
    """Crops of pictures (B, 3, S, S) in [0, 1]: 2 of 40 to 100 % of the area at full size, `narrow` of 10 to 40 % at
    half; brightness and contrast vary by up to 20 %. In a share `masked` of the large crops, 10 to 50 % of the patches
    are hidden (DINOv2, section 4)."""
    B, _, S, _ = pixels.shape
    wide = torch.cat([_crop(pixels, rng, (0.4, 1.0), S) for _ in range(2)])
    half = S // 2 // patch_size * patch_size
    small = torch.cat([_crop(pixels, rng, (0.1, 0.4), half) for _ in range(narrow)])
    patches = (S // patch_size) ** 2
    share = np.where(rng.random(2 * B) < masked, rng.uniform(0.1, 0.5, 2 * B), 0.0)
    order = rng.random((2 * B, patches)).argsort(1).argsort(1)
    return CropBatch(wide, small, torch.from_numpy(order < (share * patches).astype(int)[:, None]))


def _crop(pixels: Tensor, rng: np.random.Generator, area: tuple[float, float], size: int) -> Tensor:
    """One random square crop of each picture, resized to `size` pixels, its light changed a little."""
    B = len(pixels)
    side = np.sqrt(rng.uniform(*area, B))
    middle = rng.uniform(-1, 1, (B, 2)) * (1 - side)[:, None]
    theta = np.zeros((B, 2, 3), np.float32)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, :, 2] = middle
    grid = F.affine_grid(torch.from_numpy(theta), [B, 3, size, size], align_corners=False)
    views = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    light, contrast = (torch.from_numpy(rng.uniform(0.8, 1.2, (B, 1, 1, 1)).astype(np.float32)) for _ in range(2))
    mean = views.mean((1, 2, 3), keepdim=True)
    return ((views - mean) * contrast + mean * light).clamp(0, 1)


class Head(nn.Module):
    """Tokens (..., D) to scores of K prototypes (..., K): an MLP, a unit vector, its cosine with each prototype."""

    def __init__(self, dim: int, prototypes: int, hidden: int = 256, bottleneck: int = 64):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
            nn.BatchNorm1d(bottleneck, affine=False),
        )
        self.prototypes = nn.Parameter(torch.randn(prototypes, bottleneck))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.mlp(x), dim=-1) @ F.normalize(self.prototypes, dim=-1).T


class Network(nn.Module):
    """An encoder with its two heads and the token that stands where a patch is hidden: student or teacher."""

    def __init__(self, vision: ViT, prototypes: int):
        super().__init__()
        self.vision = vision
        self.class_head, self.patch_head = Head(vision.dim, prototypes), Head(vision.dim, prototypes)
        self.mask_token = nn.Parameter(torch.zeros(vision.dim))

    def tokens(self, pixels: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Class tokens (B, D) and patch tokens (B, P, D) after the last norm; hidden (B, P): patches covered."""
        tap: Tap | None = None
        if hidden is not None:

            def tap(name: str, value: Tensor) -> Tensor:
                if name != "patch_embed":
                    return value
                return torch.where(hidden[..., None], self.mask_token.to(value.dtype), value)

        out = self.vision(pixels, tap)
        return out[:, 0], out[:, self.vision.prefix_tokens :]


class SelfDistillation(nn.Module):
    """Student and teacher; calling it with a `CropBatch` gives the loss and, in training, moves the teacher.

    steps: of the whole run; over them the teacher's momentum rises from `momentum` to 1 (cosine). The teacher's weights
    are buffers: no optimiser sees them, and every checkpoint keeps them. Raises BadInput, through the encoder, for
    pictures that do not fit.
    """

    teacher: Network
    progress: Tensor
    class_centre: Tensor
    patch_centre: Tensor

    def __init__(self, vision: ViT, steps: int, prototypes: int = 1024, momentum: float = 0.99):
        super().__init__()
        self.steps, self.momentum = steps, momentum
        self.student = Network(vision, prototypes)
        self.teacher = _as_buffers(copy.deepcopy(self.student))
        self.register_buffer("progress", torch.zeros((), dtype=torch.long))  # batches seen
        self.register_buffer("class_centre", torch.zeros(prototypes))
        self.register_buffer("patch_centre", torch.zeros(prototypes))

    def forward(self, batch: CropBatch) -> tuple[Tensor, dict[str, float]]:
        """DINO's loss plus iBOT's plus the KoLeo term. Metrics: the three, and two entropies of the teacher's answers,
        as fractions of a uniform one's: of their mean ("spread": 0 when it says the same of every picture) and of each
        ("doubt": 1 when it says nothing of any)."""
        if self.training:
            self._follow()
        crops = len(batch.wide) // 2
        with torch.no_grad():
            class_tokens, patch_tokens = self.teacher.tokens(batch.wide)
            class_scores = self.teacher.class_head(class_tokens).float()  # (2B, K)
            patch_scores = self.teacher.patch_head(patch_tokens[batch.hidden]).float()  # (M, K)
            targets = sharpened(class_scores, self.class_centre)
            patch_targets = sharpened(patch_scores, self.patch_centre)
            if self.training:
                for centre, scores in ((self.class_centre, class_scores), (self.patch_centre, patch_scores)):
                    if len(scores):
                        centre.lerp_(scores.mean(0), 1 - CENTRE_MOMENTUM)
        seen, patches = self.student.tokens(batch.wide, batch.hidden)
        small, _ = self.student.tokens(batch.narrow)
        answers = self.student.class_head(torch.cat([seen, small])).split(crops)  # 2 + V of (B, K)
        first, second = targets.split(crops)
        pairs = [(second, answers[0]), (first, answers[1]), *((t, a) for a in answers[2:] for t in (first, second))]
        dino = torch.stack([cross_entropy(t, a) for t, a in pairs]).mean()
        ibot = cross_entropy(patch_targets, self.student.patch_head(patches[batch.hidden]))
        spread = torch.stack([koleo(tokens) for tokens in seen.split(crops)]).mean()
        told = {"spread": entropy(targets.mean(0)), "doubt": entropy(targets)}
        metrics = {"dino": float(dino.detach()), "ibot": float(ibot.detach()), "koleo": float(spread.detach())}
        return dino + ibot + KOLEO * spread, metrics | told

    @torch.no_grad()
    def _follow(self) -> None:
        """One step of the teacher towards the student (DINO, section 3.1)."""
        done = min(int(self.progress) / self.steps, 1.0)
        keep = 1 - (1 - self.momentum) * (math.cos(math.pi * done) + 1) / 2
        teacher = dict(self.teacher.named_buffers())
        for name, value in self.student.named_parameters():
            teacher[name].lerp_(value, 1 - keep)
        self.progress += 1


def sharpened(scores: Tensor, centre: Tensor) -> Tensor:
    """The teacher's answers (..., K) from its scores (..., K), less what it says of all (K)."""
    return ((scores - centre) / TEACHER_TEMPERATURE).softmax(-1)


def entropy(answers: Tensor) -> float:
    """Mean entropy of distributions (..., K), as a fraction of the uniform one's."""
    return float(-(answers * answers.clamp(min=1e-12).log()).sum(-1).mean() / math.log(answers.shape[-1]))


def cross_entropy(target: Tensor, scores: Tensor) -> Tensor:
    """Mean cross-entropy of the student's answer, scores (M, K), under the teacher's target (M, K); 0 when M is 0."""
    if not len(target):
        return scores.sum()
    return -(target * (scores.float() / STUDENT_TEMPERATURE).log_softmax(-1)).sum(-1).mean()


def koleo(tokens: Tensor) -> Tensor:
    """Mean of -log of the distance of each unit vector of a batch to its nearest (Sablayrolles et al. 2019)."""
    if len(tokens) < 2:
        return tokens.sum() * 0
    unit = F.normalize(tokens.float(), dim=-1)
    with torch.no_grad():
        nearest = (unit @ unit.T).fill_diagonal_(-2).argmax(1)
    return -(F.pairwise_distance(unit, unit[nearest]) + 1e-8).log().mean()


def _as_buffers(module: Network) -> Network:
    """The module with its parameters turned into buffers of the same names."""
    for part in module.modules():
        for name, value in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, value.detach().clone())
    return module
