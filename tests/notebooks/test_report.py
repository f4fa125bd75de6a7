"""The report: nothing is loaded from elsewhere, formulas are MathML, alt texts stay, and it is written whole."""

import json
import re
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from nbformat import v4

from vlmlab.errors import BadInput
from vlmlab.notebooks import mathml, page, process, runner

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def loads(html: str) -> list[str]:
    """Everything in a page that a browser would fetch."""
    soup = BeautifulSoup(html, "html.parser")
    found = [str(tag)[:80] for tag in soup.find_all(["script", "iframe", "object", "embed", "link", "base"])]
    for tag in soup.find_all(True):
        for name in ("src", "srcset", "poster", "background", "xlink:href", "data"):
            value = str(tag.get(name, "data:"))
            found += [f"{tag.name} {name}={value[:60]}"] if not value.startswith("data:") else []
        if tag.name != "a" and tag.get("href") and not str(tag["href"]).startswith("#"):
            found.append(f"{tag.name} href={tag['href']}")
        found += [f"{tag.name} {name}" for name in tag.attrs if name.startswith("on")]
    found += re.findall(r"@import[^;]*|url\(\s*['\"]?https?:[^)]*\)", html)
    return found


def hostile():
    """A notebook that tries to load everything from elsewhere."""
    outputs = [
        v4.new_output(
            "display_data", {"text/html": "<script src='https://example.org/x.js'></script><p onclick='f()'>text</p>"}
        ),
        v4.new_output(
            "display_data",
            {"text/html": "<img src='https://example.org/x.png' alt='far'><iframe src='//e.org'></iframe>"},
        ),
        v4.new_output(
            "display_data",
            {"text/html": "<style>@import url(https://e.org/a.css); p{background:url('http://e.org/b')}</style>"},
        ),
        v4.new_output("display_data", {"text/html": '<p style="background: url(https://e.org/c.png)">styled</p>'}),
        v4.new_output(
            "display_data", {"image/svg+xml": "<svg><image href='https://e.org/d.png'/><circle r='2'/></svg>"}
        ),
        v4.new_output("display_data", {"application/javascript": "fetch('https://e.org')", "text/plain": "script"}),
        v4.new_output(
            "display_data", {"image/png": PIXEL, "text/plain": "x"}, metadata={"image/png": {"alt": 'a "red" dot'}}
        ),
        v4.new_output(
            "display_data", {"text/html": f"<figure><img alt='kept' src='data:image/png;base64,{PIXEL}'></figure>"}
        ),
        v4.new_output("display_data", {"text/latex": r"$\displaystyle \frac{a}{b}$", "text/plain": "a/b"}),
        v4.new_output(
            "display_data",
            {"application/vnd.jupyter.widget-view+json": {"model_id": "0" * 32}, "text/plain": "Slider(3)"},
        ),
        v4.new_output("stream", name="stdout", text="<b>not bold</b>"),
        v4.new_output(
            "error", ename="ValueError", evalue="<script>", traceback=["\x1b[31mValueError\x1b[0m: <script>"]
        ),
    ]
    return v4.new_notebook(
        cells=[
            v4.new_markdown_cell(
                "# One\nInline $x_{<i}$ and <link rel=stylesheet href='https://e.org/e.css'>\n\n$$\\text{softmax}(QK^\\top)$$\n\n"
                "\\begin{align}a &= b \\\\ c &= d\\end{align}\n\n![far](https://example.org/f.png) [next](02_two.ipynb) "
                "[paper](https://example.org/paper)\n\n<details><summary>Hint</summary>Look closer.</details>"
            ),
            v4.new_code_cell("print('<b>')", outputs=outputs, execution_count=1),
        ],
        metadata={"widgets": {"application/vnd.jupyter.widget-state+json": {"state": {"0" * 32: {"model_name": "X"}}}}},
    )


@pytest.fixture
def suite(tmp_path: Path) -> runner.Suite:
    outcomes = [
        runner.Outcome(
            "01_one", ["cell 2 (1 < 0): <b>wrong</b>"], 1.25, 99.6, {"profile": "quick"}, {"loss": 0.125}, hostile()
        ),
        runner.Outcome("02_two", [], 2.0, 80.0, {"profile": "quick"}, {"answer": "<i>yes</i>"}, v4.new_notebook()),
    ]
    return runner.Suite("quick", process.Budget(60, 3000), outcomes, tmp_path / "build" / "report")


def test_no_page_loads_anything(suite):
    page.write(suite, suite.report)
    pages = sorted(suite.report.glob("*.html"))
    assert [path.name for path in pages] == ["01_one.html", "02_two.html", "index.html"]
    for path in pages:
        text = path.read_text()
        assert loads(text) == []
        assert "default-src 'none'" in text
        assert '<html lang="en">' in text


def test_the_test_itself_finds_loads():
    bad = "<script src='https://e.org'></script><img src='x.png'><link href='a.css'><p onclick='f()'>"
    assert len(loads(bad)) == 6  # the script counts twice, as a tag and as a src


def test_formulas_alt_texts_hints_and_outputs_survive(suite):
    text = page.notebook_page(suite.outcomes[0], ["01_one", "02_two"])
    soup = BeautifulSoup(text, "html.parser")
    assert len(soup.find_all("math")) == 4
    assert "$" not in soup.find("main").get_text()
    alts = [image["alt"] for image in soup.select("figure img")]
    assert alts == ['a "red" dot', "kept"]
    assert "[picture: far]" in soup.get_text()
    assert soup.find("details").find("summary").get_text() == "Hint"
    assert soup.find("a", string="next")["href"] == "02_two.html"
    assert soup.find("a", string="paper")["href"] == "https://example.org/paper"
    assert "Slider(3)" in soup.get_text()
    assert "<b>not bold</b>" in soup.get_text()
    assert "ValueError: <script>" in soup.get_text()


def test_the_index_shows_times_memory_verdicts_and_values_escaped(suite):
    text = page.index_page(suite)
    soup = BeautifulSoup(text, "html.parser")
    rows = [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in soup.find("table").find_all("tr")[1:]]
    assert rows[0] == ["01_one", "failed", "1.2", "100", "cell 2 (1 < 0): <b>wrong</b>"]
    assert rows[1][:4] == ["02_two", "passed", "2.0", "80"]
    assert "<i>yes</i>" in soup.get_text()
    assert "1 of 2 passed" in soup.get_text()


def test_results_json_holds_values_versions_seconds_and_memory(suite):
    page.write(suite, suite.report)
    found = json.loads((suite.report / "results.json").read_text())
    assert found["notebooks"]["01_one"]["results"] == {"loss": 0.125}
    assert found["notebooks"]["01_one"]["status"] == "failed"
    assert found["notebooks"]["02_two"]["seconds"] == 2.0
    assert found["notebooks"]["02_two"]["peak_mb"] == 80.0
    assert {"torch", "numpy"} <= set(found["packages"])
    assert not found["passed"]


def test_a_new_report_replaces_the_old_one_whole(suite, monkeypatch):
    page.write(suite, suite.report)
    (suite.report / "09_gone.html").write_text("old")
    page.write(suite, suite.report)
    assert not (suite.report / "09_gone.html").exists()

    def fails(_):
        raise RuntimeError

    monkeypatch.setattr(page, "index_page", fails)
    with pytest.raises(RuntimeError):
        page.write(suite, suite.report)
    assert (suite.report / "index.html").is_file()
    assert [path.name for path in suite.report.parent.iterdir()] == ["report"]


@pytest.mark.parametrize(
    "tex",
    [
        r"Z_v = f_\phi(H_v)",
        r"\text{softmax}\left(\frac{QK^\top}{\sqrt{d}}\right)V",
        r"\begin{aligned} a &= b \\ c &= d \end{aligned}",
        r"\begin{cases} 1 & x > 0 \\ 0 & \text{else} \end{cases}",
        r"\begin{bmatrix} a & b \\ c & d \end{bmatrix}",
        r"\mathcal{L} = -\sum_{i \in \mathcal{A}} \log p_\theta(x_i \mid x_{<i}, Z_v)",
        r"\operatorname{RMSNorm}(x) = \frac{x}{\sqrt{\tfrac1D \sum_i x_i^2 + \epsilon}} \odot g",
        r"\hat{y}, \bar{A} = \exp(\Delta A), \mathbb{R}^{B \times L \times D}",
    ],
)
def test_the_formulas_of_the_papers_become_mathml(tex):
    assert mathml.convert(tex).startswith("<math")


@pytest.mark.parametrize("tex", [r"\nosuchcommand{x}", r"\frac{", "", r"\left("])
def test_a_formula_that_is_not_understood_stays_readable(tex):
    shown = mathml.convert(tex)
    assert shown == f'<code class="tex">{tex}</code>' or BeautifulSoup(shown, "html.parser").get_text() == tex == ""


def test_record_converts_refuses_and_prints(capsys, monkeypatch, tmp_path):
    import numpy as np
    import torch

    from vlmlab import report

    monkeypatch.setenv("VLMLAB_RESULTS", str(tmp_path / "results.jsonl"))
    report.record("a", np.float32(0.5))
    report.record("b", torch.tensor([1, 2]))
    report.record("c", {"x": (1, None, True)})
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["value"] for line in lines] == [0.5, [1, 2], {"x": [1, None, True]}]
    assert "recorded a = 0.5" in capsys.readouterr().out
    assert report.recorded()["b"] == [1, 2]
    for name, value in (("", 1), ("n", float("nan")), ("n", object())):
        with pytest.raises(BadInput):
            report.record(name, value)


def test_only_named_lines_on_stderr_pass():
    from vlmlab.notebooks import strict, tidy

    allowed = "Matplotlib is building the font cache; this may take a moment.\n"
    for text, messages in ((allowed, 0), (allowed + "oops\n", 1), ("\n", 0)):
        cell = v4.new_code_cell(
            "plot()", outputs=[v4.new_output("stream", name="stderr", text=text)], execution_count=1
        )
        notebook = v4.new_notebook(cells=[cell])
        assert len(strict.unexpected_stderr(notebook, [])) == messages
        assert len(strict.unexpected_stderr(notebook, [{"cell": 0, "kind": "stderr", "text": text}])) == messages
        assert tidy.tidy(notebook).cells[0].outputs == []
