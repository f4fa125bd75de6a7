"""`vlmlab bench`: what is measured is there and plausible."""

import time
from functools import partial

import numpy as np
import pytest

from vlmlab.bench import BENCHMARKS, board
from vlmlab.bench.scaling import crossing, power_law
from vlmlab.bench.timing import alternate, peak_memory, ratios
from vlmlab.errors import BadInput


def test_render_counts_pictures_a_second_in_one_process_and_in_several():
    result = BENCHMARKS["render"](n=4, size=24, processes=1)
    assert (result["n"], result["size"], result["processes"]) == (4, 24, 1)
    assert result["one_process_per_second"] > 0
    assert result["processes_per_second"] > 0


@pytest.mark.parametrize("settings", [{"n": 0}, {"processes": 0}])
def test_nothing_to_measure_is_refused(settings):
    with pytest.raises(BadInput, match="at least 1"):
        BENCHMARKS["render"](**settings)


def test_scan_is_compared_with_its_peers_and_agrees_with_them():
    result = BENCHMARKS["scan"](length=40, channels=8, state=3, rounds=1)
    assert max(result["relative_difference_to_transformers"].values()) < 1e-5
    for what in ("forward", "forward_backward"):
        assert set(result[f"{what}_ms"]) == {"vlmlab", "vlmlab chunked", "transformers", "mambapy"}
        assert all(value > 0 for value in result[f"{what}_ms"].values())
        assert "vlmlab" not in result[f"{what}_times_vlmlab"]
    assert all(value >= 0 for value in result["limit_ms"].values())


def test_mamba_is_compared_with_transformers_and_agrees_with_it():
    result = BENCHMARKS["mamba"](length=40, dim=16, layers=1, rounds=1, decode=2)
    assert result["relative_difference_of_logits"] < 1e-5
    for what in ("prefill", "training_step", "token"):
        ours, theirs = (result[f"{what}_ms"][name] for name in ("vlmlab", "transformers"))
        assert result[f"{what}_times_vlmlab"]["transformers"] == pytest.approx(theirs / ours, rel=0.3, abs=0.2)


def test_scaling_measures_both_models_at_every_length():
    result = BENCHMARKS["scaling"](lengths=(16, 32, 64), rounds=1, decode=2, memory=False)
    sizes = result["parameters"]
    assert abs(sizes["mamba"] / sizes["transformer"] - 1) < 0.05
    kept = result["kept_bytes"]
    assert kept["mamba"][0] == kept["mamba"][2]
    assert kept["transformer"][2] == 4 * kept["transformer"][0]
    assert result["exponents"]["kept_bytes"]["transformer"] == [1.0, 1.0, 1.0]
    assert all(value > 0 for what in ("prefill_ms", "token_ms") for series in result[what].values() for value in series)
    with pytest.raises(BadInput, match="three lengths"):
        BENCHMARKS["scaling"](lengths=(16, 32))


def test_mambavision_runs_with_three_scans_that_agree():
    result = BENCHMARKS["mambavision"](variant="tiny", size=48, batch=1, rounds=1)
    assert (result["variant"], result["size"], result["batch"]) == ("tiny", 48, 1)
    assert set(result["relative_difference_to_reference"]) == {"vlmlab", "chunked"}
    assert max(result["relative_difference_to_reference"].values()) < 1e-5
    for what in ("forward", "forward_backward"):
        speeds = result[f"{what}_images_per_second"]
        assert set(speeds) == {"vlmlab", "chunked", "reference"}
        for name, times in result[f"{what}_times_vlmlab"].items():
            assert times == pytest.approx(speeds["vlmlab"] / speeds[name], rel=0.05, abs=0.02)
    assert all(value > 0 for value in result["scans_ms_per_image"].values())
    with pytest.raises(BadInput, match="batch=0"):
        BENCHMARKS["mambavision"](batch=0)


def test_a_power_law_is_found_with_an_interval_that_covers_it():
    x = np.array([100, 200, 400, 800, 1600])
    assert power_law(x, 3e-4 * x**2.0) == pytest.approx((2, 2, 2))
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        _, low, high = power_law(x, x**1.5 * np.exp(0.1 * rng.standard_normal(5)))
        covered += low <= 1.5 <= high
    assert 180 <= covered <= 198  # 95 % of 200, give or take
    with pytest.raises(BadInput, match="positive"):
        power_law([1, 2, 3], [1, 0, 2])


def test_a_crossing_lies_where_the_lines_meet():
    x = [100, 1000, 10000]
    assert crossing(x, [1, 100, 10000], [10, 100, 1000]) == pytest.approx(1000)
    assert crossing(x, [1, 100, 10000], [31.6227766, 316.227766, 3162.27766]) == pytest.approx(3162.3, rel=1e-3)
    assert crossing(x, [1, 2, 3], [2, 3, 4]) is None
    assert crossing(x, [2, 3, 4], [1, 2, 3]) == 100


def test_alternating_runs_every_contender_once_a_round():
    calls = []
    found = alternate({name: partial(calls.append, name) for name in "ab"}, rounds=2)
    assert calls == ["a", "b"] * 3
    assert set(found) == {"a", "b"}
    assert ratios({"vlmlab": 2.0, "other": 5.0}) == {"other": 2.5}


def test_a_slow_contender_runs_once(monkeypatch):
    monkeypatch.setattr("vlmlab.bench.timing.PATIENCE", 0.01)
    calls = []
    found = alternate({"slow": lambda: (calls.append(1), time.sleep(0.02)), "fast": lambda: None}, rounds=3)
    assert len(calls) == 1
    assert found["slow"] >= 0.02


def test_peak_memory_counts_what_a_call_holds_for_a_moment():
    grown = peak_memory(lambda: np.ones(2**23).sum())
    assert grown is None or 60 * 2**20 < grown < 100 * 2**20


def test_answering_measures_every_part_of_an_answer():
    result = BENCHMARKS["answering"](("clip-llama-tiny", "clip-mamba-tiny"), rounds=1, tokens=2, memory=False)
    for what in ("encode_ms", "prefill_ms", "token_ms", "answer_ms", "tokens_per_second", "weights_bytes"):
        assert set(result[what]) == {"clip-llama-tiny", "clip-mamba-tiny"}
        assert min(result[what].values()) > 0
    for name, milliseconds in result["answer_ms"].items():
        assert result["tokens_per_second"][name] == pytest.approx(2000 / milliseconds, rel=0.01)
    assert 70 < result["prompt_tokens"]["clip-llama-tiny"] < 100
    with pytest.raises(BadInput, match="at least"):
        BENCHMARKS["answering"](tokens=1)


def test_what_readme_quotes_is_kept_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setenv("VLMLAB_DATA", str(tmp_path))
    result = {"prefill_ms": {"vlmlab": 10.0, "transformers": 55.0}, "token_ms": {"vlmlab": 2.0, "transformers": 5.0}}
    assert board.markdown(board.kept()).count("\n") == 1  # nothing measured: only the head
    assert board.save("mamba", result, {"length": 64}) == "data/results/bench-mamba.json"
    kept = board.kept()
    assert kept["mamba"]["result"] == result
    assert "cores" in kept["mamba"]["machine"]["cpu"]
    assert board.markdown(kept).splitlines()[2:] == [
        "| `vlmlab bench mamba --set length=64` | a Mamba language model, prefill | 10.0 | 55.0 (5.5) | - |",
        "| `vlmlab bench mamba --set length=64` | a decoded token | 2.0 | 5.0 (2.5) | - |",
    ]
