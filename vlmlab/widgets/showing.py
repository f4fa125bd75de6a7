"""The spatial probe's answers as HTML and as tables; a model's text is escaped wherever it goes. Notebook 15."""

import html
from collections.abc import Sequence
from typing import Any

from vlmlab.figures import table_html
from vlmlab.figures.base import BLUE
from vlmlab.widgets.answers import Answer, Said
from vlmlab.widgets.asking import FORMS
from vlmlab.widgets.probe import Pair, Probe

MARKS = {True: "\u2713 right", False: "\u2717 wrong", None: "not decided"}
COLUMNS = ("model", "form", "said", "probability", "read as")


def truth_text(probe: Probe) -> str:
    """The question and what is true."""
    asked = probe.asked
    truth = asked.truth if asked.truth is not None else f"not decided: {asked.why}"
    if asked.why and probe.state.question.template != "free":
        truth = f"ambiguous: {asked.why}"
    own = f" From the second object's own point of view: {asked.own_frame}." if asked.own_frame else ""
    return f"{asked.text} True: {truth}.{own}"


def answers_html(probe: Probe) -> str:
    """The models side by side: in each form the words, the options' probabilities as bars, and each scorer's reading.

    A cell's data-testid is answer-MODEL-FORM, a bar's is probability-MODEL-FORM-OPTION.
    """
    heads = "".join(f'<th scope="col">{html.escape(model)}</th>' for model in probe.models)
    body = ""
    for form in FORMS:
        cells = "".join(f"<td>{_cell(probe, model, form)}</td>" for model in probe.models)
        body += f'<tr style="vertical-align:top"><th scope="row">{form}</th>{cells}</tr>'
    return (
        '<table data-testid="answers"><caption>What the models answer</caption>'
        f"<thead><tr><td></td>{heads}</tr></thead><tbody>{body}</tbody></table>"
    )


def _cell(probe: Probe, model: str, form: str) -> str:
    said = probe.answers.get(model, {}).get(form)
    key = html.escape(f"{model}-{form}")
    if said is None:
        return f'<span data-testid="answer-{key}" aria-busy="true">...</span>'
    lines = [f'<p data-testid="answer-{key}"><q>{html.escape(said.text)}</q></p>']
    shown = sorted(said.probabilities.items(), key=lambda pair: -pair[1])
    for option, share in shown:
        name = html.escape(option)
        lines.append(
            f'<div data-testid="probability-{key}-{name}" title="log-probability {said.log_probs[option]:.3f}">'
            f'<span style="display:inline-block;width:{100 * share:.1f}px;height:0.7em;background:{BLUE}"></span> '
            f"{name} {share:.2f}</div>"
        )
    readings = probe.readings(model, form)
    rows = [(each.scorer, "nothing" if each.said is None else each.said, MARKS[each.right]) for each in readings]
    return "".join(lines) + table_html(("scorer", "reads", "verdict"), rows)


def rows(probe: Probe) -> list[list[Any]]:
    """The answers as a table of COLUMNS."""
    found = []
    for model, answer in probe.answers.items():
        for form, said in answer.items():
            read = [
                f"{each.scorer}: {each.said if each.said != said.text or form == 'word' else 'all of it'} "
                f"({MARKS[each.right]})"
                for each in probe.readings(model, form)
            ]
            found.append([model, form, said.text, probabilities(said), "; ".join(read)])
    return found


def probabilities(said: Said) -> str:
    """Each option's probability, the likeliest first."""
    shown = sorted(said.probabilities.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{option} {share:.3f}" for option, share in shown)


def controls_html(controls: dict[str, dict[str, Answer]]) -> str:
    """What every control makes the models say."""
    models: Sequence[str] = list(next(iter(controls.values())))
    table = [
        [control, *(f"{said.text} ({probabilities(said)})" for model in models for said in answers[model].values())]
        for control, answers in controls.items()
    ]
    return f'<div data-testid="controls">{table_html(["control", *models], table, "Controls")}</div>'


def pair_html(pair: Pair) -> str:
    """What the models say of the twin, and the pair's verdicts."""
    table = []
    for model, forms in pair.verdicts.items():
        for form, verdicts in forms.items():
            told = "; ".join(f"{scorer}: {verdict or 'not decided'}" for scorer, verdict in verdicts.items())
            table.append([model, form, pair.answers[model][form].text, told])
    truth = f"true: {pair.asked.truth}" if pair.asked.truth is not None else f"ambiguous: {pair.asked.why}"
    kind = "" if pair.flips else "; the same answer is right for both, so that a constant answer passes"
    columns = ("model", "form", "says of the twin", "right of the pair")
    return f'<div data-testid="pair">{table_html(columns, table, f"The twin ({pair.kind}), {truth}{kind}")}</div>'
