"""Notebook 05. GQA: questions with their programs over real pictures. Hudson & Manning 2019, arXiv 1902.09506.

Accuracy is not all that is scored: an answer may be wrong and yet valid (a colour to a question for a colour) or
plausible, a model's answers may contradict one another, be distributed unlike the true ones, or come from elsewhere
than where it looked. Questions files reach gigabytes; they are streamed.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vlmlab.benchmarks.gqa_asking import FORM, asks, chance, constants, results  # noqa: F401 (the runner's)
from vlmlab.benchmarks.pairs import breakdown, share
from vlmlab.benchmarks.records import Examples, File, Record, alone, answers, mapping, profile_of
from vlmlab.errors import BadInput

PROFILES = ("official", "llava")
COMMON = ("color", "material", "shape")  # the valid answers to what two objects have in common
NO_STEP = ("exist", "query: name", "choose name")  # operations that the official program does not count as steps
BREAKDOWNS = {"structural": "accuracyPerStructuralType", "semantic": "accuracyPerSemanticType",
              "steps": "accuracyPerSteps", "words": "accuracyPerLength", "detailed": ""}  # fmt: skip
"""What of a question accuracy is broken down by -> the official program's name, "" where it has none."""

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in fractions of the picture's width and height
Cell = tuple[float, float, float, float, float]  # a box and the attention mass in it


class Step(NamedTuple):
    """One operation of a question's program; `dependencies` are the steps whose results it uses."""

    operation: str
    argument: str
    dependencies: tuple[int, ...]


class Example(NamedTuple):
    """A question. `objects` are the ids in the scene graph that question and full answer point at.

    valid, plausible: the answers of the file of choices; None where it was not given.
    """

    id: str
    question: str
    image: str
    answer: str
    structural: str
    semantic: str
    detailed: str
    global_group: str | None
    local_group: str | None
    entailed: tuple[str, ...]
    equivalent: tuple[str, ...]
    balanced: bool
    program: tuple[Step, ...]
    objects: tuple[str, ...]
    valid: tuple[str, ...] | None = None
    plausible: tuple[str, ...] | None = None

    @property
    def form(self) -> str:
        """ "open" for a question of the structural type query, else "binary"."""
        return "open" if self.structural == "query" else "binary"

    @property
    def words(self) -> int:
        """The question's length."""
        return len(self.question.split())

    @property
    def steps(self) -> int:
        """The program's length as the official program counts it."""
        said = [f"{step.operation}: {step.argument}" for step in self.program]
        return sum(not any(part in each for part in NO_STEP) for each in said)


def read(annotations: File, questions: File | None = None, choices: File | None = None) -> Sequence[Example]:
    """The questions of a file of GQA, read again at each iteration.

    Args:
        annotations: as val_balanced_questions.json or testdev_all_questions.json: an object id -> question.
        choices: as val_choices.json, id -> {"valid", "plausible"}; for validity and plausibility. It lies in memory.
    Raises BadInput, also for a question without choices where these are given, and a separate file of questions.
    """
    alone(questions, "GQA's questions stand with their answers in the annotations")
    allowed = None if choices is None else _choices(choices)
    return Examples(lambda: _examples(annotations, allowed))


def _choices(file: File) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    same: dict[tuple[str, ...], tuple[str, ...]] = {}  # many questions have the same list

    def once(record: Record, field: str) -> tuple[str, ...]:
        record.need(field, list)
        found = _strings(record, field)
        return same.setdefault(found, found)

    return {name: (once(record, "valid"), once(record, "plausible")) for name, record in mapping(file)}


def _examples(file: File, allowed: Mapping[str, Any] | None) -> Iterator[Example]:
    for name, record in mapping(file):
        if allowed is not None and name not in allowed:
            raise BadInput(f"{record.file}, {record.place} is not in the file of choices; give the one of its split")
        types, groups, pointers = (_inside(record, field) for field in ("types", "groups", "annotations"))
        pointed = [pointers.maybe(field, dict, default={}) for field in ("question", "fullAnswer")]
        valid, plausible = (None, None) if allowed is None else allowed[name]
        yield Example(
            id=name,
            question=record.need("question", str),
            image=record.need("imageId", str),
            answer=record.need("answer", str),
            structural=types.need("structural", str),
            semantic=types.need("semantic", str),
            detailed=types.need("detailed", str),
            global_group=groups.maybe("global", str),
            local_group=groups.maybe("local", str),
            entailed=_strings(record, "entailed"),
            equivalent=_strings(record, "equivalent"),
            balanced=record.need("isBalanced", bool),
            program=tuple(_step(record, step) for step in record.maybe("semantic", list, default=[])),
            objects=tuple(str(item) for places in pointed for item in places.values()),
            valid=valid,
            plausible=plausible,
        )


def _strings(record: Record, field: str) -> tuple[str, ...]:
    found = record.maybe(field, list, default=[])
    if not all(isinstance(each, str) for each in found):
        raise record.fail(field, "must be a list of strings")
    return tuple(found)


def _inside(record: Record, field: str) -> Record:
    return Record(record.file, f"{record.place}, {field}", record.maybe(field, dict, default={}))


def _step(record: Record, value: Any) -> Step:
    if not isinstance(value, dict):
        raise record.fail("semantic", f"must be a list of objects, not {value!r}")
    step = Record(record.file, f"{record.place}, semantic", value)
    used = step.maybe("dependencies", list, default=[])
    return Step(step.need("operation", str), step.need("argument", str), tuple(used))


def score(
    examples: Iterable[Example],
    predictions: Any,
    profile: str = "official",
    attention: Mapping[str, Iterable[Cell]] | None = None,
    scene_graphs: File | Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Everything that GQA's program scores, over the balanced questions.

    Args:
        predictions: [{"questionId", "prediction"}] as a file or a list, or a dict id -> text. Answers to other
            questions are passed over, as in the official program.
        profile: "official" compares texts as they are; "llava" first lower-cases the prediction and strips final
            periods, as LLaVA's evaluation does before it calls the official program.
        attention: question id -> cells with the attention mass in them (`cells` makes them of a map), and
        scene_graphs: GQA's file of scene graphs, or its content; both together give grounding.
    Returns:
        {"n", "accuracy", "binary", "open", "distribution", "by_structural", "by_semantic", "by_detailed", "by_steps",
        "by_words", "consistency_missing", "official"}, and where they can be had "consistency", "validity",
        "plausibility" and "grounding". `official`: the official program's names, per cent (distribution as it is),
        two decimals.

        consistency: for each correct question with entailed ones, the share of these (itself left out) that is correct
        too; the mean. It needs a prediction for every entailed question, balanced or not; consistency_missing says how
        many have none (those that the file lacks included), and if there are any, consistency is left out.
        distribution: `chi_square` of predicted against true answers in the questions' global groups, over 100.
        grounding: the mean of `grounding`; above 1 where boxes overlap.
    Raises UnknownName for another profile, BadInput for a balanced question without prediction, attention or scene.
    """
    profile_of(profile, PROFILES)
    if (attention is None) != (scene_graphs is None):
        raise BadInput("grounding needs both, attention and scene_graphs; give the other one too, or neither")
    given = answers(predictions, "questionId", "prediction", (str,))
    boxes = {} if scene_graphs is None else _boxes(scene_graphs)
    right: dict[str, bool] = {}  # of all questions, balanced or not
    entailed: list[tuple[bool, list[str]]] = []
    marks: Counter[tuple[str, Any, bool]] = Counter()  # (breakdown, its row, whether right)
    rates: dict[str, list[float]] = {}
    gold: dict[str, Counter[str]] = {}
    predicted: dict[str, Counter[str]] = {}
    missing: list[str] = []
    for example in examples:
        if example.id not in given:
            missing += [example.id] * example.balanced
            continue
        said = given[example.id].rstrip(".").lower() if profile == "llava" else given[example.id]
        correct = right[example.id] = said == example.answer
        if not example.balanced:
            continue
        marks.update((name, getattr(example, name), correct) for name in ("form", *BREAKDOWNS))
        entailed.append((correct, [other for other in example.entailed if other != example.id]))
        for name, allowed in (("validity", example.valid), ("plausibility", example.plausible)):
            if allowed is not None:
                rates.setdefault(name, []).append(said in (COMMON if "Common" in example.detailed else allowed))
        if attention is not None:
            rates.setdefault("grounding", []).append(_grounded(example, attention, boxes))
        if example.global_group is not None:
            gold.setdefault(example.global_group, Counter())[example.answer] += 1
            predicted.setdefault(example.global_group, Counter())[said] += 1
    if missing:
        raise BadInput(f"{given.file}: {len(missing)} balanced questions without a prediction (first: {missing[0]!r})")
    unanswered = {other for _, others in entailed for other in others if other not in right}
    if not unanswered and any(others for _, others in entailed):
        rates["consistency"] = [
            share(sum(right[one] for one in others), len(others)) for correct, others in entailed if correct and others
        ]
    n = sum(count for (table, _, _), count in marks.items() if table == "form")
    tables = {
        name: breakdown((row, mark) for table, row, mark in marks.elements() if table == name)
        for name in ("form", *BREAKDOWNS)
    }
    forms = tables.pop("form")
    figures = {form: forms[form]["accuracy"] if form in forms else 0.0 for form in ("binary", "open")}
    figures["accuracy"] = share(sum(count for (table, _, mark), count in marks.items() if table == "form" and mark), n)
    figures |= {name: share(sum(values), len(values)) for name, values in rates.items()}
    figures["distribution"] = chi_square(gold, predicted) / 100
    return {
        "n": n,
        **figures,
        "consistency_missing": len(unanswered),
        **{f"by_{name}": table for name, table in tables.items()},
        "official": {
            **{name: round(value if name == "distribution" else 100 * value, 2) for name, value in figures.items()},
            **{
                official: {row: round(100 * values["accuracy"], 2) for row, values in tables[name].items()}
                for name, official in BREAKDOWNS.items()
                if official
            },
        },
    }


def chi_square(gold: Mapping[str, Mapping[str, int]], predicted: Mapping[str, Mapping[str, int]]) -> float:
    """How far predicted answers are distributed from true ones: 0 is alike.

    In each group, the sum over its true answers of (predicted - true)^2 / true, counts both; then the mean over the
    groups, weighted by their numbers of questions. Predicted answers that are nobody's true answer count nowhere.
    """
    total = weighted = 0.0
    for group, counts in gold.items():
        size = sum(counts.values())
        weighted += size * sum((predicted.get(group, {}).get(answer, 0) - n) ** 2 / n for answer, n in counts.items())
        total += size
    return share(weighted, total)


def cells(attention: Sequence[Sequence[float]]) -> list[Cell]:
    """The cells of an attention map of H rows (from the top) and W columns (from the left), with the mass in each."""
    H = len(attention)
    return [
        (column / len(row), line / H, (column + 1) / len(row), (line + 1) / H, float(mass))
        for line, row in enumerate(attention)
        for column, mass in enumerate(row)
    ]


def grounding(attention: Iterable[Cell], boxes: Iterable[Box]) -> float:
    """The attention mass inside the boxes, a cell's mass spread evenly over it; 0 without boxes.

    Mass inside several boxes counts several times, as in the official program.
    """
    boxes = list(boxes)
    return sum((mass * _share_inside(cell, box) for *cell, mass in attention for box in boxes), 0.0)


def _share_inside(cell: Sequence[float], box: Box) -> float:
    """The share of a cell's area that lies inside a box."""
    width = min(cell[2], box[2]) - max(cell[0], box[0])
    height = min(cell[3], box[3]) - max(cell[1], box[1])
    return share(max(0.0, width) * max(0.0, height), (cell[2] - cell[0]) * (cell[3] - cell[1]))


def _grounded(
    example: Example, attention: Mapping[str, Iterable[Cell]], boxes: Mapping[str, Mapping[str, Box]]
) -> float:
    if example.id not in attention:
        raise BadInput(f"no attention for the balanced question {example.id!r}; give one for each")
    known = boxes.get(example.image, {})
    if unknown := [item for item in example.objects if item not in known]:
        raise BadInput(f"the scene graph of picture {example.image!r} has no object {unknown[0]!r}, which the question "
                       f"{example.id!r} points at; give the scene graphs of its split")  # fmt: skip
    return grounding(attention[example.id], [known[item] for item in example.objects])


def _boxes(scene_graphs: File | Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Box]]:
    """Image id -> object id -> box, of scene graphs {"width", "height", "objects": {id: {"x", "y", "w", "h"}}}."""
    if isinstance(scene_graphs, Mapping):
        graphs: Iterable[tuple[str, Record]] = (
            (name, Record("scene graphs", f"id {name!r}", dict(graph))) for name, graph in scene_graphs.items()
        )
    else:
        graphs = mapping(scene_graphs)
    found: dict[str, dict[str, Box]] = {}
    for image, graph in graphs:
        width, height = (graph.need(field, int) for field in ("width", "height"))
        boxes = found[image] = {}
        for item, value in graph.need("objects", dict).items():
            x, y, w, h = (
                Record(graph.file, f"{graph.place}, object {item!r}", value).need(side, int) for side in "xywh"
            )
            boxes[item] = (share(x, width), share(y, height), share(x + w, width), share(y + h, height))
    return found
