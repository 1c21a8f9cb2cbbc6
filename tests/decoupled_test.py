"""Remedies for a finished classifier, against formulas and wide searches."""

import itertools

import numpy as np
import pytest
from scipy import optimize
from scipy import special

from vision_jax import decoupled

_RNG = np.random.default_rng(0)


def _blobs(counts, seed=0, dimensions=4, spread=1.2):
  rng = np.random.default_rng(seed)
  centres = np.random.default_rng(9).normal(0, 2, (len(counts), dimensions))
  labels = np.repeat(np.arange(len(counts)), counts)
  noise = rng.normal(0, spread, (len(labels), dimensions))
  return centres[labels] + noise, labels


def test_balanced_accuracy_is_scikit_learns():
  from sklearn import metrics
  _, labels = _blobs((30, 10, 4))
  logits = _RNG.normal(size=(44, 3))
  assert decoupled.balanced_accuracy(labels, logits) == pytest.approx(
      metrics.balanced_accuracy_score(labels, logits.argmax(1)))


@pytest.mark.parametrize('balanced', [False, True])
def test_retrained_layer_minimises_its_objective(balanced):
  features, labels = _blobs((40, 12, 4))
  layer = decoupled.retrain(features, labels, classes=3, balanced=balanced)
  counts = np.bincount(labels)
  weights = (44 + 12) / (3 * counts) if balanced else np.ones(3)
  scaled = (features - features.mean(0)) / features.std(0)
  def objective(flat):
    kernel, bias = flat[:12].reshape(4, 3), flat[12:]
    logits = scaled @ kernel + bias
    loss = special.logsumexp(logits, axis=1) - logits[
        np.arange(len(labels)), labels]
    return (weights[labels] * loss).sum() + (kernel ** 2).sum() / 2
  best = optimize.minimize(objective, np.zeros(15), method='BFGS').x
  expected = special.softmax(
      scaled @ best[:12].reshape(4, 3) + best[12:], axis=1)
  np.testing.assert_allclose(
      special.softmax(layer.logits(features), axis=1), expected, atol=2e-3)


def test_retraining_two_classes_gives_two_columns():
  features, labels = _blobs((40, 12))
  layer = decoupled.retrain(features, labels, classes=2, balanced=True)
  assert layer.kernel.shape == (4, 2)
  hits = layer.logits(features).argmax(1) == labels
  assert hits[labels == 0].mean() > 0.9 and hits[labels == 1].mean() > 0.9


def test_a_constant_feature_does_no_harm():
  features, labels = _blobs((20, 8, 4))
  features = np.c_[features, np.full(32, 7.0)]
  layer = decoupled.retrain(features, labels, classes=3, balanced=True)
  assert np.all(np.isfinite(layer.kernel)) and np.all(layer.kernel[-1] == 0)


def test_tau_normalisation():
  layer = decoupled.Layer(_RNG.normal(size=(6, 3)) * [1, 3, 9], np.ones(3))
  unit = decoupled.tau_normalised(layer, 1.0).kernel
  np.testing.assert_allclose((unit ** 2).sum(0), 1, rtol=1e-6)
  same = decoupled.tau_normalised(layer, 0.0)
  np.testing.assert_allclose(same.kernel, layer.kernel, rtol=1e-6)
  assert not same.bias.any()
  half = decoupled.tau_normalised(layer, 0.5).kernel
  np.testing.assert_allclose(half ** 2, layer.kernel * unit, rtol=1e-6)


def test_chosen_tau_is_the_best_of_the_grid():
  features, labels = _blobs((30, 10, 5))
  layer = decoupled.Layer(_RNG.normal(size=(4, 3)), np.zeros(3))
  chosen = decoupled.balanced_accuracy(labels, decoupled.choose_tau(
      layer, features, labels).logits(features))
  for tau in np.arange(0, 2.01, 0.1):
    scaled = layer.kernel / np.sqrt((layer.kernel ** 2).sum(0)) ** tau
    assert chosen >= decoupled.balanced_accuracy(labels, features @ scaled)


def test_thresholds_reach_the_best_of_a_grid_for_two_offsets():
  features, labels = _blobs((60, 12, 6), spread=2.0)
  layer = decoupled.retrain(features, labels, classes=3, balanced=False)
  moved = decoupled.choose_thresholds(layer, features, labels)
  np.testing.assert_array_equal(moved.kernel, layer.kernel)
  logits = layer.logits(features)
  grid = np.linspace(-6, 6, 61)
  best = max(decoupled.balanced_accuracy(labels, logits + [0, a, b])
             for a, b in itertools.product(grid, grid))
  before = decoupled.balanced_accuracy(labels, logits)
  after = decoupled.balanced_accuracy(labels, moved.logits(features))
  assert before < after
  # One class at a time may stop short of the best pair, by an example or two.
  assert after > best - 0.03


def test_thresholds_stay_where_nothing_is_to_gain():
  features, labels = _blobs((20, 20, 20), spread=0.01)
  layer = decoupled.retrain(features, labels, classes=3, balanced=False)
  moved = decoupled.choose_thresholds(layer, features, labels)
  np.testing.assert_array_equal(moved.bias, layer.bias)


@pytest.mark.parametrize(
    'method', ['smote', 'adasyn', 'tomek', 'enn', 'cluster_centroids'])
def test_resampled_layer_keeps_every_class(method):
  pytest.importorskip('imblearn')
  features, labels = _blobs((42, 42, 3, 3), spread=2.0)
  layer = decoupled.resampled(features, labels, method, classes=4, seed=0)
  assert layer.kernel.shape == (4, 4)
  assert decoupled.balanced_accuracy(labels, layer.logits(features)) > 0.5


def test_a_missing_class_is_named():
  features, labels = _blobs((20, 20, 20))
  with pytest.raises(ValueError, match=r'\[1\]'):
    decoupled.retrain(
        features[labels != 1], labels[labels != 1], classes=3, balanced=True)


def test_a_label_that_is_no_class_is_named():
  features, labels = _blobs((20, 20, 20))
  with pytest.raises(ValueError, match=r'labels \[-1\] are no classes'):
    decoupled.retrain(
        features, np.where(np.arange(60) % 7, labels, -1), classes=3,
        balanced=True)
