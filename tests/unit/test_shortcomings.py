"""Shortcomings: planted models get what they deserve, and scenes and controls differ in what they should alone."""

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from vlmlab.benchmarks import shortcomings
from vlmlab.benchmarks.shortcomings import detail, fusion, illusions, layout, staging
from vlmlab.benchmarks.shortcomings.items import Item, ask, band, rows, seen, tally
from vlmlab.errors import BadInput, UnknownName, VlmlabError
from vlmlab.scenes import COLOURS, Object, Scene
from vlmlab.scenes.kinds import held_out
from vlmlab.scenes.programs import execute, trace
from vlmlab.vlm.presets import get_preset

N = 4


class Planted:
    """A model that says what a function of (picture, question) says; it counts what it is asked."""

    config = get_preset("llava-tiny")

    def __init__(self, say):
        self.say, self.asked = say, []

    def answer_many(self, images, prompts, on_batch=None, **options):
        self.asked += [(image is not None, prompt) for image, prompt in zip(images, prompts, strict=True)]
        if on_batch:
            on_batch(len(prompts))
        return [self.say(image, prompt) for image, prompt in zip(images, prompts, strict=True)]


def knowing(items, say):
    """A model that knows each picture: it says say(item) of all items that ask the same, or "nothing" when blind."""
    known = {}
    for item in items:
        known.setdefault((item.look(item.scene, 96).tobytes(), item.question), {})[say(item)] = None
    return Planted(lambda image, prompt: "nothing" if image is None else ", ".join(known[image.tobytes(), prompt]))


@pytest.fixture(scope="module", autouse=True)
def _rendered_once():
    """Many tests look at the same pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scene, "render", cache(Scene.render))
        yield


@pytest.fixture(scope="module")
def built(_rendered_once):
    return {name: build(N, 3) for name, build in shortcomings.ITEMS.items()}


def groups(found):
    table = {}
    for row in found:
        table.setdefault(row["group"], []).append(row)
    return table


# ------------------------------------------------------------------ planted models
@pytest.mark.parametrize("name", shortcomings.ITEMS)
def test_the_oracle_is_always_right_and_never_lured(name, built):
    found = rows(knowing(built[name], lambda item: item.answer), built[name])
    assert found
    for row in found:
        assert (row["accuracy"], row["right"], row["high"]) == (1.0, row["n"], pytest.approx(1.0))
        assert 0 < row["low"] < 1
        assert row["blind"] == 0.0
        assert all((lure["share"], lure["blind"]) == (0.0, 0.0) for lure in row["lures"].values())


def test_who_takes_the_picture_for_the_world_is_lured_by_every_illusion_and_by_no_control(built):
    def believer(item):
        return item.answer if item.row.startswith("control") else item.lures["illusion"][0]

    found = rows(knowing(built["illusions"], believer), built["illusions"])
    for row in found:
        lured = row["lures"].get("illusion", {"share": 0.0})["share"]
        assert (row["accuracy"], lured) == ((1.0, 0.0) if row["row"].startswith("control") else (0.0, 1.0)), row
    assert {row["group"] for row in found} == {"size", "light", "hidden", "mirror"}


def test_who_passes_over_a_constraint_takes_its_distractor(built):
    for passed in fusion.CONSTRAINTS:
        lure = f"ignores {passed}"
        found = rows(
            knowing(built["fusion"], lambda item, lure=lure: item.lures.get(lure, (item.answer,))[0]), built["fusion"]
        )
        for row in groups(found)["referring"]:
            asked = sum(lure in i.lures for i in built["fusion"] if (i.group, i.row) == (row["group"], row["row"]))
            assert row["accuracy"] == pytest.approx(1 - asked / row["n"])
            if asked:
                assert (row["lures"][lure]["n"], row["lures"][lure]["share"]) == (asked, 1.0)
                assert row["lures"]["another of the kind"]["share"] == pytest.approx(asked / row["n"])
        assert all(row["accuracy"] == 1.0 for row in groups(found)["control: the anchor"])


@pytest.mark.parametrize("word", ["yes", "no"])
def test_a_constant_answer_gets_no_pair_and_half_of_the_single_answers(word, built):
    found = groups(rows(Planted(lambda image, prompt: word), built["layout"]))
    stated = [f"left and right, {how}: the side it states" for how in ("mirrored", "exchanged")]
    assert {row["row"]: row["accuracy"] for row in found["pairs"]} == dict.fromkeys(
        [*layout.PAIRS, *stated, "control: a colour, mirrored"], 0.0
    )
    single = found["left and right, single answers"]
    assert sum(row["right"] for row in single) == sum(row["n"] for row in single) / 2
    assert [row["x"] for row in single] == sorted(row["x"] for row in single)


def test_a_wrong_verdict_after_a_right_look_counts_as_stated(built):
    def say(item):
        return f"The one is {item.answer} the other" if "states" in item.row else "yes"

    found = {row["row"]: row["accuracy"] for row in rows(knowing(built["layout"], say), built["layout"])}
    for how in ("mirrored", "exchanged"):
        assert found[f"left and right, {how}"] == 0.0
        assert found[f"left and right, {how}: the side it states"] == 1.0
    assert not layout.states("no", "left of")
    assert layout.states("Is it left of me? It is Right of the cat, no.", "right of")


def test_a_guesser_is_at_chance(built):
    rng = np.random.default_rng(0)
    guesser = Planted(lambda image, prompt: str(rng.choice(list(COLOURS))))
    found = [row for _ in range(16) for row in rows(guesser, built["fusion"])]
    n, right = (sum(row[key] for row in found) for key in ("n", "right"))
    assert n == 16 * len(built["fusion"])
    assert {row["chance"] for row in found} == {1 / 8}
    assert abs(right - n / 8) < 4 * (n * 7 / 64) ** 0.5


# ------------------------------------------------------------------ counting
def item(row, answer, **more):
    return Item("g", row, Scene((Object("cat", "red"),)), f"{row}?", answer, 0.5, **more)


def test_rows_by_hand():
    asked = [
        item("far", "yes", x=3.0, lures={"illusion": ("no",)}),
        item("far", "no", x=5.0, lures={"illusion": ("yes", "maybe")}),
        item("near", "red", x=1.0, unit=0),
        item("near", "red", x=2.0, unit=0),
        item("near", "blue", unit=1),
        item("aside", "2"),
    ]
    found = tally(
        asked, ["Yes.", "I see, maybe", "red", "The cat is red", "red", "2"], ["no", "no", "red", "red", "", ""]
    )
    assert [row["row"] for row in found] == ["near", "far", "aside"]
    near, far, aside = found
    assert (near["x"], near["n"], near["right"], near["accuracy"], near["chance"]) == (1.5, 2, 1, 0.5, 0.375)
    assert near["blind"] == 0.5
    assert (far["n"], far["right"], far["blind"]) == (2, 1, 0.5)
    lured = far["lures"]["illusion"]
    assert (lured["n"], lured["share"], lured["blind"]) == (2, 0.5, 0.5)
    assert (lured["low"], lured["high"]) == pytest.approx((0.0945, 0.9055), abs=1e-4)
    assert (aside["x"], aside["lures"], aside["blind"]) == (None, {}, 0.0)


def test_what_is_asked_twice_is_asked_once_and_blind_once_a_question():
    asked = [item("a", "red"), item("a", "red"), item("b", "red"), replace_scene(item("a", "red"))]
    vlm, heard = Planted(lambda image, prompt: "red"), []
    assert ask(vlm, asked, progress=lambda done, total: heard.append((done, total))) == ["red"] * 4
    assert vlm.asked == [(True, "a?"), (True, "b?"), (True, "a?")]
    assert heard == [(3, 3)]
    assert ask(vlm, asked, blind=True) == ["red"] * 4
    assert vlm.asked[3:] == [(False, "a?"), (False, "b?")]


def replace_scene(one):
    return one._replace(scene=Scene((Object("cat", "red", x=0.5),)))


def test_bands():
    assert [band(x, (0.0, 1.0, 2.0)) for x in (0.0, 0.99, 1.0, 2.0, 50.0)] == [
        "under 1 %", "under 1 %", "1 to 2 %", "2 % or more", "2 % or more",
    ]  # fmt: skip


# ------------------------------------------------------------------ data
@pytest.mark.parametrize("name", shortcomings.ITEMS)
def test_the_same_seed_gives_the_same_items_and_no_combination_is_new_to_a_model(name, built):
    again = shortcomings.ITEMS[name](N, 3)
    assert again == built[name]
    assert [i.scene.to_json() for i in again] == [i.scene.to_json() for i in built[name]]
    assert shortcomings.ITEMS[name](1, 4)[0].scene not in [i.scene for i in built[name]]
    for one in built[name]:
        assert not any(held_out(o.colour, o.kind) for o in one.scene.objects)
        assert one.answer not in [lure for values in one.lures.values() for lure in values]


def test_sizes_are_those_of_whole_objects_and_differ_within_a_family(built):
    for one in built["detail"]:
        if one.group.startswith("size"):
            fill, free = staging.extent(one.scene, 0)
            assert (100 * fill, free) == (pytest.approx(one.x), 1.0)
            assert one.row == band(100 * fill, detail.FILLS)
    for scenes in staging.repeat(detail.near_and_far, N, 61, 3):
        assert len({scene.objects[1] for scene in scenes}) == 1
        assert len({(s.objects[0].kind, s.objects[0].colour, s.objects[0].material, s.camera) for s in scenes}) == 1
        fills = [staging.extent(scene, 0)[0] for scene in scenes]
        assert max(fills) > 2 * min(fills)


def test_only_the_object_in_front_moves_and_it_hides_less_and_less():
    for slide in staging.repeat(detail.sliding, N, 62, 3):
        still = {(scene.objects[0], scene.camera, scene.light) for _, scene, _ in slide}
        assert len(still) == 1
        moved = {replace(scene.objects[1], x=0.0, y=0.0) for _, scene, _ in slide}
        assert len(moved) == 1
        shares = [share for *_, share in slide]
        assert all(low <= high + 0.05 for low, high in pairwise(shares))
        assert shares[-1] == 1.0
        assert shares[0] < 0.75
        assert slide[-1][0] == detail.APART
        for row, _, share in slide[:-1]:
            assert row == band(100 * share, detail.SHOWS)


def test_a_close_up_is_a_window_of_the_larger_picture_with_the_whole_object():
    for scene in (scenes[0] for scenes in staging.repeat(detail.near_and_far, N, 61, 3)):
        large, window = scene.render(192), detail.close_up(scene, 96)
        assert window.shape == (96, 96, 3)
        x1, y1, x2, y2 = large.boxes[0].astype(int)
        cut = large.rgb[y1:y2, x1:x2]
        spots = [
            (top, left)
            for top in range(96 - cut.shape[0] + 1)
            for left in range(96 - cut.shape[1] + 1)
            if (window[top, left] == cut[0, 0]).all()
            and (window[top:, left:][: cut.shape[0], : cut.shape[1]] == cut).all()
        ]
        assert spots


def test_twins_have_opposite_answers_and_yes_comes_first_as_often_as_no(built):
    for row in layout.PAIRS:
        members = [i for i in built["layout"] if i.row == row]
        firsts, seconds = members[::2], members[1::2]
        assert len(firsts) == N
        for one, other in zip(firsts, seconds, strict=True):
            assert (one.unit, one.question) == (other.unit, other.question)
            assert {one.answer, other.answer} == {"yes", "no"}
            assert len(one.scene.objects) == len(other.scene.objects)
        assert sum(one.answer == "yes" for one in firsts) == N / 2
    control = [i for i in built["layout"] if i.row.startswith("control")]
    assert all(a.answer == b.answer and a.unit == b.unit for a, b in zip(control[::2], control[1::2], strict=True))


@pytest.mark.parametrize("constraints", [(), ("size",), ("place",), ("size", "place"), fusion.CONSTRAINTS])
def test_every_constraint_is_necessary_and_each_distractor_violates_one(constraints):
    for side in fusion.SIDES:
        (found,) = staging.repeat(lambda rng, _, side=side: fusion.referring(rng, constraints, side), 1, 9, len(side))
        scene, noun, program, _ = found
        assert trace(program, scene)[-1] == [0]
        target, *distractors, anchor = scene.objects
        assert len(distractors) == len(constraints)
        assert {o.kind for o in distractors} <= {target.kind} != {anchor.kind}
        assert len({o.colour for o in scene.objects}) == len(scene.objects)
        assert ("of the " in noun or f" {side} the {anchor.kind}" in noun) == ("place" in constraints)
        assert (target.size in noun.split()) == ("size" in constraints)
        values = {"size": target.size, "material": target.material}
        for number, dropped in enumerate(constraints, 1):
            rest = [name for name in constraints if name != dropped]
            text, without = fusion.expression(target.kind, anchor.kind, side, values, rest)
            assert trace(without, scene)[-1] == [0, number]
            assert len(text) < len(noun)
            for name in ("size", "material"):
                if name in constraints:
                    assert (getattr(scene.objects[number], name) == values[name]) == (name != dropped)
        unique = [*program, {"operation": "unique", "argument": None, "dependencies": [len(program) - 1]}]
        assert execute(unique, scene) == 0


def test_equal_sizes_look_different_and_different_ones_alike():
    for cases in staging.repeat(illusions.sizes, N, 65, 3):
        scenes = {one.row: one.scene for one in cases}
        ratio = {}
        for row, scene in scenes.items():
            first, second = scene.objects
            assert (first.kind, first.yaw, scene.camera) == (second.kind, second.yaw, cases[0].scene.camera)
            first_pixels, second_pixels = np.bincount(scene.render(192, 1).mask.ravel(), minlength=3)[1:]
            ratio[row] = (first_pixels / second_pixels) ** 0.5  # of lengths in the picture
            same = first.size == second.size
            assert next(one.answer for one in cases if one.row == row) == ("yes" if same else "no")
        assert ratio["equal, one far away"] > 1.3
        assert ratio["different, alike in the picture"] == pytest.approx(1, abs=0.12)
        assert ratio["control: equal, side by side"] == pytest.approx(1, abs=0.1)
        assert ratio["control: different, side by side"] < 0.75
        apart = [scenes[row] for row in ("equal, one far away", "different, alike in the picture")]
        assert [[(o.x, o.y) for o in scene.objects] for scene in apart[:1]] == [[(o.x, o.y) for o in apart[1].objects]]


def test_full_tint_gives_the_pixels_of_the_other_colour_and_nothing_but_the_light_changes():
    found = staging.repeat(illusions.lights, len(illusions.TINTS), 66, 3)
    for cases, (colour, seeming) in zip(found, illusions.TINTS, strict=True):
        white, *_, full, really = (one.scene for one in cases)
        plain = {replace(one.scene, light=white.light, _cache={}) for one in cases[:-1]}
        assert plain == {white}
        assert (white.objects[0].colour, really.objects[0].colour) == (colour, seeming)
        assert replace(really.objects[0], colour=colour) == white.objects[0]
        assert (really.objects[1:], really.light) == (white.objects[1:], white.light)
        ball = replace(white, objects=(Object("ball", colour),), _cache={})  # no part has a paint of its own
        lit = replace(ball, light=full.light, _cache={}).render(96, 1)  # no pixel is half floor
        painted = ball.edit(0, colour=seeming).render(96, 1)
        inside = lit.mask == 1
        assert inside.sum() > 100
        assert np.abs(lit.rgb[inside].astype(int) - painted.rgb[inside]).max() <= 3  # 240 of orange from 238 of white
        assert illusions.tint(colour, seeming, 0.0) == (1.0, 1.0, 1.0)


def test_what_hides_an_object_is_all_that_moves():
    for cases in staging.repeat(illusions.hidden, N, 67, 3):
        scenes = {one.row: one.scene for one in cases}
        half = scenes["is it there? half hidden"]
        assert illusions.HALF[0] <= staging.extent(half, 0)[1] <= illusions.HALF[1]
        for row in ("control: is it there? beside it", "control: is it there? well apart"):
            assert scenes[row].objects[0] == half.objects[0]
            assert staging.extent(scenes[row], 0)[1] >= 0.99
        assert [o.kind for o in scenes["control: is it there? taken away"].objects] == [half.objects[1].kind]


def test_a_mirror_adds_a_reflection_and_no_object():
    for cases in staging.repeat(illusions.mirrors, N, 68, 3):
        scenes = {one.row: one.scene for one in cases}
        mirrored, board = (
            scenes[f"{row} before a {what}"]
            for row, what in (("how many objects?", "mirror"), ("control: how many objects?", "board"))
        )
        plain = scenes["control: how many objects? before the wall"]
        assert {replace(mirrored, mirror=None, _cache={}), replace(board, mirror=None, _cache={})} == {plain}
        masks = [scene.render(96).mask for scene in (mirrored, board, plain)]
        assert (masks[0] == -1).sum() > 5
        assert min(masks[1].min(), masks[2].min()) == 0
        assert (masks[0] == 1).sum() == (masks[2] == 1).sum()
        assert len(scenes["control: how many of it? really one more"].objects) == 3
        assert {one.row: one.answer for one in cases}["how many of it? before a mirror"] == "1"


# ------------------------------------------------------------------ all of them
def test_measure_gives_rows_of_one_shape_and_tells_how_far_it_is():
    heard = []
    found = shortcomings.measure(
        Planted(lambda image, prompt: "yes"), ["layout"], 2, 1, lambda done, total: heard.append((done, total))
    )
    assert {key: found[key] for key in ("model", "n", "seed")} == {"model": "llava-tiny", "n": 2, "seed": 1}
    keys = {"group", "row", "x", "n", "right", "accuracy", "low", "high", "chance", "blind", "lures"}
    assert all(set(row) == keys for row in found["found"]["layout"]["rows"])
    assert len(heard) == 2
    assert all(done == total > 0 for done, total in heard)


def test_what_cannot_be_measured_is_told():
    vlm = Planted(lambda image, prompt: "yes")
    with pytest.raises(UnknownName, match="did you mean 'fusion'"):
        shortcomings.measure(vlm, "fusoin")
    for wrong in ({"n": 0}, {"seed": -1}, {"which": []}):
        with pytest.raises(BadInput, match="n must be at least 1"):
            shortcomings.measure(vlm, **wrong)
    with pytest.raises(VlmlabError, match="only 0 of 2 scenes"):
        staging.repeat(lambda rng, number: None, 2, 0)


def test_the_picture_of_an_item_is_the_scenes_own(built):
    one = built["fusion"][0]
    assert (seen(one.scene, 48) == one.scene.render(48).rgb).all()
