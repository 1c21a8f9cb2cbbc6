"""Intervals and paired tests for numbers measured on finite sets.

Works on counts, 0/1 vectors and label arrays on the host, in float64. Knows no
metric by name (callers pass a function), no config and no file. scipy is
imported where it is used: it would slow down every `--help`.
"""

from collections.abc import Callable, Sequence
import math
import statistics
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
  """An estimate with the ends of its confidence interval."""
  estimate: float
  low: float
  high: float


class PairedTest(NamedTuple):
  """McNemar's counts: examples that only one of two models gets right."""
  only_a: int
  only_b: int
  p_value: float


def wilson(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
  """Returns the Wilson score interval of a rate of `k` in `n`.

  Without continuity correction. With n = 0 nothing is known: (0, 1).
  Source: Wilson, 1927, "Probable inference, the law of succession, and
  statistical inference".

  Raises:
    ValueError: `k` is not between 0 and `n`.
  """
  if not 0 <= k <= n:
    raise ValueError(f'a rate of k={k} in n={n}: k has to lie in [0, n]')
  if n == 0:
    return 0.0, 1.0
  z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
  k, n = int(k), int(n)
  centre = (k + z**2 / 2) / (n + z**2)
  reach = z / (n + z**2) * math.sqrt(k * (n - k) / n + z**2 / 4)
  # At the ends rounding would leave some 1e-17 of what is 0 or 1.
  return (centre - reach if k else 0.0, centre + reach if k < n else 1.0)


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> PairedTest:
  """Tests whether two models err equally often on the same examples.

  The exact two-sided binomial test on the examples where they disagree.
  Source: McNemar, 1947, "Note on the sampling error of the difference between
  correlated proportions".

  Args:
    correct_a: bool [n], whether model A is right on each example.
    correct_b: bool [n], the same of model B, in the same order.

  Raises:
    ValueError: the two are not paired, that is, differ in shape.
  """
  from scipy import stats
  a, b = np.asarray(correct_a, bool), np.asarray(correct_b, bool)
  _check_paired(correct_a=a, correct_b=b)
  only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
  disagreements = only_a + only_b
  p_value = 1.0
  if disagreements:
    p_value = float(stats.binomtest(only_a, disagreements).pvalue)
  return PairedTest(only_a, only_b, p_value)


def mean_interval(
    values: Sequence[float], confidence: float = 0.95) -> Interval:
  """Returns the mean over seeds and its Student-t interval.

  One value says nothing about the spread: its interval is (nan, nan).

  Raises:
    ValueError: `values` is empty.
  """
  from scipy import stats
  values = np.asarray(values, np.float64)
  if values.size == 0:
    raise ValueError('the mean of no values: pass one result per seed')
  mean = float(values.mean())
  if values.size == 1:
    return Interval(mean, float('nan'), float('nan'))
  error = values.std(ddof=1) / np.sqrt(values.size)
  reach = stats.t.ppf((1 + confidence) / 2, values.size - 1) * error
  return Interval(mean, float(mean - reach), float(mean + reach))


def bootstrap(
    statistic: Callable[..., float],
    arrays: Sequence[np.ndarray],
    *,
    strata: np.ndarray,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
  """Returns a statistic with its stratified bootstrap interval.

  The percentiles are of the resamples' deviations from their own mean, put
  around the statistic: a resample repeats examples, which biases some of them
  (macro F1, the distance of two sets).

  Examples are drawn with replacement within each stratum, so that a rare class
  never vanishes from a resample; of m examples m - 1, for with m the variance
  would be too small by (m - 1) / m. A stratum of one example says nothing about
  its spread, and the interval is then too narrow. Sources: Efron and
  Tibshirani, 1993, "An introduction to the bootstrap", chapter 13; Rao and Wu,
  1988, "Resampling inference with complex survey data".

  Args:
    statistic: function of the arrays, such as F1 of (labels, predicted).
    arrays: the per-example arrays that `statistic` takes, each [n, ...].
    strata: int [n], usually the labels; zeros for a plain bootstrap.
    resamples: number of bootstrap samples.
    confidence: coverage of the interval.
    seed: the same seed gives the same interval.

  Raises:
    ValueError: the arrays differ in length, or are empty.
  """
  arrays = [np.asarray(array) for array in arrays]
  strata = np.asarray(strata)
  sizes = {len(array) for array in (strata, *arrays)}
  if len(sizes) > 1 or 0 in sizes:
    raise ValueError(
        f'arrays of length {sorted(sizes)}: every array needs one row for each '
        'of the same examples')
  generator = np.random.default_rng(seed)
  groups = [np.flatnonzero(strata == value) for value in np.unique(strata)]
  values = np.empty(resamples)
  for i in range(resamples):
    rows = np.concatenate(
        [generator.choice(group, max(1, len(group) - 1)) for group in groups])
    values[i] = statistic(*(array[rows] for array in arrays))
  tail = (1 - confidence) / 2
  estimate = float(statistic(*arrays))
  low, high = (
      np.quantile(values, [tail, 1 - tail]) + estimate - values.mean())
  return Interval(estimate, float(low), float(high))


def paired_bootstrap(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    labels: np.ndarray,
    predicted_a: np.ndarray,
    predicted_b: np.ndarray,
    **options: float,
) -> Interval:
  """Returns statistic(A) - statistic(B) with an interval, on paired examples.

  Both models see the same resamples, stratified by label, so that what is hard
  for both cancels.

  Args:
    statistic: function of (labels, predictions of one model).
    labels: int [n].
    predicted_a: [n, ...], predictions of model A.
    predicted_b: [n, ...], predictions of model B, in the same order.
    **options: `resamples`, `confidence` and `seed` of `bootstrap`.
  """
  def difference(y, a, b):
    return statistic(y, a) - statistic(y, b)
  return bootstrap(
      difference, (labels, predicted_a, predicted_b), strata=labels, **options)


def permuted_agreement(confusion: np.ndarray) -> tuple[float, float]:
  """Returns mean and standard deviation of agreement under random pairing.

  With n_k labels and m_k predictions of class k, a uniformly random permutation
  of the predictions agrees in sum(n_k m_k) / n places on average; the variance
  is exact too. Source: Hoeffding, 1951, "A combinatorial central limit
  theorem", eq. 10, for the 0/1 matrix of equal classes.

  Args:
    confusion: int [classes, classes], row = true class, at least one example.
  """
  # Python integers: no overflow, and a deviation of exactly 0 where the pairing
  # cannot vary.
  counts = np.asarray(confusion).astype(object)
  n, true, guessed = counts.sum(), counts.sum(axis=1), counts.sum(axis=0)
  pairs = true @ guessed
  spread = n**2 * pairs - n * (true * guessed @ (true + guessed)) + pairs**2
  variance = spread / (n**2 * max(n - 1, 1))
  return float(pairs / n), float(np.sqrt(variance))


def _check_paired(**arrays: np.ndarray) -> None:
  shapes = {name: array.shape for name, array in arrays.items()}
  if len(set(shapes.values())) > 1:
    raise ValueError(
        f'paired values need equal shapes, got {shapes}: evaluate both models '
        'on the same examples, sorted by id')
