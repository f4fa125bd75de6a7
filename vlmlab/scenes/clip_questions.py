"""Notebook 12. Questions about clips with programs and exact answers, in words and as sentences with the verdict last.

Seven types: what happens (event), which way (direction), what is first (order), why (cause), what the frames after
those that are shown will bring (next), how many (count), and how things are in the last frame (end).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, permutations

import numpy as np

from vlmlab.errors import UnknownName
from vlmlab.scenes.captions import article, listing
from vlmlab.scenes.clip_events import Event
from vlmlab.scenes.clip_programs import CAUSES, COUNTED, COUNTS, DOES, OUTCOMES, PLACES, execute, noun, single_frame
from vlmlab.scenes.clip_stages import HIT
from vlmlab.scenes.clips import Clip
from vlmlab.scenes.kinds import COLOURS
from vlmlab.scenes.programs import FACINGS, Ambiguous, Program, step
from vlmlab.scenes.questions import word

TYPES = ("event", "direction", "order", "cause", "next", "count", "end")
YES_NO = ("yes", "no")
BALL_OUTCOMES = ("it falls", "it moves", "nothing")


@dataclass(frozen=True)
class ClipQuestion:
    """One question about a clip.

    topic refines type. options: the answers to choose among. shown: how many frames, from the first one, it is asked
    about; only type "next" leaves some out. single_frame: whether one of these frames alone gives the answer.
    """

    type: str
    topic: str
    text: str
    answer: str
    sentence: str
    program: Program
    options: tuple[str, ...]
    shown: int
    single_frame: bool


class Balance:
    """Keeps the answers to each kind of question even, in the order in which questions come.

    A question is kept unless its answer is already `slack` ahead of the rarest of its options among the questions kept
    of its type and topic; where options are objects' names, what is even is how often the first one named is right.
    Whoever wants only questions with `single_frame` False leaves the others out first: a fall is often seen in one.
    """

    def __init__(self, slack: int = 2):
        self.slack = slack
        self.kept: dict[tuple[str, str, int], Counter[int]] = {}

    def keep(self, question: ClipQuestion) -> bool:
        """Whether to keep this question; counts it if so."""
        counts = self.kept.setdefault((question.type, question.topic, len(question.options)), Counter())
        place = question.options.index(question.answer)
        if counts[place] >= min(counts[i] for i in range(len(question.options))) + self.slack:
            return False
        counts[place] += 1
        return True


def questions(
    clip: Clip, types: Sequence[str] | None = None, count: int = 8, seed: int | None = None
) -> list[ClipQuestion]:
    """Up to `count` different questions about `clip`, the types in turn; fewer where it has no more.

    Args:
        types: some of TYPES (all when None).
        seed: of the draw (the clip's own seed when None).
    Raises UnknownName for an unknown type.
    """
    for kind in types or ():
        if kind not in TYPES:
            raise UnknownName("clip question type", kind, TYPES)
    rng = np.random.default_rng([14, seed if seed is not None else (clip.seed or 0)])
    makers = {kind: _makers(clip, rng, kind) for kind in types or TYPES}
    wanted = [kind for kind in makers if makers[kind]]
    found: list[ClipQuestion] = []
    turn = int(rng.integers(len(wanted))) if wanted else 0
    while wanted and len(found) < count:
        turn %= len(wanted)
        maker = makers[wanted[turn]].pop()
        try:
            found.append(maker())
            turn += 1
        except Ambiguous:
            pass
        wanted = [kind for kind in wanted if makers[kind]]
    return found


def _makers(clip: Clip, rng: np.random.Generator, kind: str) -> list[Callable[[], ClipQuestion]]:
    """Everything of a type that might be asked, in random order."""
    every = range(len(clip.tracks))
    kinds = [next((s.kind for s in track if s is not None), None) for track in clip.tracks]
    balls = [k for k in every if kinds[k] == "ball"]
    pairs = list(permutations(every, 2))
    looks = sorted({(s.colour, s.kind) for track in clip.tracks for s in track if s is not None})
    moved = {e.object for e in clip.events if e.kind in COUNTED["move"]}
    makers: list[Callable[[], ClipQuestion]] = []
    match kind:
        case "event":
            makers = [partial(_happens, clip, k) for k in every]
            makers += [partial(topic, clip, k) for topic in (_falls, _emerges) for k in balls]
        case "direction":
            makers = [partial(_direction, clip, k) for k in moved]
        case "order":
            makers = [partial(_order, clip, *rng.permutation(pair).tolist()) for pair in combinations(every, 2)]
        case "cause":
            makers = [partial(topic, clip, k) for topic in (_why, _hitter) for k in moved if kinds[k] in HIT]
            makers += [partial(_target, clip, k, rng) for k in balls]
        case "next":
            makers = [partial(_next, clip, rng, topic, k) for topic in ("fall", "emerge") for k in balls]
            makers += [partial(_next, clip, rng, "hit", k, i) for k, i in pairs if k in balls and kinds[i] in HIT]
        case "count":
            makers = [partial(_count, clip, what) for what in COUNTED]
        case "end":
            makers = [partial(_exist, clip, *look) for look in looks]
            makers += [partial(topic, clip, k) for topic in (_colour, _place) for k in every]
            makers += [partial(_side, clip, *pair) for pair in pairs if pair[0] in moved]
    return [makers[i] for i in rng.permutation(len(makers))]


def _about(clip: Clip, *tracks: int) -> tuple[list[str], Program]:
    """Names of objects and the steps that find them, one each."""
    named = [noun(clip, k) for k in tracks]
    return [text for text, _ in named], [step("find", filters) for _, filters in named]


def _ask(
    clip: Clip, type_: str, topic: str, text: str, facts: str | dict[str, str], program: Program,
    options: Sequence[str], shown: int | None = None,
) -> ClipQuestion:  # fmt: skip
    """The question with its executed answer. facts: what is to be seen, with {answer} in it, or one for each answer."""
    frames = clip if shown is None else clip.prefix(shown)
    answer = word(execute(program, frames))
    if answer not in options:
        raise Ambiguous(f"{answer} is none of the answers")
    fact = facts if isinstance(facts, str) else facts[answer] + ", {answer}."
    sentence, alone = fact.format(answer=answer), single_frame(program, frames, answer)
    return ClipQuestion(type_, topic, text, answer, sentence, program, tuple(options), len(frames), alone)


def _yes_no(yes: str, no: str) -> dict[str, str]:
    return {"yes": yes, "no": no}


def _happens(clip: Clip, k: int) -> ClipQuestion:
    (n,), find = _about(clip, k)
    colours = [s.colour for s in clip.tracks[k] if s is not None]
    facts = {
        "it moves": f"The {n} is in another place at the end",
        "it falls": f"The {n} rolls over the edge",
        "it appears": f"The {n} is not there at first",
        "it disappears": f"The {n} is not there at the end",
        "it changes color": f"The {n} is {colours[0]} at first and {colours[-1]} at the end",
        "nothing": f"The {n} stays as it is",
    }
    # only balls fall and little else is staged for them: they are balanced on their own, so that "ball" tells nothing
    ball = find[0]["argument"]["kind"] == "ball"
    options = BALL_OUTCOMES if ball else [o for o in OUTCOMES if o != "it falls"]
    program, topic = [*find, step("happens", None, 0)], "what, a ball" if ball else "what"
    return _ask(clip, "event", topic, f"What happens to the {n}?", facts, program, options)


def _falls(clip: Clip, k: int) -> ClipQuestion:
    (n,), find = _about(clip, k)
    facts = _yes_no(f"The {n} rolls over the edge", f"The {n} stays on the table")
    program = [*find, step("falls", None, 0)]
    return _ask(clip, "event", "fall", f"Does the {n} fall off the table?", facts, program, YES_NO)


def _behind(clip: Clip, k: int) -> str:
    found = [e.other for e in clip.events if e.kind == "hidden" and e.object == k]
    if not found or found[0] is None:
        raise Ambiguous("nothing hides it")
    return noun(clip, found[0])[0]


def _emerges(clip: Clip, k: int) -> ClipQuestion:
    (n,), find = _about(clip, k)
    b = _behind(clip, k)
    facts = _yes_no(f"The {n} is seen again after it was behind the {b}", f"The {n} is behind the {b} at the end")
    text = f"Does the {n} come out from behind the {b}?"
    return _ask(clip, "event", "emerge", text, facts, [*find, step("emerges", None, 0)], YES_NO)


def _direction(clip: Clip, k: int) -> ClipQuestion:
    (n,), find = _about(clip, k)
    program = [*find, step("direction", None, 0)]
    return _ask(
        clip, "direction", "way", f"Which way does the {n} move?", f"The {n} moves {{answer}}.", program, FACINGS
    )


def _one(clip: Clip, k: int) -> Event:
    found = [e for e in clip.events if e.object == k and e.kind in DOES]
    if len(found) != 1:
        raise Ambiguous(f"{len(found)} things happen to it")
    return found[0]


def _order(clip: Clip, i: int, j: int) -> ClipQuestion:
    (a, b), find = _about(clip, i, j)
    (first, one), (second, two) = (a, _one(clip, i)), (b, _one(clip, j))
    verb = "moves" if {one.kind, two.kind} == {"moved"} else "changes"
    if two.begin < one.begin:
        (first, one), (second, two) = (second, two), (first, one)
    program = [*find, step("first", None, 0, 1), step("name", None, 2)]
    fact = f"The {first} {DOES[one.kind]} before the {second} {DOES[two.kind]}, {{answer}}."
    return _ask(clip, "order", verb, f"Which {verb} first, the {a} or the {b}?", fact, program, (a, b))


def _why(clip: Clip, k: int) -> ClipQuestion:
    (n,), find = _about(clip, k)
    hitter = _one(clip, k).other
    facts = {CAUSES[1]: f"Nothing touches the {n}"}
    if hitter is not None:
        facts = {CAUSES[0]: f"The {noun(clip, hitter)[0]} meets the {n}"}
    return _ask(clip, "cause", "why", f"Why does the {n} move?", facts, [*find, step("why", None, 0)], CAUSES)


def _hitter(clip: Clip, k: int) -> ClipQuestion:
    (n,), find = _about(clip, k)
    program = [*find, step("hitter", None, 0), step("query", "kind", 1)]
    fact = f"The {{answer}} {execute(program, clip)} hits the {n}, {{answer}}."
    program = [*program[:-1], step("query", "colour", 1)]
    return _ask(clip, "cause", "color", f"What color is the object that hits the {n}?", fact, program, tuple(COLOURS))


def _target(clip: Clip, k: int, rng: np.random.Generator) -> ClipQuestion:
    (n,), find = _about(clip, k)
    others = [i for i in range(len(clip.tracks)) if i != k and None not in clip.tracks[i]]
    options = [noun(clip, others[i])[0] for i in rng.permutation(len(others))]
    if len(options) < 2:
        raise Ambiguous("there is only one object to hit")
    program = [*find, step("target", None, 0), step("name", None, 1)]
    fact = f"The {n} meets the {{answer}}, {{answer}}."
    return _ask(clip, "cause", "target", f"Which object does the {n} hit?", fact, program, options)


def _next(clip: Clip, rng: np.random.Generator, topic: str, k: int, other: int | None = None) -> ClipQuestion:
    """Asked about the first frames; the forecast from them must be what comes about in the others."""
    (n, *o), find = _about(clip, *((k,) if other is None else (k, other)))
    if topic == "fall":
        truth = execute([*find, step("falls", None, 0)], clip)
        text = f"Will the {n} fall off the table?"
        facts = _yes_no(f"The {n} is too fast to stop on the table", f"The {n} will stop before the edge")
    elif topic == "emerge":
        truth, b = execute([*find, step("emerges", None, 0)], clip), _behind(clip, k)
        text = f"Will the {n} come out from behind the {b}?"
        facts = _yes_no(f"The {n} is fast enough to roll past the {b}", f"The {n} will stop behind the {b}")
    else:
        truth = any(e.object == other and e.other == k for e in clip.events)
        text = f"Will the {n} hit the {o[0]}?"
        facts = _yes_no(f"The {n} rolls straight at the {o[0]}", f"The {n} will not get to the {o[0]}")
    program = [*find, step("forecast", topic, *range(len(find)))]
    begins = min((e.begin for e in clip.events if e.object == other), default=len(clip))
    for shown in 3 + rng.permutation(max(len(clip) - 3, 0))[:12]:
        if shown - 1 > begins:
            continue
        try:
            if execute(program, clip.prefix(int(shown))) == truth:
                return _ask(clip, "next", topic, text, facts, program, YES_NO, int(shown))
        except Ambiguous:
            continue
    raise Ambiguous("no frames before it give a forecast")


def _count(clip: Clip, what: str) -> ClipQuestion:
    program = [step("count", COUNTED[what])]
    members = sorted({e.object for e in clip.events if e.kind in COUNTED[what]})
    names = [f"the {noun(clip, k)[0]}" for k in members]
    verb = what.replace("appear", "appears").replace("change", "changes").replace("move", "moves")
    fact = (
        f"{listing(names)} {what}" if len(names) > 1 else (f"only {names[0]} {verb}" if names else f"no object {verb}")
    )
    text = f"How many objects {what}?"
    return _ask(clip, "count", what, text, fact[0].upper() + fact[1:] + ", {answer}.", program, COUNTS)


def _exist(clip: Clip, colour: str, kind: str) -> ClipQuestion:
    look = article(f"{colour} {kind}")
    facts = _yes_no(f"There is {look} in the last frame", f"There is no {colour} {kind} in the last frame")
    program = [step("exist", {"colour": colour, "kind": kind})]
    return _ask(clip, "end", "exist", f"Is there {look} at the end?", facts, program, YES_NO)


def _colour(clip: Clip, k: int) -> ClipQuestion:
    (n,), find = _about(clip, k)
    if "colour" in find[0]["argument"]:
        raise Ambiguous("its name gives its color away")
    program = [*find, step("end", "colour", 0)]
    fact = f"The {n} is {{answer}} at the end, {{answer}}."
    return _ask(clip, "end", "color", f"What color is the {n} at the end?", fact, program, tuple(COLOURS))


def _place(clip: Clip, k: int) -> ClipQuestion:
    (n,), find = _about(clip, k)
    execute([*find, step("falls", None, 0)], clip)  # only what starts on a table could be in either place
    program = [*find, step("end", "place", 0)]
    return _ask(
        clip, "end", "place", f"Where is the {n} at the end?", f"At the end the {n} is {{answer}}.", program, PLACES
    )


def _side(clip: Clip, i: int, j: int) -> ClipQuestion:
    (a, b), find = _about(clip, i, j)
    program = [*find, step("end", "side", 0, 1)]
    fact = f"The {a} is {{answer}} of the {b} at the end, {{answer}}."
    return _ask(
        clip, "end", "side", f"Is the {a} left or right of the {b} at the end?", fact, program, ("left", "right")
    )
