"""What the texts for readers hold: commands, links, badges, and prose without code and tables."""

import re
import shlex
from pathlib import Path

import typer

from vlmlab.cli import app

ROOT = Path(__file__).resolve().parents[2]
KNOWN = typer.main.get_command(app).commands


def fenced(text: str, *languages: str) -> list[str]:
    """The texts of a page's code blocks in these languages."""
    found = re.findall(r"^ *```(\w+).*?\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [block for language, block in found if language in languages]


def commands(text: str) -> list[list[str]]:
    """The arguments of every `vlmlab ...` line in blocks of shell and in inline code that has options, without the
    name itself; blocks of a console mark commands with a dollar."""
    lines = [line for block in fenced(text, "sh") for line in block.splitlines()]
    lines += [line[2:] for block in fenced(text, "console") for line in block.splitlines() if line.startswith("$ ")]
    lines += [code for code in re.findall(r"`(vlmlab [^`\n]+)`", text) if "--" in code]
    found = (re.match(r"\s*(?:\.venv/bin/)?vlmlab (.*)", line) for line in lines)
    return [shlex.split(match[1], comments=True) for match in found if match]


def refused(arguments: list[str]) -> str:
    """What the parser has against a command line; "" where it takes it. Nothing is run."""
    if arguments[0] not in KNOWN:
        return f"no command {arguments[0]}"
    try:
        KNOWN[arguments[0]].make_context(arguments[0], arguments[1:])
    except Exception as error:  # typer's usage errors, whichever parser it brings
        return str(error) or type(error).__name__
    return ""


def lost(text: str, folder: Path) -> list[str]:
    """The relative links and pictures of a page that lead to no file."""
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    return [link for link in links if "://" not in link and not (folder / link).exists()]


def bad_badges(text: str, repository: str | None, names: list[str]) -> list[str]:
    """Links to Colab and Binder that name another repository, branch or notebook than ours; repository: OWNER/NAME."""
    wrong = []
    for link in re.findall(r"https://(?:colab\.research\.google\.com|mybinder\.org)/[^)\s\"]*", text):
        colab = re.fullmatch(r"https://colab\.\S+?/github/([^/]+/[^/]+)/blob/([^/]+)/notebooks/([^/]+)\.ipynb", link)
        binder = re.fullmatch(
            r"https://mybinder\.\S+?/v2/gh/([^/]+/[^/]+)/([^/?]+)(?:\?\S*?notebooks(?:/|%2F)(\S+)\.ipynb)?", link
        )
        found = colab or binder
        if not found or found[1] != repository or found[2] != "main" or (found[3] and found[3] not in names):
            wrong.append(link)
    return wrong


def prose(text: str) -> str:
    """The running text of a page on one line: no code blocks, tables, headings, and what commands wrote left out."""
    text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!-- (\w+):begin -->.*?<!-- \1:end -->", "", text, flags=re.DOTALL)
    return " ".join(" ".join(line for line in text.splitlines() if not re.match(r"\s*[|#]", line)).split())
