"""Ranking and calibration against formulas and Keras."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from vision_jax import scores


def _predictions(n=300, classes=5):
  generator = np.random.default_rng(1)
  labels = generator.integers(classes, size=n)
  logits = generator.normal(size=(n, classes))
  logits[np.arange(n), labels] += 1.5
  p = np.exp(logits)
  return labels, (p / p.sum(axis=1, keepdims=True)).astype(np.float32)


def test_calibration_error_is_the_weighted_gap_of_15_bins():
  labels, p = _predictions()
  confidence, correct = p.max(axis=1), p.argmax(axis=1) == labels
  error = 0.0
  for m in range(15):
    inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
    if inside.any():
      gap = correct[inside].mean() - confidence[inside].mean()
      error += inside.mean() * abs(gap)
  assert scores.expected_calibration_error(labels, p) == pytest.approx(
      error, abs=1e-7)


def test_calibration_error_of_certain_and_wrong_is_one():
  assert scores.expected_calibration_error(
      np.array([0, 0]), np.array([[0.0, 1.0], [0.0, 1.0]])) == 1.0


def test_keras_auc_is_a_trapezoid_through_fixed_thresholds():
  labels, p = _predictions()
  truth, flat = np.eye(5, dtype=bool)[labels].ravel(), p.ravel()
  thresholds = [-1e-7, *(i / 199 for i in range(1, 199)), 1 + 1e-7]
  rates = [((flat[truth] > t).mean(), (flat[~truth] > t).mean())
           for t in thresholds]
  area = sum((x0 - x1) * (y0 + y1) / 2
             for (y0, x0), (y1, x1) in zip(rates, rates[1:]))
  value = scores.keras_auc(labels, p)
  assert value == pytest.approx(area, abs=1e-12)
  exact = sklearn_metrics.roc_auc_score(truth, flat)
  assert value != exact and value == pytest.approx(exact, abs=1e-3)


@pytest.mark.parity
def test_keras_auc_equals_keras(monkeypatch):
  monkeypatch.setenv('KERAS_BACKEND', 'jax')
  keras = pytest.importorskip('keras')
  labels, p = _predictions()
  auc = keras.metrics.AUC()
  auc.update_state(np.eye(5)[labels], p)
  assert scores.keras_auc(labels, p) == pytest.approx(
      float(auc.result()), abs=1e-6)
