"""`vlmlab explain` and `faithfulness`: the map of an answer, and how far maps can be trusted. Notebook 14."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmlab.commands.common import out as console
from vlmlab.commands.common import print_json, progress_bar, prompt_text, tell
from vlmlab.commands.model import Device, Json, Model
from vlmlab.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from vlmlab.explain.inside import Inside


def explain(
    question: Annotated[str, typer.Argument(help="What to ask about the picture.", show_default=False)],
    image: Annotated[Path, typer.Option("--image", "-i", help="The picture.", show_default=False)],
    model: Model = "llava-tiny",
    method: Annotated[str, typer.Option(help="occlusion, token_ablation, attention, mamba_lrp, ...")] = "occlusion",
    word: Annotated[
        int | None, typer.Option(help="Only this word (token) of the answer, from 0; the whole when left out.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Draw the map over the picture (.png).")] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Ask a model about a picture, and show which patches the answer has to do with."""
    question = prompt_text(question)
    if out is not None and (out.suffix.lower() != ".png" or out.is_dir()):
        raise BadInput(f"--out {out}: the map is drawn as PNG; name a file that ends in .png")
    if not image.exists():
        raise BadInput(f"no such image: {image}")
    from vlmlab.explain.methods import METHODS, chosen

    if method not in METHODS:
        raise UnknownName("method", method, METHODS)
    import vlmlab
    from vlmlab.explain.attribution import at_word
    from vlmlab.explain.inside import Inside

    vlm = vlmlab.load(model, device=device)
    chosen(vlm, [method])
    inside = Inside.ask(vlm, image, question)
    asked = inside if word is None else at_word(inside, word)
    heat = METHODS[method](asked)
    words, about = inside.texts[inside.words], METHODS[method].about
    if json:
        found = {"model": model, "question": question, "answer": inside.answer, "words": words, "method": method,
                 "word": word, "log_probability": float(asked.log_probs().sum()), "map": heat}  # fmt: skip
        print_json(found)
    else:
        print(inside.answer)
        print("words: " + "  ".join(f"{number} {text.strip()}" for number, text in enumerate(words)))
        print(f"{method}, {about}: " + ("all words" if word is None else f"word {word}, {asked.answer.strip()!r}"))
        print(_grid(heat.tolist()))
    if out is not None:
        _draw(inside, heat, out, method, asked.answer.strip(), about)


def _grid(rows: list[list[float]]) -> str:
    """A map as text, columns named by letters and rows by numbers, as `Inside.texts` names image tokens."""
    names = [chr(ord("A") + column) if len(rows[0]) <= 26 else str(column) for column in range(len(rows[0]))]
    lines = ["    " + "".join(f"{name:>9}" for name in names)]
    lines += [f"{number:>4}" + "".join(f"{value:>9.2g}" for value in row) for number, row in enumerate(rows, 1)]
    return "\n".join(lines)


def _draw(inside: "Inside", heat: Any, out: Path, method: str, title: str, unit: str) -> None:
    from vlmlab import figures
    from vlmlab.figures import inside as draw
    from vlmlab.files import atomic_path

    drawn = draw.heat(inside.vlm.preprocess.square(inside.picture), {method: heat.numpy()}, unit=unit, title=title)
    with atomic_path(out) as temporary:
        temporary.write_bytes(figures.png(drawn.figure))
    tell(f"wrote {out}: {drawn.alt}")


def faithfulness(
    model: Model = "llava-tiny",
    limit: Annotated[int, typer.Option("--limit", min=2, help="Questions, each about a scene of its own.")] = 60,
    methods: Annotated[
        str | None, typer.Option(help="Names with commas between; all that apply when left out. Controls always join.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the scenes.")] = 0,
    save: Annotated[bool, typer.Option("--save", help="Keep the result in data/explain.")] = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Compare maps: deletion, insertion and the pointing game on held-out scenes, beside two controls."""
    if save and methods is not None:
        raise BadInput("--save keeps a comparison of all methods; leave --methods out")
    import vlmlab
    from vlmlab.explain import methods as maps

    names = None if methods is None else [name.strip() for name in methods.split(",")]
    vlm = vlmlab.load(model, device=device)
    with progress_bar("maps") as advance:
        found = {"seed": seed, **maps.compare(vlm, maps.one_object(limit, seed), names, progress=advance)}
    if json:
        print_json(found)
    else:
        console.print(maps.table(found))
    if save:
        command = f"vlmlab faithfulness --model {vlm.config.name} --limit {limit} --seed {seed} --save"
        tell(f"wrote {maps.save(found, vlm, command)}")
