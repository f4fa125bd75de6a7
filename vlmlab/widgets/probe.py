"""The spatial probe without a browser: edit a scene, ask models, and see what changed. Notebook 15.

    probe = Probe(["llava-tiny", "cobra-tiny"], sample(3))
    probe.edit("move", 0, x=0.5, y=0.2)        # Refused, with the reason, where the scene has no room
    probe.answering().run().result             # {model: Answer}; probe.asked.truth is what is true
    probe.sweeping(0).run().result.fits        # psychometric curves

What takes long comes as a Job: run it, step by step or in a thread, or cancel it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmlab import runtime
from vlmlab.errors import BadInput, UnknownName
from vlmlab.scenes import Scene, sample
from vlmlab.widgets import cases, psychometric
from vlmlab.widgets.answers import CONTROLS, Answer, Looked, Reading, pair_verdicts, readings, shown, steps
from vlmlab.widgets.asking import FORMS, ORDERS, Asked, Question, ask
from vlmlab.widgets.edits import EDITS
from vlmlab.widgets.jobs import Job, Steps
from vlmlab.widgets.models import loaded
from vlmlab.widgets.probe_state import State

if TYPE_CHECKING:
    from vlmlab.vlm.model import VLM

REACH = 1.5  # scene units to each side of the floor's middle that a sweep covers
PLACES = 21


@dataclass(frozen=True)
class Pair:
    """A scene's twin under the same question.

    flips: whether the twin's truth is another; where it is not, a constant answer may be right twice. verdicts: model
    -> form -> scorer -> how many of the two are right, None where one has no truth.
    """

    kind: str
    scene: Scene
    asked: Asked
    answers: dict[str, Answer]
    flips: bool
    verdicts: dict[str, dict[str, dict[str, str | None]]]


class Probe:
    """A scene, a question and models that answer it. `state` is replaced at each change; answers belong to one state.

    models: names that `vlmlab.load` takes, each loaded once, or name -> VLM. scene: by default that of seed 0.
    Raises BadInput without models, UnknownName for a model that is not there.
    """

    def __init__(
        self,
        models: "Sequence[str] | Mapping[str, VLM]" = ("llava-tiny", "cobra-tiny"),
        scene: Scene | None = None,
        question: Question | None = None,
        device: str = "auto",
    ):
        self.models: dict[str, VLM] = loaded(models, device)
        self.state = State(sample(0) if scene is None else scene, question or Question())
        self.answers: dict[str, Answer] = {}
        self.pair: Pair | None = None
        self.sweep: psychometric.Sweep | None = None
        self.controls: dict[str, dict[str, Answer]] = {}
        self.maps: dict[str, np.ndarray] = {}
        self._looked: dict[tuple[str, str], Looked] = {}

    # ------------------------------------------------------------------ what there is
    @property
    def scene(self) -> Scene:
        """The scene as it stands."""
        return self.state.scene

    @property
    def asked(self) -> Asked:
        """The question to the scene, with its truth."""
        return ask(self.state.scene, self.state.question)

    def picture(self, size: int = 96) -> np.ndarray:
        """The scene as a picture uint8 (size, size, 3), rendered once."""
        return _picture(self.scene, size)

    def readings(self, name: str, form: str = "word") -> list[Reading]:
        """How each scorer reads what a model said; none before it was asked."""
        said = self.answers.get(name, {}).get(form)
        return [] if said is None else readings(self.asked, said, form)

    # ------------------------------------------------------------------ changes
    def edit(self, kind: str, /, *objects: int, **details: Any) -> None:
        """Change the scene by one of edits.EDITS, the objects by number, all else by name.

        Raises Refused, with the reason, and BadInput for an object that is not there; then nothing changes.
        """
        if kind not in EDITS:
            raise UnknownName("edit", kind, EDITS)
        for index in objects:
            self._there(index)
        scene, question = EDITS[kind](self.scene, *objects, **details), self.state.question
        if kind == "remove":
            question = question.without(objects[0])
        self._change(replace(self.state, scene=scene, question=question))

    def show(self, scene: Scene, question: Question | None = None) -> None:
        """Take another scene, as a twin or the one of another seed, and perhaps another question."""
        self._change(replace(self.state, scene=scene, question=question or self.state.question))

    def question(self, **slots: Any) -> None:
        """Change slots of the question, see `asking.Question`. Raises BadInput, and then nothing changes."""
        try:
            question = replace(self.state.question, **slots)
        except TypeError as error:
            raise BadInput(f"a question has no such slot ({error})") from None
        self._change(replace(self.state, question=question))

    def control(self, name: str) -> None:
        """Ask under one of answers.CONTROLS. Raises UnknownName."""
        self._change(replace(self.state, control=name))

    def tag(self, *tags: str, note: str = "") -> None:
        """Note what went wrong: some of probe_state.TAGS, and words. Raises UnknownName."""
        self.state = replace(self.state, tags=tuple(tags), note=note)

    def _change(self, state: State) -> None:
        """Take a new state; what was answered, tagged and noted belongs to the old one."""
        ask(state.scene, state.question)
        self.state = replace(state, tags=(), note="")
        self._looked = {}  # a new one: a thread may still fill the old one
        self.answers, self.pair, self.sweep, self.controls, self.maps = {}, None, None, {}, {}

    def _there(self, index: int) -> None:
        if index not in range(len(self.scene.objects)):
            raise BadInput(f"object {index!r} is not there; the scene has {len(self.scene.objects)}, from 0")

    def _current(self, state: State) -> bool:
        """Whether answers to a state are still wanted: another thread may have changed the scene meanwhile."""
        return (state.scene, state.question, state.control) == (self.scene, self.state.question, self.state.control)

    # ------------------------------------------------------------------ work
    def answering(self, forms: Sequence[str] = FORMS) -> Job[dict[str, Answer]]:
        """Ask all models in these forms, the short one first; `answers` holds what has come so far."""
        return Job(self._answering(self.state, forms))

    def _answering(self, state: State, forms: Sequence[str]) -> Steps[dict[str, Answer]]:
        found: dict[str, Answer] = {}
        for share in self._fill(found, state.scene, state, state.control, forms):
            if self._current(state):
                self.answers = found
            yield share
        return found

    def controlling(self, form: str = "word") -> Job[dict[str, dict[str, Answer]]]:
        """What all models say in one form under every control: control -> model -> Answer."""
        return Job(self._controlling(self.state, form))

    def _controlling(self, state: State, form: str) -> Steps[dict[str, dict[str, Answer]]]:
        orders = bool(ask(state.scene, state.question).options)
        controls = [name for name in CONTROLS if orders or name not in ORDERS]
        found: dict[str, dict[str, Answer]] = {}
        for number, control in enumerate(controls):
            found[control] = {}
            for share in self._fill(found[control], state.scene, state, control, (form,)):
                yield (number + share) / len(controls)
        if self._current(state):
            self.controls = found
        return found

    def twinning(self, kind: str) -> Job[Pair]:
        """The same question to a twin of the scene ("mirror", "swap" or "relation"), and the pair's verdicts.

        Raises UnknownName for another kind, VlmlabError for a scene that has no such twin.
        """
        return Job(self._twinning(self.state, self.scene.twin(kind), kind))

    def _twinning(self, state: State, twin: Scene, kind: str) -> Steps[Pair]:
        ours: dict[str, Answer] = {}
        theirs: dict[str, Answer] = {}
        for number, (found, scene) in enumerate(((ours, state.scene), (theirs, twin))):
            for share in self._fill(found, scene, state, state.control, FORMS):
                yield (number + share) / 2
        first, second = (ask(scene, state.question) for scene in (state.scene, twin))
        verdicts = {
            name: {
                form: pair_verdicts(readings(first, ours[name][form], form), readings(second, theirs[name][form], form))
                for form in FORMS
            }
            for name in self.models
        }
        flips = None not in (first.truth, second.truth) and first.truth != second.truth
        pair = Pair(kind, twin, second, theirs, flips, verdicts)
        if self._current(state):
            self.pair = pair
        return pair

    def sweeping(
        self, index: int, places: int = PLACES, low: float = -REACH, high: float = REACH, form: str | None = None
    ) -> Job[psychometric.Sweep]:
        """Move an object sideways over `places` places and follow P(first option) of each model, see psychometric.

        form: of the answers; by default the sentence, where the question has statements.
        """
        self._there(index)
        form = form or ("sentence" if self.asked.statements else "word")
        return Job(self._sweeping(self.state, index, np.linspace(low, high, places).tolist(), form))

    def _sweeping(self, state: State, index: int, places: Sequence[float], form: str) -> Steps[psychometric.Sweep]:
        def probabilities(scene: Scene, asked: Asked) -> dict[str, float]:
            look = self._looker(scene, state.control)
            said = steps(look, tuple(self.models), asked, state.control, (form,))
            return {name: each.probabilities[asked.options[0]] for name, _, each in said}

        sweep = yield from psychometric.steps(state.scene, state.question, index, places, probabilities)
        if self._current(state):
            self.sweep = sweep
        return sweep

    def _fill(
        self, found: dict[str, Answer], scene: Scene, state: State, control: str, forms: Sequence[str]
    ) -> Iterator[float]:
        """Put the models' answers to a scene into `found`, and give the share that is done after each one."""
        asked, look = ask(scene, state.question), self._looker(scene, control)
        for number, (name, form, said) in enumerate(steps(look, tuple(self.models), asked, control, forms), 1):
            found.setdefault(name, {})[form] = said
            yield number / (len(self.models) * len(forms))

    def map_names(self) -> list[str]:
        """Maps that some of the models have, those of all models first; see explain.methods."""
        from vlmlab.explain.methods import methods_for

        found = Counter(name for vlm in self.models.values() for name in methods_for(vlm))
        return [name for name, _ in found.most_common()]

    def map(self, name: str, method: str, form: str = "word") -> np.ndarray:
        """A map of what each image token has to do with a model's answer, (rows, columns).

        Raises UnknownName for a method that this model has not, BadInput under the control "text only".
        """
        from vlmlab.explain import Inside
        from vlmlab.explain.methods import METHODS, methods_for

        vlm, control = self.models[name], self.state.control
        if method not in methods_for(vlm):
            raise UnknownName(f"map of {name}", method, methods_for(vlm))
        picture = shown(self.picture(vlm.config.image_size), control)
        if picture is None:
            raise BadInput("a question without a picture has no map; choose another control")
        said = self.answers.get(name, {}).get(form)
        inside = Inside.ask(vlm, picture, self.asked.prompt(form, control), said.text or None if said else None)
        return METHODS[method](inside).detach().float().cpu().numpy()

    def mapping(self, method: str, form: str = "word") -> Job[dict[str, np.ndarray]]:
        """The maps of all models that have this method: "model, method" -> (rows, columns). Raises UnknownName."""
        if method not in self.map_names():
            raise UnknownName("map", method, self.map_names())
        return Job(self._mapping(self.state, method, form))

    def _mapping(self, state: State, method: str, form: str) -> Steps[dict[str, np.ndarray]]:
        from vlmlab.explain.methods import methods_for

        names = [name for name, vlm in self.models.items() if method in methods_for(vlm)]
        found = {}
        for number, name in enumerate(names, 1):
            found[f"{name}, {method}"] = self.map(name, method, form)
            yield number / len(names)
        if self._current(state):
            self.maps = found
        return found

    # ------------------------------------------------------------------ case files
    def case(self) -> cases.Case:
        """What was asked and answered, to be saved. Raises BadInput before any answer."""
        return cases.make(self.state, self.answers, self.models)

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write a case file; a name without a folder lies in work_dir()/cases. Raises BadInput for a file that is there
        and may not be overwritten."""
        path = Path(path)
        if not str(path).strip() or path.name in ("", ".", ".."):
            raise BadInput("the case file needs a name, for instance cat-left-of-sofa.json")
        if path.parent == Path():
            path = runtime.work_dir() / "cases" / path
        return cases.save(self.case(), path, overwrite)

    def open(self, path: str | Path) -> None:
        """Take the scene, question, control, tags and note of a case file; the models stay. Raises BadInput."""
        state = cases.read(path).state
        self._change(state)
        self.state = state

    def _looker(self, scene: Scene, control: str) -> Callable[[str], Looked]:
        """A function from a model's name to the model that has looked at a scene; the probe's own is remembered."""
        known = self._looked  # taken before the scene is compared, see _change
        if scene is not self.scene:
            known = {}

        def look(name: str) -> Looked:
            if (name, control) not in known:
                vlm = self.models[name]
                known[name, control] = Looked(vlm, shown(_picture(scene, vlm.config.image_size), control))
            return known[name, control]

        return look


@lru_cache(maxsize=16)
def _picture(scene: Scene, size: int) -> np.ndarray:
    return scene.render(size).rgb
