"""Resampled AUCs against scikit-learn on the repeated examples themselves."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from vision_jax import metrics
from vision_jax.analysis import intervals


def make_scores(seed=0, n=60, classes=4, decimals=1):
  """Labels and coarse probabilities, so that many scores are equal."""
  rng = np.random.default_rng(seed)
  labels = np.concatenate([np.arange(classes), rng.integers(
      0, classes, n - classes)])
  raw = rng.uniform(size=(n, classes)) + np.eye(classes)[labels]
  p = raw / raw.sum(1, keepdims=True)
  # Ties, yet rows that still add up to one.
  p = np.round(p, decimals)
  p[:, -1] = 1 - p[:, :-1].sum(1)
  return labels, np.clip(p, 0, None) / np.clip(p, 0, None).sum(
      1, keepdims=True)


@pytest.mark.parametrize('seed', range(3))
def test_counts_stand_for_repeated_examples(seed):
  labels, p = make_scores(seed)
  counts = np.random.default_rng(seed).integers(0, 4, len(labels))
  counts[:4] += 1
  rows = np.repeat(np.arange(len(labels)), counts)
  expected = metrics.classification(labels[rows], p[rows])
  expected['auc_macro_ovr'] = np.mean([sklearn_metrics.roc_auc_score(
      labels[rows] == c, p[rows, c]) for c in range(4)])
  found = intervals.statistics(labels, p, counts[None].astype(float))
  for name, (value,) in found.items():
    np.testing.assert_allclose(value, expected[name], rtol=1e-9, err_msg=name)


def test_every_interval_holds_the_number_that_is_reported():
  labels, p = make_scores(decimals=3)
  found = intervals.classification(labels, p, resamples=100)
  reported = metrics.classification(labels, p)
  for name, (low, high) in found.items():
    assert low <= reported[name] <= high
    assert high - low < 0.6
  assert set(found) == {
      'accuracy', 'balanced_accuracy', 'macro_f1', 'auc_macro_ovr',
      'auc_micro_keras', 'log_loss'}


def test_a_class_without_examples_is_left_out_of_the_macro_mean():
  labels, p = make_scores()
  labels[labels == 3] = 0
  expected = np.mean([sklearn_metrics.roc_auc_score(
      labels == c, p[:, c]) for c in range(3)])
  np.testing.assert_allclose(
      intervals.macro_auc(labels, p, np.ones((1, len(labels)))), [expected],
      rtol=1e-12)


def test_resamples_keep_the_size_of_every_class():
  labels = np.r_[make_scores()[0], 4]
  counts = intervals.draw(labels, 20, seed=0)
  for c in range(5):
    np.testing.assert_allclose(
        counts[:, labels == c].sum(1), np.sum(labels == c))
  assert np.std(counts[:, 0]) > 0
  assert np.all(counts[:, -1] == 1)  # The only one of its class.


@pytest.mark.parametrize('size,least', [(10, 0.905), (3, 0.85)])
def test_intervals_cover_what_they_say(size, least):
  # Simulated classifiers of known truth: each class has its own recall and its
  # own way of being mistaken.
  rng, classes = np.random.default_rng(0), 10
  recall = np.clip(rng.beta(2, 2, classes), 0.02, 0.98)
  rates = rng.dirichlet(np.full(classes, 0.3), classes) + 1e-9
  np.fill_diagonal(rates, 0)
  rates *= ((1 - recall) / rates.sum(1))[:, None]
  np.fill_diagonal(rates, recall)
  truth = {'balanced_accuracy': recall.mean(),
           'macro_f1': np.mean(2 * recall / (1 + rates.sum(0)))}
  labels, covered = np.repeat(np.arange(classes), size), []
  for seed in range(300):
    guesses = np.array([rng.choice(classes, p=rates[c]) for c in labels])
    found = intervals.classification(
        labels, np.eye(classes)[guesses], resamples=200, seed=seed)
    covered.append([low <= truth[name] <= high for name, (low, high) in (
        (name, found[name]) for name in truth)])
  # Percentiles of as many draws as examples, uncentred, cover .87 and .80.
  assert np.mean(covered, axis=0).min() > least
