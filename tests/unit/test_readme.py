"""README says what is true: its tables and figures are the data's, its files exist, its commands are known."""

import json
import re

import pytest
from documents import KNOWN, ROOT, bad_badges, commands, lost, prose, refused

from vlmlab import readme
from vlmlab.bench import board
from vlmlab.vlm.conversations import SLOTS
from vlmlab.weights import manifest
from vlmlab.weights.publishing import markdown

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
CITATION = (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_table_is_the_recorded_one():
    assert readme.section("results", TEXT) == markdown(manifest()["results"]["llava-tiny"])


def test_the_speeds_are_the_kept_ones():
    assert readme.section("speed", TEXT) == board.markdown(board.kept())


def test_sections_are_written_between_their_markers_only(tmp_path, monkeypatch):
    monkeypatch.setenv("VLMLAB_DATA", str(tmp_path / "data"))
    assert not readme.put("a", "x")  # no README
    (tmp_path / "README.md").write_text("one\n<!-- a:begin -->\nold\nlines\n<!-- a:end -->\ntwo\n<!-- b:begin -->\n")
    assert readme.put("a", "new")
    assert not readme.put("b", "x")  # only one marker
    assert not readme.put("c", "x")
    text = (tmp_path / "README.md").read_text()
    assert text == "one\n<!-- a:begin -->\nnew\n<!-- a:end -->\ntwo\n<!-- b:begin -->\n"
    assert readme.section("a", text) == "new"


def test_linked_files_and_figures_exist():
    assert lost(TEXT, ROOT) == []
    assert lost("[a](no/such.md) ![b](docs/none.png) [c](https://x.org)", ROOT) == ["no/such.md", "docs/none.png"]


def test_every_picture_says_what_it_shows():
    pictures = re.findall(r"!\[([^\]]*)\]\(", TEXT)
    assert pictures
    assert all(len(alt.split()) >= 5 for alt in pictures)


@pytest.mark.parametrize("arguments", commands(TEXT), ids=" ".join)
def test_a_command_is_one_that_vlmlab_takes(arguments):
    assert not refused(arguments)


def test_what_is_no_command_is_found():
    assert "no command" in refused(["aks", "x"])
    assert refused(["ask", "--no-such-option", "x"])
    assert refused(["render", "--size", "many"])
    assert refused(["ask"])


def test_the_commands_are_there_and_make_knows_its_targets():
    assert {"render", "ask", "doctor", "account", "train", "evaluate"} <= {words[0] for words in commands(TEXT)}
    for name in re.findall(r"`vlmlab (\w+)`", TEXT):
        assert name in KNOWN
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make (\w+)", TEXT, re.MULTILINE) + re.findall(r"`make (\w+)`", TEXT)
    assert {"lab", "notebooks"} <= set(targets)
    for target in targets:
        assert f"\n{target}:" in make


def test_every_notebook_has_its_row():
    rows = re.findall(r"^\| \[.*?\]\(notebooks/(\S+)\.ipynb\)", TEXT, re.MULTILINE)
    assert rows == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


def test_badges_lead_to_notebooks_of_this_repository():
    cited = re.search(
        r"^repository-code: \"?https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?\"?$", CITATION, re.MULTILINE
    )
    names = [path.stem for path in (ROOT / "notebooks").glob("*.ipynb")]
    assert bad_badges(TEXT, cited and cited[1], names) == []
    colab = "https://colab.research.google.com/github/a/b/blob/main/notebooks/00_start_here.ipynb"
    binder = "https://mybinder.org/v2/gh/a/b/main?labpath=notebooks/00_start_here.ipynb"
    assert bad_badges(f"[x]({colab}) [y]({binder}) [z](https://mybinder.org/v2/gh/a/b/main)", "a/b", names) == []
    wrong = [colab.replace("a/b", "a/c"), colab.replace("main", "dev"), binder.replace("00_start", "00_stop")]
    assert bad_badges(" ".join(f"[x]({link})" for link in wrong), "a/b", names) == wrong
    assert bad_badges(f"[x]({colab})", None, names) == [colab]


# ---------------------------------------------------------------- figures in the running text
def percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f}"


def words_found(*groups: str) -> bool:
    """(per cent, slot) in turn, then that of facing: how often a patch finds the slot's word at the end of training."""
    groups = (*groups, "facing")
    last = json.loads((ROOT / "data" / "training" / "clip-tiny.json").read_text(encoding="utf-8"))[-1]
    found = {slot: percent(last[f"eval/slot {i}"]) for i, slot in enumerate(SLOTS)}
    return all(found[slot] == said for said, slot in zip(groups[::2], groups[1::2], strict=True))


def relations(word: str, sentence: str) -> bool:
    of = manifest()["results"]["llava-tiny"]
    rows = [of[f"scenes/{form}"]["by_type"]["relation"]["accuracy"] for form in ("word", "sentence")]
    return [word, sentence] == [percent(row, 1) for row in rows]


def benchmarks() -> dict[str, dict[str, dict[str, float]]]:
    return json.loads((ROOT / "data" / "results" / "benchmarks.json").read_text(encoding="utf-8"))["models"]


def minutes(text: str, pictures: str) -> bool:
    files = (f"checkpoints/{name}.safetensors" for name in ("language-tiny", "llava-tiny"))
    return [text, pictures] == [f"{manifest()['files'][name]['cost']['seconds'] / 60:.0f}" for name in files]


def aims(existence: str, attributes: str, sides: str) -> bool:
    rows = manifest()["results"]["llava-tiny"]["scenes/sentence"]["by_type"]
    said = {"existence": existence, "attribute": attributes, "relation: left/right": sides}
    return all(100 * rows[name]["accuracy"] < float(aim) for name, aim in said.items())


CLAIMS = (
    (r"are (\d+) % on existence, (\d+) % on attributes and (\d+) % on left/right\. \*\*llava-tiny misses all", aims),
    (r"(\d+) % of the patches that show an object find the right word for its (\w+), (\d+) % for its (\w+), (\d+) % "
     r"for its (\w+), (\d+) % for its (\w+) and all that for their column and row, but only (\d+) % which way it faces",
     words_found),
    (r"is right in ([\d.]+) % of relations instead of ([\d.]+) %", relations),
    (r"had (\d+) minutes of text and (\d+) of pictures", minutes),
)  # fmt: skip
"""What README says with numbers that no command writes -> whether the data say so."""
STATED = ("95 % Wilson intervals",)


@pytest.mark.parametrize(("pattern", "holds"), CLAIMS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_claim_is_what_the_data_say(pattern, holds):
    found = re.search(pattern, prose(TEXT))
    assert found, "README says it in other words now; say it here, too"
    assert holds(*found.groups()), found[0]


def test_no_other_figure_stands_in_the_text():
    left = prose(TEXT)
    for known in (*(pattern for pattern, _ in CLAIMS), *map(re.escape, STATED)):
        left = re.sub(known, "", left)
    assert re.findall(r".{0,40}\b\d[\d.,]*(?: ?%| times| minutes?\b| seconds?\b| ms\b| MB\b| GB\b)", left) == []


def test_formats_that_no_model_has_learnt():
    assert "on VSR each of them finds every caption true, on ScienceQA none ever answers with a letter" in prose(TEXT)
    for model, found in benchmarks().items():
        assert (found["vsr"]["accuracy"], found["scienceqa"]["accuracy"]) == (0.5, 0.0), model
        assert found["whatsup"]["low"] < 0.25 < found["whatsup"]["high"], model
        assert found["pope-random"]["low"] > found["pope-random"]["blind"], model


def test_about_half_of_the_scan_is_its_exponentials():
    assert "the exponentials alone take about half of its forward pass" in prose(TEXT)
    result = board.kept()["scan"]["result"]
    assert 0.4 < result["limit_ms"]["exponentials_forward"] / result["forward_ms"]["vlmlab"] < 0.6
