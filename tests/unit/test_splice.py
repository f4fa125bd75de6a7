"""The splice: placeholders to image tokens, labels, padding, truncation, and what it refuses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vlmlab.errors import BadInput
from vlmlab.vlm.splice import IGNORE, expand, splice

IMAGE = 50
N, D = 3, 4


@pytest.fixture
def embed() -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(20, D)  # IMAGE lies outside the vocabulary


def features(images: int) -> Tensor:
    return 100.0 + torch.arange(images * N * D).float().view(images, N, D)


def test_one_placeholder_becomes_n_tokens(embed: nn.Embedding) -> None:
    ids = torch.tensor([[1, IMAGE, 7, 8]])
    labels = torch.tensor([[IGNORE, 5, IGNORE, 8]])
    out = splice(embed, ids, features(1), IMAGE, labels)
    assert out.ids.tolist() == [[1, IMAGE, IMAGE, IMAGE, 7, 8]]
    assert out.labels is not None
    assert out.labels.tolist() == [[-100, -100, -100, -100, -100, 8]]
    assert torch.equal(out.inputs_embeds[0, 1:4], features(1)[0])
    assert torch.equal(out.inputs_embeds[0, [0, 4, 5]], embed(torch.tensor([1, 7, 8])))
    assert out.image_index.tolist() == [[-1, 0, 1, 2, -1, -1]]


def test_n_placeholders_stay_where_they_are(embed: nn.Embedding) -> None:
    ids = torch.tensor([[0, 0, 1, IMAGE, IMAGE, IMAGE, 7], [1, IMAGE, IMAGE, IMAGE, 4, 5, 6]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7])
    out = splice(embed, ids, features(2), IMAGE, attention_mask=mask)
    assert torch.equal(out.ids, ids)
    assert out.attention_mask is mask
    assert torch.equal(out.inputs_embeds[0, 3:6], features(2)[0])
    assert torch.equal(out.inputs_embeds[1, 1:4], features(2)[1])


def test_rows_with_none_one_and_two_images(embed: nn.Embedding) -> None:
    ids = torch.tensor([[1, 2, 3, 0, 0], [IMAGE, 4, 0, 0, 0], [IMAGE, 5, IMAGE, 6, 7]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1] * 5])
    out = splice(embed, ids, features(3), IMAGE, ids.masked_fill(ids == 0, IGNORE), mask)
    assert out.images == 3
    assert out.attention_mask is not None
    assert out.attention_mask.sum(1).tolist() == [3, 4, 9]
    assert out.ids[0].tolist() == [1, 2, 3] + [0] * 6
    assert out.image_index[2].tolist() == [3, 4, 5, -1, 6, 7, 8, -1, -1]
    assert out.labels is not None
    assert out.labels[1].tolist() == [-100] * 3 + [4] + [-100] * 5


def test_padding_side_follows_the_mask(embed: nn.Embedding) -> None:
    ids = torch.tensor([[0, IMAGE, 4], [1, 2, 3]])
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    out = splice(embed, ids, features(1), IMAGE, attention_mask=mask)
    assert out.attention_mask is not None
    assert out.attention_mask.tolist() == [[1, 1, 1, 1], [0, 1, 1, 1]]
    out = splice(embed, ids, features(1), IMAGE, attention_mask=mask, padding="right")
    assert out.attention_mask is not None
    assert out.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


def test_hiding_an_image_from_attention(embed: nn.Embedding) -> None:
    """A masked placeholder still takes its image; all its tokens are masked."""
    mask = torch.tensor([[1, 0, 1]])
    out = splice(embed, torch.tensor([[1, IMAGE, 4]]), features(1), IMAGE, attention_mask=mask)
    assert out.attention_mask is not None
    assert out.attention_mask.tolist() == [[1, 0, 0, 0, 1]]


def test_truncation_keeps_features_in_step(embed: nn.Embedding) -> None:
    ids = torch.tensor([[1, 2, 3, IMAGE, 4], [IMAGE, 5, 6, 7, 8]])
    labels = torch.tensor([[9, 9, 9, 9, 9], [9, 9, 9, 9, 9]])
    out = splice(embed, ids, features(2), IMAGE, labels, max_length=4)
    assert out.ids.tolist() == [[1, 2, 3, IMAGE], [IMAGE, IMAGE, IMAGE, 5]]
    assert torch.equal(out.inputs_embeds[0, 3], features(2)[0, 0])
    assert torch.equal(out.inputs_embeds[1, :3], features(2)[1])


def test_truncation_never_silently_takes_every_label() -> None:
    ids = torch.tensor([[IMAGE, 1, 2, 3]])
    labels = torch.tensor([[IGNORE, IGNORE, IGNORE, 3]])
    with pytest.raises(BadInput, match=r"row 0 has 6 tokens.*leaves no answer"):
        expand(ids, N, IMAGE, labels, max_length=5)
    assert expand(ids, N, IMAGE, labels, max_length=6).ids.shape == (1, 6)
    expand(ids, N, IMAGE, torch.full_like(ids, IGNORE), max_length=5)  # had none to lose


def test_two_images_side_by_side(embed: nn.Embedding) -> None:
    out = splice(embed, torch.tensor([[IMAGE] * 2 * N + [1]]), features(2), IMAGE)
    assert out.images == 2
    assert torch.equal(out.inputs_embeds[0, :6], features(2).flatten(0, 1))


def test_gradients_reach_features_and_embeddings(embed: nn.Embedding) -> None:
    tokens = features(1).requires_grad_()
    out = splice(embed, torch.tensor([[1, IMAGE, 7]]), tokens, IMAGE)
    out.inputs_embeds.sum().backward()
    assert tokens.grad is not None
    assert torch.equal(tokens.grad, torch.ones_like(tokens))
    assert embed.weight.grad is not None
    assert embed.weight.grad[[1, 7]].eq(1).all()
    assert embed.weight.grad[0].eq(0).all()


@pytest.mark.parametrize(
    ("ids", "images", "message"),
    [
        ([[1, IMAGE, 2]], 2, "placeholders for 1 images, but 2 were given"),
        ([[1, 2]], 1, "placeholders for 0 images, but 1 were given"),
        ([[1, IMAGE, 2], [IMAGE, 1, 2]], 1, "placeholders for 2 images, but 1 were given"),
        ([[1, 2, 3], [1, IMAGE, IMAGE]], 1, "row 1 of input_ids has 2 image placeholders in a row"),
        ([[1, IMAGE, 2]], 0, "no image was given; pass pixel_values"),
    ],
)
def test_counts_that_do_not_match(embed: nn.Embedding, ids: list[list[int]], images: int, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        splice(embed, torch.tensor(ids), features(images) if images else None, IMAGE)


def test_shapes_that_do_not_fit(embed: nn.Embedding) -> None:
    ids = torch.tensor([[1, IMAGE, 2]])
    with pytest.raises(BadInput, match="labels have shape"):
        splice(embed, ids, features(1), IMAGE, labels=ids[:, :2])
    with pytest.raises(BadInput, match="attention_mask has shape"):
        splice(embed, ids, features(1), IMAGE, attention_mask=torch.ones(1, 2))
    with pytest.raises(BadInput, match="input_ids must be"):
        splice(embed, ids[0], features(1), IMAGE)
    with pytest.raises(BadInput, match="image_features must be"):
        splice(embed, ids, features(1)[0], IMAGE)
    with pytest.raises(BadInput, match=r"\(B, L, L\) attention_mask needs"):
        splice(embed, ids, features(1), IMAGE, attention_mask=torch.ones(1, 3, 3, dtype=torch.bool))


@given(
    rows=st.lists(st.lists(st.sampled_from([1, 2, 3, IMAGE]), min_size=1, max_size=8), min_size=1, max_size=4),
    left=st.booleans(),
    tokens=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_expansion_equals_writing_the_row_by_hand(rows: list[list[int]], left: bool, tokens: int) -> None:
    rows = [[i for k, i in enumerate(row) if k == 0 or not (i == row[k - 1] == IMAGE)] for row in rows]  # no two touch
    length = max(map(len, rows))
    pads = [[0] * (length - len(row)) for row in rows]
    ids = torch.tensor([p + r if left else r + p for r, p in zip(rows, pads, strict=True)])
    mask = (ids != 0).long()
    out = expand(ids, tokens, IMAGE, attention_mask=mask)
    by_hand = [[i for index in row for i in [index] * (tokens if index == IMAGE else 1)] for row in rows]
    assert out.attention_mask is not None
    for number, row in enumerate(by_hand):
        assert out.ids[number][out.attention_mask[number].bool()].tolist() == row
    assert out.image_index[out.image_index >= 0].tolist() == list(range(out.images * tokens))
    assert out.images == sum(row.count(IMAGE) for row in rows)
