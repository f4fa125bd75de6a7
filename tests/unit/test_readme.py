"""README says what is true: its table is the manifest's, its files exist, its commands are known."""

import re
from pathlib import Path

from typer.testing import CliRunner

from vlmlab import readme
from vlmlab.bench import board
from vlmlab.cli import app
from vlmlab.weights import manifest
from vlmlab.weights.publishing import markdown

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


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


def test_linked_files_exist():
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert links
    for link in links:
        assert "://" in link or (ROOT / link).is_file(), link


def test_commands_exist():
    commands = set(re.findall(r"vlmlab (\w+) ?", TEXT)) & set(re.findall(r"bin/vlmlab (\w+)", TEXT))
    assert {"render", "ask", "doctor", "account", "train", "evaluate"} <= commands
    for command in commands:
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0, command
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", TEXT, re.MULTILINE):
        assert f"\n{target}:" in make
