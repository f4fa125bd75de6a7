"""Faithfulness: planted readers and oracle maps win, random maps are at chance, damaged maps refused. Notebook 14."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from explain_maps import SIDE, reader
from explain_models import llava
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_models import ask, close, cobra

from vlmlab.benchmarks.statistics import wilson
from vlmlab.errors import BadInput, UnknownName
from vlmlab.explain import faithfulness as F
from vlmlab.explain.attribution import integrated_gradients_map, occlusion_map
from vlmlab.explain.lrp import gradient_x_input_map
from vlmlab.scenes import sample

losses = st.lists(st.floats(0, 2, allow_subnormal=False), min_size=16, max_size=16)
values = st.lists(st.integers(-2, 2), min_size=16, max_size=16).map(lambda v: torch.tensor(v).view(4, 4).float())


# ---------------------------------------------------------------- deletion and insertion
def test_the_area_by_hand() -> None:
    inside, map = reader([0.0, 0.0, 1.0, 0.0], (2, 2)), torch.tensor([[0.1, -0.2], [0.7, 0.0]])
    gone, there = F.deletion(inside, map), F.insertion(inside, map)
    assert gone.share.tolist() == there.share.tolist() == [0, 0.25, 0.5, 0.75, 1]
    e = math.exp(-1)
    close(gone.relative, torch.tensor([1, e, e, e, e], dtype=torch.float64), 1e-12)
    close(there.relative, torch.tensor([e, 1, 1, 1, 1], dtype=torch.float64), 1e-12)
    assert gone.area == pytest.approx((1 + e) / 2 / 4 + 3 * e / 4)
    assert there.area == pytest.approx((1 + e) / 2 / 4 + 3 / 4)
    last = F.deletion(inside, -map)
    close(last.relative, torch.tensor([1, 1, 1, 1, e], dtype=torch.float64), 1e-12)


@settings(max_examples=30, deadline=None)
@given(losses, values, st.integers(1, 20), st.integers(0, 5))
def test_no_map_beats_the_one_that_lists_what_a_reader_reads(read, map, steps, seed) -> None:
    inside = reader(read)
    oracle = inside.losses.view(4, 4)
    best, other = (F.deletion(inside, each, steps=steps, seed=seed) for each in (oracle, map))
    assert torch.equal(best.share, other.share)
    assert len(best.share) == min(steps, 16) + 1
    assert (best.relative <= other.relative + 1e-12).all()
    best, other = (F.insertion(inside, each, steps=steps, seed=seed) for each in (oracle, map))
    assert (best.relative >= other.relative - 1e-12).all()
    assert best.area >= other.area - 1e-12
    worst = F.deletion(inside, -oracle, steps=steps, seed=seed)
    assert (worst.relative >= F.deletion(inside, map, steps=steps, seed=seed).relative - 1e-12).all()


@settings(max_examples=30, deadline=None)
@given(values, st.integers(0, 5))
def test_insertion_is_deletion_from_the_other_end(map, seed) -> None:
    inside = reader(torch.linspace(-1, 1, 16))
    distinct = map + torch.rand(4, 4, generator=torch.Generator().manual_seed(seed)) / 2  # no two alike
    gone, there = F.deletion(inside, -distinct), F.insertion(inside, distinct)
    close(there.relative, gone.relative.flip(0) / gone.relative[-1], 1e-10)


def test_an_answer_that_no_patch_matters_to_has_area_1() -> None:
    inside = reader(torch.zeros(16))
    for curve in (F.deletion, F.insertion):
        assert curve(inside, torch.rand(4, 4), steps=5).area == pytest.approx(1.0, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(values, st.integers(0, 3))
def test_equal_values_come_in_an_order_of_their_own(map, seed) -> None:
    order = F.ranked(map, seed)
    assert sorted(order.tolist()) == list(range(16))
    assert (map.flatten()[order].diff() <= 0).all()
    assert torch.equal(order, F.ranked(map, seed))


def test_an_even_map_has_no_favourite_patch() -> None:
    first = torch.stack([F.ranked(torch.zeros(4, 4), seed)[0] for seed in range(400)])
    counts = torch.bincount(first, minlength=16)
    assert ((counts - 25).abs() < 4 * math.sqrt(400 * 15 / 256)).all()


def test_fillings_matter_to_a_model_and_are_checked() -> None:
    inside = ask(llava())
    map = occlusion_map(inside)
    areas = {fill: F.deletion(inside, map, fill, steps=4).area for fill in ("mean", "grey", "blur")}
    assert len(set(areas.values())) == 3
    with pytest.raises(UnknownName, match="unknown fill 'black'"):
        F.deletion(inside, map, "black")


def test_damaged_maps_are_refused() -> None:
    inside = reader(torch.zeros(16))
    broken = torch.zeros(4, 4)
    broken[1, 2] = torch.nan
    for map in (broken, torch.zeros(16), torch.zeros(2, 8), torch.full((4, 4), torch.inf)):
        for measure in (F.deletion, F.insertion, F.infidelity):
            with pytest.raises(BadInput, match=r"shape \(4, 4\) and finite"):
                measure(inside, map)
    with pytest.raises(BadInput, match="steps=0"):
        F.deletion(inside, torch.zeros(4, 4), steps=0)


# ---------------------------------------------------------------- infidelity and sensitivity
@settings(max_examples=10, deadline=None)
@given(losses.filter(lambda read: sum(read) > 0.5), st.integers(0, 3))
def test_what_a_reader_loses_is_without_infidelity_in_any_unit(read, seed) -> None:
    inside = reader(read)
    exact = inside.losses.view(4, 4)
    for map in (exact, 1000 * exact):
        assert F.infidelity(inside, map, samples=32, seed=seed) <= 1e-12
    nothing = F.infidelity(inside, torch.zeros(4, 4), samples=32, seed=seed)
    gone = torch.rand(32, 16, generator=torch.Generator().manual_seed(seed)) < 0.5
    assert nothing == pytest.approx(float((gone.double() @ inside.losses).square().mean()), rel=1e-9)
    wrong = F.infidelity(inside, exact.flip(0), samples=32, seed=seed)
    assert -1e-12 <= wrong <= nothing + 1e-12
    if (exact != exact.flip(0)).any() and abs(exact - exact.flip(0)).max() > 0.1:
        assert wrong > 1e-4


def test_sensitivity() -> None:
    inside = reader(torch.zeros(16))
    assert F.sensitivity(inside, lambda asked: torch.ones(4, 4)) == 0
    seen = []

    def green(asked):
        seen.append(asked.pixels[0, 1].view(4, 4, 4, 4).mean((1, 3)))
        return seen[-1]

    found = F.sensitivity(inside, green, samples=3)
    assert len(seen) == 4
    assert found == pytest.approx(max(float((one - seen[0]).norm() / seen[0].norm()) for one in seen[1:]), rel=1e-9)
    assert 0 < found < 0.2
    assert F.sensitivity(inside, green, samples=3) == found
    assert F.sensitivity(inside, F.random_map) > 0.3  # another picture, another map of noise
    level = []
    F.sensitivity(inside, lambda asked: level.append(asked.pixels - inside.pixels) or torch.ones(4, 4), radius=0.1)
    noise = torch.cat(level[1:]) * torch.tensor(inside.vlm.preprocess.std).view(3, 1, 1)
    assert 0.09 < noise.abs().max() <= 0.1 + 1e-12
    assert abs(noise.mean()) < 0.01


@pytest.mark.parametrize("build", [llava, cobra])
@pytest.mark.parametrize("method", [gradient_x_input_map, integrated_gradients_map])
def test_methods_with_gradients_have_a_sensitivity(build, method) -> None:
    inside = ask(build())
    inside = replace(inside, pixels=inside.pixels.double())
    small, large = (F.sensitivity(inside, method, radius, samples=1) for radius in (1e-5, 1e-2))
    assert 0 < small < 0.01
    assert small < large


# ---------------------------------------------------------------- the object
def test_shares_are_counted_on_the_mask() -> None:
    inside = reader(torch.zeros(16))
    mask = np.zeros((SIDE, SIDE), int)
    mask[2:9, 3:6] = 2
    mask[5:9, 5:6] = 1  # in front
    mask[12:, 12:] = -2  # its reflection is not the object
    found = F.object_share(inside, mask, 1)
    wanted = torch.tensor(
        [[(mask[r : r + 4, c : c + 4] == 2).mean() for c in range(0, 16, 4)] for r in range(0, 16, 4)]
    )
    assert torch.equal(found, wanted)
    assert F.on_object(found).tolist() == (wanted >= 0.2).tolist()
    mask[:] = 0
    mask[0, 0] = 1
    assert F.on_object(F.object_share(inside, mask, 0)).nonzero().tolist() == [[0, 0]]  # small, but not nowhere
    with pytest.raises(BadInput, match="object 1 is not to be seen"):
        F.object_share(inside, mask, 1)


def test_the_oracle_wins_the_pointing_game_and_a_map_of_elsewhere_loses_it() -> None:
    inside = reader(torch.zeros(64), (8, 8))
    for seed in range(8):
        mask = sample(seed).render(96).mask
        for index in sorted(set(mask[mask > 0] - 1)):
            share = F.object_share(inside, mask, int(index))
            assert F.pointing(share, share) == 1
            assert F.pointing((~F.on_object(share)).double(), share) == 0
            assert F.mass(share, share) > share.mean()
            assert F.mass((share == 0).double(), share) == 0


@settings(max_examples=60, deadline=None)
@given(values, values, st.floats(0.01, 100))
def test_pointing_and_mass(map, covered, scale) -> None:
    share = covered.clamp(0, 1).double() * 0.7
    on = F.on_object(share)
    top = map == map.max()
    assert F.pointing(map, share) == pytest.approx(float((on & top).sum() / top.sum()))
    assert F.pointing(torch.ones(4, 4), share) == pytest.approx(float(on.double().mean()))
    assert F.mass(torch.full((4, 4), scale), share) == pytest.approx(float(share.mean()))
    assert F.mass(-map.abs(), share) == pytest.approx(float(share.mean()))
    assert F.mass(scale * map, share) == pytest.approx(F.mass(map, share), rel=1e-5)
    positive = [(v, s) for v, s in zip(map.flatten().tolist(), share.flatten().tolist(), strict=True) if v > 0]
    if positive:
        wanted = sum(v * s for v, s in positive) / sum(v for v, _ in positive)
        assert F.mass(map, share) == pytest.approx(wanted)


# ---------------------------------------------------------------- controls
def test_random_maps_are_at_chance() -> None:
    hits, chances, masses, areas = [], [], [], []
    for seed in range(60):
        scene = sample(seed)
        mask = scene.render(96, samples=1).mask
        inside = reader(torch.zeros(64), (8, 8), seed)
        for index in sorted(set(mask[mask > 0] - 1)):
            share = F.object_share(inside, mask, int(index))
            map = F.random_map(inside, seed=int(index))
            hits.append(F.pointing(map, share))
            chances.append(float(F.on_object(share).double().mean()))
            masses.append(F.mass(map, share))
            areas.append(float(share.mean()))
    low, high = wilson(sum(hits), len(hits))
    assert low <= np.mean(chances) <= high
    assert high - low < 0.12
    assert abs(np.mean(masses) - np.mean(areas)) < 0.003


def test_a_random_map_belongs_to_its_question() -> None:
    inside = reader(torch.zeros(16))
    map = F.random_map(inside)
    assert torch.equal(map, F.random_map(reader(torch.ones(16))))  # whatever the model
    assert ((map >= 0) & (map < 1)).all()
    for other in (
        F.random_map(inside, seed=1),
        F.random_map(reader(torch.zeros(16), seed=1)),
        F.random_map(replace(inside, ids=inside.ids + 1)),
    ):
        assert (other - map).abs().max() > 0.1


def test_the_centre() -> None:
    map = F.centre_map(reader(torch.zeros(64), (8, 8)))
    assert torch.equal(map, map.flip(0))
    assert torch.equal(map, map.T)
    assert map.argmax() in (27, 28, 35, 36)
    odd = F.centre_map(reader(torch.zeros(8), (2, 4)))
    close(odd[0, 0].double(), torch.tensor(math.exp(-(0.25**2 + 0.375**2) / (2 * 0.25**2))).double(), 1e-6)
