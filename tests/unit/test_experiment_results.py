"""What the 3 x 2 experiment's numbers become, with planted answers whose accuracies and differences are known."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from vlmlab import cli
from vlmlab.benchmarks import experiment_results as results
from vlmlab.benchmarks.categories import CATEGORIES, SPATIAL
from vlmlab.benchmarks.experiment import CELLS, Plan, recipe_of
from vlmlab.errors import BadInput
from vlmlab.files import write_json

PLAN = Plan(steps=7)
KINDS = ("twins/mirror", "twins/swap", "twins/relation")
N, PAIRS = 160, 50
SINGLES = 8 * N
SPEED = {
    "tokens_per_second": {f"{cell}-tiny": 30.0 if "mamba" in cell.split("-") else 40.0 for cell in CELLS},
    "peak_bytes": {f"{cell}-tiny": 50_000_000 for cell in CELLS},
}


def summary():
    parts, start = {}, 0
    for name in (*CATEGORIES, *KINDS):
        stop = start + (2 * PAIRS if name in KINDS else N)
        baselines = {"chance": 0.25, "constant": 0.0} if name in KINDS else {"chance": 0.5, "constant": 0.55}
        parts[name] = {"start": start, "stop": stop, "topics": {}, **baselines}
        start = stop
    return {"fingerprint": "f", "parts": parts}


def plant(plan, name, share, rng=None, **changes):
    """A run that gives a share of right answers: that of its category, or `share` itself."""
    rng = rng or np.random.default_rng(0)
    encoder, backbone, seed = name.split("-")
    right = ""
    for part, where in summary()["parts"].items():
        p = share.get(part, share[""]) if isinstance(share, dict) else share
        right += "".join(str(int(flag)) for flag in rng.random(where["stop"] - where["start"]) < p)
    result = {
        "name": name, "encoder": encoder, "backbone": backbone, "seed": int(seed), "exam": "f", "right": right,
        "blind": "01" * (SINGLES // 2), "seconds": {"training": 100.0, "asking": 10.0},
        "loss": {"step": list(range(40)), "loss": [1.2345] * 40}, "predicted": {}, "parameters": {"total": 6},
        "machine": {"device": "CPU, 2 cores"}, "recipe": asdict(recipe_of(plan, name)),
    }  # fmt: skip
    write_json(plan.path / name / "result.json", result | changes)


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setenv("VLMLAB_WORK", str(tmp_path / "runs"))
    monkeypatch.setenv("VLMLAB_DATA", str(tmp_path / "data"))
    write_json(PLAN.path / "exam.json", {"questions": N, "pairs": PAIRS, **summary()})
    return tmp_path


@pytest.fixture
def planted(work):
    """MambaVision is better at projective relations by 30 points, whatever the backbone; nothing else differs."""
    rng = np.random.default_rng(0)
    for name in PLAN.runs:
        plant(PLAN, name, {"": 0.6, "projective": 0.9 if name.startswith("mambavision") else 0.6}, rng)
    return results.collect(PLAN, SPEED)


def test_everything_is_there_and_small(planted, work):
    assert planted["missing"] == []
    assert set(planted["cells"]) == set(CELLS)
    for cell in planted["cells"].values():
        assert set(cell["accuracy"]) == {*CATEGORIES, "spatial", "twins", *KINDS}
        assert cell["seeds"] == [0, 1, 2]
        for values in cell["accuracy"].values():
            assert values["low"] <= values["mean"] <= values["high"]
            assert values["mean"] == pytest.approx(np.mean(values["seeds"]), abs=2e-4)
    assert planted["cost"]["training_seconds"] == 1800
    assert planted["cost"]["asking_seconds"] == 180
    assert planted["cost"]["devices"] == ["CPU, 2 cores"]
    assert planted["settings"]["steps"] == 7
    assert results.save(planted) == "data/experiments/encoders-by-backbones.json"
    file = work / "data" / "experiments" / "encoders-by-backbones.json"
    assert file.stat().st_size < 300_000
    assert results.shipped() == json.loads(json.dumps(planted))


def test_all_contrasts_are_there_and_the_planted_difference_alone_is_found(planted):
    kinds = [(each["kind"], bool(each["within"])) for each in planted["contrasts"]]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        ("encoder", False): 3, ("encoder", True): 6, ("backbone", False): 1, ("backbone", True): 3, ("cell", False): 1,
    }  # fmt: skip
    for rival in ("clip", "fused"):
        for within in ("", "llama", "mamba"):
            values = results.find(planted, "mambavision", rival, within)["rows"]["projective"]
            assert values["low"] < 0.30 < values["high"]
            assert values["low"] > 0
    sure = {
        (each["first"], each["second"], row)
        for each in planted["contrasts"]
        for row, values in each["rows"].items()
        if values.get("holm", 1) < 0.05
    }
    assert sure == {("mambavision", "clip", "projective"), ("mambavision", "fused", "projective")}
    flags = [results.marks(planted, f"{encoder}-mamba", "counting").mean() for encoder in ("mambavision", "clip")]
    difference = results.find(planted, "mambavision", "clip", "mamba")["rows"]["counting"]["difference"]
    assert difference == pytest.approx(flags[0] - flags[1], abs=1e-4)
    backbone = results.find(planted, "mamba", "llama", "fused")["rows"]["existence"]["difference"]
    flags = [results.marks(planted, f"fused-{name}", "existence").mean() for name in ("mamba", "llama")]
    assert backbone == pytest.approx(flags[0] - flags[1], abs=1e-4)


def test_the_findings_follow_the_numbers(planted):
    text = "\n".join(planted["findings"])
    assert "MambaVision against CLIP, averaged over backbones: projective +" in text
    assert "DINOv2 + SigLIP against CLIP, averaged over backbones: no category differs" in text
    assert "Mamba against Llama, averaged over encoders: no category differs" in text
    assert text.count("This holds: spatial +") == 2
    assert "0.75 times its tokens a second; 1.00 times its peak memory" in text
    assert results.LIMITS[0] in text
    assert "missing" not in text


@pytest.mark.parametrize(("share", "verdict"), [(0.6, "is undecided"), (0.4, "fails, the other is better")])
def test_an_expectation_that_is_not_met_is_said_not_to_be(work, share, verdict):
    rng = np.random.default_rng(5)
    for name in PLAN.runs:
        plant(PLAN, name, share if name.startswith("mambavision-mamba") else 0.6, rng)
    found = results.collect(PLAN)
    assert sum(f"This {verdict}" in sentence for sentence in found["findings"]) == 2
    assert "tokens a second" not in "".join(found["findings"])


def test_the_oracle_and_a_constant(work):
    for name in PLAN.runs:
        yes = "10" * (SINGLES // 2) + "10" * (3 * PAIRS)  # right in every second question and in one of each pair
        plant(PLAN, name, 1.0, **({} if name.startswith("clip") else {"right": yes}))
    cells = results.collect(PLAN)["cells"]
    for row in results.ROWS:
        assert cells["clip-llama"]["accuracy"][row]["mean"] == 1.0
        assert 0.9 < cells["clip-llama"]["accuracy"][row]["low"] < 1.0
        assert cells["fused-mamba"]["accuracy"][row]["mean"] == (0.0 if row == "twins" else 0.5)
    assert cells["clip-llama"]["accuracy"]["counting"]["blind"] == 0.5
    assert cells["clip-llama"]["accuracy"]["twins"]["blind"] == 0.0


def test_rows_that_join_parts_join_theirs(work):
    shares = dict.fromkeys(SPATIAL, 1.0) | {"twins/swap": 1.0, "": 0.0}
    for name in PLAN.runs:
        plant(PLAN, name, shares)
    found = results.collect(PLAN)
    assert results.marks(found, "clip-mamba", "spatial").shape == (3, 4 * N)
    assert results.marks(found, "clip-mamba", "twins").shape == (3, 3 * PAIRS)
    accuracy = found["cells"]["clip-mamba"]["accuracy"]
    assert accuracy["spatial"]["mean"] == 1.0
    assert accuracy["existence"]["mean"] == 0.0
    assert accuracy["twins"]["mean"] == pytest.approx(1 / 3, abs=1e-3)
    assert accuracy["twins/swap"]["mean"] == 1.0


def test_what_is_missing_is_said_and_not_saved(work):
    for name in ("clip-llama-0", "clip-llama-2", "mambavision-mamba-1"):
        plant(PLAN, name, 0.6)
    found = results.collect(PLAN)
    assert len(found["missing"]) == 15
    assert list(found["cells"]) == ["mambavision-mamba", "clip-llama"]
    assert [each["kind"] for each in found["contrasts"]] == ["cell"]
    assert found["findings"][0].startswith("15 runs are missing")
    assert "a single run" in found["findings"][1]
    with pytest.raises(BadInput, match="15 runs miss"):
        results.save(found)
    assert results.table(found).row_count == 10


def test_the_shipped_results_are_shown_without_running(planted, monkeypatch, capfd):
    results.save(planted)
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["experiment", "encoders-by-backbones", "--show"]) == 0
    out = capfd.readouterr().out
    for part in ("mambavision-mamba", "projective", "tokens/s", "This holds", "95 % intervals"):
        assert part in out
    assert cli.main(["experiment", "encoders-by-backbones", "--show", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["contrasts"] == planted["contrasts"]
