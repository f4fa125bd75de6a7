"""Notebook 15: checks name a wrong answer's mistake; the tree knows planted failures; a form is true to its case."""

import ast
import math
import re
from dataclasses import replace
from functools import cache
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from exercises import SOURCES, solutions
from hypothesis import given
from hypothesis import strategies as st

from vlmlab import scenes
from vlmlab.benchmarks.statistics import wilson
from vlmlab.checks import nb15
from vlmlab.checks.hunts import OPEN, RIGHT, Controls, Finding, diagnosed
from vlmlab.scenes import Camera, Object, Scene
from vlmlab.widgets import Probe, cases, edits, probe
from vlmlab.widgets.answers import Said
from vlmlab.widgets.asking import Question, ask
from vlmlab.widgets.probe_state import TAGS, State

SOURCE = (SOURCES / "15_spatial_probe.py").read_text(encoding="utf-8")
SOLUTIONS = solutions("15_spatial_probe.py", {"np": np, "scenes": scenes})
tag_of, middle, least = SOLUTIONS["tag_of"], SOLUTIONS["middle"], SOLUTIONS["least"]


# ------------------------------------------------------------------ wrong answers, and the mistake each looks like
def pairs_with(rule, chance):
    return lambda pairs, options: sum(map(rule, pairs)) / len(pairs) - chance(options)


def through(y):
    def answer(x, p):
        slope, start = np.polyfit(x, y(p), 1)
        return (y(0.5) - start) / slope

    return answer


def odds(p):
    return np.log(p / (1 - p))


def tree(*leave_out, rest="open", first=()):
    """The solution's tree with branches left out, or looked at first."""
    branches = {
        "parser": lambda c: c.says == c.truth and c.scored != c.truth,
        "none": lambda c: c.says == c.truth,
        "perception": lambda c: c.seen is False,
        "prior": lambda c: c.says == c.blank == c.text_only == c.twin,
        "reference frame": lambda c: c.says == c.own_frame and c.turned == c.truth,
        "binding": lambda c: c.says in c.others,
    }
    order = [*first, *(name for name in branches if name not in (*first, *leave_out))]
    return lambda c: next((name for name in order if branches[name](c)), rest)


def loosely(**fields):
    return lambda c: tag_of(c._replace(**{name: value(c) for name, value in fields.items()}))


def anywhere(scene, question):
    """The other truth, whether or not there is room for it."""
    truth = ask(scene, question).truth
    for x, y in product(np.linspace(-3, 3, 25), repeat=2):
        moved = scene.edit(question.subject, x=float(x), y=float(y))
        if ask(moved, question).truth not in (truth, None):
            return moved
    raise AssertionError


def doubtful(scene, question):
    for x, y in product(np.linspace(-1, 1, 21), repeat=2):
        moved = scene.edit(question.subject, x=float(x), y=float(y))
        if ask(moved, question).truth is None:
            return moved
    raise AssertionError


def first_count(good):
    return lambda n, level: next((k for k in range(n + 1) if good(k, n, level)), None)


def spread(k, n):
    return (k / n * (1 - k / n) / n) ** 0.5


WRONG = [
    ("pair_lead", pairs_with(all, lambda o: 0), "no chance"),
    ("pair_lead", pairs_with(all, lambda o: 1 / o), "chance of one answer"),
    ("pair_lead", pairs_with(lambda p: sum(p) / 2, lambda o: 1 / o), "single answers"),
    ("pair_lead", pairs_with(lambda p: sum(p) / 2, lambda o: 1 / o**2), "single answers"),
    ("pair_lead", pairs_with(any, lambda o: 1 / o**2), "one is enough"),
    ("pair_lead", pairs_with(lambda p: p[0] == p[1], lambda o: o**-2), "alike"),
    ("pair_lead", lambda p, o: 100 * SOLUTIONS["pair_lead"](p, o), "per cent"),
    ("pair_lead", lambda p, o: 0.5, None),
    ("middle", lambda x, p: -(np.polyfit(x, odds(p), 1)[1]) / np.polyfit(x, odds(p), 1)[0], "no middle"),
    ("middle", lambda x, p: 0.0 if np.ptp(p) < 1e-9 else middle(x, p), "no middle"),
    ("middle", through(lambda p: p), "line through P"),
    ("middle", through(np.log), "log of P"),
    ("middle", lambda x, p: None if np.ptp(p) < 1e-9 else -middle(x, p), "sign"),
    ("middle", lambda x, p: None if np.ptp(p) < 1e-9 else float(np.polyfit(x, odds(p), 1)[1]), "start"),
    ("middle", lambda x, p: None if np.ptp(p) < 1e-9 else float(np.polyfit(x, odds(p), 1)[0]), "slope"),
    ("middle", lambda x, p: None if np.ptp(p) < 1e-9 else x[np.abs(p - 0.5).argmin()], "nearest point"),
    ("middle", lambda x, p: None, "not begun"),
    ("tag_of", tree("parser"), "scorer not asked"),
    ("tag_of", tree("parser", "none"), "right words"),
    ("tag_of", tree(first=("prior",)), "prior first"),
    ("tag_of", lambda c: "prior" if c.says == c.blank == c.text_only == c.twin else tag_of(c), "prior first"),
    ("tag_of", loosely(twin=lambda c: c.says), "no twin"),
    ("tag_of", loosely(text_only=lambda c: c.says), "blank only"),
    ("tag_of", loosely(blank=lambda c: c.says), "text only"),
    ("tag_of", loosely(turned=lambda c: c.truth), "not turned"),
    ("tag_of", tree("perception"), "seen nevertheless"),
    ("tag_of", loosely(seen=lambda c: bool(c.seen)), "not asked is unseen"),
    ("tag_of", tree(rest="perception"), "the rest is perception"),
    ("tag_of", lambda c: "prior", None),
    ("flipped", lambda s, q: s, "not flipped"),
    ("flipped", lambda s, q: s.objects[q.subject], "no scene"),
    ("flipped", lambda s, q: s.twin("mirror"), "room"),
    ("flipped", lambda s, q: replace(s, floor=(0, 0, 0), _cache={}), "room"),
    ("flipped", lambda s, q: edits.swap(s, q.subject, q.other), "others"),
    ("flipped", lambda s, q: anywhere(s, replace(q, subject=q.other, other=q.subject)), "others"),
    ("flipped", lambda s, q: edits.remove(s, q.other), "others"),
    ("flipped", lambda s, q: anywhere(s, q).edit(q.subject, yaw=12.0), "look"),
    ("flipped", doubtful, "ambiguous"),
    ("flipped", anywhere, "refused"),
    ("flipped", lambda s, q: ..., "not begun"),
    ("least", first_count(lambda k, n, level: k / n > level), "no interval"),
    ("least", first_count(lambda k, n, level: wilson(k, n)[1] > level), "upper end"),
    ("least", first_count(lambda k, n, level: wilson(k, n, 1)[0] > level), "one standard error"),
    ("least", first_count(lambda k, n, level: wilson(k, n, 1.645)[0] > level), "one-sided"),
    ("least", first_count(lambda k, n, level: k / n - 1.96 * spread(k, n) > level), "plus or minus"),
    ("least", lambda n, level: n if least(n, level) is None else least(n, level), "never None"),
    ("least", lambda n, level: None if least(n, level) is None else least(n, level) + 1, "one more"),
    ("least", lambda n, level: None if least(n, level) is None else least(n, level) / n, "a share"),
    ("least", lambda n, level: math.ceil(n * level), None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "mistake"), WRONG)
def test_wrong_answers(name, answer, mistake, judged):
    verdict = judged(getattr(nb15, name), answer)
    assert not verdict.ok
    assert verdict.mistake == mistake, verdict
    assert verdict.message.startswith(name)


def test_another_right_way_is_right(judged):
    assert judged(nb15.pair_lead, lambda pairs, o: np.mean([a * b for a, b in pairs]) - 1 / o / o).ok
    assert judged(nb15.least, lambda n, v: min((k for k in range(n + 1) if wilson(k, n)[0] > v), default=None)).ok
    assert judged(nb15.tag_of, tree()).ok
    assert judged(nb15.middle, lambda x, p: None if p[0] == p[-1] else through(odds)(x, p)).ok


def test_a_place_that_the_probe_allows_is_right_however_it_was_found(judged):
    def from_the_back(scene, question):
        for x, y in product(np.linspace(1.6, -1.6, 17), repeat=2):
            try:
                moved = edits.move(scene, question.subject, x, y)
            except edits.Refused:
                continue
            if ask(moved, question).truth == {"yes": "no", "no": "yes"}[ask(scene, question).truth]:
                return moved
        return None

    assert judged(nb15.flipped, from_the_back).ok


@given(st.integers(1, 60), st.floats(0.05, 0.9))
def test_the_least_count_is_beyond_the_level_and_one_less_is_not(n, level):
    found = least(n, level)
    assert (found is None) == (not nb15.beyond(n, n, level))
    assert found is None or (nb15.beyond(found, n, level) and not nb15.beyond(found - 1, n, level))


# ------------------------------------------------------------------ planted failures
def cell(start: str) -> str:
    """The notebook's cell that defines a function."""
    (found,) = [each for each in re.split(r"^# %%.*\n", SOURCE, flags=re.M) if f"\ndef {start}(" in f"\n{each}"]
    return found


class Plant:
    """A model that says what `say(scene's truths, picture or None)` returns."""

    def __init__(self, say):
        self.say, self.config, self.language = say, SimpleNamespace(image_size=24, name="planted"), None

    def eval(self):
        return self


class LookedAt:
    """Stands for answers.Looked, with the same arguments; it knows of no scene but what the question tells."""

    def __init__(self, vlm, picture):
        self.vlm, self.picture = vlm, picture

    def answer(self, asked, form, control="none"):
        blank = self.picture is None or np.ptp(self.picture) == 0
        return Said(self.vlm.say(asked, blank), {})


@pytest.fixture
def instruments(monkeypatch):
    """controls_of(say, ...) of the notebook, for a planted model."""
    monkeypatch.setattr(probe, "Looked", LookedAt)

    def controls_of(say, *arguments, **named):
        held = {"Probe": Probe, "models": {"planted": Plant(say)}, "SimpleNamespace": SimpleNamespace, "cache": cache,
                "check": nb15, "ask": ask}  # fmt: skip
        exec(cell("told"), held)
        return held["controls_of"]("planted", *arguments, **named)

    return controls_of


ROOM = Scene((Object("ball", "red", x=-1.0), Object("cat", "blue", x=0.6, yaw=0.0)), Camera())
SIDE, COLOUR = Question(relation="left of"), Question("colour")
PAINTED = edits.recolour(edits.recolour(ROOM, 0, "blue"), 1, "red")


def test_the_tree_names_what_was_planted(instruments):
    twin = ROOM.twin("mirror")
    assert (ask(ROOM, SIDE).truth, ask(ROOM, SIDE).own_frame, ask(twin, SIDE).truth) == ("yes", "no", "no")
    planted = {
        RIGHT: lambda asked, blank: asked.truth,
        "prior": lambda asked, blank: "no",
        "reference frame": lambda asked, blank: "yes" if blank else asked.own_frame,
        OPEN: lambda asked, blank: "yes" if blank else {"yes": "no", "no": "yes"}[asked.truth],
    }
    for tag, say in planted.items():
        assert diagnosed(instruments(say, ROOM, SIDE, twin, seen=True)) == tag
        if tag not in (RIGHT,):
            assert diagnosed(instruments(say, ROOM, SIDE, twin, seen=False)) == "perception"
    parser = instruments(planted[RIGHT], ROOM, SIDE, twin, "sentence", "GQA official")
    assert diagnosed(parser) == RIGHT  # a bare yes is what GQA wants
    wordy = instruments(lambda asked, blank: f"ball,B2. It is, {asked.truth}.", ROOM, SIDE, twin, "sentence",
                        "GQA official")  # fmt: skip
    assert (wordy.says, diagnosed(wordy)) == ("yes", "parser")


def test_a_colour_of_the_other_object_is_binding_only_where_its_own_is_seen(instruments):
    def other(asked, blank):
        return "white" if blank else {"red": "blue", "blue": "red"}[asked.truth]

    bound = instruments(other, ROOM, COLOUR, PAINTED, seen=True, others=("blue",))
    assert (bound.truth, bound.twin_truth, bound.says, bound.twin) == ("red", "blue", "blue", "red")
    assert diagnosed(bound) == "binding"
    assert diagnosed(bound._replace(seen=False)) == "perception"
    assert diagnosed(bound._replace(others=("green",))) == OPEN
    assert (bound.own_frame, bound.turned) == (None, None)


WORDS = st.sampled_from(["yes", "no", None])


@given(st.builds(Controls, st.sampled_from(["yes", "no"]), st.just("no"), WORDS, WORDS, WORDS, WORDS, WORDS,
                 st.sampled_from([True, False, None]), st.sampled_from([(), ("yes",)]), WORDS, WORDS))  # fmt: skip
def test_the_solution_and_the_package_agree_where_words_can_be_read(c):
    assert diagnosed(c) in (*TAGS, RIGHT, OPEN)
    assert (diagnosed(c) in ("parser", RIGHT)) == (c.says == c.truth)
    if c.says is not None:
        assert diagnosed(c) == tag_of(c)


# ------------------------------------------------------------------ the form
SEEN = Controls("red", "blue", "blue", "blue", "white", "white", "red", True, ("blue",))


@pytest.fixture
def form(tmp_path):
    """form(state's changes, **fields): a complete form, its case saved, with fields replaced."""

    def filled(state=None, **fields):
        given = {"tags": ("binding",), **(state or {})}
        answer = {"planted": {"word": Said("blue", {"red": -2.0, "blue": -0.1})}}
        models = {"planted": SimpleNamespace(config=SimpleNamespace(name="planted"))}
        path = cases.save(cases.make(State(ROOM, COLOUR, **given), answer, models), tmp_path / "case.json", True)
        return replace(
            Finding("Whose colour is it?", "7 of 8 wrong colours", "planted", "word", 7, 8, 1 / 7, True, "none", SEEN,
                    "binding", path), **fields,
        )  # fmt: skip

    return filled


def test_a_complete_form_is_right_and_says_what_it_shows(form, judged):
    verdict = judged(nb15.hunt, form())
    assert verdict.ok
    assert "7 of 8 (53% to 98%), beyond 14%; tag: binding" in verdict.message
    assert judged(nb15.hunt, lambda: form()).ok
    assert judged(nb15.hunt, form(count=0, n=0, shown=False)).ok
    assert judged(nb15.hunt, form({"tags": ()}, controls=SEEN._replace(others=()), tag=OPEN)).ok


LACKS = [
    ({"question": ""}, "incomplete"),
    ({"controls": ()}, "incomplete"),
    ({"case": ...}, "incomplete"),
    ({"model": 3}, "no text"),
    ({"question": "Whose colour"}, "no question"),
    ({"seen": "mostly the other's"}, "no numbers"),
    ({"tag": "bindng"}, "unknown tag"),
    ({"pair": "0"}, "unknown verdict"),
    ({"count": 9}, "impossible count"),
    ({"count": 0.5}, "impossible count"),
    ({"level": 25}, "impossible level"),
    ({"count": 2}, "not shown"),
    ({"shown": False}, "shown after all"),
    ({"controls": SEEN._asdict()}, "controls"),
    ({"controls": SEEN._replace(twin_truth="red")}, "no twin"),
    ({"case": "nowhere.json"}, "no case"),
    ({"model": "another"}, "another model"),
    ({"form": "sentence"}, "another model"),
    ({"controls": SEEN._replace(says="green")}, "another case"),
    ({"controls": SEEN._replace(truth="green")}, "another case"),
    ({"pair": "one"}, "pair"),
    ({"tag": "perception"}, "tag"),
    ({"controls": SEEN._replace(seen=False)}, "tag"),
]


@pytest.mark.parametrize(("fields", "mistake"), LACKS)
def test_a_form_that_lacks_something_is_told_what(form, judged, fields, mistake):
    verdict = judged(nb15.hunt, form(**fields))
    assert (verdict.ok, verdict.mistake) == (False, mistake), verdict


@pytest.mark.parametrize(
    ("state", "mistake"),
    [
        ({"tags": ()}, "case tags"),
        ({"tags": ("prior",)}, "case tags"),
        ({"control": "blank picture"}, "under a control"),
    ],
)
def test_a_case_that_says_something_else_is_told(form, judged, state, mistake):
    assert judged(nb15.hunt, form(state)).mistake == mistake


def test_what_is_no_form_is_told(judged, tmp_path):
    for wrong in ({"question": "Is it?"}, 3, lambda: "yes"):
        assert judged(nb15.hunt, wrong).mistake == "type"
    assert judged(nb15.hunt, lambda: 1 / 0).mistake == "exception"


# ------------------------------------------------------------------ the notebook
def test_the_probe_is_shown_by_one_cell_and_early():
    parts = re.split(r"^# %%(.*)\n", SOURCE, flags=re.M)[1:]
    cells = list(zip(parts[::2], parts[1::2], strict=True))
    (index,) = [i for i, (head, _) in enumerate(cells) if 'tags=["probe"]' in head]
    last = ast.parse(cells[index][1]).body[-1]
    assert ast.unparse(last) == "spatial"
    before = [code for head, code in cells[:index] if "markdown" not in head]
    assert not any("show" in ast.unparse(ast.parse(code).body[-1]) for code in before)  # the first output
    assert SOURCE.count("SpatialProbe(") == 1
