"""Intervals over seeds and questions: numbers worked by hand, and synthetic models whose true accuracy is known."""

import numpy as np
import pytest
from scipy.stats import t

from vlmlab.benchmarks.statistics import accuracy, contrast, holm
from vlmlab.errors import BadInput


def planted(rng, seeds, questions, runs=3, asked=60, shift=0.0, difficulty=None):
    """Answers (S, Q) of runs that differ by `seeds` and questions that differ by `questions`, in log-odds."""
    hard = rng.normal(0, questions, asked) if difficulty is None else difficulty
    odds = shift + rng.normal(0, seeds, (runs, 1)) + hard
    return (rng.random((runs, asked)) < 1 / (1 + np.exp(-odds))).astype(float)


def test_a_single_run_is_the_textbook_interval():
    flags = np.array([[1, 1, 0, 1, 0, 1, 1, 1]], float)
    found = contrast([1.0], [flags])
    se = flags.std(ddof=1) / np.sqrt(8)
    assert found["difference"] == 0.75
    assert found["high"] - 0.75 == pytest.approx(t.ppf(0.975, 7) * se)


def test_the_variance_is_that_of_a_two_way_table():
    cell = np.array([[1, 0, 1, 1], [1, 0, 0, 1], [0, 0, 0, 1]], float)  # 3 runs, 4 questions
    S, Q = cell.shape
    m, runs, asked = cell.mean(), cell.mean(1), cell.mean(0)
    of_runs = Q * ((runs - m) ** 2).sum() / (S - 1)
    of_questions = S * ((asked - m) ** 2).sum() / (Q - 1)
    rest = ((cell - runs[:, None] - asked + m) ** 2).sum() / ((S - 1) * (Q - 1))
    assert of_runs > rest
    assert of_questions > rest
    variance = (of_runs + of_questions - rest) / (S * Q)
    freedom = (of_runs + of_questions - rest) ** 2 / (
        of_runs**2 / (S - 1) + of_questions**2 / (Q - 1) + rest**2 / ((S - 1) * (Q - 1))
    )
    found = contrast([1.0], [cell])
    assert found["se"] == pytest.approx(np.sqrt(variance))
    assert found["df"] == pytest.approx(freedom)


@pytest.mark.parametrize(("seeds", "questions"), [(0.0, 1.0), (0.3, 1.0), (1.0, 1.0), (0.3, 3.0)])
def test_intervals_of_an_accuracy_hold_the_truth_as_often_as_they_say(seeds, questions):
    rng = np.random.default_rng(0)
    truth = float((1 / (1 + np.exp(-rng.normal(0.5, np.hypot(seeds, questions), 400_000)))).mean())
    found = [accuracy(planted(rng, seeds, questions, shift=0.5)) for _ in range(400)]
    held = np.mean([each["low"] <= truth <= each["high"] for each in found])
    assert 0.905 <= held <= 0.99
    # an interval that forgets the seeds is caught where they matter
    only_questions = [contrast([1.0], [planted(rng, 1.0, 1.0, shift=0.0).mean(0, keepdims=True)]) for _ in range(400)]
    assert np.mean([each["low"] <= 0.5 <= each["high"] for each in only_questions]) < 0.75


def test_two_equal_models_are_told_apart_in_one_case_of_twenty():
    rng = np.random.default_rng(1)
    p = []
    for _ in range(400):
        hard = rng.normal(0, 2, 60)  # the same questions for both
        p.append(contrast([1, -1], [planted(rng, 0.5, 0, difficulty=hard) for _ in range(2)])["p"])
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.09
    assert 0.4 <= np.mean(np.array(p) < 0.5) <= 0.6


def test_a_real_difference_is_found_and_sharing_questions_helps():
    rng = np.random.default_rng(2)
    hard = rng.normal(0, 2.5, 160)
    better, worse = (planted(rng, 0.05, 0, asked=160, difficulty=hard, shift=shift) for shift in (1.2, 0.0))
    found = contrast([1, -1], [better, worse])
    assert found["low"] > 0
    assert found["p"] < 0.05
    shuffled = contrast([1, -1], [better, worse[:, rng.permutation(160)]])
    assert found["se"] < 0.85 * shuffled["se"]
    assert contrast([-1, 1], [better, worse])["high"] == pytest.approx(-found["low"])


def test_weights_average_over_cells_and_runs_may_differ_in_number():
    rng = np.random.default_rng(3)
    a, b = planted(rng, 0.3, 1.0, runs=3), planted(rng, 0.3, 1.0, runs=2)
    assert contrast([0.5, 0.5], [a, b])["difference"] == pytest.approx((a.mean() + b.mean()) / 2)


def test_a_perfect_score_keeps_an_interval_and_no_difference_is_none():
    perfect = np.ones((3, 40))
    assert accuracy(perfect)["mean"] == 1.0
    assert 0.85 < accuracy(perfect)["low"] < 0.95
    assert contrast([1, -1], [perfect, perfect])["p"] == 1.0
    assert contrast([1, -1], [perfect, 0 * perfect])["p"] == 0.0


def test_models_asked_other_questions_are_refused():
    with pytest.raises(BadInput, match="same questions"):
        contrast([1, -1], [np.ones((3, 4)), np.ones((3, 5))])
    with pytest.raises(BadInput, match="weight"):
        contrast([1], [np.ones((3, 4)), np.ones((3, 4))])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
