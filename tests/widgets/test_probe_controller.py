"""The spatial probe without a browser: edits, truth, answers, controls, twins, work in steps."""

from dataclasses import replace
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vlmlab
from vlmlab.errors import BadInput, UnknownName, VlmlabError
from vlmlab.scenes import COLOURS, Camera, Object, Scene, holds, sample
from vlmlab.scenes.geometry import stands
from vlmlab.scenes.relations import SPECS
from vlmlab.scenes.scene import footprint_gap
from vlmlab.vlm import VLM
from vlmlab.vlm.conversations import SHORT
from vlmlab.widgets import Probe, edits
from vlmlab.widgets.answers import CONTROLS, Looked, Said, pair_verdicts, readings, shown
from vlmlab.widgets.asking import TEMPLATES, Asked, Question, ask
from vlmlab.widgets.edits import Refused
from vlmlab.widgets.jobs import Job

SCENES = [sample(seed, objects=(3, 4)) for seed in range(8)]
ROOMS = [*SCENES, *(sample(seed, objects=(3, 4)) for seed in range(8, 40))]


# ---------------------------------------------------------------------- edits
@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SCENES), st.lists(st.tuples(st.integers(0, 2), st.floats(-2, 2), st.floats(-2, 2)), max_size=4))
def test_a_move_is_refused_or_leaves_all_objects_clear_and_in_the_picture(scene, moves):
    for index, x, y in moves:
        try:
            scene = edits.move(scene, index, x, y)
        except Refused:
            continue
        assert (scene.objects[index].x, scene.objects[index].y) == pytest.approx((x, y))
    g = scene.geometry
    for a, b in combinations(range(len(scene.objects)), 2):
        assert g.supported(a, b) or footprint_gap(scene.objects[a], scene.objects[b]) > 0
    for item in scene.objects:
        held = [other for other in scene.objects if any(stands(item, relation, other) for relation in ("on", "inside"))]
        assert held or item.z == 0.0
        points = scene.camera.project(np.array([(x, y, z) for x, y in item.corners() for z in (item.z, item.top)]))
        assert -1e-9 <= points[:, :2].min() <= points[:, :2].max() <= 1 + 1e-9


def test_what_stands_on_an_object_goes_with_it(room):
    moved = edits.move(room, 1, 0.9, 0.6)
    assert moved.geometry.stands(2, "on", 1)
    assert (moved.objects[2].x, moved.objects[2].y) == pytest.approx((0.9, 0.5))
    turned = edits.turn(room, 1, 90.0)
    assert turned.geometry.stands(2, "on", 1)
    assert room.objects[1].local(0.6, 0.8) == pytest.approx(turned.objects[1].local(*_place(turned, 2)))
    assert turned.objects[2].yaw == 90.0


def _place(scene, index):
    return scene.objects[index].x, scene.objects[index].y


def test_an_object_stands_on_what_has_room_and_falls_from_what_goes(room):
    down = edits.move(room, 2, -0.2, -0.9)
    assert down.objects[2].z == 0.0
    up = edits.move(down, 2, 0.6, 0.8)
    assert up == room
    gone = edits.remove(room, 1)
    assert [item.kind for item in gone.objects] == ["cat", "mug"]
    assert gone.objects[1].z == 0.0
    box = Scene((Object("box", "red"), Object("ball", "blue", "small", x=1.2)), Camera())
    assert edits.move(box, 1, 0.0, 0.0).geometry.stands(1, "inside", 0)


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda room: edits.move(room, 0, 0.0, 0.9), "in the sofa"),
        (lambda room: edits.move(room, 0, 5.0, 0.0), "leave the picture"),
        (lambda room: edits.move(room, 0, 0.0, 2.5), "in the wall"),
        (lambda room: edits.swap(room, 0, 2), "does not stand on the floor"),
        (lambda room: edits.swap(room, 0, 0), "two different"),
        (lambda room: edits.add(room, "cat", "blue", x=0.6, y=0.9), "in the mug"),
        (lambda room: edits.add(room.with_objects(room.objects * 3), "cat", "blue"), "at most 8"),
        (lambda room: edits.turn(room.edit(0, x=0.6, y=0.24, yaw=90), 0, 0.0), "in the sofa"),
    ],
)
def test_what_the_scene_does_not_allow_is_refused_with_the_reason(room, edit, why):
    with pytest.raises(Refused, match=why):
        edit(room)


def test_swap_exchanges_places_and_nothing_else(room):
    apart = edits.move(room, 2, -0.2, -0.9)
    swapped = edits.swap(apart, 0, 2)
    assert _place(swapped, 0) == pytest.approx(_place(apart, 2))
    assert _place(swapped, 2) == pytest.approx(_place(apart, 0))
    assert [replace(item, x=0, y=0) for item in swapped.objects[::2]] == [
        replace(item, x=0, y=0) for item in apart.objects[::2]
    ]
    assert swapped.objects[1] == apart.objects[1]
    with_mug = edits.swap(edits.move(room, 0, -0.2, -0.2), 0, 1)
    assert with_mug.geometry.stands(2, "on", 1)


def test_an_occluder_hides_most_of_an_object_and_not_all():
    found = 0
    for scene in SCENES[1:5]:
        try:
            hidden = edits.occlude(scene, 0)
        except Refused as refusal:
            assert "further back" in str(refusal)  # noqa: PT017 (nothing fits in front of what stands at the front)
            continue
        found += 1
        before, after = ((each.render(96).mask == 1).sum() for each in (scene, hidden))
        assert 0 < after < 0.6 * before
        assert hidden.objects[:-1] == scene.objects
        assert hidden.objects[-1].kind not in {item.kind for item in scene.objects}
    assert found >= 2


def test_a_distractor_makes_a_question_name_the_colour(room):
    probe = Probe({"none": _Silent()}, room)
    assert probe.asked.text == "Is the cat left of the sofa?"
    probe.edit("distractor", 0)
    assert probe.scene.objects[-1].kind == "cat"
    assert probe.scene.objects[-1].colour not in {item.colour for item in room.objects}
    assert probe.asked.text == "Is the red cat left of the sofa?"
    assert probe.asked.truth == "yes"
    colour = probe.scene.objects[-1].colour
    probe.edit("recolour", 0, colour=colour)
    assert probe.asked.truth is None
    assert probe.asked.why == "2 objects fit, not one"


class _Silent:
    """A model that nobody asks."""

    def eval(self):
        return self


def test_removing_an_object_keeps_the_question_about_the_others(room):
    probe = Probe({"none": _Silent()}, room, Question(subject=2, other=0, relation="right of"))
    probe.edit("remove", 1)
    assert probe.asked.text == "Is the mug right of the cat?"
    assert probe.asked.truth == "yes"
    before = probe.state
    with pytest.raises(BadInput, match="add one"):
        probe.edit("remove", 0)
    assert probe.state is before
    assert Question(subject=1, other=2).without(1) == Question(subject=0, other=1)
    assert Question(subject=0, other=1).without(1) == Question(subject=0, other=1)
    assert Question(subject=1, other=0).without(2) == Question(subject=1, other=0)


@pytest.mark.parametrize(("kind", "objects"), [("move", (9,)), ("swap", (0, -1)), ("remove", (True + 5,))])
def test_an_edit_of_what_is_not_there_is_refused(room, kind, objects):
    probe = Probe({"none": _Silent()}, room)
    with pytest.raises(BadInput, match="is not there"):
        probe.edit(kind, *objects, **({"x": 0, "y": 0} if kind == "move" else {}))
    with pytest.raises(UnknownName, match="did you mean 'move'"):
        probe.edit("mve", 0)
    assert probe.scene is room


# ---------------------------------------------------------------------- truth
@pytest.mark.parametrize("relation", SPECS)
def test_the_truth_is_the_scenes_and_doubt_is_said(relation):
    told = set()
    for scene in ROOMS:
        for a, b in permutations(range(len(scene.objects)), 2):
            asked = ask(scene, Question(subject=a, other=b, relation=relation))
            kinds = [(item.kind, item.colour) for item in scene.objects]
            expected = holds(scene, relation, a, b) if len(set(kinds)) == len(kinds) else None
            assert asked.truth == {True: "yes", False: "no", None: None}[expected]
            assert bool(asked.why) == (asked.truth is None)
            told.add(asked.truth)
            assert len(asked.statements) == len(asked.options) == 2
            assert asked.statements[0].endswith(", yes.")
            assert asked.statements[1].endswith(", no.")
    assert len(told) > 1


@pytest.mark.parametrize("template", [name for name in TEMPLATES if name != "free"])
def test_templates_ask_as_the_scenes_own_questions_do(template):
    """Where the world draws the same text, it gives the same answer."""
    types = {"relation": "relation", "further": "choice", "existence": "existence", "count": "count",
             "colour": "attribute", "facing": "attribute"}  # fmt: skip
    same = 0
    for scene in SCENES:
        drawn = {}
        for seed in range(4):
            drawn |= {q.text: q for q in scene.questions(types=[types[template]], count=12, seed=seed)}
        for subject, other in permutations(range(len(scene.objects)), 2):
            options = {"relation": SPECS, "side": ("left", "right", "front", "back"), "colour": ("", *COLOURS)}
            slot = {"relation": "relation", "further": "side", "existence": "colour"}.get(template)
            for value in options.get(slot, [None]):
                extra = {slot: value} if slot else {}
                kind = scene.objects[subject].kind
                asked = ask(scene, Question(template, subject, other, kind=kind, **extra))
                if asked.text in drawn:
                    same += 1
                    assert asked.truth == drawn[asked.text].answer
                    if template in ("relation", "further", "facing", "colour"):
                        assert asked.truth in asked.options
                    if template in ("further", "facing", "colour"):
                        chosen = asked.statements[asked.options.index(asked.truth)]
                        assert chosen == drawn[asked.text].sentence
    assert same > 5


def test_the_objects_own_frame_is_told_beside_the_viewers():
    scene = Scene((Object("ball", "red", x=-1.0), Object("cat", "blue", yaw=0.0)), Camera())
    asked = ask(scene, Question())
    assert (asked.truth, asked.own_frame) == ("yes", "no")  # the cat faces us: our left is its right
    away = ask(scene.edit(1, yaw=180.0), Question())
    assert (away.truth, away.own_frame) == ("yes", "yes")
    assert ask(scene.edit(1, kind="lamp"), Question()).own_frame is None


@pytest.mark.parametrize(
    ("question", "why"),
    [
        (Question(subject=1, other=1), "twice"),
        (Question("further", 0, 2), "same word"),
        (Question("colour", 0), "give its colour away"),
        (Question("facing", 1), "no front"),
        (Question("free", text="Why?"), "nobody said"),
    ],
)
def test_what_nobody_should_be_asked_has_no_truth(room, question, why):
    scene = edits.distractor(room, 0)
    two = scene.with_objects([scene.objects[0], replace(scene.objects[2], x=-0.2, y=-0.9, z=0.0), scene.objects[3]])
    asked = ask(two, question)
    assert asked.truth is None
    assert why in asked.why


def test_questions_that_cannot_be_put_are_refused(room):
    for question in (Question(other=5), Question("free", text="  "), Question("free", text="?", options=("a", "a"))):
        with pytest.raises(BadInput):
            ask(room, question)
    for wrong in ({"template": "relatin"}, {"relation": "inside of"}, {"subject": -1}, {"subject": "0"}, {"text": 3}):
        with pytest.raises(BadInput):
            Question(**wrong)
    probe = Probe({"none": _Silent()}, room)
    for slots in ({"other": 9}, {"colr": "red"}, {"colour": "pink"}):
        with pytest.raises(BadInput):
            probe.question(**slots)
    assert probe.state.question == Question()


# ---------------------------------------------------------------------- answers
def test_scorers_read_one_text_in_their_own_ways():
    asked = Asked("Is there a dog?", ("yes", "no"), "no")
    told = {each.scorer: (each.said, each.right) for each in readings(asked, Said("There isn't a dog", {}), "sentence")}
    assert told["POPE official"] == ("yes", False)  # no word of it is exactly "no" or "not"
    assert told["POPE robust"] == ("no", True)
    assert told["VSR"] == ("no", True)
    assert told["scenes"] == (None, False)
    assert told["GQA official"] == ("There isn't a dog", False)
    assert "likelihood" not in told
    told = {each.scorer: each.right for each in readings(asked, Said("No.", {"yes": -1.0, "no": -2.0}), "word")}
    assert told == {"likelihood": False, "POPE official": True, "POPE robust": True, "VSR": True, "scenes": True,
                    "GQA official": False, "GQA as LLaVA": True, "VQAv2": True}  # fmt: skip
    count = Asked("How many cats are there?", ("0", "1", "2"), "2")
    told = {each.scorer: each.right for each in readings(count, Said("two", {}), "word")}
    assert told == {"scenes": False, "GQA official": False, "GQA as LLaVA": False, "VQAv2": True}


def test_nothing_is_right_or_wrong_where_nothing_is_true():
    asked = Asked("?", ("yes", "no"), None, "ambiguous")
    assert {each.right for each in readings(asked, Said("yes", {"yes": -1.0, "no": -2.0}), "word")} == {None}


def test_probabilities_are_the_softmax_of_the_options():
    said = Said("", {"a": -1000.0, "b": -1001.0})
    assert said.probabilities["a"] == pytest.approx(1 / (1 + np.exp(-1)), rel=1e-12)
    assert sum(said.probabilities.values()) == pytest.approx(1, rel=1e-12)
    assert said.chosen == "a"
    assert (Said("", {}).probabilities, Said("", {}).chosen) == ({}, None)


def test_an_oracle_is_right_under_every_scorer_and_the_blind_half_of_the_time(planted):
    marks = {name: [] for name in planted}
    for seed in range(25):
        probe = Probe(planted, sample(seed, objects=(3, 4)))
        if probe.asked.truth is None:
            continue
        probe.answering().run()
        for name in planted:
            marks[name].append({each.scorer: each.right for each in probe.readings(name)})
    assert len(marks["oracle"]) >= 10
    assert all(all(each.values()) for each in marks["oracle"])
    for scorer in marks["blind"][0]:
        right = [each[scorer] for each in marks["blind"]]
        assert 0 < sum(right) < len(right)


# ---------------------------------------------------------------------- twins
def test_the_oracle_passes_both_of_a_pair_and_a_constant_answer_one(planted, room):
    probe = Probe(planted, room)
    pair = probe.twinning("mirror").run().result
    assert pair.flips
    assert probe.pair is pair
    for form in ("word", "sentence"):
        assert set(pair.verdicts["oracle"][form].values()) == {"both"}
        assert set(pair.verdicts["blind"][form].values()) == {"one"}
    probe.question(relation="in front of")
    assert probe.pair is None
    same = probe.twinning("mirror").run().result
    assert not same.flips  # a mirror leaves front and behind as they are
    assert set(same.verdicts["blind"]["word"].values()) == {"both"}


def test_a_pair_without_truth_has_no_verdict():
    yes, no, none = (
        readings(Asked("?", ("yes", "no"), truth), Said("no", {}), "word") for truth in ("yes", "no", None)
    )
    assert set(pair_verdicts(yes, no).values()) == {"one"}
    assert set(pair_verdicts(yes, yes).values()) == {"none"}
    assert set(pair_verdicts(no, none).values()) == {None}


def test_a_twin_that_is_not_there_is_refused(planted, room):
    probe = Probe(planted, room.with_objects(room.objects[1:]))
    with pytest.raises(VlmlabError, match="has no 'swap' twin"):
        probe.twinning("swap")
    with pytest.raises(UnknownName, match="did you mean 'mirror'"):
        probe.twinning("miror")


# ---------------------------------------------------------------------- controls
def test_controls_change_the_picture_as_they_say():
    picture = sample(1).render(96).rgb
    assert shown(picture, "none") is picture
    assert shown(picture, "text only") is None
    assert len(np.unique(shown(picture, "blank picture"))) == 1
    shuffled = shown(picture, "shuffled patches")

    def pieces(image):
        cut = image.reshape(8, 12, 8, 12, 3).swapaxes(1, 2).reshape(64, -1)
        return sorted(map(bytes, cut))

    assert pieces(shuffled) == pieces(picture)
    assert (shuffled != picture).mean() > 0.3
    assert (shown(picture, "shuffled patches") == shuffled).all()
    assert shown(picture[:90, :90], "shuffled patches").shape == (88, 88, 3)
    with pytest.raises(UnknownName):
        shown(picture, "blnk")


def test_the_options_order_is_that_of_the_prompt(room):
    asked = ask(room, Question())
    assert asked.prompt() == f"Is the cat left of the sofa?\n{SHORT}"
    assert asked.prompt("sentence") == "Is the cat left of the sofa?"
    named, turned = (asked.prompt("word", f"options {how}") for how in ("named", "reversed"))
    assert "Choose one: yes, no." in named
    assert "Choose one: no, yes." in turned


def test_every_control_is_asked_of_every_model(planted, room):
    probe = Probe(planted, room)
    found = probe.controlling().run().result
    assert tuple(found) == CONTROLS
    assert probe.controls == found
    seen = {control: picture for _, _, control, picture in planted["blind"].asked}
    assert seen["text only"] is None
    assert (seen["none"] == probe.picture()).all()
    assert (seen["blank picture"] == 128).all()
    probe.question(template="free", text="What is there?")
    assert "options named" not in probe.controlling().run().result


def test_a_control_holds_until_it_is_taken_away(planted, room):
    probe = Probe(planted, room)
    probe.control("text only")
    probe.answering().run()
    assert {picture is None for *_, picture in planted["oracle"].asked} == {True}
    with pytest.raises(UnknownName):
        probe.control("textonly")


# ---------------------------------------------------------------------- work in steps
def test_work_tells_how_far_it_is_and_can_be_stopped():
    def steps():
        for number in range(1, 5):
            done.append(number)
            yield number / 4
        return "all"

    done: list[int] = []
    job = Job(steps())
    with pytest.raises(BadInput, match="not ended"):
        _ = job.result
    seen = []
    assert job.run(lambda: seen.append(job.progress)).result == "all"
    assert seen == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert not job.step()
    done.clear()
    stopped = Job(steps())
    assert stopped.step()
    stopped.cancel()
    assert not stopped.step()
    assert done == [1]
    assert stopped.done
    with pytest.raises(BadInput, match="cancelled"):
        _ = stopped.result


def test_work_that_fails_says_so_and_ends():
    def steps():
        yield 0.5
        raise RuntimeError("lost")

    job = Job(steps())
    with pytest.raises(RuntimeError, match="lost"):
        job.run()
    assert job.done
    assert not job.step()


def test_answers_come_one_by_one_and_belong_to_one_state(planted, room):
    probe = Probe(planted, room)
    job = probe.answering()
    job.step()
    assert probe.answers == {"oracle": {"word": probe.answers["oracle"]["word"]}}
    probe.edit("move", 0, x=-0.8, y=-0.4)
    assert probe.answers == {}
    job.run()
    assert probe.answers == {}  # answers about a scene that is gone
    assert set(job.result["blind"]) == {"word", "sentence"}
    probe.answering().run()
    probe.tag("prior", note="always yes")
    assert probe.state.tags == ("prior",)
    with pytest.raises(UnknownName, match="did you mean 'binding'"):
        probe.tag("bindig")
    probe.edit("turn", 0, yaw=80.0)
    assert (probe.state.tags, probe.state.note, probe.answers) == ((), "", {})


def test_a_probe_needs_a_model():
    with pytest.raises(BadInput, match="at least one model"):
        Probe([])
    with pytest.raises(UnknownName):
        Probe(["lava-tiny"])


# ---------------------------------------------------------------------- real models
@pytest.fixture(scope="module")
def tiny() -> VLM:
    return vlmlab.load("llava-tiny", device="cpu")


def test_answers_are_the_models_own_and_its_encoder_runs_once(tiny, room, monkeypatch):
    probe = Probe({"tiny": tiny}, room)
    runs = []
    vision = type(tiny).vision_features
    monkeypatch.setattr(type(tiny), "vision_features", lambda self, *a, **k: runs.append(1) or vision(self, *a, **k))
    answer = probe.answering().run().result["tiny"]
    assert len(runs) == 1
    monkeypatch.undo()
    picture, asked = probe.picture(), probe.asked
    assert (picture == room.render(96).rgb).all()
    assert answer["word"].text == tiny.generate(picture, asked.prompt())
    assert answer["sentence"].text == tiny.generate(picture, asked.text)
    expected = tiny.score_options(picture, asked.prompt(), ("yes", "no"))
    assert answer["word"].log_probs == pytest.approx(expected, abs=1e-5)
    places, _, _ = answer["sentence"].text.partition("The ")
    told = tiny.score_options(picture, asked.text, [places + each for each in asked.statements])
    assert list(answer["sentence"].log_probs.values()) == pytest.approx(list(told.values()), abs=1e-5)


def test_without_a_picture_a_model_is_asked_without_one(tiny, room):
    asked = ask(room, Question())
    answer = Looked(tiny, None).answer(asked, "word")
    assert answer.log_probs == pytest.approx(tiny.score_options(None, asked.prompt(), ("yes", "no")), abs=1e-5)
    assert answer.text == tiny.generate(None, asked.prompt())


@pytest.mark.parametrize("preset", ["cobra-mambavision-tiny", "cobra-tiny-ldp"])
def test_models_to_come_can_be_probed(preset, room):
    probe = Probe({preset: VLM.from_preset(preset, device="cpu")}, room)
    answer = probe.answering(("word",)).run().result[preset]["word"]
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    heat = probe.mapping("gradient_x_input").run().result[f"{preset}, gradient_x_input"]
    assert heat.shape[0] == heat.shape[1]


def test_maps_are_those_of_the_method_for_the_models_own_answer(tiny, room):
    from vlmlab.explain import Inside
    from vlmlab.explain.methods import METHODS

    probe = Probe({"tiny": tiny}, room)
    probe.answering(("word",)).run()
    heat = probe.map("tiny", "gradient_x_input")
    inside = Inside.ask(tiny, probe.picture(), probe.asked.prompt(), probe.answers["tiny"]["word"].text)
    assert torch.allclose(torch.tensor(heat).double(), METHODS["gradient_x_input"](inside).double(), atol=1e-7)
    assert heat.shape == (8, 8)
    with pytest.raises(UnknownName):
        probe.map("tiny", "hidden_attention")
    with pytest.raises(UnknownName):
        probe.mapping("nothing").run()
    probe.control("text only")
    with pytest.raises(BadInput, match="without a picture"):
        probe.map("tiny", "gradient_x_input")
