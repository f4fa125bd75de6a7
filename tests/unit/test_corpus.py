"""Packed questions: what a question may see, where its loss is, and that packing changes nothing but the cost."""

import numpy as np
import pytest
import torch

from vlmlab.errors import BadInput
from vlmlab.language.tokenizer import Tokenizer
from vlmlab.scenes import sample
from vlmlab.vlm import corpus as C
from vlmlab.vlm import pretraining
from vlmlab.vlm.conversations import KINDS, WORDS, word_map
from vlmlab.vlm.model import VLM
from vlmlab.vlm.splice import IGNORE
from vlmlab.vlm.templates import get_template

SCENES = [sample(seed) for seed in range(12)]


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    texts = [text for scene in SCENES for q in scene.questions() for text in (q.text, " " + q.sentence)]
    return Tokenizer.train([*texts, *(2 * [" " + " ".join(WORDS)])], 600)


@pytest.fixture(scope="module")
def data(words: Tokenizer) -> C.Corpus:
    return C.build(SCENES, words, get_template("v1", ""), masks=[scene.render(96).mask for scene in SCENES])


@pytest.fixture(scope="module")
def vlm(words: Tokenizer) -> VLM:
    return VLM.from_preset("llava-tiny", "cpu", words)


def how(words: Tokenizer, prefix: str = "image", **more) -> C.Packing:
    opening = (words.bos_id, *words.encode("USER: "))
    return C.Packing(opening, words.image_id, words.pad_id, 64, 16, prefix=prefix, **more)


def test_a_packed_question_is_the_templates_conversation(data, words):
    batch = C.pack(data, np.arange(3), how(words), np.random.default_rng(0))
    template = get_template("v1", "")
    items = set()
    for item in C.items_of(SCENES[1], 16, C.Balance(10**6)):
        turns = [
            {"from": "human", "value": "<image>\n" + item.question},
            {"from": "gpt", "value": item.places + item.answer},
        ]
        items.add(tuple(template.encode(turns, words).ids))
    segment = batch.segment[1]
    for k in range(1, int(segment.max()) + 1):
        ids = torch.cat([batch.ids[1][segment == 0], batch.ids[1][segment == k]])
        first = int((ids == words.image_id).nonzero()[0])
        one_image = torch.cat([ids[: first + 1], ids[first + 64 :]])
        assert tuple(one_image.tolist()) in items


def test_questions_see_the_prefix_and_themselves_only(data, words):
    batch = C.pack(data, np.arange(2), how(words), np.random.default_rng(0))
    segment, visible = batch.segment[0], batch.visible[0]
    for k in (1, 2):
        seen = segment[visible[int((segment == k).nonzero()[-1])]]
        assert set(seen.tolist()) == {0, k}
    assert set(segment[visible[0]].tolist()) == {0}


def test_packing_gives_the_loss_of_the_questions_one_by_one(data, words, vlm):
    packing = how(words)
    batch = C.pack(data, np.array([4]), packing, np.random.default_rng(3))
    images = torch.randn(1, 64, vlm.config.feature_dim)

    def losses(ids, labels, segments):
        logits = vlm(None, ids, segments=segments, image_features=images)
        learn = labels[:, 1:] != IGNORE
        return torch.nn.functional.cross_entropy(logits[:, :-1][learn], labels[:, 1:][learn], reduction="sum")

    with torch.no_grad():
        together = losses(batch.ids, batch.labels, batch.segment)
        alone = torch.tensor(0.0)
        for k in range(1, int(batch.segment.max()) + 1):
            keep = (batch.segment[0] == 0) | (batch.segment[0] == k)
            alone += losses(batch.ids[:, keep], batch.labels[:, keep], None)
    assert torch.allclose(together, alone, rtol=1e-5)


def test_labels_are_the_answers_and_their_end(data, words):
    batch = C.pack(data, np.arange(6), how(words), np.random.default_rng(1))
    for row in range(6):
        for k in range(1, int(batch.segment[row].max()) + 1):
            labels = batch.labels[row][batch.segment[row] == k]
            answer = labels[labels != IGNORE]
            assert answer[-1] == words.eos_id
            assert len(answer) >= 2
            text = words.decode(batch.ids[row][batch.segment[row] == k].tolist())
            assert text.endswith("ASSISTANT:" + words.decode(answer.tolist()))


def test_rows_respect_the_budget_and_weights(data, words):
    zero = tuple((kind, 0.0) for kind in KINDS if kind != "dense")
    only = C.pack(data, np.arange(5), how(words, weights=zero), np.random.default_rng(0))
    assert set(only.kinds[only.kinds >= 0].tolist()) == {KINDS.index("dense")}
    small = C.pack(data, np.arange(5), how(words, budget=60), np.random.default_rng(0))
    assert all(int((row > 0).sum()) <= 60 or int(row.max()) == 1 for row in small.segment)


def test_a_scene_without_a_question_to_draw_is_told(data, words):
    zero = tuple((kind, 0.0) for kind in KINDS)
    with pytest.raises(BadInput, match="row 3 of the corpus has no question"):
        C.pack(data, np.arange(3, 5), how(words, weights=zero), np.random.default_rng(0))


def test_the_same_generator_gives_the_same_batch(data, words):
    first, second = (C.pack(data, np.arange(4), how(words), np.random.default_rng(9)) for _ in range(2))
    assert torch.equal(first.ids, second.ids)


def test_a_corpus_survives_the_disk(data, tmp_path):
    data.save(tmp_path / "corpus")
    again = C.Corpus.load(tmp_path / "corpus")
    for name, value in vars(data).items():
        assert np.array_equal(value, getattr(again, name)), name


def test_word_maps_say_what_fills_each_cell_and_where_it_is():
    for scene in SCENES[:4]:
        mask = scene.render(96).mask
        cells = [[WORDS[i] for i in cell if i >= 0] for cell in word_map(scene, mask)]
        assert len(cells) == 64
        assert [cells[i][-2:] for i in (0, 7, 8, 63)] == [["A", "1"], ["H", "1"], ["A", "2"], ["H", "8"]]
        for index, item in enumerate(scene.objects):
            share = (mask.reshape(8, 12, 8, 12).swapaxes(1, 2).reshape(64, 144) == index + 1).mean(1)
            if share.max() > 0.5:
                assert cells[int(share.argmax())][:4] == [item.size, item.material, item.colour, item.kind]
        assert cells[0] == ["floor", "A", "1"] or mask[:12, :12].any()


def test_a_map_of_an_empty_room_is_all_floor():
    cells = word_map(sample(0, objects=0), np.zeros((96, 96), np.uint8))
    assert all(next(WORDS[i] for i in cell if i >= 0) == "floor" for cell in cells)


def test_words_of_maps_are_different_tokens(data, words):
    batch = C.pack(data, np.arange(3), how(words, "map"), np.random.default_rng(0))
    assert len(set(data.vocabulary.tolist())) == len(WORDS)
    found = {words.decode([i]).strip() for i in batch.words[0].flatten().tolist() if i >= 0}
    looks = {getattr(item, field) for item in SCENES[0].objects for field in ("size", "material", "colour", "kind")}
    assert looks <= found <= set(WORDS)


def test_answers_right_counts_whole_answers(data, words, vlm):
    batch = C.pack(data, np.arange(4), how(words), np.random.default_rng(0))
    perfect = torch.nn.functional.one_hot(batch.ids.roll(-1, 1), vlm.config.language.vocab_size).float()
    assert all(bool(right.all()) for right in pretraining.answers_right(perfect, batch).values())
    broken = perfect.clone()
    row, place = (batch.labels != IGNORE).nonzero()[5].tolist()
    broken[row, place - 1] = broken[row, place - 1].roll(1)
    wrong = sum(int((~right).sum()) for right in pretraining.answers_right(broken, batch).values())
    assert wrong == 1
