"""Numbers computed from class probabilities: ranking and calibration.

Whole-set, on the host, in float64. Knows no decision threshold: what follows
from the predicted class is in metrics.py.
"""

import numpy as np


def keras_auc(
    labels: np.ndarray, probabilities: np.ndarray, num_thresholds: int = 200
) -> float:
  """Computes the AUC that `keras.metrics.AUC()` reports for a softmax output.

  It pools all n * classes one-hot decisions (micro) and joins the ROC points at
  `num_thresholds` even thresholds by straight lines. It exists to reproduce
  published numbers: with 200 classes it is near 1 for a mediocre model.

  Args:
    labels: int [n].
    probabilities: float [n, classes].
    num_thresholds: thresholds, the two just outside [0, 1] included.
  """
  labels, p = check_probabilities(labels, probabilities)
  positive = np.eye(p.shape[1], dtype=bool)[labels]
  inner = np.arange(1, num_thresholds - 1) / (num_thresholds - 1)
  thresholds = np.concatenate([[-1e-7], inner, [1 + 1e-7]])

  def rate(values):
    below = np.searchsorted(np.sort(values), thresholds, side='right')
    return 1 - below / len(values)

  recall, fall_out = rate(p[positive]), rate(p[~positive])
  return float(-np.trapezoid(recall, fall_out))


def ranking(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
  """Returns AUC, macro (one versus rest) and micro, and average precision.

  The macro values are means over the classes that have both positive and
  negative examples; nan where none has. The micro AUC pools all n * classes
  one-hot decisions; `auc_micro_keras` is `keras_auc`, the same on a grid.
  """
  labels, p = check_probabilities(labels, probabilities)
  one_hot = np.eye(p.shape[1], dtype=np.int64)[labels]
  both = [k for k in range(p.shape[1]) if 0 < one_hot[:, k].sum() < len(p)]

  def macro(score):
    values = [score(one_hot[:, k], p[:, k]) for k in both]
    return float(np.mean(values)) if values else float('nan')

  return {
      'auc_macro_ovr': macro(auc),
      'auc_micro': auc(one_hot.ravel(), p.ravel()),
      'auc_micro_keras': keras_auc(labels, p),
      'average_precision_macro': macro(average_precision),
  }


def auc(positive: np.ndarray, score: np.ndarray) -> float:
  """Returns the share of (positive, negative) pairs in the right order.

  Ties count half; the area under the ROC curve is the same number.

  Args:
    positive: 0 or 1, [n].
    score: [n]; nan without a positive or without a negative example.
  """
  positive = np.asarray(positive, bool)
  _, level, counts = np.unique(score, return_inverse=True, return_counts=True)
  hits = np.bincount(level, positive, len(counts))
  misses = counts - hits
  pairs = hits.sum() * misses.sum()
  below = np.cumsum(misses) - misses
  right = hits @ (below + 0.5 * misses)
  return float(right / pairs) if pairs else float('nan')


def average_precision(positive: np.ndarray, score: np.ndarray) -> float:
  """Returns the mean precision at the thresholds of the positive examples.

  Examples of equal score are one threshold, without interpolation.

  Args:
    positive: 0 or 1, [n], at least one of them 1.
    score: [n].
  """
  _, level, counts = np.unique(
      -np.asarray(score), return_inverse=True, return_counts=True)
  hits = np.bincount(level, np.asarray(positive, float), len(counts))
  precision = np.cumsum(hits) / np.cumsum(counts)
  return float(hits @ precision / hits.sum())


def expected_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = 15
) -> float:
  """Returns the weighted mean gap between confidence and accuracy.

  Bin m of M holds the confidences in ((m-1)/M, m/M]. Source: Guo et al., 2017,
  "On calibration of modern neural networks", equation 3.
  """
  labels, p = check_probabilities(labels, probabilities)
  confidence = p.max(axis=1)
  correct = p.argmax(axis=1) == labels
  index = np.ceil(confidence * bins).astype(int)
  gaps = np.bincount(index, correct - confidence)
  return float(np.abs(gaps).sum() / len(p))


def check_probabilities(
    labels: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns both as arrays, the probabilities in float64.

  Raises:
    ValueError: shapes do not fit, or rows are no probability distributions.
  """
  labels = np.asarray(labels)
  p = np.asarray(probabilities).astype(np.float64)
  if p.ndim != 2 or labels.shape != p.shape[:1] or not len(p):
    raise ValueError(
        f'labels {labels.shape} and probabilities {p.shape}: expected [n] and '
        '[n, classes] with n > 0')
  if not np.allclose(p.sum(axis=1), 1, atol=1e-3) or p.min() < 0:
    raise ValueError(
        'probabilities have to be non-negative rows that add up to one; rows '
        f'add up to {p.sum(axis=1).min()} ... {p.sum(axis=1).max()}: apply a '
        'softmax, and look for non-finite outputs')
  return labels, p
