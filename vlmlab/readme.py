"""Sections of README that commands write, each between its two markers. Notebook 17."""

from pathlib import Path

from vlmlab import runtime
from vlmlab.files import write_text


def path() -> Path:
    """README.md beside the data folder."""
    return runtime.data_dir().parent / "README.md"


def section(name: str, text: str) -> str | None:
    """What stands between `<!-- name:begin -->` and `<!-- name:end -->` of a text; None without both markers."""
    begin, end = _markers(name)
    _, found, rest = text.partition(begin)
    inside, closed, _ = rest.partition(end)
    return inside.rstrip("\n") if found and closed else None


def put(name: str, new: str) -> bool:
    """Write `new` between README's markers of that name; False, and nothing written, where these or README are not."""
    text = path().read_text(encoding="utf-8") if path().is_file() else ""
    if section(name, text) is None:
        return False
    begin, end = _markers(name)
    before, _, rest = text.partition(begin)
    write_text(path(), f"{before}{begin}{new}\n{end}{rest.partition(end)[2]}")
    return True


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
