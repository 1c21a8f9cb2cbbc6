"""The finished settings of study 2: read, counted and compared.

Trains nothing and writes nothing; what follows from the numbers is said in
imbalance_report.py.
"""

import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

from vision_jax import imbalance_metrics
from vision_jax import metrics
from vision_jax import stats

_TURNS = {1: 16, 3: 13, 7: 17, 15: 17}
MEMBERS = {'majority': np.arange(5), 'minority': np.arange(5, 10)}


class Cell(NamedTuple):
  """One finished setting.

  Attributes:
    about: Its ratio, rung, remedy, seeds and seconds.
    rows: Metrics of each epoch, lists over seeds; [] for a refined setting.
    labels: By test ('own' or 'balanced'), int [n].
    predicted: By test, int [S, n].
    probabilities: By test, float [S, n, classes].
  """
  about: dict[str, Any]
  rows: list[dict[str, list[float]]]
  labels: dict[str, np.ndarray]
  predicted: dict[str, np.ndarray]
  probabilities: dict[str, np.ndarray]

  @property
  def key(self) -> tuple[int, str, str]:
    return tuple(self.about[name] for name in ('ratio', 'rung', 'remedy'))


def read(folder: pathlib.Path) -> Cell:
  """Reads a setting that `experiments.imbalance` saved."""
  saved = json.loads((folder / 'rows.json').read_text())
  with np.load(folder / 'outputs.npz') as file:
    arrays = dict(file)
  tests = ('own', 'balanced')
  probabilities = {name: arrays[f'{name}_probabilities'] for name in tests}
  return Cell(
      saved['about'], saved['rows'],
      {name: arrays[f'{name}_label'][0] for name in tests},
      {name: p.argmax(-1) for name, p in probabilities.items()},
      probabilities)


def balanced(labels: np.ndarray, predicted: np.ndarray) -> float:
  """Balanced accuracy of one seed's predictions."""
  return mean_balanced(labels, predicted[:, None])


def mean_balanced(labels: np.ndarray, predicted: np.ndarray) -> float:
  """Mean over seeds of balanced accuracy; `predicted` is [n, S]."""
  classes, places, counts = np.unique(
      labels, return_inverse=True, return_counts=True)
  weights = 1 / (len(classes) * counts[places])
  return float((weights @ (predicted == labels[:, None])).mean())


def row_of(cell: Cell) -> dict[str, Any]:
  """Returns a line of the main table: means over seeds, on both tests."""
  ratio, rung, remedy = cell.key
  y, guesses = cell.labels['balanced'], cell.predicted['balanced']
  own = cell.labels['own']
  interval = stats.bootstrap(
      mean_balanced, (y, guesses.T), strata=y, resamples=500)
  over_seeds = stats.mean_interval([balanced(y, each) for each in guesses])
  full = [metrics.classification(y, p)
          for p in cell.probabilities['balanced']]
  mean = lambda name: float(np.mean([each[name] for each in full]))
  return {
      'ratio': f'{ratio}:1', 'rung': rung, 'remedy': remedy,
      'seeds': len(guesses),
      'own accuracy': float((cell.predicted['own'] == own).mean()),
      'own n': len(own),
      'balanced accuracy': interval.estimate,
      'images 95 %': f'[{interval.low:.3f}, {interval.high:.3f}]',
      'seeds 95 %': f'[{over_seeds.low:.3f}, {over_seeds.high:.3f}]',
      'n': len(y),
      **{f'{name} recall': group_recall(cell, name) for name in MEMBERS},
      'geometric mean': float(np.mean([
          imbalance_metrics.geometric_mean(y, g) for g in guesses])),
      'average precision': mean('average_precision_macro'),
      'calibration error': mean('expected_calibration_error'),
      'seconds': cell.about['seconds'],
  }


def group_recall(cell: Cell, name: str) -> float:
  """Recall of a group of classes on the balanced test, mean over seeds."""
  y, guesses = cell.labels['balanced'], cell.predicted['balanced']
  return float((guesses == y)[:, np.isin(y, MEMBERS[name])].mean())


def differences(a: Cell, b: Cell) -> tuple[stats.Interval, stats.Interval]:
  """Returns A's balanced accuracy less B's, on the balanced test.

  First over images (paired bootstrap of the mean over seeds), then over seeds
  (Student's).
  """
  y = a.labels['balanced']
  if not np.array_equal(y, b.labels['balanced']):
    raise ValueError('the settings were tested on different images')
  guesses = [cell.predicted['balanced'] for cell in (a, b)]
  images = stats.paired_bootstrap(
      mean_balanced, y, *(g.T for g in guesses), resamples=1000)
  return images, stats.mean_interval([
      balanced(y, one) - balanced(y, two) for one, two in zip(*guesses)])


def compare(a: Cell, b: Cell) -> dict[str, Any]:
  """Compares A with B on the balanced test, seed by seed and image by image.

  A is better where both intervals, over images and over seeds, lie above zero.
  """
  images, over_seeds = differences(a, b)
  y = a.labels['balanced']
  test = stats.mcnemar(*(
      cell.predicted['balanced'][0] == y for cell in (a, b)))
  return {
      'A': ' '.join(map(str, a.key)), 'B': ' '.join(map(str, b.key)),
      'difference': images.estimate,
      'images 95 %': f'[{images.low:+.3f}, {images.high:+.3f}]',
      'seeds 95 %': f'[{over_seeds.low:+.3f}, {over_seeds.high:+.3f}]',
      'McNemar p, seed 0': test.p_value,
      'better': 'yes' if min(images.low, over_seeds.low) > 0 else 'no'}


def class_rows(cell: Cell) -> list[dict[str, Any]]:
  """Returns recall and precision of each class and group for seed 0."""
  rows = []
  for test, y in cell.labels.items():
    guesses = cell.predicted[test][0]
    each = metrics.per_class(y, guesses, cell.about['class_names'])
    for row in each:
      rows.append({
          'ratio': f'{cell.about["ratio"]}:1', 'rung': cell.about['rung'],
          'test': test, 'class': row['class'],
          'recall': imbalance_metrics.rate_text(row['correct'], row['n']),
          'precision': imbalance_metrics.rate_text(
              row['correct'], row['n_predicted'])})
    for row in imbalance_metrics.group_rates(y, guesses, MEMBERS, 10):
      rows.append({
          'ratio': f'{cell.about["ratio"]}:1', 'rung': cell.about['rung'],
          'test': test, 'class': f'all {row["group"]}',
          'recall': imbalance_metrics.rate_text(
              row['recall_hits'], row['recall_n']),
          'precision': imbalance_metrics.rate_text(
              row['precision_hits'], row['precision_n'])})
  return rows


def overfitting(cells: list[Cell]) -> list[dict[str, Any]]:
  """Returns for each trained setting where its test error turns."""
  rows = []
  for cell in cells:
    if not cell.rows or cell.about['remedy'] != 'none':
      continue
    curve = lambda name: np.array([row[name] for row in cell.rows]).T
    turns = {test: [imbalance_metrics.turning_epoch(losses)
                    for losses in curve(f'{test}_loss')]
             for test in ('own', 'balanced')}
    words = lambda found: '/'.join(str(t or '-') for t in found)
    train = curve('train_accuracy')[:, -1].mean()
    rows.append({
        'ratio': f'{cell.about["ratio"]}:1', 'rung': cell.about['rung'],
        'train accuracy': train,
        'gap, own test': imbalance_metrics.generalisation_gap(
            train, curve('own_accuracy')[:, -1].mean()),
        'gap, balanced test': imbalance_metrics.generalisation_gap(
            train, curve('balanced_accuracy')[:, -1].mean()),
        'turns, own test': words(turns['own']),
        'turns, balanced test': words(turns['balanced']),
        'study': _TURNS[cell.about['ratio']]
                 if cell.about['rung'] == 'plain' else None})
  return rows
