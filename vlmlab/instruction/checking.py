"""Notebook 03. Each claim of a teacher's reply, checked on the scene graph, and what is kept.

The rule: a pair of question and answer is kept if it keeps LLaVA's rules; its question supposes nothing that is not
there, has an answer where it is understood, and was not asked before; each sentence of its answer is understood, says
something true and nothing false; and the answer is to the question. What cannot be checked is not taught. A record is
kept with the pairs that are left. Not checked is whether a conclusion follows from the facts before it, nor whether an
answer says more than its own nouns do ("the cat is a cat").
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from vlmlab.benchmarks.claim_words import NUMBERS
from vlmlab.benchmarks.claims import Checked, Claim, check, extract
from vlmlab.benchmarks.pairs import share
from vlmlab.instruction.replies import DETAILED, Parsed, broken_rules, parse
from vlmlab.instruction.verdicts import true_answer
from vlmlab.scenes import Scene
from vlmlab.vlm.conversations import DETAIL

FAULTS = (
    "format broken", "mentions captions or boxes", "indefinite", "false existence", "wrong count", "wrong colour",
    "wrong attribute", "wrong relation", "wrong verdict", "undecidable", "unparsable", "beside the question",
    "repeated",
)  # fmt: skip
TYPES = {"count": "wrong count", "relation": "wrong relation", "place": "wrong relation", "answer": "wrong verdict"}


class Fault(NamedTuple):
    """What is wrong, one of FAULTS, and the words in which it stands."""

    kind: str
    text: str


class Judged(NamedTuple):
    """A pair of question and answer, how many of its claims are true, and its faults; it is kept if it has none."""

    question: str
    answer: str
    true: int
    faults: tuple[Fault, ...]

    @property
    def kept(self) -> bool:
        """Whether the pair may be taught."""
        return not self.faults


def review(scene: Scene, reply: str, kind: str, request: str = DETAIL) -> tuple[Parsed, list[Judged]]:
    """Read a reply of one of context.KINDS and judge its pairs; any text can be reviewed.

    request: the question that a detailed description answers.
    """
    parsed = parse(reply, kind, request)
    judged: list[Judged] = []
    for question, answer in parsed.pairs:
        again = any(question == each.question for each in judged)
        found = judge(scene, question, answer)
        judged.append(found._replace(faults=(*found.faults, Fault("repeated", question))) if again else found)
    return parsed, judged


def judge(scene: Scene, question: str, answer: str) -> Judged:
    """Check a pair of question and answer on a scene; any texts can be judged."""
    written = answer if question in DETAILED else f"{question}\n{answer}"  # those requests are not the teacher's
    faults = [Fault(*each) for each in broken_rules(written)]
    if faults:  # what is said of boxes, or said with doubt, is no claim about the picture
        return Judged(question, answer, 0, tuple(faults))
    supposed = extract(question.rstrip(" ?") + ".").claims
    if any(each.mood == "presupposed" and check(each, scene).truth is False for each in supposed):
        faults.append(Fault("false existence", question))
    expected = true_answer(question, scene)
    if expected == "":
        faults.append(Fault("undecidable", question))
    sentences = list(_sentences(scene, answer, expected or ""))
    for sentence, checked in sentences:
        wrong = dict.fromkeys(named(each, scene) for each in checked if each.truth is False)
        faults += [Fault(kind, sentence) for kind in wrong]
        if not wrong and not any(each.truth for each in checked):
            said = any(each.claim.mood != "presupposed" for each in checked)
            faults.append(Fault("undecidable" if said else "unparsable", sentence))
    claims = [each for _, checked in sentences for each in checked]
    if not sentences:
        faults.append(Fault("unparsable", answer))
    elif expected and not faults and not _answers(expected, answer, claims, supposed):
        faults.append(Fault("beside the question", answer))
    return Judged(question, answer, sum(each.truth is True for each in claims), tuple(faults))


def _answers(expected: str, answer: str, claims: Sequence[Checked], asked: Sequence[Claim]) -> bool:
    """Whether an answer is to the question: it gives the word that is asked for, or speaks of what is asked about."""
    if any(each.claim.type == "answer" for each in claims):
        return True
    if expected in ("yes", "no"):
        return bool({each.claim.subject.kind for each in claims} & {claim.subject.kind for claim in asked})
    number = NUMBERS[int(expected)] if expected.isdigit() else expected
    return bool(re.search(rf"\b(?:{expected}|{number})\b", answer.lower()))


def _sentences(scene: Scene, text: str, expected: str) -> Iterable[tuple[str, list[Checked]]]:
    """Each sentence and its claims, checked. A sentence is read after those before it, to which "it" may refer."""
    before, read = "", 0
    for sentence in re.findall(r"[^.!?;]*\w[^.!?;]*[.!?;]*", text):
        before += sentence
        claims = extract(before).claims
        yield sentence.strip(), [check(claim, scene, expected) for claim in claims[read:]]
        read = len(claims)


def named(checked: Checked, scene: Scene) -> str:
    """Which of FAULTS a false claim is."""
    claim = checked.claim
    if claim.type in TYPES:
        return TYPES[claim.type]
    if claim.type == "attribute":
        return "wrong colour" if claim.value[0] == "colour" else "wrong attribute"
    noun = claim.value if claim.type == "is" else claim.subject
    alike = [item for item in scene.objects if item.kind == noun.kind]
    if not alike or claim.negated:
        return "false existence"
    return "wrong attribute" if not noun.colour or any(o.colour == noun.colour for o in alike) else "wrong colour"


def summarise(replies: Sequence[tuple[Parsed, Sequence[Judged]]]) -> dict[str, Any]:
    """Acceptance of replies and of pairs as fractions, and how many pairs (replies, if broken) have each fault.

    Returns {"replies", "replies_kept", "acceptance", "pairs", "pairs_kept", "pair_acceptance", "true_claims",
    "faults"}.
    """
    judged = [each for _, pairs in replies for each in pairs]
    faults = Counter({"format broken": sum(bool(parsed.broken) for parsed, _ in replies)})
    for each in judged:
        faults.update({fault.kind for fault in each.faults})
    kept, pairs_kept = sum(any(p.kept for p in pairs) for _, pairs in replies), sum(each.kept for each in judged)
    return {
        "replies": len(replies),
        "replies_kept": kept,
        "acceptance": share(kept, len(replies)),
        "pairs": len(judged),
        "pairs_kept": pairs_kept,
        "pair_acceptance": share(pairs_kept, len(judged)),
        "true_claims": sum(each.true for each in judged),
        "faults": {kind: faults[kind] for kind in FAULTS if faults[kind]},
    }
