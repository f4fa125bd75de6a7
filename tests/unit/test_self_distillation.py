"""DINOv2-style self-distillation: crops, losses by hand, a teacher that follows, and a run that resumes exactly."""

import copy
import math

import numpy as np
import pytest
import torch

from vlmlab.scenes import sample
from vlmlab.vision.config import ViTConfig
from vlmlab.vision.self_distillation import (
    STUDENT_TEMPERATURE,
    Network,
    SelfDistillation,
    crop_batch,
    cross_entropy,
    koleo,
)
from vlmlab.vision.vit import ViT
from vlmlab.vlm.trainer import TrainConfig, train

CONFIG = ViTConfig("dinov2", image_size=48, patch_size=12, dim=32, layers=2, heads=2, hidden=64, registers=2)
PIXELS = torch.from_numpy(np.stack([sample(seed).render(48).rgb for seed in range(6)])).permute(0, 3, 1, 2) / 255


def model(steps: int = 20, **options) -> SelfDistillation:
    torch.manual_seed(0)
    return SelfDistillation(ViT(CONFIG), steps, prototypes=32, **options)


def batch(seed: int = 0, masked: float = 0.5):
    return crop_batch(PIXELS, np.random.default_rng(seed), CONFIG.patch_size, masked=masked)


def test_crops_have_the_sizes_and_shares_that_are_asked_for():
    crops = crop_batch(PIXELS.repeat(40, 1, 1, 1), np.random.default_rng(1), 12, narrow=3)
    assert crops.wide.shape == (480, 3, 48, 48)
    assert crops.narrow.shape == (720, 3, 24, 24)
    assert 0 <= float(crops.wide.min()) <= float(crops.wide.max()) <= 1
    shares = crops.hidden.float().mean(1)
    assert 0.4 < float((shares > 0).float().mean()) < 0.6
    assert float(shares[shares > 0].min()) >= 1 / 16
    assert float(shares.max()) <= 0.5
    assert float(crops.hidden.float().mean(0).std()) < 0.05  # no place is preferred


def test_a_crop_of_everything_is_the_picture():
    from vlmlab.vision.self_distillation import _crop

    class Middle:
        def uniform(self, low, high, size):
            return np.ones(size)

    assert torch.allclose(_crop(PIXELS, Middle(), (1.0, 1.0), 48), PIXELS, atol=1e-5)


def test_cross_entropy_by_hand():
    target, scores = torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([[0.1, 0.0], [0.0, 0.0]])
    first = math.log(1 + math.exp(-0.1 / STUDENT_TEMPERATURE))
    assert cross_entropy(target, scores).item() == pytest.approx((first + math.log(2)) / 2)
    assert cross_entropy(target[:0], scores[:0]).item() == 0


def test_koleo_by_hand_and_its_gradient_spreads():
    tokens = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], requires_grad=True)
    assert koleo(tokens).item() == pytest.approx(-math.log(math.sqrt(2)), abs=1e-5)
    close = torch.tensor([[1.0, 0.0], [1.0, 0.1]], requires_grad=True)
    koleo(close).backward()
    assert close.grad[1, 1] < 0  # a step against the gradient moves it away from the first


def test_only_the_student_learns_and_only_hidden_patches_are_asked():
    both = model()
    both.teacher.mask_token.add_(1)  # the teacher sees everything, so its mask token plays no part
    loss, metrics = both(batch())
    again, _ = model()(batch())
    assert loss.item() == again.item()
    loss.backward()
    assert {name for name, _ in both.named_parameters()} == {f"student.{n}" for n, _ in both.student.named_parameters()}
    unused = {name for name, p in both.named_parameters() if p.grad is None}
    assert not unused
    assert set(metrics) == {"dino", "ibot", "koleo", "spread", "doubt"}
    _, nothing = model()(batch(masked=0.0))
    assert nothing["ibot"] == 0


def test_a_hidden_patch_is_not_seen():
    torch.manual_seed(0)
    network = Network(ViT(CONFIG), 8)
    hidden = torch.zeros(1, 16, dtype=torch.bool)
    hidden[0, 5] = True
    pixels = torch.rand(1, 3, 48, 48)
    other = pixels.clone()
    other[:, :, 12:24, 12:24] = 0  # the sixth patch
    with torch.no_grad():
        assert torch.equal(network.tokens(pixels, hidden)[1], network.tokens(other, hidden)[1])
        assert not torch.equal(network.tokens(pixels)[1], network.tokens(other)[1])


def test_the_teacher_is_the_average_and_the_centre_the_running_mean():
    both = model(steps=10, momentum=0.9)
    with torch.no_grad():
        both.student.mask_token.fill_(1.0)
    twin = copy.deepcopy(both.teacher)
    both(batch())  # momentum 0.9 at the first batch
    assert both.teacher.mask_token[0].item() == pytest.approx(0.1)
    with torch.no_grad():  # the other parameters were equal, so the twin still says what the teacher said
        scores = twin.class_head(twin.tokens(batch().wide)[0])
    assert torch.allclose(both.class_centre, 0.1 * scores.mean(0), atol=1e-6)
    keep = 1 - 0.1 * (math.cos(math.pi / 10) + 1) / 2
    both(batch(1))
    assert both.teacher.mask_token[0].item() == pytest.approx(1 - 0.9 * keep)
    both.eval()
    before = {name: value.clone() for name, value in both.named_buffers()}
    both(batch(2))
    assert all(torch.equal(value, before[name]) for name, value in both.named_buffers())


def test_it_learns_without_collapsing_and_resumes_to_the_same_bits(tmp_path):
    config = TrainConfig(steps=30, lr=2e-3, save_every=15)

    def run(folder, resume=False, stop_at=None):
        both = model(steps=30)

        def data(step):
            if step == stop_at:
                raise KeyboardInterrupt
            return batch(step)

        return both, train("dino", both, None, data, both, config, folder, resume, progress=False)

    straight, result = run(tmp_path / "a")
    first, last = result.metrics[2], result.metrics[-1]
    assert last["dino"] + last["ibot"] < first["dino"] + first["ibot"]
    assert last["dino"] < math.log(32)  # what a student that knows nothing scores
    assert last["spread"] > 0.5
    assert last["doubt"] < 0.9
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", stop_at=20)
    resumed, _ = run(tmp_path / "b", resume=True)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
