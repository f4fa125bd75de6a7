"""The tree that tells failures apart by their controls, and the form of a hunt with its check. Notebook 15."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from vlmlab.benchmarks.statistics import wilson
from vlmlab.checks.base import Verdict, raised
from vlmlab.errors import VlmlabError
from vlmlab.widgets import cases
from vlmlab.widgets.answers import PAIR, readings
from vlmlab.widgets.asking import ask
from vlmlab.widgets.probe_state import TAGS


class Controls(NamedTuple):
    """What one wrong answer is asked about.

    truth, says: the right answer, and the words as a careful reader reads them (None: as nothing). scored: as the
    scorer reads them that called them wrong. blank, text_only: what it says to a grey picture, and to none. twin_truth,
    twin: the right answer and what it says for a twin whose truth is another. seen: whether it sees what the answer
    rests on, asked by itself; None: not asked. others: what would be right of another object. own_frame: what is right
    from the second object's point of view; turned: what it says when that object has turned half around.
    """

    truth: str
    twin_truth: str
    says: str | None
    scored: str | None
    blank: str | None
    text_only: str | None
    twin: str | None
    seen: bool | None = None
    others: tuple[str, ...] = ()
    own_frame: str | None = None
    turned: str | None = None


RIGHT, OPEN = "none", "open"
"""In the place of a tag: nothing is wrong; and no control tells what is."""


def diagnosed(controls: Controls) -> str:
    """The tag of a wrong answer (widgets.probe_state.TAGS), RIGHT or OPEN: the first question of the tree that fits."""
    c = controls
    if c.says == c.truth:
        return "parser" if c.scored != c.truth else RIGHT
    if c.seen is False:
        return "perception"
    if c.says == c.blank == c.text_only == c.twin:
        return "prior"
    if c.says is not None and c.says == c.own_frame and c.turned == c.truth:
        return "reference frame"
    return "binding" if c.says in c.others else OPEN


@dataclass(frozen=True)
class Finding:
    """The form of a hunt.

    question: what was to be found out. seen: what was seen, in words and numbers. model, form: whose answers, in which
    of widgets.asking.FORMS. count, n: how many of how many cases answer the question with yes; level: the share that
    they must exceed, as chance; shown: whether they do beyond doubt. pair: how many of the case and its twin are right,
    one of widgets.answers.PAIR. controls: of the case; tag: what they say; case: its file.
    """

    question: str
    seen: str
    model: str
    form: str
    count: int
    n: int
    level: float
    shown: bool
    pair: str
    controls: Controls
    tag: str
    case: str | Path


def beyond(count: float, n: int, level: float) -> bool:
    """Whether count of n exceeds a share beyond doubt: the lower end of Wilson's 95 % interval lies above it."""
    return wilson(count, n)[0] > level


class _Lacks(Exception):
    """(mistake, hint)."""


def hunt(answer: Any) -> Verdict:
    """Exercise 6, and each hunt: a Finding, or a function that returns one, complete and true to its case file."""
    verdict = _complete(answer)
    print(verdict)
    return verdict


def _complete(answer: Any) -> Verdict:
    found = answer
    if callable(answer):
        try:
            found = answer()
        except Exception as error:  # the student's own
            return Verdict(False, f"hunt {raised(error, answer)}", "exception")
    if found is None or found is ...:
        return Verdict(False, "hunt: nothing here yet; fill in a Finding", "not begun")
    try:
        if not isinstance(found, Finding):
            raise _Lacks("type", f"fill in a Finding, not a {type(found).__name__}")
        _form(found)
        _counts(found)
        _case(found)
    except _Lacks as lack:
        mistake, hint = lack.args
        return Verdict(False, f"hunt: {hint}", mistake)
    low, high = wilson(found.count, found.n)
    told = f"{found.count} of {found.n} ({low:.0%} to {high:.0%}), {'beyond' if found.shown else 'not beyond'}"
    return Verdict(True, f"hunt: {found.question} {told} {found.level:.0%}; tag: {found.tag}")


def _form(found: Finding) -> None:
    """Whether every field is filled, with what belongs there."""
    if empty := [field.name for field in fields(found) if getattr(found, field.name) in (None, ..., "", ())]:
        raise _Lacks("incomplete", f"the form lacks {', '.join(empty)}")
    words = {name: getattr(found, name) for name in ("question", "seen", "model", "form", "tag", "pair")}
    if other := [name for name, value in words.items() if not isinstance(value, str)]:
        raise _Lacks("no text", f"{', '.join(other)} should be text")
    if not found.question.strip().endswith("?"):
        raise _Lacks("no question", "write the question as one, with a question mark: only then it has an answer")
    if not any(map(str.isdigit, found.seen)):
        raise _Lacks("no numbers", "say in `seen` how many; a description without a number cannot be compared")
    if found.tag not in (*TAGS, RIGHT, OPEN):
        raise _Lacks("unknown tag", f"the tag is one of {', '.join((*TAGS, RIGHT, OPEN))}, not {found.tag!r}")
    if found.pair not in PAIR:
        raise _Lacks("unknown verdict", f"the pair's verdict is one of {', '.join(PAIR)}, not {found.pair!r}")


def _counts(found: Finding) -> None:
    """Whether the numbers fit together and support what is said of them."""
    count, n, level = found.count, found.n, found.level
    if type(count) is not int or type(n) is not int or not 0 <= count <= n:
        raise _Lacks("impossible count", f"count and n are whole numbers, and count is at most n; got {count} of {n}")
    if not 0 < level < 1:
        raise _Lacks("impossible level", f"the level is a share between 0 and 1, got {level}")
    low, _ = wilson(count, n)
    if found.shown and not beyond(count, n, level):
        raise _Lacks("not shown", f"{count} of {n} may be as little as {low:.0%}, so {level:.0%} is not excluded yet")
    if not found.shown and beyond(count, n, level):
        raise _Lacks("shown after all", f"{count} of {n} is {low:.0%} at the least, beyond {level:.0%}: it is shown")


def _case(found: Finding) -> None:
    """Whether the controls are those of the saved case, and the tag and the pair's verdict what they say."""
    c = found.controls
    if not isinstance(c, Controls):
        raise _Lacks("controls", f"controls are a Controls, not a {type(c).__name__}")
    if c.truth == c.twin_truth:
        raise _Lacks("no twin", "the twin has the same right answer, so that a constant answer passes; take another")
    try:
        case = cases.read(found.case)
    except VlmlabError as error:
        raise _Lacks("no case", str(error)) from None
    if case.state.control != "none":
        raise _Lacks("under a control", f'save the case under the control "none", not {case.state.control!r}')
    said = case.models[found.model].answer.get(found.form) if found.model in case.models else None
    if said is None:
        raise _Lacks("another model", f"the case has no answer of {found.model} in the form {found.form!r}")
    asked = ask(case.state.scene, case.state.question)
    says = next(each.said for each in readings(asked, said, found.form) if each.scorer == "scenes")
    if (c.truth, c.says) != (case.truth, says):
        raise _Lacks("another case", f"in the case the truth is {case.truth} and it says {says}; the controls differ")
    pair = PAIR[(c.says == c.truth) + (c.twin == c.twin_truth)]
    if found.pair != pair:
        raise _Lacks("pair", f"by the controls the pair's verdict is {pair!r}, not {found.pair!r}")
    if found.tag != diagnosed(c):
        raise _Lacks("tag", f"the controls say {diagnosed(c)!r}, not {found.tag!r}; see the tree")
    kept = () if found.tag in (RIGHT, OPEN) else (found.tag,)
    if case.state.tags != kept:
        raise _Lacks("case tags", f"the case is tagged {list(case.state.tags)}; tag it {list(kept)} and save it again")
