"""Which mistakes a classifier made: pairs, confident ones, where, how far.

Reads the predictions of a finished run and counts. Class names may be paths in
a taxonomy (data/taxonomy.py); the distance of a mistake is then how far up the
common ancestor lies. Draws nothing (error_figures.py) and shows no image.
"""

import csv
import pathlib
from typing import Any, NamedTuple

import numpy as np

from vision_jax import config as config_lib
from vision_jax import metrics
from vision_jax import stats
from vision_jax.data import taxonomy

_OTHER_COLUMNS = ('id', 'path', 'label', 'predicted')


class Predictions(NamedTuple):
  """The test examples of a run.

  Attributes:
    class_names: In the order of the labels.
    paths: Name of each example, n of them.
    labels: int [n].
    probabilities: float [n, classes].
  """
  class_names: tuple[str, ...]
  paths: tuple[str, ...]
  labels: np.ndarray
  probabilities: np.ndarray

  @property
  def predicted(self) -> np.ndarray:
    """The most probable class of each example, int [n]."""
    return self.probabilities.argmax(-1)


def read(folder: str | pathlib.Path) -> Predictions:
  """Returns the predictions of the finished classification run in `folder`.

  Raises:
    ConfigError: The run is not finished, or was no classification.
  """
  path = pathlib.Path(folder) / 'predictions.csv'
  if not path.is_file():
    raise config_lib.ConfigError(
        f'{folder} has no predictions.csv: it is no finished run.')
  with path.open(newline='', encoding='utf-8') as file:
    reader = csv.reader(file)
    columns, rows = next(reader), list(reader)
  names = tuple(name for name in columns if name not in _OTHER_COLUMNS)
  if 'label' not in columns or not names:
    raise config_lib.ConfigError(f'{path} holds no predicted classes.')
  first = columns.index(names[0])
  label, name = columns.index('label'), columns.index('path')
  return Predictions(
      names, tuple(row[name] for row in rows),
      np.array([names.index(row[label]) for row in rows]),
      np.array([row[first:] for row in rows], np.float64))


def distances(
    class_names: tuple[str, ...], labels: np.ndarray, predicted: np.ndarray,
) -> np.ndarray:
  """Returns int [n]: levels from a class up to the common ancestor with it.

  0 is right, 1 a mistake within the parent (the phylum), 2 within the
  grandparent (the kingdom), and so on.
  """
  paths = [name.split(taxonomy.SEPARATOR) for name in class_names]
  def distance(a, b):
    shared = 0
    for x, y in zip(paths[a], paths[b], strict=True):
      if x != y:
        break
      shared += 1
    return len(paths[a]) - shared
  return np.array([distance(a, b) for a, b in zip(labels, predicted)], int)


def distance_rows(predictions: Predictions) -> list[dict[str, Any]]:
  """Returns a row per distance: how many examples lie so far, their share."""
  found = distances(
      predictions.class_names, predictions.labels, predictions.predicted)
  depth = predictions.class_names[0].count(taxonomy.SEPARATOR) + 1
  return [{'distance': d, **rate(int((found == d).sum()), len(found))}
          for d in range(depth + 1)]


def across_parents(predictions: Predictions) -> np.ndarray:
  """Returns bool [n]: whether the predicted class has another parent."""
  _, parent = taxonomy.parents(predictions.class_names)
  return parent[predictions.labels] != parent[predictions.predicted]


def confused_pairs(
    predictions: Predictions, count: int) -> list[dict[str, Any]]:
  """Returns the pairs of classes with the most mistakes between them.

  Args:
    predictions: Of a run.
    count: At most so many rows, the most mistakes first.
  """
  names = predictions.class_names
  matrix = metrics.confusion(
      predictions.labels, predictions.predicted, len(names))
  both = np.triu(matrix + matrix.T, 1)
  order = np.argsort(-both, axis=None, kind='stable')[:count]
  pairs = [np.unravel_index(i, both.shape) for i in order]
  return [{
      'a': names[a], 'b': names[b], 'mistakes': int(both[a, b]),
      'a as b': int(matrix[a, b]), 'b as a': int(matrix[b, a]),
      'n_a': int(matrix[a].sum()), 'n_b': int(matrix[b].sum()),
      'distance': int(distances(names, np.array([a]), np.array([b]))[0]),
  } for a, b in pairs if both[a, b]]


def confident_mistakes(predictions: Predictions, count: int) -> np.ndarray:
  """Returns the rows of the `count` mistakes with the highest probability."""
  wrong = np.flatnonzero(predictions.predicted != predictions.labels)
  confidence = predictions.probabilities[wrong].max(-1)
  return wrong[np.argsort(-confidence, kind='stable')[:count]]


def by_parent(predictions: Predictions) -> list[dict[str, Any]]:
  """Returns a row per parent (phylum): its accuracy with n and interval."""
  names, parent = taxonomy.parents(predictions.class_names)
  right = predictions.predicted == predictions.labels
  of = parent[predictions.labels]
  return [{'parent': name, **rate(int(right[of == i].sum()),
                                  int((of == i).sum()))}
          for i, name in enumerate(names)]


def by_class_size(
    predictions: Predictions, counts: np.ndarray, bins: int = 4,
) -> list[dict[str, Any]]:
  """Returns a row per size of class: pooled accuracy with n and interval.

  Args:
    predictions: Of a run.
    counts: Training examples of each class.
    bins: Groups of (nearly) as many classes, the smallest classes first; at
      most one a class.
  """
  counts = np.asarray(counts)
  bins = min(bins, len(counts))
  right = predictions.predicted == predictions.labels
  rows = []
  for part in np.array_split(np.argsort(counts, kind='stable'), bins):
    inside = np.isin(predictions.labels, part)
    rows.append({
        'training images': f'{counts[part].min()} to {counts[part].max()}',
        'classes': len(part),
        **rate(int(right[inside].sum()), int(inside.sum()))})
  return rows


def calibration(
    predictions: Predictions, bins: int = 10) -> list[dict[str, Any]]:
  """Returns a row per bin ((m-1)/M, m/M] of confidence that holds examples.

  Source: Guo et al., 2017, "On calibration of modern neural networks".
  """
  confidence = predictions.probabilities.max(-1)
  right = predictions.predicted == predictions.labels
  index = np.ceil(confidence * bins).astype(int)
  return [{'above': (m - 1) / bins, 'confidence': confidence[index == m].mean(),
           **rate(int(right[index == m].sum()), int((index == m).sum()))}
          for m in range(1, bins + 1) if np.any(index == m)]


def largest(
    predictions: Predictions, counts: np.ndarray, count: int = 20,
) -> tuple[np.ndarray, tuple[str, ...]]:
  """Returns the confusion matrix of the largest classes, and their names.

  What was taken for a smaller class is in the last column, 'smaller'; its row
  holds the smaller classes' own examples, which keeps the matrix square.

  Args:
    predictions: Of a run.
    counts: Training examples of each class.
    count: Classes shown by name.
  """
  chosen = np.argsort(-np.asarray(counts), kind='stable')[:count]
  place = np.full(len(counts), len(chosen))
  place[chosen] = np.arange(len(chosen))
  matrix = metrics.confusion(
      place[predictions.labels], place[predictions.predicted], len(chosen) + 1)
  names = tuple(predictions.class_names[c] for c in chosen)
  if len(chosen) == len(counts):
    return matrix[:-1, :-1], names
  return matrix, (*names, 'smaller')


def rate(hits: int, n: int) -> dict[str, Any]:
  """Returns a rate with its n and its 95 % Wilson interval, as columns."""
  low, high = stats.wilson(hits, n)
  return {'n': n, 'hits': hits, 'rate': hits / n if n else float('nan'),
          'low': low, 'high': high}
