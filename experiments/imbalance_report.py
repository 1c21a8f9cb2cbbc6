"""The report of study 2: tables, figures and claims, from saved outputs alone.

Trains nothing. Every sentence about a result is chosen by the numbers.
"""

import json
import pathlib
import shlex
from typing import Any, NamedTuple

import numpy as np

from experiments import imbalance_figures
from experiments import tables
from vision_jax import imbalance_metrics
from vision_jax import metrics
from vision_jax import stats
from vision_jax import writers

# Table 3 of the study: true positives of each class, and test images of a
# majority and of a minority class, by ratio.
TABLE_3 = {
    1: ((7, 7, 10, 9, 3, 5, 9, 6, 6, 7), (10, 10)),
    3: ((13, 11, 8, 13, 12, 3, 3, 2, 2, 2), (14, 5)),
    7: ((16, 12, 12, 15, 16, 0, 1, 0, 0, 1), (17, 2)),
    15: ((17, 18, 13, 14, 16, 1, 0, 0, 1, 1), (18, 1)),
}
_TURNS = {1: 16, 3: 13, 7: 17, 15: 17}
_MEMBERS = {'majority': np.arange(5), 'minority': np.arange(5, 10)}


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


def published() -> list[dict[str, Any]]:
  """Returns what follows from the study's Table 3, a row per ratio."""
  return [
      {'ratio': f'{ratio}:1', **imbalance_metrics.from_true_positives(
          hits, [large] * 5 + [small] * 5, minority=range(5, 10))}
      for ratio, (hits, (large, small)) in TABLE_3.items()]


def balanced(labels: np.ndarray, predicted: np.ndarray) -> float:
  """Balanced accuracy of one seed's predictions."""
  return float(np.mean([
      np.mean(predicted[labels == c] == c) for c in np.unique(labels)]))


def mean_balanced(labels: np.ndarray, predicted: np.ndarray) -> float:
  """Mean over seeds of balanced accuracy; `predicted` is [n, S]."""
  return float(np.mean([balanced(labels, each) for each in predicted.T]))


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
      **{f'{name} recall': group_recall(cell, name) for name in _MEMBERS},
      'geometric mean': float(np.mean([
          imbalance_metrics.geometric_mean(y, g) for g in guesses])),
      'average precision': mean('average_precision_macro'),
      'calibration error': mean('expected_calibration_error'),
      'seconds': cell.about['seconds'],
  }


def group_recall(cell: Cell, name: str) -> float:
  """Recall of a group of classes on the balanced test, mean over seeds."""
  y, guesses = cell.labels['balanced'], cell.predicted['balanced']
  return float((guesses == y)[:, np.isin(y, _MEMBERS[name])].mean())


def compare(a: Cell, b: Cell) -> dict[str, Any]:
  """Compares A with B on the balanced test, seed by seed and image by image.

  A difference holds where neither interval, over images (paired bootstrap of
  the mean over seeds) or over seeds (Student's), contains zero.
  """
  y = a.labels['balanced']
  if not np.array_equal(y, b.labels['balanced']):
    raise ValueError('the settings were tested on different images')
  guesses = [cell.predicted['balanced'] for cell in (a, b)]
  images = stats.paired_bootstrap(
      mean_balanced, y, *(g.T for g in guesses), resamples=1000)
  over_seeds = stats.mean_interval([
      balanced(y, one) - balanced(y, two) for one, two in zip(*guesses)])
  test = stats.mcnemar(guesses[0][0] == y, guesses[1][0] == y)
  return {
      'A': ' '.join(map(str, a.key)), 'B': ' '.join(map(str, b.key)),
      'difference': images.estimate,
      'images 95 %': f'[{images.low:+.3f}, {images.high:+.3f}]',
      'seeds 95 %': f'[{over_seeds.low:+.3f}, {over_seeds.high:+.3f}]',
      'McNemar p, seed 0': test.p_value,
      'holds': 'yes' if min(images.low, over_seeds.low) > 0 else 'no'}


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
    for row in imbalance_metrics.group_rates(y, guesses, _MEMBERS, 10):
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


def claims(cells: dict[tuple, Cell]) -> list[str]:
  """Says which published claims hold, in sentences that the numbers choose."""
  lines = []
  plain = {r: cells[r, 'plain', 'none'] for r in (1, 3, 7, 15)
           if (r, 'plain', 'none') in cells}
  if len(plain) > 1:
    low, high = plain[min(plain)], plain[max(plain)]
    change = [
        float((c.predicted['own'] == c.labels['own']).mean())
        for c in (low, high)]
    even = [mean_balanced(c.labels['balanced'], c.predicted['balanced'].T)
            for c in (low, high)]
    holds = change[1] > change[0] and even[1] < even[0]
    lines.append(
        f'Accuracy rises while balanced accuracy falls: '
        f'{"holds" if holds else "does not hold"}. From {min(plain)}:1 to '
        f'{max(plain)}:1 accuracy on the own test goes from {change[0]:.3f} '
        f'to {change[1]:.3f}, balanced accuracy on the balanced test from '
        f'{even[0]:.3f} to {even[1]:.3f}.')
  for ratio, cell in plain.items():
    if (ratio, 'normalized', 'none') in cells:
      found = compare(cells[ratio, 'normalized', 'none'], cell)
      ten = 'ten points or more' if found['difference'] >= 0.1 else (
          'less than ten points')
      recalls = ', '.join(
          f'{name} recall {group_recall(cell, name):.3f} to '
          f'{group_recall(cells[ratio, "normalized", "none"], name):.3f}'
          for name in _MEMBERS)
      lines.append(
          f'Normalisation adds ten points, at {ratio}:1: the normalised rung '
          f'differs from plain by {found["difference"]:+.3f} in balanced '
          f'accuracy (images {found["images 95 %"]}, seeds '
          f'{found["seeds 95 %"]}), {ten}; above zero by more than both '
          f'intervals: {found["holds"]}. It comes with {recalls}.')
  if (15, 'plain', 'none') in cells:
    against = [compare(cell, plain[15]) for key, cell in cells.items()
               if key[:2] == (15, 'plain') and key[2] != 'none']
    winners = [c['A'].split()[-1] for c in against if c['holds'] == 'yes']
    lines += [f'{name} could not be used: {reason}' for name, reason
              in plain[15].about['refused'].items()]
    lines.append(
        f'Remedies that beat plain training at 15:1 by more than both '
        f'intervals: {", ".join(winners) or "none"} (of {len(against)}).')
  for row in overfitting(list(plain.values())):
    lines.append(
        f'Overfitting at {row["ratio"]}: the study saw the test error turn at '
        f'epoch {row["study"]} of 50; here, seed by seed, at '
        f'{row["turns, own test"]} of '
        f'{len(next(iter(plain.values())).rows)} on the own test and '
        f'{row["turns, balanced test"]} on the balanced one.')
  return lines


def write(cells: list[Cell], args, argv: list[str]) -> None:
  """Writes tables, figures and `report.md` of the finished settings."""
  out = pathlib.Path(args.out)
  out.mkdir(parents=True, exist_ok=True)
  by_key = {cell.key: cell for cell in cells}
  rows = [row_of(cell) for cell in cells]
  writers.write_csv(out / 'table.csv', rows)
  plain = [cell for cell in cells if cell.about['remedy'] == 'none']
  per_class = [row for cell in plain for row in class_rows(cell)]
  writers.write_csv(out / 'per_class.csv', per_class)
  imbalance_figures.draw(by_key, out)
  base = (15, 'plain', 'none')
  pairs = [compare(cell, by_key[base]) for key, cell in by_key.items()
           if base in by_key and key[0] == 15 and key != base]
  seconds = sum(cell.about['seconds'] for cell in cells)
  third = [row for row in per_class if row['rung'] == 'plain']
  writers.write_text(out / 'report.md', f"""# Imbalance: ratios, rungs, remedies

Command: `python -m experiments.imbalance {shlex.join(argv)}`

Machine: {tables.machine()}. The {len(cells)} settings took {seconds:.0f} s.
Budget: {args.pixels} pixels (the study: 227), {args.epochs} epochs (50), first
rate {args.rate:g} (0.001), {args.seeds} seeds (1).

`own` is the study's test, as imbalanced as training; the balanced test has ten
images of each class that no ratio trains on. At 1:1 the two share images.
Intervals over images are stratified bootstraps of the mean over seeds, those
over seeds Student's; neither is adjusted for the number of comparisons.

## What holds

{chr(10).join(f"- {line}" for line in claims(by_key))}

## The study's Table 3, as it follows from its true positives

{tables.markdown(published())}
## Every setting

{tables.markdown(rows)}
## Against plain training at 15:1, on the balanced test

{tables.markdown(pairs)}
## Overfitting

{tables.markdown(overfitting(cells))}
![figure 1](figure1.png)
![figure 2](figure2.png)
![figure 3](figure3.png)

## Table 3 here: plain rung, seed 0

{tables.markdown(third)}""")
  print((out / 'report.md').read_text())
