"""Maps by name and their comparison: each is its room's, an oracle wins, the controls are there. Notebook 14."""

import json
from dataclasses import replace

import pytest
import torch
from explain_models import llava
from scan_models import MAMBAVISION, ask, cobra

from vlmlab.benchmarks.held_out import Asked
from vlmlab.errors import BadInput, UnknownName
from vlmlab.explain import attention, faithfulness, hidden_attention, lrp, methods, states
from vlmlab.explain import attribution as A
from vlmlab.explain.methods import METHODS, Entry, compare, methods_for, one_object
from vlmlab.scenes.programs import trace

TRANSFORMERS = {"attention", "rollout", "chefer"}
RECURRENT = {"hidden_attention", "delta", "ledger", "mamba_lrp"}
FUNCTIONS = {
    "attention": attention.attention_map, "rollout": attention.rollout_map, "chefer": attention.chefer_map,
    "hidden_attention": hidden_attention.hidden_attention_map, "delta": states.delta_map, "ledger": states.ledger_map,
    "mamba_lrp": lrp.mamba_lrp_map, "gradient_x_input": lrp.gradient_x_input_map,
    "integrated_gradients": A.integrated_gradients_map, "occlusion": A.occlusion_map,
    "token_ablation": A.token_ablation, "random": faithfulness.random_map, "centre": faithfulness.centre_map,
}  # fmt: skip


# ---------------------------------------------------------------- the register
@pytest.mark.parametrize(
    "build", [llava, cobra, lambda: cobra(MAMBAVISION, "cobra-mambavision-tiny", layers=1)],
    ids=["llama", "mamba", "mambavision"],
)  # fmt: skip
def test_every_method_that_applies_gives_its_map(build) -> None:
    inside = ask(build())
    inside = replace(inside, pixels=inside.pixels.double())
    names = methods_for(inside.vlm)
    asks = [inside] if "mambavision" in inside.vlm.config.name else [inside, A.at_word(inside, 1)]  # it takes longer
    for asked in asks:
        for name in names:
            found = METHODS[name](asked)
            assert found.shape == inside.grid, name
            assert found.dtype == torch.float64
            assert not found.requires_grad
            assert torch.equal(found, FUNCTIONS[name](asked).double()), name
    left_out = TRANSFORMERS if "mamba" in type(inside.vlm.language).__name__.lower() else RECURRENT
    assert set(METHODS) - set(names) == left_out
    for name in left_out:
        with pytest.raises(UnknownName, match=f"unknown method for .* '{name}'"):
            methods.chosen(inside.vlm, [name])


def test_one_of_your_own_joins_by_one_line(monkeypatch) -> None:
    vlm = llava()
    monkeypatch.setitem(METHODS, "mine", Entry(lambda inside: torch.ones(inside.grid), "even"))
    assert methods_for(vlm)[-1] == "mine"
    assert METHODS["mine"](ask(vlm)).tolist() == [[1.0] * 4] * 4
    monkeypatch.setitem(METHODS, "broken", Entry(lambda inside: torch.full(inside.grid, torch.nan), "not a number"))
    with pytest.raises(BadInput, match="finite values"):
        METHODS["broken"](ask(vlm))


# ---------------------------------------------------------------- questions
def test_questions_are_about_one_object_each_of_a_scene_of_its_own() -> None:
    asked = one_object(12, seed=1)
    assert len(asked) == 12
    assert len({item.scene.seed for item in asked}) == 12
    for scene, question in asked:
        (index,) = question.objects
        assert scene.split == "test"
        assert trace(question.program, scene)[-2] == index  # the object whose property is asked
        assert scene.objects[index].kind in question.text
    assert [item.question for item in one_object(12, seed=1)] == [item.question for item in asked]
    assert one_object(2, seed=2)[0].scene.seed != asked[0].scene.seed
    assert one_object(2, split="test_combinations")[0].scene.split == "test_combinations"
    for n, seed in ((0, 0), (3, -1)):
        with pytest.raises(BadInput, match="n must be at least 1"):
            one_object(n, seed)


# ---------------------------------------------------------------- the comparison
@pytest.fixture(scope="module")
def asked() -> list[Asked]:
    return one_object(6)


@pytest.fixture(scope="module")
def speaker(asked: list[Asked]):
    """A model that says the truth of every other question; which map goes with which picture."""
    vlm = llava(layers=1)
    said = {item.question.text: item.question.sentence if n % 2 else "It is a fish." for n, item in enumerate(asked)}
    shares = {}
    for scene, question in asked:
        render = scene.render(96)
        inside = replace(ask(vlm), picture=render.rgb)
        shares[render.rgb.tobytes()] = faithfulness.object_share(inside, render.mask, question.objects[0])
    vlm.generate = lambda image, prompt, **_: said[prompt]
    return vlm, shares


@pytest.fixture
def planted(speaker, monkeypatch):
    vlm, shares = speaker
    monkeypatch.setitem(METHODS, "oracle", Entry(lambda inside: shares[inside.picture.tobytes()], "the object"))
    elsewhere = Entry(lambda inside: (shares[inside.picture.tobytes()] == 0).double(), "all but the object")
    monkeypatch.setitem(METHODS, "elsewhere", elsewhere)
    return vlm


def test_an_oracle_wins_and_the_controls_are_at_chance(planted, asked) -> None:
    calls = []
    found = compare(planted, asked, ["oracle", "elsewhere"], steps=2, progress=lambda *at: calls.append(at))
    rows = {row["method"]: row for row in found["rows"]}
    assert list(rows) == ["oracle", "elsewhere", "random", "centre"]
    assert calls == [(4 * n, 24) for n in range(1, 7)]
    assert (found["model"], found["n"], found["steps"], found["fill"]) == ("llava-tiny", 6, 2, "mean")
    assert found["accuracy"]["accuracy"] == 0.5
    assert rows["oracle"]["pointing"]["mean"] == 1
    assert rows["elsewhere"]["pointing"]["mean"] == rows["elsewhere"]["mass"]["mean"] == 0
    assert rows["oracle"]["mass"]["low"] > rows["random"]["mass"]["high"]
    assert rows["random"]["pointing"]["low"] <= found["chance"]["pointing"] <= rows["random"]["pointing"]["high"]
    assert rows["random"]["mass"]["low"] <= found["chance"]["mass"] <= rows["random"]["mass"]["high"]
    for row in found["rows"]:
        for measure in methods.MEASURES:
            cell = row[measure]
            values = [one["maps"][row["method"]][measure] for one in found["each"]]
            assert cell["mean"] == pytest.approx(sum(values) / 6)
            assert cell["low"] <= cell["mean"] <= cell["high"] or len(set(values)) == 1
            if row["method"] == "random":
                assert cell["over_random"] is None
            else:
                noise = [one["maps"]["random"][measure] for one in found["each"]]
                assert cell["over_random"]["difference"] == pytest.approx((sum(values) - sum(noise)) / 6)
    assert rows["oracle"]["mass"]["over_random"]["low"] > 0
    again = compare(planted, asked, ["oracle", "elsewhere"], steps=2)
    assert json.dumps(again) == json.dumps(found)


def test_what_is_measured_is_measured_on_the_models_own_answer(planted, asked) -> None:
    found = compare(planted, asked[:2], ["oracle"], steps=3)
    for item, one in zip(asked, found["each"], strict=False):
        render = item.scene.render(96)
        inside = methods.Inside.ask(planted, render.rgb, item.question.text)
        share = faithfulness.object_share(inside, render.mask, item.question.objects[0])
        assert one["said"] == inside.answer
        assert one["right"] == (inside.answer == item.question.sentence)
        assert one["maps"]["oracle"]["deletion"] == faithfulness.deletion(inside, share, steps=3).area
        assert one["maps"]["oracle"]["insertion"] == faithfulness.insertion(inside, share, steps=3).area
        assert one["chance"]["mass"] == float(share.mean())


def test_questions_about_more_or_less_than_one_object_are_refused(planted, asked) -> None:
    with pytest.raises(BadInput, match="two questions or more"):
        compare(planted, asked[:1])
    scene = asked[0].scene
    others = [Asked(scene, q) for q in scene.questions(types=["count", "relation"], count=2)]
    with pytest.raises(BadInput, match="each about one object"):
        compare(planted, [*asked, *others])
    with pytest.raises(UnknownName, match="unknown method for llava-tiny 'mamba_lrp'"):
        compare(planted, asked, ["oracle", "mamba_lrp"])
    with pytest.raises(UnknownName, match="did you mean 'oracle'"):
        compare(planted, asked, ["orakle"])


def test_kept_and_shown(speaker, asked, monkeypatch, tmp_path) -> None:
    vlm, _ = speaker
    monkeypatch.setattr("vlmlab.explain.methods.METHODS", {name: METHODS[name] for name in ("random", "centre")})
    found = compare(vlm, asked[:3], steps=1)
    monkeypatch.setenv("VLMLAB_DATA", str(tmp_path))
    assert methods.kept(vlm) is None
    assert methods.save(found, vlm, "the command") == "data/explain/faithfulness-llava-tiny.json"
    text = (tmp_path / "explain" / "faithfulness-llava-tiny.json").read_text()
    methods.save(found, vlm, "the command")
    assert (tmp_path / "explain" / "faithfulness-llava-tiny.json").read_text() == text
    kept = methods.kept(vlm)
    assert kept["command"] == "the command"
    assert kept["rows"] == found["rows"]
    assert "each" not in kept
    weight = next(vlm.parameters())
    with torch.no_grad():
        weight[0] += 1
    assert methods.kept(vlm) is None  # of other weights
    with torch.no_grad():
        weight[0] -= 1
    monkeypatch.setattr("vlmlab.explain.methods.METHODS", METHODS)
    with pytest.raises(BadInput, match="not compared: attention, chefer"):
        methods.save(found, vlm, "the command")
