"""`vlmlab render`: a scene of the world, from a seed to a picture and its facts. Notebook 00."""

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer

from vlmlab.commands.common import print_json
from vlmlab.errors import BadInput


def render(
    seed: Annotated[int, typer.Option("--seed", "-s", min=0, help="The seed that the whole scene comes from.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The picture to write (.png, .jpg, .webp, ...).")
    ] = None,
    size: Annotated[int, typer.Option(min=8, max=4096, help="Width and height in pixels.")] = 96,
    json: Annotated[bool, typer.Option("--json", help="Print the scene and its relations as JSON.")] = False,
) -> None:
    """Render the scene of a seed."""
    if out is None and not json:
        raise BadInput("nothing to do: name the picture with --out FILE, or print the scene with --json")
    picture_format = _picture_format(out) if out is not None else None
    from vlmlab import scenes

    scene = scenes.sample(seed)
    if out is not None:
        from PIL import Image

        from vlmlab.files import atomic_path

        picture = Image.fromarray(scene.render(size).rgb)
        with atomic_path(out) as temporary:
            picture.save(temporary, format=picture_format)
    if json:
        print_json({"seed": seed, "size": size, "out": out, **facts(scene)})
    else:
        print(f"wrote {out} ({size}x{size})")


def _picture_format(path: Path) -> str:
    from PIL import Image

    known = {suffix for suffix, name in Image.registered_extensions().items() if name in Image.SAVE}
    if path.is_dir():
        raise BadInput(f"--out {path} is a folder; name a file, for instance {path / 'scene.png'}")
    if path.suffix.lower() not in known:
        raise BadInput(
            f"--out {path}: cannot write {path.suffix or 'a file without a suffix'}; use .png, .jpg or .webp"
        )
    return Image.registered_extensions()[path.suffix.lower()]


def facts(scene: Any) -> dict[str, Any]:
    """The scene as plain data, and its relations."""
    described = scene.to_json()
    return {
        "scene": jsonlib.loads(described) if isinstance(described, str) else described,
        "relations": list(scene.relations()),
    }
