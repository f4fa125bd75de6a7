"""The logit lens: the last layer is the model, the planted word appears where it is read, ranks and KL. Notebook 13."""

import pytest
import torch
import torch.nn.functional as F
from explain_models import PATCH, llava, planted
from scan_models import ask, close, cobra

from vlmlab.errors import BadInput
from vlmlab.explain import Inside, lens


@pytest.fixture(scope="module", params=[llava, cobra], ids=["llama", "mamba"])
def inside(request: pytest.FixtureRequest) -> Inside:
    return ask(request.param())


def test_the_last_layer_is_the_model(inside: Inside) -> None:
    logits = inside.run()["logits"]
    assert torch.equal(lens.read_out(inside, inside.get("residual", -1)), logits)
    assert torch.equal(lens.lens(inside)[-1], logits.log_softmax(-1))
    rows = range(inside.words.start - 1, inside.words.stop - 1)
    targets = inside.ids[0, inside.words]
    close(lens.lens(inside, rows)[-1].gather(1, targets[:, None])[:, 0], inside.log_probs(), 1e-12)


def test_each_layer_by_hand(inside: Inside) -> None:
    language, streams = inside.vlm.language, inside.get("residual")
    norm = language.norm if hasattr(language, "norm") else language.norm_f
    words = language.embed(torch.arange(1024)[None])[0]  # the head is tied to them
    found = lens.lens(inside)
    assert found.shape == (3, inside.length, 1024)
    close(found.exp().sum(-1), torch.ones(3, inside.length, dtype=torch.float64), 1e-12)
    for layer in range(3):
        for place in (0, inside.image.start, inside.length - 1):
            x = streams[layer, place]
            x = x / (x.square().mean() + norm.eps).sqrt() * norm.weight
            close(found[layer, place], (words @ x).log_softmax(0), 1e-10)


def test_positions(inside: Inside) -> None:
    whole = lens.lens(inside)
    close(lens.lens(inside, inside.image), whole[:, inside.image], 1e-12)
    close(lens.lens(inside, [5, 2, 5]), whole[:, [5, 2, 5]], 1e-12)
    with pytest.raises(BadInput, match="this question has 0 to"):
        lens.lens(inside, [inside.length])


def test_top_words_are_the_likeliest(inside: Inside) -> None:
    found, log_p = lens.top_words(inside, k=4), lens.lens(inside, inside.image)
    assert found.ids.shape == found.probabilities.shape == (3, 16, 4)
    for layer in range(3):
        for place in range(16):
            order = sorted(range(1024), key=lambda index: -float(log_p[layer, place, index]))[:4]
            assert found.ids[layer, place].tolist() == order
            assert found.texts[layer][place] == [inside.vlm.tokenizer.token(index) for index in order]
    close(found.probabilities, log_p.gather(-1, found.ids).exp(), 1e-12)
    assert len(lens.top_words(inside, [1], k=1024).texts[0][0]) == 1024
    for k in (0, 1025):
        with pytest.raises(BadInput, match="1024 tokens"):
            lens.top_words(inside, k=k)


def test_a_wanted_word_by_probability_and_rank(inside: Inside) -> None:
    found, log_p = lens.wanted_word(inside, "cat"), lens.lens(inside, inside.image)
    index = lens.word_id(inside, "cat")
    assert inside.vlm.tokenizer.token(index) == " cat"
    close(found.probabilities, log_p[..., index].exp(), 1e-12)
    for layer in range(3):
        for place in range(16):
            better = sum(float(other) > float(log_p[layer, place, index]) for other in log_p[layer, place])
            assert int(found.ranks[layer, place]) == better
    assert inside.on_grid(found.ranks).shape == (3, 4, 4)
    with pytest.raises(BadInput, match="not a word"):
        lens.word_id(inside, "  ")


def test_divergence_from_the_last_layer(inside: Inside) -> None:
    found, log_p = lens.divergence(inside), lens.lens(inside)
    assert torch.equal(found[-1], torch.zeros(inside.length, dtype=torch.float64))
    wanted = F.kl_div(log_p, log_p[-1].expand_as(log_p), log_target=True, reduction="none").sum(-1)
    close(found, wanted, 1e-10)
    assert (found[:-1] > 0).all()
    close(lens.divergence(inside, [3]), found[:, [3]], 1e-10)


def test_the_planted_word_appears_where_it_is_read() -> None:
    """From the marked patch on, each position has read it in layer 0: before it the word is no likelier than others."""
    inside = planted("yes")
    place, everywhere = inside.image.start + PATCH, range(inside.length)
    found = lens.wanted_word(inside, "yes", everywhere)
    assert (found.ranks[:, place:] == 0).all()
    assert (found.probabilities[:, place:] > 0.5).all()
    close(found.probabilities[:, :place], torch.full((2, place), 1 / 1024, dtype=torch.float64), 1e-9)
    assert lens.top_words(inside, [place]).texts[0][0][0] == " yes"
    none = lens.wanted_word(inside, "no", everywhere)
    assert (none.probabilities[:, place:] < 1 / 1024).all()


def test_without_an_image() -> None:
    inside = ask(llava(), image=False)
    assert lens.lens(inside, [0]).shape == (3, 1, 1024)
    with pytest.raises(BadInput, match="no image"):
        lens.top_words(inside)
