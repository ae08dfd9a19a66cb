"""Intervals and tests against closed forms and published numbers, and against scipy where it is."""

import math

import numpy as np
import pytest

from eramv_lab.evaluate import statistics as st

NORMAL = 1.959963984540054


def answers(n: int, right: int) -> np.ndarray:
    return np.r_[np.ones(right), np.zeros(n - right)]


# --- building blocks


def test_wilson_known_values():
    # Newcombe 1998, table I, method 3
    for right, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert st.wilson(right, n) == pytest.approx((low, high), abs=1e-4)
    assert st.wilson(20, 20)[1] == 1.0
    with pytest.raises(ValueError, match="3 of 2"):
        st.wilson(3, 2)


@pytest.mark.parametrize(
    ("df", "value"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (120, 1.97993)],
)
def test_t_quantile_known_values(df: int, value: float):
    assert st.t_quantile(0.975, df) == pytest.approx(value, rel=1e-5)
    assert st.t_quantile(0.025, df) == pytest.approx(-value, rel=1e-5)


def test_t_quantile_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    for df in (1, 2, 5, 6, 31, 200, 1199):
        for p in (0.3, 0.5, 0.9, 0.975, 0.999):
            assert st.t_quantile(p, df) == pytest.approx(stats.t.ppf(p, df), abs=1e-9)


def test_mcnemar_known_value():
    # 6 gained, 1 lost: 2 * (1 + 7) / 128
    ours, theirs = [1] * 6 + [0] + [1, 0], [0] * 6 + [1] + [1, 0]
    assert st.mcnemar(ours, theirs) == st.McNemar(gained=6, lost=1, p=0.125)
    assert st.mcnemar([1, 0], [1, 0]) == st.McNemar(gained=0, lost=0, p=1.0)
    assert st.mcnemar([0.5, 0], [1, 0]) is None


def test_mcnemar_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    ours, theirs = rng.random(3000) < 0.8, rng.random(3000) < 0.77
    test = st.mcnemar(ours, theirs)
    assert test is not None
    exact = stats.binomtest(test.gained, test.gained + test.lost).pvalue
    assert test.p == pytest.approx(exact, rel=1e-9)


def test_joined_p_is_the_worst_seed_and_counts_disagreement():
    up, weak = st.McNemar(gained=9, lost=1, p=0.02), st.McNemar(gained=5, lost=3, p=0.7)
    down = st.McNemar(gained=1, lost=7, p=0.07)
    assert st.joined_p([up, weak]) == 0.7
    assert st.joined_p([up, down]) == 1.0
    assert st.joined_p([up, None]) is None


def test_holm():
    assert st.holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, 0.06, 0.06]


def test_t_interval():
    low, high = st.t_interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), rel=1e-5)


# --- clustering


def test_error_without_clusters_is_the_textbook_one():
    values = np.array([0.0, 1, 1, 0, 1, 1])
    error, groups = st.clustered_error(values)
    assert groups == 6 and error == pytest.approx(values.std(ddof=1) / 6**0.5)
    assert st.clustered_error(values, range(6)) == (pytest.approx(error), 6)


def test_copies_of_a_question_add_nothing():
    values, images = np.array([0.0, 1, 1, 0, 1]), list("abcde")
    once = st.clustered_error(values, images)
    assert st.clustered_error(np.repeat(values, 8), np.repeat(images, 8).tolist()) == (
        pytest.approx(once[0]),
        5,
    )


# --- one arm


def test_accuracy_of_one_seed_is_wilson():
    estimate = st.accuracy(answers(100, 81))
    assert (estimate.low, estimate.high) == pytest.approx(st.wilson(81, 100))
    assert estimate.from_seeds is None and estimate.seeds == 1


def test_accuracy_counts_images_not_questions_where_they_move_together():
    images = [f"i{q // 8}" for q in range(800)]
    whole_images = np.repeat(answers(100, 81), 8)
    estimate = st.accuracy(whole_images, images)
    assert (estimate.low, estimate.high) == pytest.approx(st.wilson(81, 100), abs=2e-3)
    assert st.accuracy(np.ones(800), images).low == pytest.approx(st.wilson(100, 100)[0])


def test_accuracy_over_seeds_joins_both_sources():
    seeds = np.stack([answers(400, k) for k in (300, 312, 306)])
    estimate = st.accuracy(seeds)
    assert estimate.mean == pytest.approx(306 / 400)
    assert estimate.sd_seeds == pytest.approx(6 / 400)
    assert estimate.from_seeds == pytest.approx(4.30265 * 6 / 400 / 3**0.5, rel=1e-5)
    below = estimate.mean - estimate.low
    assert below > max(estimate.from_seeds, estimate.from_questions)
    assert below < estimate.from_seeds + estimate.from_questions + 0.01


def test_accuracy_stays_within_zero_and_one():
    estimate = st.accuracy([answers(50, 50), answers(50, 40)])
    assert 0 <= estimate.low < estimate.high == 1


# --- two arms


def test_paired_difference_of_one_seed():
    # Agresti, approval of the prime minister: 794 + 150 / 86 + 570 of 1600; Wald interval
    ours = np.r_[np.ones(794), np.ones(150), np.zeros(86), np.zeros(570)]
    theirs = np.r_[np.ones(794), np.zeros(150), np.ones(86), np.zeros(570)]
    estimate = st.paired_difference(ours, theirs)
    error = math.sqrt((236 - 64**2 / 1600) / 1600 / 1599)
    assert estimate.mean == pytest.approx(0.04)
    assert estimate.high - 0.04 == pytest.approx(NORMAL * error, rel=2e-3)
    assert estimate.low == pytest.approx(0.0213, abs=2e-4)
    assert estimate.detectable == pytest.approx(2.8016 * error, rel=2e-3)


def test_paired_difference_over_seeds():
    theirs = np.zeros((2, 100))
    ours = np.stack([answers(100, 10), answers(100, 14)])
    estimate = st.paired_difference(ours, theirs)
    assert estimate.mean == pytest.approx(0.12)
    assert estimate.from_seeds == pytest.approx(12.7062 * 0.02, rel=1e-5)
    per_question = ours.mean(axis=0)
    half = st.t_quantile(0.975, 99) * per_question.std(ddof=1) / 10
    assert estimate.from_questions == pytest.approx(half)
    assert estimate.high == pytest.approx(0.12 + math.hypot(half, estimate.from_seeds))


def test_no_difference_is_not_certainty():
    estimate = st.paired_difference(answers(300, 200), answers(300, 200))
    assert estimate.mean == 0 and estimate.high == pytest.approx(3 / 300, rel=0.01)


def test_pairing_narrows_and_clustering_widens():
    rng = np.random.default_rng(1)
    images = np.repeat(np.arange(100), 8)
    ease = rng.random(800)
    theirs, ours = ease < 0.7, ease < 0.72 + 0.1 * rng.standard_normal(100)[images]
    plain = st.paired_difference(ours, theirs)
    clustered = st.paired_difference(ours, theirs, images.tolist())
    assert plain.high - plain.low < clustered.high - clustered.low
    unpaired = st.paired_difference(ours, rng.permutation(theirs))
    assert plain.high - plain.low < unpaired.high - unpaired.low


def test_coverage_of_the_paired_interval():
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(300):
        flips = rng.choice([-1, 0, 1], p=[0.05, 0.8, 0.15], size=200)
        estimate = st.paired_difference((flips > 0).astype(float), (flips < 0).astype(float))
        inside += estimate.low <= 0.1 <= estimate.high
    assert 0.92 <= inside / 300 <= 0.98


def test_what_is_not_paired_is_refused():
    with pytest.raises(ValueError, match="not paired"):
        st.paired_difference(np.zeros((2, 10)), np.zeros((3, 10)))
    with pytest.raises(ValueError, match="clusters"):
        st.accuracy(np.zeros(10), ["a"])
