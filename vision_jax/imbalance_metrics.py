"""Measures that do not flatter a classifier of imbalanced classes.

Every rate carries its n and its interval, and a rate on one image says so.
The general measures, such as balanced accuracy, are in metrics.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vision_jax import metrics
from vision_jax import stats


def geometric_mean(labels: np.ndarray, predicted: np.ndarray) -> float:
  """Geometric mean of the recalls of the classes that occur; 0 if one is 0.

  Source: Kubat and Matwin, 1997, "Addressing the curse of imbalanced training
  sets: one-sided selection".
  """
  recalls = [np.mean(predicted[labels == c] == c) for c in np.unique(labels)]
  return _geometric_mean(np.array(recalls))


def _geometric_mean(values: np.ndarray) -> float:
  # In logarithms: a product of many small recalls would round to 0.
  with np.errstate(divide='ignore'):
    return float(np.exp(np.log(values).mean()))


def groups(counts: np.ndarray) -> dict[str, np.ndarray]:
  """Divides classes by their training counts: at least the mean, or below.

  Args:
    counts: int [classes].

  Returns:
    Class numbers of 'majority' and of 'minority', which may be empty.
  """
  counts = np.asarray(counts)
  minority = counts < counts.mean()
  return {'majority': np.flatnonzero(~minority),
          'minority': np.flatnonzero(minority)}


def group_rates(
    labels: np.ndarray, predicted: np.ndarray,
    members: Mapping[str, np.ndarray], classes: int) -> list[dict[str, Any]]:
  """Returns a row per group of classes: recall and precision with n.

  Each is pooled over the group's examples or predictions and has 95 % Wilson
  bounds.

  Args:
    labels: int [n].
    predicted: int [n].
    members: Class numbers by name of the group.
    classes: Number of classes.
  """
  matrix = metrics.confusion(labels, predicted, classes)
  rows = []
  for name, chosen in members.items():
    hits = int(matrix.diagonal()[chosen].sum())
    rows.append({
        'group': name,
        **_rate('recall', hits, int(matrix[chosen].sum())),
        **_rate('precision', hits, int(matrix[:, chosen].sum()))})
  return rows


def _rate(name: str, hits: int, n: int) -> dict[str, Any]:
  low, high = stats.wilson(hits, n)
  return {f'{name}_hits': hits, f'{name}_n': n,
          name: hits / n if n else float('nan'),
          f'{name}_low': low, f'{name}_high': high}


def rate_text(hits: int, n: int) -> str:
  """Writes a rate with its n and 95 % interval; one image is shown as such.

  Raises:
    ValueError: `hits` is not between 0 and `n`.
  """
  low, high = stats.wilson(hits, n)
  if n == 0:
    return 'no image'
  if n == 1:
    return f'{"right" if hits else "wrong"} on the one image'
  return f'{hits / n:.3f} [{low:.2f}, {high:.2f}], {hits} of {n}'


def from_true_positives(
    hits: Sequence[int], sizes: Sequence[int], minority: Sequence[int],
) -> dict[str, Any]:
  """Computes what follows from the true positives of each class.

  Args:
    hits: True positives of each class.
    sizes: Test images of each class.
    minority: Numbers of the minority classes.

  Returns:
    n, accuracy with its Wilson bounds, balanced accuracy, geometric mean, and
    the pooled recall of both groups.

  Raises:
    ValueError: The lengths differ, or a class has no image or too many hits.
  """
  hits, sizes = np.asarray(hits), np.asarray(sizes)
  if hits.shape != sizes.shape or np.any(sizes < 1) or np.any(hits > sizes):
    raise ValueError(
        f'true positives {hits.tolist()} do not fit test sets of '
        f'{sizes.tolist()} images')
  rare = np.isin(np.arange(len(sizes)), minority)
  recalls = hits / sizes
  low, high = stats.wilson(int(hits.sum()), int(sizes.sum()))
  return {
      'n': int(sizes.sum()),
      'accuracy': float(hits.sum() / sizes.sum()),
      'accuracy_low': low,
      'accuracy_high': high,
      'balanced_accuracy': float(recalls.mean()),
      'geometric_mean': _geometric_mean(recalls),
      'majority_recall': float(hits[~rare].sum() / sizes[~rare].sum()),
      'minority_recall': float(hits[rare].sum() / sizes[rare].sum()),
  }


def generalisation_gap(train: float, test: float) -> float:
  """Accuracy on the training examples minus that on the test examples."""
  return train - test


def turning_epoch(losses: Sequence[float], *, rise: float = 0.01) -> int | None:
  """Returns the epoch at which the test error turned, to end higher.

  Args:
    losses: Test error after each epoch.
    rise: Share of the smallest error by which the last must exceed it.

  Returns:
    The epoch of the smallest error, counted from 1; None where the last error
    is not larger than that by `rise`: an error that rose and fell again shows
    no overfitting.

  Raises:
    ValueError: There is no epoch.
  """
  losses = np.asarray(losses, np.float64)
  if not losses.size:
    raise ValueError('no epochs: there is no error to look at')
  best = int(losses.argmin())
  return best + 1 if losses[-1] > losses[best] * (1 + rise) else None
