"""The report: an index and one page a notebook, in HTML that asks the network for nothing. Serves every notebook.

nbconvert renders the cells; this module turns formulas into MathML, drops scripts and whatever would be loaded from
elsewhere, and forbids the rest with a content security policy.
"""

import html
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bs4 import BeautifulSoup, Tag
from jinja2 import pass_context
from nbconvert.exporters.html import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from traitlets.config import Config

from vlmlab.notebooks import mathml

if TYPE_CHECKING:
    from vlmlab.notebooks.runner import Outcome, Suite

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; font-src data:; media-src data:"
DISPLAY = ["text/html", "text/markdown", "image/svg+xml", "text/latex", "image/png", "image/jpeg", "text/plain"]
LOADING = ("script", "link", "iframe", "frame", "object", "embed", "base", "meta", "form", "applet")
SOURCES = ("src", "srcset", "poster", "background", "data", "xlink:href", "action", "formaction")


class _Renderer(IPythonRenderer):
    """Markdown with formulas as MathML and without links to itself in headings."""

    def block_math(self, body: str) -> str:
        return mathml.convert(body, block=True)

    def inline_math(self, body: str) -> str:
        return mathml.convert(body)

    def latex_environment(self, name: str, body: str) -> str:
        return mathml.convert(f"\\begin{{{name}}}{body}\\end{{{name}}}", block=True)


class _Exporter(HTMLExporter):
    """nbconvert's HTML, body only."""

    @pass_context
    def markdown2html(self, context: Any, text: str) -> str:
        attachments = context.get("cell", {}).get("attachments", {})
        renderer = _Renderer(escape=False, attachments=attachments, exclude_anchor_links=True)
        return MarkdownWithMath(renderer=renderer).render(text)


def body(notebook: NotebookNode) -> str:
    """The cells of a notebook as HTML that loads nothing."""
    config = Config({"NbConvertBase": {"display_data_priority": DISPLAY}})
    exporter = _Exporter(template_name="basic", config=config)
    text, _ = exporter.from_notebook_node(_as_html(notebook))
    return offline(text)


def _as_html(notebook: NotebookNode) -> NotebookNode:
    """Pictures with alt text in their metadata as <figure><img alt>, formulas as MathML: nbconvert would lose both."""
    notebook = NotebookNode(json.loads(json.dumps(notebook), object_hook=NotebookNode))
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data, described = output.get("data", {}), output.get("metadata", {})
            for kind in ("image/png", "image/jpeg"):
                alt = described.get("alt") or described.get(kind, {}).get("alt")
                if kind in data and alt and "text/html" not in data:
                    picture = f"data:{kind};base64,{''.join(data[kind]).strip()}"
                    data["text/html"] = f'<figure><img src="{picture}" alt="{html.escape(alt)}"></figure>'
            if "text/latex" in data and "text/html" not in data:
                tex = data["text/latex"].strip().strip("$").replace(r"\displaystyle", "")
                data["text/html"] = mathml.convert(tex, block=True)
    return notebook


def offline(text: str) -> str:
    """HTML without scripts, handlers, and anything fetched from elsewhere; links to read on stay."""
    soup = BeautifulSoup(text, "html.parser")
    for tag in soup.find_all(LOADING):
        tag.decompose()
    for tag in soup.find_all(True):
        _strip(tag)
    for style in soup.find_all("style"):
        style.string = _local_css(style.get_text())
    return str(soup)


def _strip(tag: Tag) -> None:
    for name in list(tag.attrs):
        value = str(tag.attrs[name])
        fetched = name in SOURCES and not value.strip().startswith("data:")
        if name == "href":
            fetched = not value.startswith("#") if tag.name != "a" else value.strip().lower().startswith("javascript:")
        if name.startswith("on") or fetched:
            if tag.name == "img" and name == "src":
                tag.name, tag.string = "span", f"[picture: {tag.get('alt') or value}]"
                tag.attrs = {"class": "missing"}
                return
            del tag.attrs[name]
        elif name == "style":
            tag.attrs[name] = _local_css(value)


def _local_css(css: str) -> str:
    css = re.sub(r"@import[^;]*;?", "", css)
    return re.sub(r"url\(\s*['\"]?(?!data:|#)[^)]*\)", "none", css)


def _document(title: str, content: str) -> str:
    from pygments.formatters import HtmlFormatter

    css = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    css += HtmlFormatter(style="default").get_style_defs(".highlight")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{css}\n</style>\n</head>\n<body>\n<main>\n{content}\n</main>\n"
        "</body>\n</html>\n"
    )


def notebook_page(outcome: "Outcome", names: list[str]) -> str:
    """One notebook's page: its verdict, its problems, what it recorded, its cells."""
    problems = "".join(f"<li>{html.escape(problem)}</li>" for problem in outcome.problems)
    head = (
        f'<nav><a href="index.html">All notebooks</a></nav><p>{_verdict(outcome)} {outcome.seconds:.1f} s, '
        f"{outcome.peak_mb:.0f} MB at its peak, "
        f"parameters <code>{html.escape(json.dumps(outcome.parameters))}</code></p>"
    )
    if problems:
        head += f'<ul class="problems">{problems}</ul>'
    cells = body(outcome.notebook) if outcome.notebook is not None else ""
    for name in names:  # a link to the next chapter leads to its page
        cells = re.sub(rf'href="(?:\./)?{re.escape(name)}\.ipynb', f'href="{name}.html', cells)
    return _document(outcome.name, head + cells)


def index_page(suite: "Suite") -> str:
    """The table of notebooks with times, memory and verdicts, then everything recorded."""
    from vlmlab.notebooks.runner import stamp

    summary = suite.summary()
    rows, values = "", ""
    for outcome in suite.outcomes:
        name = html.escape(outcome.name)
        trouble = "".join(f"<li>{html.escape(problem)}</li>" for problem in outcome.problems)
        rows += (
            f'<tr><th scope="row"><a href="{name}.html">{name}</a></th><td>{_verdict(outcome)}</td>'
            f'<td class="number">{outcome.seconds:.1f}</td><td class="number">{outcome.peak_mb:.0f}</td>'
            f"<td>{f'<ul>{trouble}</ul>' if trouble else ''}</td></tr>\n"
        )
        for key, value in outcome.results.items():
            shown = _shown(value)
            values += (
                f"<tr><td>{name}</td><td>{html.escape(key)}</td><td class='number'>{html.escape(shown)}</td></tr>\n"
            )
    good = sum(outcome.passed for outcome in suite.outcomes)
    limits = ""
    if suite.budget.seconds is not None and suite.budget.megabytes is not None:
        limits = f" Each may take {suite.budget.seconds:g} s and {suite.budget.megabytes:g} MB."
    packages = ", ".join(f"{name} {version}" for name, version in summary["packages"].items())
    content = (
        f"<h1>vlmlab {html.escape(summary['vlmlab'])}: notebooks, profile {html.escape(suite.profile)}</h1>"
        f"<p>{good} of {len(suite.outcomes)} passed in {summary['seconds']:.0f} s, {stamp()}.{limits}</p>"
        + "".join(f'<p class="failed">{html.escape(problem)}</p>' for problem in suite.problems)
        + '<table><caption>Notebooks</caption><thead><tr><th scope="col">Notebook</th><th scope="col">Result</th>'
        '<th scope="col" class="number">Seconds</th>'
        '<th scope="col" class="number">Peak MB</th><th scope="col">What is wrong</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )
    if values:
        content += (
            '<table><caption>Recorded values (results.json)</caption><thead><tr><th scope="col">Notebook</th>'
            '<th scope="col">Name</th><th scope="col" class="number">Value</th></tr></thead>'
            f"<tbody>{values}</tbody></table>"
        )
    content += f"<p>Python {summary['python']} on {html.escape(summary['platform'])}; {html.escape(packages)}.</p>"
    return _document("vlmlab: notebooks", content)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _verdict(outcome: "Outcome") -> str:
    return '<span class="passed">passed</span>' if outcome.passed else '<span class="failed">failed</span>'


def write(suite: "Suite", target: Path) -> None:
    """Write the whole report beside `target` and put it there in one move; an old report is replaced."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        names = [outcome.name for outcome in suite.outcomes]
        results = json.dumps(suite.summary(), indent=2, ensure_ascii=False) + "\n"
        (fresh / "results.json").write_text(results, encoding="utf-8")
        for outcome in suite.outcomes:
            (fresh / f"{outcome.name}.html").write_text(notebook_page(outcome, names), encoding="utf-8")
        (fresh / "index.html").write_text(index_page(suite), encoding="utf-8")
        fresh.chmod(0o755)
        old = None
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
            target.rename(old / "old")
        fresh.rename(target)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
