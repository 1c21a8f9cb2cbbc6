"""Measures for imbalanced classes: the study's Table 3 and counts by hand."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from vision_jax import imbalance_metrics

_TABLE = {
    1: ((7, 7, 10, 9, 3, 5, 9, 6, 6, 7), (10, 10)),
    3: ((13, 11, 8, 13, 12, 3, 3, 2, 2, 2), (14, 5)),
    7: ((16, 12, 12, 15, 16, 0, 1, 0, 0, 1), (17, 2)),
    15: ((17, 18, 13, 14, 16, 1, 0, 0, 1, 1), (18, 1)),
}


@pytest.mark.parametrize('rho,accuracy,balanced,majority,minority', [
    (1, 0.6900, 0.6900, 0.7200, 0.6600), (3, 0.7263, 0.6471, 0.8143, 0.4800),
    (7, 0.7684, 0.5176, 0.8353, 0.2000), (15, 0.8526, 0.7333, 0.8667, 0.6000)])
def test_table_3(rho, accuracy, balanced, majority, minority):
  hits, (large, small) = _TABLE[rho]
  report = imbalance_metrics.from_true_positives(
      hits, [large] * 5 + [small] * 5, minority=range(5, 10))
  near = lambda value: pytest.approx(value, abs=5e-5)
  assert report['accuracy'] == near(accuracy)
  assert report['balanced_accuracy'] == near(balanced)
  assert report['majority_recall'] == near(majority)
  assert report['minority_recall'] == near(minority)
  assert report['accuracy_low'] < accuracy < report['accuracy_high']


def test_true_positives_that_do_not_fit():
  with pytest.raises(ValueError, match=r'\[3\].*\[2\]'):
    imbalance_metrics.from_true_positives([3], [2], minority=[])


def test_geometric_mean_is_imbalanced_learns():
  imblearn = pytest.importorskip('imblearn.metrics')
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 4, 200)
  predicted = np.where(rng.random(200) < 0.6, labels, rng.integers(0, 4, 200))
  assert imbalance_metrics.geometric_mean(labels, predicted) == pytest.approx(
      imblearn.geometric_mean_score(labels, predicted))
  assert imbalance_metrics.geometric_mean(
      np.array([0, 1]), np.array([0, 0])) == 0


def test_the_geometric_mean_of_many_small_recalls_is_not_zero():
  imblearn = pytest.importorskip('imblearn.metrics')
  labels = np.repeat(np.arange(250), 50)
  predicted = (labels + 1) % 250
  predicted[::50] = labels[::50]  # One of fifty is right in every class.
  found = imbalance_metrics.geometric_mean(labels, predicted)
  assert found == pytest.approx(0.02)
  assert found == pytest.approx(
      imblearn.geometric_mean_score(labels, predicted))
  assert imbalance_metrics.from_true_positives(
      [1] * 250, [50] * 250, minority=[0])['geometric_mean'] == (
          pytest.approx(0.02))


def test_groups_and_their_rates():
  members = imbalance_metrics.groups(np.array([42, 3, 42]))
  assert members['majority'].tolist() == [0, 2]
  assert members['minority'].tolist() == [1]
  labels = np.array([0, 0, 0, 2, 2, 1, 1])
  predicted = np.array([0, 0, 1, 2, 0, 1, 2])
  large, small = imbalance_metrics.group_rates(labels, predicted, members, 3)
  assert (large['recall_hits'], large['recall_n']) == (3, 5)
  assert (large['precision_hits'], large['precision_n']) == (3, 5)
  assert (small['recall_hits'], small['recall_n']) == (1, 2)
  assert small['precision_n'] == 2
  interval = scipy_stats.binomtest(3, 5).proportion_ci(method='wilson')
  assert large['recall_low'] == pytest.approx(interval.low)
  # The studies' example: 3 of 5 is anything from .23 to .88.
  assert large['recall_high'] == pytest.approx(0.88, abs=0.005)


def test_groups_of_a_balanced_set():
  members = imbalance_metrics.groups(np.array([22, 22]))
  assert members['majority'].tolist() == [0, 1]
  assert not members['minority'].size


def test_rates_in_words():
  assert imbalance_metrics.rate_text(1, 1) == 'right on the one image'
  assert imbalance_metrics.rate_text(0, 1) == 'wrong on the one image'
  assert imbalance_metrics.rate_text(0, 0) == 'no image'
  assert imbalance_metrics.rate_text(3, 5) == '0.600 [0.23, 0.88], 3 of 5'


def test_turning_epoch():
  turn = imbalance_metrics.turning_epoch
  assert turn([2.0, 1.0, 0.5, 0.7, 0.9]) == 3
  assert turn([2.0, 1.0, 0.5]) is None
  assert turn([2.0, 0.5, 0.502]) is None
  assert turn([0.5, 0.6]) == 1
  # An error that rose and fell again shows no overfitting.
  assert turn([1.0, 2.0, 1.005]) is None
  assert turn([0.5, 5.0, 0.6]) == 1
  with pytest.raises(ValueError, match='no epochs'):
    turn([])


def test_generalisation_gap():
  assert imbalance_metrics.generalisation_gap(1.0, 0.69) == pytest.approx(0.31)
