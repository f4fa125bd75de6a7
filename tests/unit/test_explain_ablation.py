"""Image tokens replaced: patches of masks, sets, a batch against one at a time, a model that reads one. Notebook 13."""

from dataclasses import replace
from math import log

import numpy as np
import pytest
import torch
from explain_models import PATCH, flood, llava, planted
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_models import ask, close, cobra

from vlmlab import scenes
from vlmlab.errors import BadInput
from vlmlab.explain import Inside
from vlmlab.explain import ablation as B
from vlmlab.explain.interventions import effect
from vlmlab.vlm.projectors import build_projector


@pytest.fixture(scope="module", params=[llava, cobra], ids=["llama", "mamba"])
def inside(request: pytest.FixtureRequest) -> Inside:
    return ask(request.param())


def mask_of(*patches: int, share: float = 1.0, index: int = 0) -> np.ndarray:
    """A mask (96, 96) in which an object fills that share of some of 4 x 4 patches."""
    mask = np.zeros((96, 96), np.int16)
    for row, column in (divmod(patch, 4) for patch in patches):
        mask[24 * row : 24 * row + round(24 * share), 24 * column : 24 * column + 24] = index + 1
    return mask


# ---------------------------------------------------------------- which patches
def test_patches_of_an_object(inside: Inside) -> None:
    mask = mask_of(1, 2, 7, index=1) + mask_of(9)
    assert B.object_patches(inside, mask, 1) == [1, 2, 7]
    assert B.object_patches(inside, mask, 0) == [9]
    quarter = mask_of(5, 6, share=0.25)
    assert B.object_patches(inside, quarter, 0, share=0.25) == [5, 6]
    assert B.object_patches(inside, quarter, 0, share=0.26) == []
    assert B.object_patches(inside, -mask, 0) == []  # a reflection is not the object
    for share in (0.0, 1.1):
        with pytest.raises(BadInput, match="share="):
            B.object_patches(inside, mask, 0, share)
    with pytest.raises(BadInput, match="a mask is"):
        B.object_patches(inside, mask[:48], 0)


def test_patches_of_a_rendered_object(inside: Inside) -> None:
    mask = scenes.sample(3).render(96).mask
    found = B.object_patches(inside, mask, 0)
    for patch in range(16):
        row, column = divmod(patch, 4)
        pixels = sum(mask[24 * row + y, 24 * column + x] == 1 for y in range(24) for x in range(24))
        assert (patch in found) == (pixels >= B.SHARE * 24 * 24)
    assert found


def test_the_border() -> None:
    assert B.with_border([5], (4, 4)) == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert B.with_border([3], (4, 4)) == [2, 3, 6, 7]
    assert B.with_border([], (4, 4)) == []


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 34)))
def test_the_border_is_what_touches(patches: set[int]) -> None:
    near = {p for p in range(35) for q in patches if abs(p // 7 - q // 7) <= 1 and abs(p % 7 - q % 7) <= 1}
    assert B.with_border(sorted(patches), (5, 7)) == sorted(near)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10), st.integers(0, 2**31))
def test_random_patches(count: int, seed: int) -> None:
    among = [1, 3, 4, 8, 9, 10, 11, 12, 13, 15]
    found = B.random_patches(count, among, seed)
    assert found == B.random_patches(count, among, seed)
    assert len(set(found)) == len(found) == count
    assert set(found) <= set(among)
    with pytest.raises(BadInput, match="smaller object"):
        B.random_patches(11, among, seed)


def test_sets_of_an_object(inside: Inside) -> None:
    found = B.patch_sets(inside, mask_of(0, 1), 0, seeds=range(40))
    assert list(found)[:2] == ["object", "object and border"]
    assert (found["object"], found["object and border"]) == ([0, 1], [0, 1, 2, 4, 5, 6])
    drawn = [patches for name, patches in found.items() if name.startswith("random")]
    assert len(drawn) == 40
    assert {len(patches) for patches in drawn} == {2}
    assert {patch for patches in drawn for patch in patches} == set(range(2, 16))  # any but its own
    with pytest.raises(BadInput, match="covers 20% of no patch"):
        B.patch_sets(inside, mask_of(0), 5)


def test_sinks_in_the_image_are_a_set() -> None:
    inside = ask(llava())
    assert "sinks" not in B.patch_sets(inside, mask_of(0), 0, seeds=[])
    flood(inside, inside.image.start + 9, 0.8, slice(inside.image.start + 10, None))
    assert B.patch_sets(inside, mask_of(0), 0, seeds=[])["sinks"] == [9]


# ---------------------------------------------------------------- replaced
def test_tokens_give_way_to_their_mean(inside: Inside) -> None:
    tokens = inside.run(["tokens"])["tokens"]
    found = B.replaced(inside, [2, 15], tokens)
    for patch in range(16):
        wanted = sum(tokens[0]) / 16 if patch in (2, 15) else tokens[0, patch]
        close(found[0, patch], wanted, 1e-12)
    value = torch.arange(24.0)
    assert torch.equal(B.replaced(inside, [2], tokens, value)[0, 2], value.double())
    assert torch.equal(B.replaced(inside, [], tokens), tokens)
    with pytest.raises(BadInput, match="has 0 to 15"):
        B.replaced(inside, [16], tokens)


def test_a_class_token_is_no_patch() -> None:
    inside = ask(llava(select="full"))
    tokens = inside.run(["tokens"])["tokens"]
    assert tokens.shape[1] == 17
    found = B.replaced(inside, [0], tokens)
    assert torch.equal(found[0, [0, *range(2, 17)]], tokens[0, [0, *range(2, 17)]])
    close(found[0, 1], tokens[0, 1:].mean(0), 1e-12)


def test_the_batch_is_one_at_a_time(inside: Inside) -> None:
    sets, options = {"a": [0, 1], "nothing": [], "all": list(range(16))}, ["left of it", "no"]
    found = B.ablate(inside, sets, options)
    for name, patches in sets.items():
        alone = effect(inside, B.replace_patches(inside, patches), options)
        assert found[name].before == pytest.approx(alone.before, rel=1e-12)
        assert found[name].after == pytest.approx(alone.after, rel=1e-12)
        assert found[name].answer == alone.answer
        for option in options:
            assert found[name].options[option] == pytest.approx(alone.options[option], abs=1e-6)
    assert abs(found["nothing"].change) < 1e-12
    assert found["nothing"].answer == inside.vlm.generate(inside.picture, inside.prompt)
    assert abs(found["all"].change) > 1e-4
    assert B.ablate(inside, {}) == {}


def test_a_given_value(inside: Inside) -> None:
    value = torch.ones(24, dtype=torch.float64)
    found = B.ablate(inside, {"a": [4]}, value=value)["a"]
    assert found.after == pytest.approx(effect(inside, B.replace_patches(inside, [4], value)).after, rel=1e-7)
    assert found.after != pytest.approx(B.ablate(inside, {"a": [4]})["a"].after, rel=1e-7)


# ---------------------------------------------------------------- a model that reads one patch
def test_only_the_planted_patch_counts() -> None:
    inside = planted("yes")
    sets = {str(patch): [patch] for patch in range(16)}
    found = B.ablate(inside, sets, options=["yes", "no"])
    for patch in range(16):
        one = found[str(patch)]
        if patch == PATCH:
            assert one.change < log(0.5)
            assert one.options["yes"][1] < one.options["yes"][0] - 0.01
        else:
            assert abs(one.change) < 1e-9
            assert one.options["yes"][1] == pytest.approx(one.options["yes"][0], abs=1e-9)
            assert one.answer.startswith("yes")
    gone = B.ablate(inside, {"all": list(range(16))}, value=torch.eye(16)[1])["all"]
    assert gone.after == pytest.approx(log(1 / 1024), abs=1e-9)
    assert not gone.answer.startswith("yes")


def test_an_object_against_as_many_random_patches() -> None:
    inside = planted("yes")
    found = B.ablate(inside, B.patch_sets(inside, mask_of(PATCH, PATCH + 1), 0))
    assert found["object"].change < log(0.5)
    assert found["object and border"].change < log(0.5)
    mean, low, high = B.spread(found, "random")
    assert low <= mean <= high
    assert max(abs(low), abs(high)) < 1e-9
    other = B.ablate(inside, B.patch_sets(inside, mask_of(0), 0, seeds=range(60)))  # draws may meet the patch
    mean, low, high = B.spread(other, "random")
    hit = [name for name, one in other.items() if name.startswith("random") and one.change < log(0.5)]
    assert hit == [
        name
        for name, patches in B.patch_sets(inside, mask_of(0), 0, seeds=range(60)).items()
        if name.startswith("random") and PATCH in patches
    ]
    assert low < log(0.5) < mean < high + 1e-12
    with pytest.raises(BadInput, match="no set is called 'chance'"):
        B.spread(found, "chance")


def test_fewer_image_tokens_than_patches() -> None:
    """A projector that pools to 2 x 2: patches are those of the image tokens."""
    vlm = cobra()
    vlm.config = replace(vlm.config, projector="fused-ldpnet", pooled=2)
    vlm.projector = build_projector("fused-ldpnet", vlm.config.feature_dim, 24, 2).double().eval()
    inside = ask(vlm)
    assert inside.grid == (2, 2)
    mask = np.zeros((96, 96), int)
    mask[48:, :48] = 1
    assert B.object_patches(inside, mask, 0) == [2]
    assert set(B.ablate(inside, B.patch_sets(inside, mask, 0, seeds=[0]))) == {
        "object",
        "object and border",
        "random 0",
    }


def test_without_an_image() -> None:
    inside = ask(llava(), image=False)
    for call in (lambda: B.ablate(inside, {}), lambda: B.replace_patches(inside, []), lambda: B.patch_sets(
        inside, mask_of(0), 0
    )):  # fmt: skip
        with pytest.raises(BadInput, match="no image"):
            call()
