"""Remedies for a finished classifier: a new last layer, nothing else.

Whatever is done here, the result is again a kernel and a bias on the same
features, so that a remedied network is saved, exported and evaluated like any
other. Works on host arrays in float64; knows no network and no config.
"""

from typing import NamedTuple

import numpy as np

from vision_jax import resampling

_TAUS = np.linspace(0.0, 2.0, 21)
_SWEEPS = 3


class Layer(NamedTuple):
  """A last layer: logits = features @ kernel + bias.

  Attributes:
    kernel: float [d, classes].
    bias: float [classes].
  """
  kernel: np.ndarray
  bias: np.ndarray

  def logits(self, features: np.ndarray) -> np.ndarray:
    """Returns logits [n, classes] of features [n, d]."""
    return features @ self.kernel + self.bias


def balanced_accuracy(labels: np.ndarray, logits: np.ndarray) -> float:
  """Mean recall of the classes that occur in `labels`."""
  hits = logits.argmax(-1) == labels
  return float(np.mean([hits[labels == c].mean() for c in np.unique(labels)]))


def retrain(
    features: np.ndarray, labels: np.ndarray, *, classes: int,
    balanced: bool) -> Layer:
  """Fits the last layer anew on fixed features: classifier re-training.

  Multinomial logistic regression on standardised features, to convergence.
  Balanced, it weighs classes alike, the expectation of the source's
  class-balanced sampling. Source: cRT, Kang et al., 2020, arXiv:1910.09217,
  section 4.1.

  Args:
    features: float [n, d].
    labels: int [n], from 0 to classes - 1.
    classes: Number of classes.
    balanced: Whether classes or examples weigh alike.

  Raises:
    ValueError: A class has no example, or a label is no class.
  """
  from sklearn import linear_model
  wrong = sorted(set(labels.tolist()) - set(range(classes)))
  if wrong:
    raise ValueError(
        f'labels {wrong} are no classes from 0 to {classes - 1}: leave out '
        'examples without a label')
  missing = sorted(set(range(classes)) - set(labels.tolist()))
  if missing:
    raise ValueError(
        f'no example is left of the classes {missing}: resampling removed '
        'them; choose another remedy')
  mean, spread = features.mean(0), features.std(0)
  spread = np.where(spread > 1e-6 * spread.max(), spread, np.inf)
  model = linear_model.LogisticRegression(
      class_weight='balanced' if balanced else None, max_iter=2000)
  model.fit((features - mean) / spread, labels)
  if classes == 2:
    # scikit-learn gives one column, the second class's.
    weights = np.stack([-model.coef_[0], model.coef_[0]]) / 2
    bias = np.r_[-model.intercept_, model.intercept_] / 2
  else:
    weights, bias = model.coef_, model.intercept_
  kernel = weights.T / spread[:, None]
  return Layer(kernel, bias - mean @ kernel)


def tau_normalised(layer: Layer, tau: float) -> Layer:
  """Divides each class's weights by their norm to the power `tau`; no bias.

  Source: Kang et al., 2020, arXiv:1910.09217, equation 4.
  """
  norms = np.linalg.norm(layer.kernel, axis=0)
  return Layer(layer.kernel / norms ** tau, np.zeros_like(layer.bias))


def choose_tau(
    layer: Layer, features: np.ndarray, labels: np.ndarray) -> Layer:
  """Returns the `tau_normalised` layer with the best balanced accuracy.

  Args:
    layer: The trained layer.
    features: float [n, d], of the validation examples.
    labels: int [n].
  """
  layers = [tau_normalised(layer, tau) for tau in _TAUS]
  scores = [balanced_accuracy(labels, each.logits(features))
            for each in layers]
  return layers[int(np.argmax(scores))]


def choose_thresholds(
    layer: Layer, features: np.ndarray, labels: np.ndarray) -> Layer:
  """Returns the layer with class offsets chosen on validation examples.

  One class after the other, the offset of its logit moves to where balanced
  accuracy is best; of equal places the one that moves least. Source: Collell
  et al., 2018, "A simple plug-in bagging ensemble based on threshold-moving".

  Args:
    layer: The trained layer.
    features: float [n, d], of the validation examples.
    labels: int [n].
  """
  logits = layer.logits(features)
  offsets = np.zeros(len(layer.bias))
  for _ in range(_SWEEPS):
    for c in range(len(offsets)):
      others = np.delete(logits + offsets, c, axis=1).max(1)
      # Between two neighbouring ties no prediction changes.
      ties = np.sort(others - logits[:, c])
      places = np.r_[offsets[c], ties[0] - 1, (ties[1:] + ties[:-1]) / 2,
                     ties[-1] + 1]
      scores = []
      for place in places:
        moved = offsets.copy()
        moved[c] = place
        scores.append(balanced_accuracy(labels, logits + moved))
      best = np.flatnonzero(np.isclose(scores, max(scores)))
      offsets[c] = places[best[np.argmin(np.abs(places[best] - offsets[c]))]]
  return layer._replace(bias=layer.bias + offsets)


def resampled(
    features: np.ndarray, labels: np.ndarray, method: str, *, classes: int,
    seed: int) -> Layer:
  """Fits the last layer anew on resampled features.

  Methods that remove examples spare every class as small as the smallest, not
  only one of them.

  Args:
    features: float [n, d], of the training examples.
    labels: int [n].
    method: A key of `resampling.METHODS`.
    classes: Number of classes.
    seed: Of what the method draws.
  """
  counts = np.bincount(labels, minlength=classes)
  strategy = 'auto'
  if method in ('tomek', 'enn', 'cluster_centroids'):
    strategy = np.flatnonzero(counts > counts.min()).tolist()
    if method == 'cluster_centroids':
      strategy = {c: int(counts.min()) for c in strategy}
  features, labels = resampling.resample(
      features, labels, method, seed=seed, strategy=strategy)
  return retrain(features, labels, classes=classes, balanced=False)
