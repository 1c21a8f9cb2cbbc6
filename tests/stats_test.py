"""Intervals and paired tests against closed forms and simulation."""

import math

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn import metrics as sklearn_metrics

from vision_jax import stats


@hypothesis.given(n=st.integers(1, 2000), rate=st.floats(0, 1))
def test_wilson_equals_its_formula_and_contains_the_estimate(n, rate):
  k = round(rate * n)
  z = 1.959963984540054
  centre = (k + z**2 / 2) / (n + z**2)
  reach = z / (n + z**2) * math.sqrt(k * (n - k) / n + z**2 / 4)
  low, high = stats.wilson(k, n)
  assert (low, high) == pytest.approx((centre - reach, centre + reach),
                                      abs=1e-9)
  assert low - 1e-12 <= k / n <= high + 1e-12


def test_wilson_of_the_butterfly_study():
  assert stats.wilson(303, 500) == pytest.approx((0.563, 0.648), abs=5e-4)
  assert stats.wilson(270, 500) == pytest.approx((0.496, 0.583), abs=5e-4)


def test_wilson_at_the_borders():
  assert stats.wilson(0, 0) == (0.0, 1.0)
  with pytest.raises(ValueError, match='k=3 in n=2'):
    stats.wilson(3, 2)


@hypothesis.given(
    st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_mcnemar_is_the_exact_binomial_tail(pairs):
  a, b = np.array(pairs, bool).reshape(-1, 2).T
  test = stats.mcnemar(a, b)
  assert test.only_a + test.only_b == np.sum(a != b)
  n, least = test.only_a + test.only_b, min(test.only_a, test.only_b)
  tail = sum(math.comb(n, i) for i in range(least + 1)) / 2**n
  assert test.p_value == pytest.approx(min(1.0, 2 * tail))


def test_mcnemar_refuses_unpaired_models():
  with pytest.raises(ValueError, match='sorted by id'):
    stats.mcnemar(np.ones(3), np.ones(4))


@hypothesis.given(st.lists(st.floats(-100, 100), min_size=2, max_size=10))
def test_mean_interval_is_student_t(values):
  result = stats.mean_interval(values)
  error = np.std(values, ddof=1) / math.sqrt(len(values))
  reach = scipy_stats.t(len(values) - 1).isf(0.025) * error
  assert result.estimate == pytest.approx(np.mean(values))
  assert result.high - result.low == pytest.approx(2 * reach, abs=1e-9)


def test_mean_interval_of_few():
  assert stats.mean_interval([0.5])[0] == 0.5
  assert np.isnan(stats.mean_interval([0.5]).low)
  with pytest.raises(ValueError, match='one result per seed'):
    stats.mean_interval([])


def test_bootstrap_agrees_with_the_normal_interval_of_a_mean():
  values = np.random.default_rng(0).normal(size=400)
  result = stats.bootstrap(
      np.mean, (values,), strata=np.zeros(400), resamples=2000)
  reach = 1.96 * values.std() / 20
  assert result.estimate == values.mean()
  assert (result.low, result.high) == pytest.approx(
      (values.mean() - reach, values.mean() + reach), abs=0.01)
  again = stats.bootstrap(
      np.mean, (values,), strata=np.zeros(400), resamples=2000)
  assert again == result


def test_bootstrap_draws_every_stratum_apart():
  labels = np.array([0] * 51 + [1])
  sizes = []
  def share(y):
    sizes.append(tuple(np.bincount(y)))
    return np.mean(y == 1)
  result = stats.bootstrap(share, (labels,), strata=labels, resamples=50)
  assert set(sizes) == {(50, 1), (51, 1)}  # The last one is of the estimate.
  assert result.low == pytest.approx(1 / 52) == result.high


@pytest.mark.parametrize('size', [3, 10])
def test_bootstrap_has_the_variance_of_a_mean_of_strata(size):
  generator = np.random.default_rng(0)
  values = generator.normal(size=(20, size))
  result = stats.bootstrap(
      np.mean, (values.ravel(),), strata=np.repeat(np.arange(20), size),
      resamples=4000)
  error = np.sqrt(values.var(axis=1, ddof=1).mean() / values.size)
  assert (result.high - result.low) / 2 == pytest.approx(
      1.96 * error, rel=0.05)


def test_bootstrap_interval_of_f1_contains_the_estimate():
  generator = np.random.default_rng(0)
  labels = generator.integers(4, size=120)
  predicted = np.where(generator.uniform(size=120) < 0.6, labels, 0)

  def f1(y, p):
    return sklearn_metrics.f1_score(y, p, average='macro')

  result = stats.bootstrap(
      f1, (labels, predicted), strata=labels, resamples=200)
  assert result.low < result.estimate < result.high
  assert 0.1 < result.high - result.low < 0.3


def test_paired_bootstrap_is_narrower_than_two_intervals():
  generator = np.random.default_rng(0)
  labels = generator.integers(3, size=300)
  hard = generator.uniform(size=300) < 0.4
  a = np.where(hard, (labels + 1) % 3, labels)
  b = np.where(hard | (np.arange(300) % 20 == 0), (labels + 1) % 3, labels)

  def accuracy(y, p):
    return np.mean(y == p)

  result = stats.paired_bootstrap(accuracy, labels, a, b, seed=1)
  assert result.estimate == pytest.approx(accuracy(labels, a)
                                          - accuracy(labels, b))
  assert 0 < result.low < result.estimate < result.high
  assert result.high - result.low < 0.08


def test_bootstrap_refuses_unequal_lengths():
  with pytest.raises(ValueError, match=r'\[3, 4\]'):
    stats.bootstrap(np.mean, (np.ones(3),), strata=np.ones(4))


def test_permuted_agreement_of_study_1():
  # Rows, diagonal and 145 as printed, the rest from the printed precisions.
  matrix = np.array([[65, 125, 125], [75, 144, 145], [72, 128, 130]])
  mean, deviation = stats.permuted_agreement(matrix)
  assert mean == pytest.approx(340.2, abs=0.1)
  # 14.4 was the spread of 2,000 random permutations.
  assert deviation == pytest.approx(14.4, abs=3 * 14.4 / np.sqrt(2 * 2000))


@pytest.mark.parametrize('seed', range(3))
def test_permuted_agreement_equals_sampling(seed):
  generator = np.random.default_rng(seed)
  labels = generator.integers(4, size=80)
  predicted = generator.choice(4, p=[0.6, 0.2, 0.1, 0.1], size=80)
  matrix = sklearn_metrics.confusion_matrix(labels, predicted)
  samples = [np.sum(labels == generator.permutation(predicted))
             for _ in range(20_000)]
  mean, deviation = stats.permuted_agreement(matrix)
  assert mean == pytest.approx(np.mean(samples), abs=4 * deviation / 140)
  assert deviation == pytest.approx(np.std(samples), rel=0.03)


def test_permuted_agreement_of_a_constant_prediction_cannot_vary():
  assert stats.permuted_agreement(np.array([[7, 0], [5, 0]])) == (7.0, 0.0)
