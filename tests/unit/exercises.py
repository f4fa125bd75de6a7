"""The solutions that notebooks give to their exercises, as their <details> write them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).resolve().parents[2] / "notebooks" / "src"


def solutions(source: str, given: Mapping[str, Any], until: str | None = None) -> dict[str, Any]:
    """What the solutions in a notebook define; given: the names that they use. Code from `until` on is not run."""
    text, found = (SOURCES / source).read_text(encoding="utf-8"), dict(given)
    for block in re.findall(r"Solution</summary>\n#\n# ```python\n(.*?)# ```", text, re.DOTALL):
        code = re.sub(r"^# ?", "", block, flags=re.MULTILINE)
        exec(code.split(until)[0] if until else code, found)
    return found
