"""Sources without execution: selection, the parameters cell, `--set`, names bound again."""

from pathlib import Path

import pytest

from vlmlab.errors import BadInput, UnknownName
from vlmlab.notebooks import source


def names(found) -> list[str]:
    return [item.name for item in found]


def test_selection_by_number_range_name_and_path(write):
    for name in ("00_start", "01_seeing", "02_llava", "10_mamba"):
        folder = write(name, "1")
    assert names(source.find([], folder)) == ["00_start", "01_seeing", "02_llava", "10_mamba"]
    assert names(source.find(["2", "00"], folder)) == ["00_start", "02_llava"]
    assert names(source.find(["01-10"], folder)) == ["01_seeing", "02_llava", "10_mamba"]
    assert names(source.find(["02_llava", "notebooks/src/00_start.py", "10_mamba.ipynb"], folder)) == [
        "00_start", "02_llava", "10_mamba",
    ]  # fmt: skip
    with pytest.raises(UnknownName, match="did you mean '02_llava'"):
        source.find(["02_lava"], folder)
    with pytest.raises(UnknownName):
        source.find(["5"], folder)


def test_no_notebooks_and_shared_numbers_are_refused(write, tmp_path: Path):
    with pytest.raises(BadInput, match="no notebooks"):
        source.find([], tmp_path)
    write("01_a", "1")
    folder = write("1_b", "1")
    with pytest.raises(BadInput, match="share a number"):
        source.find([], folder)


def read(folder: Path):
    return source.read(source.find([], folder)[0])


def test_parameters_are_read_with_their_defaults(write):
    assert source.parameters(read(write("01_a", "1"))) == {
        "profile": "quick", "seed": 0, "device": "cpu", "steps": 3, "rate": 0.5, "text": "a=b",
    }  # fmt: skip


REQUIRED = 'profile = "quick"\nseed = 0\ndevice = "cpu"\n'


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (None, "no cell is tagged 'parameters'"),
        ("seed = 0", "lacks profile, device"),
        (REQUIRED + "steps = 2 * 3", "not a literal"),
        (REQUIRED + "steps = int('3')", "not a literal"),
        (REQUIRED + "import os", "may only assign literals"),
        (REQUIRED + "a = b = 3", "may only assign literals"),
        (REQUIRED + "seed =", "not Python"),
    ],
)
def test_a_bad_parameters_cell_is_refused(write, parameters, message):
    with pytest.raises(BadInput, match=message):
        source.parameters(read(write("01_a", "1", parameters=parameters)))


def test_two_parameters_cells_are_refused(write):
    folder = write("01_a", "1")
    path = folder / "src" / "01_a.py"
    path.write_text(path.read_text() + '\n# %% tags=["parameters"]\nsteps = 4\n')
    with pytest.raises(BadInput, match="2 cells are"):
        source.parameters(read(folder))


DEFAULTS = {"profile": "quick", "steps": 3, "rate": 0.5, "text": "a", "flag": False, "sizes": [1], "limit": None}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("steps", "7", 7),
        ("rate", "1", 1.0),
        ("rate", "1e-3", 1e-3),
        ("text", "plain words", "plain words"),
        ("text", "'quoted'", "quoted"),
        ("text", "12", "12"),
        ("flag", "True", True),
        ("sizes", "[2, 3]", [2, 3]),
        ("limit", "5", 5),
    ],
)
def test_set_reads_literals_of_the_defaults_type(name, text, value):
    found = source.resolve({name: text}, DEFAULTS, "01_a")[name]
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("step", "7", "did you mean steps"),
        ("zzz", "7", "its parameters: profile, steps"),
        ("steps", "many", "wants int"),
        ("steps", "1.5", "wants int"),
        ("steps", "True", "wants int"),
        ("flag", "1", "wants bool"),
        ("sizes", "(1, 2)", "wants list"),
        ("profile", "full", "--profile"),
    ],
)
def test_set_refuses_unknown_names_and_other_types(name, text, message):
    with pytest.raises(BadInput, match=message):
        source.resolve({name: text}, DEFAULTS, "01_a")


@pytest.mark.parametrize(
    "cell",
    [
        "seed = 1",
        "seed += 1",
        "for seed in range(3):\n    pass",
        "with open('x') as seed:\n    pass",
        "import numpy as seed",
        "def seed():\n    pass",
        "del seed",
        "(seed := 4)",
        "try:\n    pass\nexcept ValueError as seed:\n    pass",
        "%time seed = 4\nseed = 3",
        "device, other = 1, 2",
    ],
)
def test_binding_a_parameter_again_is_found(write, cell):
    (message,) = source.reassignments(read(write("01_a", cell)), ["seed", "device"])
    assert message.startswith("cell 2 (")
    assert "again" in message


@pytest.mark.parametrize(
    "cell",
    [
        "def f(seed):\n    seed = 2\n    return seed",
        "[seed for seed in range(3)]",
        "lambda seed: seed",
        "class A:\n    seed = 2",
        "x.seed = 2",
        "f(seed=2)",
        "seeds = 2",
    ],
)
def test_names_in_other_scopes_are_their_own(write, cell):
    assert source.reassignments(read(write("01_a", cell)), ["seed"]) == []
