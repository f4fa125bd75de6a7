"""The controls of the spatial probe's view, each with a label and a class `probe-NAME` by which tests find it."""

from collections.abc import Sequence
from typing import Any

import ipywidgets

from vlmlab.scenes import COLOURS, KINDS, MATERIALS, SIZES, Scene
from vlmlab.scenes.captions import name
from vlmlab.scenes.programs import SIDES
from vlmlab.scenes.relations import SPECS
from vlmlab.scenes.twins import KINDS_OF_TWIN
from vlmlab.widgets.answers import CONTROLS
from vlmlab.widgets.asking import FORMS, TEMPLATES
from vlmlab.widgets.probe_state import TAGS

SLOTS = {
    "relation": ("subject", "relation", "other"),
    "further": ("side", "subject", "other"),
    "existence": ("colour", "kind"),
    "count": ("kind",),
    "colour": ("subject",),
    "facing": ("subject",),
    "free": ("text", "options", "answer"),
}
"""Template -> the slots of the question that it reads."""


def named(widget: Any, key: str) -> Any:
    """The widget with its class, and room for its label."""
    widget.add_class(f"probe-{key}")
    if hasattr(widget.style, "description_width"):
        widget.style.description_width = "initial"
    return widget


def choice(label: str, options: Sequence[Any], key: str) -> Any:
    """A list to choose from."""
    return named(ipywidgets.Dropdown(description=label, options=options, layout={"width": "max-content"}), key)


def button(label: str, key: str, tip: str = "") -> Any:
    """A button."""
    return named(ipywidgets.Button(description=label, tooltip=tip or label, layout={"width": "max-content"}), key)


def number(label: str, low: float, high: float, step: float, key: str) -> Any:
    """A field for a number."""
    layout = {"width": "9em"}
    return named(ipywidgets.BoundedFloatText(description=label, min=low, max=high, step=step, layout=layout), key)


def line(label: str, key: str, hint: str = "") -> Any:
    """A field for a text that counts when it is finished."""
    text = ipywidgets.Text(description=label, placeholder=hint, continuous_update=False, layout={"width": "30em"})
    return named(text, key)


def objects(scene: Scene) -> list[tuple[str, int]]:
    """The objects to choose from."""
    return [(name(scene, index), index) for index in range(len(scene.objects))]


class Parts:
    """Every control, by name."""

    def __init__(self) -> None:
        self.template = choice("Question", TEMPLATES, "template")
        self.slots = {
            "subject": choice("about", (), "subject"),
            "relation": choice("is", tuple(SPECS), "relation"),
            "other": choice("and", (), "other"),
            "side": choice("which is further to the", tuple(SIDES), "side"),
            "colour": choice("colour", [("any", ""), *((each, each) for each in COLOURS)], "colour"),
            "kind": choice("kind", tuple(KINDS), "kind"),
            "text": line("ask", "text"),
            "options": line("options", "options", "yes, no"),
            "answer": line("true is", "answer", "if you know"),
        }
        self.control = choice("Ask under the control", CONTROLS, "control")
        self.compare = button("Compare all controls", "compare")
        self.selected = choice("Object", (), "selected")
        self.x = number("x", -3, 3, 0.1, "x")
        self.y = number("y", -3, 3, 0.1, "y")
        self.yaw = number("turned", 0, 359, 15, "yaw")
        self.remove = button("Remove it", "remove")
        self.occlude = button("Hide most of it", "occlude", "Put a large object in front of it")
        self.distractor = button("Add a distractor", "distractor", "Add its like in another colour")
        self.partner = choice("swap it with", (), "partner")
        self.swap = button("Swap", "swap")
        self.look = {
            "kind": choice("kind", tuple(KINDS), "new-kind"),
            "colour": choice("colour", tuple(COLOURS), "new-colour"),
            "size": choice("size", tuple(SIZES), "new-size"),
            "material": choice("material", MATERIALS, "new-material"),
        }
        self.recolour = button("Give it this colour", "recolour")
        self.add = button("Add such an object", "add")
        self.seed = named(
            ipywidgets.BoundedIntText(description="Seed", min=0, max=10**9, layout={"width": "10em"}), "seed"
        )
        self.fresh = button("New scene", "fresh")
        self.twin = choice("Twin", KINDS_OF_TWIN, "twin")
        self.make_twin = button("Make the twin", "make-twin")
        self.places = named(ipywidgets.IntSlider(21, min=5, max=41, step=2, description="Places"), "places")
        self.sweep = button("Sweep the object sideways", "sweep", "Move the chosen object and follow the first answer")
        self.method = choice("Map", (), "method")
        self.form = choice("of the", FORMS, "form")
        self.draw = button("Draw the maps", "draw")
        self.progress = named(ipywidgets.FloatProgress(min=0.0, max=1.0, description="Work"), "progress")
        self.cancel = button("Cancel", "cancel")
        self.tags = {
            tag: named(
                ipywidgets.Checkbox(False, description=f"{tag}: {why}", indent=False, layout={"width": "auto"}), key
            )
            for tag, why in TAGS.items()
            for key in [f"tag-{tag.replace(' ', '-')}"]
        }
        note = ipywidgets.Textarea(description="Note", layout={"width": "40em"})
        self.note = named(note, "note")
        self.file = line("Case file", "file", "cat-left-of-sofa.json")
        self.replace = named(
            ipywidgets.Checkbox(False, description="replace a file that is there", indent=False), "replace"
        )
        self.save = button("Save the case", "save")
        self.truth, self.picture, self.answers, self.more, self.curves, self.maps = (
            named(ipywidgets.HTML(), key) for key in ("truth", "picture", "answers", "more", "curves", "maps")
        )
