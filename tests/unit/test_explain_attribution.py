"""Attribution: planted readers are found out, ours is captum's, integrated gradients are complete. Notebook 14."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from explain_maps import SIDE, reader
from explain_models import PATCH, llava, planted
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_models import MAMBAVISION, ask, close, cobra, picture

from vlmlab.errors import BadInput, MissingDependency, UnknownName
from vlmlab.explain import Inside
from vlmlab.explain import attribution as A
from vlmlab.explain.llm_attribution import AsTransformers, llm_attribution
from vlmlab.scenes import sample

BUILD = {
    "llama": llava,
    "mamba": cobra,
    "class token": lambda: llava(select="full"),
    "ldp": lambda: cobra(name="cobra-tiny-ldp", pooled=2),
    "mambavision": lambda: cobra(MAMBAVISION, "cobra-mambavision-tiny", layers=1),
}
TAPPED = 1e-7  # passes with a tap, as those of Inside.run, hold an encoder's attention weights in float32


@pytest.fixture(scope="module", params=BUILD)
def inside(request: pytest.FixtureRequest) -> Inside:
    return doubled(ask(BUILD[request.param]()))


@pytest.fixture(scope="module", params=["llama", "mamba"])
def speaking(request: pytest.FixtureRequest) -> Inside:
    return doubled(ask(BUILD[request.param]()))


def doubled(inside: Inside) -> Inside:
    return replace(inside, pixels=inside.pixels.double())


# ---------------------------------------------------------------- one word
def test_a_word_is_its_part_of_the_answer(speaking: Inside) -> None:
    parts = speaking.log_probs()
    count = len(parts)
    for word in range(-count, count):
        alone = A.at_word(speaking, word)
        close(alone.log_probs(), parts[word, None], 1e-12)
        close(alone.scores(alone.pixels), parts[word, None], TAPPED)
        assert alone.answer == alone.texts[-1] == speaking.texts[speaking.words][word]
    alone = [A.at_word(speaking, word).scores(speaking.pixels) for word in range(count)]
    close(sum(alone), speaking.scores(speaking.pixels), 1e-12)
    for word in (count, -count - 1):
        with pytest.raises(BadInput, match=rf"word={word}: .* has the words 0 to {count - 1}"):
            A.at_word(speaking, word)


def test_log_probs_of_many_pictures_and_sets_of_tokens(inside: Inside) -> None:
    pixels = torch.stack([inside.vlm.preprocess(picture(seed)) for seed in (0, 1, 2)]).double()
    tokens = inside.vlm.encode_images(pixels).detach()
    found = A.log_probs(inside, pixels=pixels)
    close(found[0], inside.log_probs(), TAPPED)
    close(found.sum(-1), inside.scores(pixels), 1e-12)
    close(A.log_probs(inside, tokens=tokens), found, 1e-12)
    assert found.requires_grad
    with torch.no_grad():
        assert not A.log_probs(inside, pixels=pixels).requires_grad


# ---------------------------------------------------------------- pictures without some patches
@given(st.integers(1, 9), st.integers(1, 9), st.integers(9, 40), st.integers(9, 40))
def test_cells_are_rectangles_of_even_size(rows: int, columns: int, height: int, width: int) -> None:
    cells = A.cells((rows, columns), (height, width))
    assert cells.shape == (height, width)
    down, across = (cells // columns)[:, 0], (cells % columns)[0]
    assert torch.equal(cells, down[:, None] * columns + across)
    for line, count in ((down, rows), (across, columns)):
        assert torch.equal(line, line.sort().values)
        sizes = torch.bincount(line, minlength=count)
        assert sizes.min() >= 1
        assert sizes.max() - sizes.min() <= 1


def test_fillings() -> None:
    inside = reader(torch.zeros(16))
    mean, grey, blur = (A.filled(inside, fill) for fill in A.FILLS)
    close(mean[0, :, 3, 5], inside.pixels.mean((0, 2, 3)), 1e-12)
    assert (mean == mean[..., :1, :1]).all()
    assert (inside.vlm.preprocess.picture(grey) == 128).all()
    assert blur.shape == inside.pixels.shape
    assert blur.var() < 0.1 * inside.pixels.var()
    even = replace(inside, pixels=torch.full((1, 3, SIDE, SIDE), 0.3).double())
    close(A.filled(even, "blur"), even.pixels, 1e-12)
    point = torch.zeros_like(inside.pixels)
    point[:, 1, 8, 6] = 1.0
    spread = A.filled(replace(inside, pixels=point), "blur")
    assert spread[0, [0, 2]].abs().max() == 0  # no colour runs into another
    reach = torch.arange(-12, 13).double()
    deviation = torch.exp(-(reach**2) / 32)  # a patch is 4 pixels wide
    close(spread[0, 1, 8, 6], (deviation[12] / deviation.sum()) ** 2, 1e-12)
    close(spread[0, 1, 9, 10], deviation[13] * deviation[16] / deviation.sum() ** 2, 1e-12)
    with pytest.raises(UnknownName, match="unknown fill 'black'"):
        A.filled(inside, "black")


numbers = st.lists(st.floats(-3, 3, allow_subnormal=False), min_size=16, max_size=16)


@settings(max_examples=25, deadline=None)
@given(numbers, st.sampled_from([(4, 4), (2, 8), (8, 2)]), st.sampled_from(A.FILLS))
def test_occlusion_finds_what_a_reader_reads(losses, grid, fill) -> None:
    inside = reader(losses, grid)
    found = A.occlusion_map(inside, fill)
    wanted = inside.losses.view(grid)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-12)
    assert torch.allclose(A.occlusion(inside, fill).double(), found, rtol=0, atol=1e-6)  # captum's is float32


@pytest.mark.parametrize("fill", A.FILLS)
def test_ours_is_captums_occlusion(inside: Inside, fill: str) -> None:
    found, theirs = A.occlusion_map(inside, fill), A.occlusion(inside, fill)
    assert found.shape == inside.grid
    assert theirs.dtype == torch.float32
    close(theirs.double(), found, 1e-6)


def test_ours_is_captums_occlusion_in_single_precision() -> None:
    single = ask(cobra().float())
    found = A.occlusion_map(single)
    assert found.dtype == torch.float32
    assert (A.occlusion(single) - found).abs().max() <= 1e-5


def test_a_patch_by_hand(speaking: Inside) -> None:
    found, blank = A.occlusion_map(speaking), A.filled(speaking)
    without = speaking.pixels.clone()
    without[..., 24:48, 72:96] = blank[..., 24:48, 72:96]
    close(found[1, 3], (speaking.scores(speaking.pixels) - speaking.scores(without))[0])


def test_windows_that_do_not_fit_are_refused() -> None:
    odd = reader(torch.zeros(9), (3, 3))
    with pytest.raises(BadInput, match="16 pixels are no whole number of 3 windows; use occlusion_map"):
        A.occlusion(odd)


def test_no_picture_no_map(speaking: Inside) -> None:
    blind = Inside.ask(speaking.vlm, None, "Where is the cat?", "left")
    for method in (A.occlusion_map, A.occlusion, A.token_ablation, A.integrated_gradients, llm_attribution):
        with pytest.raises(BadInput, match="no picture"):
            method(blind)


# ---------------------------------------------------------------- tokens and gradients
def test_token_ablation_by_hand(inside: Inside) -> None:
    tokens = inside.vlm.encode_images(inside.pixels).detach()
    first = tokens.shape[1] - inside.patches  # a class token stays and is no part of the mean
    sets = tokens.repeat(inside.patches, 1, 1)
    sets[torch.arange(inside.patches), first + torch.arange(inside.patches)] = tokens[0, first:].mean(0)
    wanted = inside.scores(tokens=tokens) - inside.scores(tokens=sets)
    close(A.token_ablation(inside).flatten(), wanted, 1e-10)


def test_token_ablation_finds_the_planted_patch() -> None:
    found = A.token_ablation(planted()).flatten()
    assert found.argmax() == PATCH
    others = found[torch.arange(16) != PATCH]
    assert others.abs().max() < 0.05 * found[PATCH]


@pytest.mark.parametrize("on", ["pixels", "tokens"])
def test_integrated_gradients_are_complete(inside: Inside, on: str) -> None:
    bent = "mambavision" in inside.vlm.config.name and on == "pixels"  # ReLU in its stem: a line with corners
    if bent:
        inside = doubled(Inside.ask(inside.vlm, sample(3).render(96).rgb, "Where is the cat?", "left of it"))
    rough, fine = (A.integrated_gradients(inside, on, steps=steps) for steps in (2, 96 if bent else 32))
    gap = float(fine.values.sum()) - (fine.whole - fine.empty)
    assert abs(gap) <= (1e-3 if bent else 1e-5) * abs(fine.whole - fine.empty)
    assert fine.error == pytest.approx(abs(gap / (fine.whole - fine.empty)))
    assert rough.error > fine.error
    assert fine.map.shape == inside.grid
    assert fine.whole == pytest.approx(float(inside.scores(inside.pixels)), rel=1e-12)
    if on == "pixels":
        side = 96 // inside.grid[0]
        wanted = fine.values.sum(0).unfold(0, side, side).unfold(1, side, side).sum((2, 3))
        close(fine.map, wanted)
        blank = A.filled(inside)
        assert fine.empty == pytest.approx(float(inside.scores(blank)), rel=1e-12)
    else:
        close(fine.map.flatten(), fine.values.sum(1)[-inside.patches :])
        if inside.vlm.config.select == "full":
            assert len(fine.values) == inside.patches + 1
            assert fine.values[0].abs().sum() > 0


def test_integrated_gradients_leave_no_gradients_behind(speaking: Inside) -> None:
    found = A.integrated_gradients_map(speaking)
    assert not found.requires_grad
    assert all(weight.grad is None for weight in speaking.vlm.parameters())
    close(A.integrated_gradients(speaking, "pixels", "mean").map, found, 1e-12)
    other = A.integrated_gradients(speaking, fill="grey", steps=16).map
    assert (other - found).abs().max() > 1e-3 * found.abs().max()


def test_a_picture_of_one_colour_has_nothing_to_share_out(speaking: Inside) -> None:
    even = replace(speaking, pixels=A.filled(speaking).clone())
    found = A.integrated_gradients(even, steps=2)
    assert found.map.abs().max() < 1e-12
    assert found.error >= 0  # of nothing: defined, and no division by 0


def test_bad_arguments(speaking: Inside) -> None:
    with pytest.raises(UnknownName, match="unknown input of integrated gradients 'words'"):
        A.integrated_gradients(speaking, "words")
    with pytest.raises(BadInput, match="steps=0 must be at least 1"):
        A.integrated_gradients(speaking, steps=0)
    with pytest.raises(UnknownName, match="unknown input of LLMAttribution 'pixels'"):
        llm_attribution(speaking, "pixels")
    with pytest.raises(UnknownName, match="unknown colour 'blur'"):
        llm_attribution(speaking, fill="blur")


# ---------------------------------------------------------------- captum's LLMAttribution
def test_patches_of_each_word_are_the_occlusion_maps_of_each_word(speaking: Inside, recwarn) -> None:
    found = llm_attribution(speaking, fill="grey")
    count = speaking.words.stop - speaking.words.start
    assert found.by_word.shape == (count, 16)
    assert found.words == speaking.texts[speaking.words]
    assert found.features == speaking.texts[speaking.image]
    assert (found.by_word.sum(0) - found.total).abs().max() <= 1e-6
    for word in range(count):
        wanted = A.occlusion_map(A.at_word(speaking, word), "grey")
        assert (speaking.on_grid(found.by_word[word]) - wanted).abs().max() <= 1e-6
    assert not [each for each in recwarn if "token" in str(each.message).lower()]  # captum found the answer's tokens


def test_words_of_the_question_are_left_out_one_at_a_time(speaking: Inside) -> None:
    found = llm_attribution(speaking, "question")
    assert found.features == ["Where", "is", "the", "cat?"]
    whole = speaking.log_probs()
    for number, text in enumerate(["is the cat?", "Where the cat?", "Where is cat?", "Where is the"]):
        asked = doubled(Inside.ask(speaking.vlm, speaking.picture, text, speaking.answer))
        assert (found.by_word[:, number] - (whole - asked.log_probs())).abs().max() <= 1e-6
    single = replace(speaking, prompt="Where?")
    with pytest.raises(BadInput, match="two words or more"):
        llm_attribution(single, "question")
    with pytest.raises(BadInput, match="must be one text"):
        llm_attribution(replace(speaking, prompt=[{"from": "human", "value": "Where is it?"}]), "question")


def test_a_placeholder_that_is_not_written_out_is_refused(speaking: Inside) -> None:
    model, ids = AsTransformers(speaking), speaking.ids[0].tolist()
    short = [*ids[: speaking.image.start + 1], *ids[speaking.image.stop :]]
    with pytest.raises(BadInput, match="N placeholder ids"):
        model.forward(torch.tensor([short]))
    close(model.forward(speaking.ids).logits[0], speaking.run()["logits"], TAPPED)
    asked = model.encode("Where is the cat?")
    assert torch.equal(asked, speaking.ids[:, : speaking.words.start])


def test_texts_and_their_tokens(speaking: Inside) -> None:
    model = AsTransformers(speaking)
    text = "left of the café"
    found = model(text, return_offsets_mapping=True, add_special_tokens=False)
    assert model.decode(torch.tensor(found["input_ids"])) == text
    assert found["offset_mapping"][0][0] == 0
    assert found["offset_mapping"][-1][1] == len(text)
    assert np.all(np.diff([end for _, end in found["offset_mapping"]]) >= 0)


# ---------------------------------------------------------------- captum is optional
def test_without_captum_the_error_says_what_to_install(monkeypatch, speaking: Inside) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    for method in (A.occlusion, A.token_ablation, A.integrated_gradients, llm_attribution):
        with pytest.raises(MissingDependency, match="pip install captum"):
            method(speaking)
    assert A.occlusion_map(speaking).shape == speaking.grid


def test_captum_is_not_imported_before_it_is_used_and_does_without_torchvision() -> None:
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "import vlmlab.cli, vlmlab.explain.methods, vlmlab.explain.llm_attribution, vlmlab.explain.faithfulness\n"
        "assert not any(name.split('.')[0] in ('captum', 'matplotlib') for name in sys.modules)\n"
        "import captum.attr, captum.metrics\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
