"""The report of study 2: tables, figures and claims, from saved outputs alone.

Trains nothing. Every sentence about a result is chosen by the numbers.
"""

from collections.abc import Sequence
import pathlib
import shlex
from typing import Any

from experiments import imbalance_cells
from experiments import imbalance_figures
from experiments import tables
from vision_jax import imbalance_metrics
from vision_jax import resampling
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
_BASE = (15, 'plain', 'none')
# Remedies that fit the last layer anew, and the same without their balance.
_FITTED = ('crt', *resampling.METHODS)
_CONTROL = (15, 'plain', 'refit')

Cells = dict[tuple[int, str, str], imbalance_cells.Cell]


def published() -> list[dict[str, Any]]:
  """Returns what follows from the study's Table 3, a row per ratio."""
  return [
      {'ratio': f'{ratio}:1', **imbalance_metrics.from_true_positives(
          hits, [large] * 5 + [small] * 5, minority=range(5, 10))}
      for ratio, (hits, (large, small)) in TABLE_3.items()]


def claims(cells: Cells) -> list[str]:
  """Says which published claims hold, in sentences that the numbers choose."""
  plain = {ratio: cells[ratio, 'plain', 'none'] for ratio in (1, 3, 7, 15)
           if (ratio, 'plain', 'none') in cells}
  lines = _rise_and_fall(plain) if len(plain) > 1 else []
  for ratio, cell in plain.items():
    if (ratio, 'normalized', 'none') in cells:
      lines.append(_normalisation(cells[ratio, 'normalized', 'none'], cell))
  if 15 in plain:
    lines += _remedies(cells)
  for row in imbalance_cells.overfitting(list(plain.values())):
    lines.append(
        f'Overfitting at {row["ratio"]}: the study saw the test error turn at '
        f'epoch {row["study"]} of 50; here, seed by seed, at '
        f'{row["turns, own test"]} of '
        f'{len(next(iter(plain.values())).rows)} on the own test and '
        f'{row["turns, balanced test"]} on the balanced one.')
  return lines


def _rise_and_fall(plain: dict[int, imbalance_cells.Cell]) -> list[str]:
  low, high = plain[min(plain)], plain[max(plain)]
  change = [float((c.predicted['own'] == c.labels['own']).mean())
            for c in (low, high)]
  even = [imbalance_cells.mean_balanced(
      c.labels['balanced'], c.predicted['balanced'].T) for c in (low, high)]
  holds = change[1] > change[0] and even[1] < even[0]
  return [
      f'Accuracy rises while balanced accuracy falls: '
      f'{"holds" if holds else "does not hold"}. From {min(plain)}:1 to '
      f'{max(plain)}:1 accuracy on the own test goes from {change[0]:.3f} '
      f'to {change[1]:.3f}, balanced accuracy on the balanced test from '
      f'{even[0]:.3f} to {even[1]:.3f}.']


def _normalisation(
    normalized: imbalance_cells.Cell, plain: imbalance_cells.Cell) -> str:
  found = imbalance_cells.compare(normalized, plain)
  ten = _ten_points(imbalance_cells.differences(normalized, plain))
  recall = imbalance_cells.group_recall
  recalls = ', '.join(
      f'{name} recall {recall(plain, name):.3f} to '
      f'{recall(normalized, name):.3f}' for name in imbalance_cells.MEMBERS)
  return (
      f'Normalisation adds ten points, at {plain.key[0]}:1: the normalised '
      f'rung differs from plain by {found["difference"]:+.3f} in balanced '
      f'accuracy (images {found["images 95 %"]}, seeds '
      f'{found["seeds 95 %"]}), {ten}; above zero by more than both '
      f'intervals: {found["better"]}. It comes with {recalls}.')


def _ten_points(intervals: Sequence[stats.Interval]) -> str:
  """Says whether a difference is ten points, as far as its intervals do."""
  if min(interval.low for interval in intervals) >= 0.1:
    return 'ten points or more'
  if max(interval.high for interval in intervals) < 0.1:
    return 'less than ten points'
  return 'ten points within its intervals'


def _remedies(cells: Cells) -> list[str]:
  """What beats plain training at 15:1, and what of it is more than a refit."""
  plain = cells[_BASE]
  lines = [f'{name} could not be used: {reason}' for name, reason
           in plain.about['refused'].items()]
  against = [imbalance_cells.compare(cell, plain) for key, cell in cells.items()
             if key[:2] == _BASE[:2] and key != _BASE]
  lines.append(
      f'Remedies that beat plain training at 15:1 by more than both '
      f'intervals: {_winners(against)} (of {len(against)}).')
  control = _refits(cells)
  if control:
    found = imbalance_cells.compare(cells[_CONTROL], plain)
    lines.append(
        f'The last layer fitted anew without any balance (refit) differs from '
        f'plain by {found["difference"]:+.3f} (images {found["images 95 %"]}, '
        f'seeds {found["seeds 95 %"]}). Balanced fits that beat it by more '
        f'than both intervals: {_winners(control)} (of {len(control)}).')
  return lines


def _winners(pairs: list[dict[str, Any]]) -> str:
  names = [pair['A'].split()[-1] for pair in pairs if pair['better'] == 'yes']
  return ', '.join(names) or 'none'


def _refits(cells: Cells) -> list[dict[str, Any]]:
  """Compares each balanced fit of the last layer with the unbalanced one."""
  if _CONTROL not in cells:
    return []
  return [imbalance_cells.compare(cells[key], cells[_CONTROL])
          for key in ((15, 'plain', name) for name in _FITTED) if key in cells]


def write(cells: list[imbalance_cells.Cell], args, argv: list[str]) -> None:
  """Writes tables, figures and `report.md` of the finished settings."""
  out = pathlib.Path(args.out)
  out.mkdir(parents=True, exist_ok=True)
  by_key = {cell.key: cell for cell in cells}
  rows = [imbalance_cells.row_of(cell) for cell in cells]
  writers.write_csv(out / 'table.csv', rows)
  plain = [cell for cell in cells if cell.about['remedy'] == 'none']
  per_class = [
      row for cell in plain for row in imbalance_cells.class_rows(cell)]
  writers.write_csv(out / 'per_class.csv', per_class)
  imbalance_figures.draw(by_key, out)
  pairs = [
      imbalance_cells.compare(cell, by_key[_BASE])
      for key, cell in by_key.items()
      if _BASE in by_key and key[0] == 15 and key != _BASE]
  seconds = sum(cell.about['seconds'] for cell in cells)
  third = [row for row in per_class if row['rung'] == 'plain']
  writers.write_text(out / 'report.md', f"""# Imbalance: ratios, rungs, remedies

Command: `python -m experiments.imbalance {shlex.join(argv)}`

Machine: {tables.machine()}. The {len(cells)} settings took {seconds:.0f} s
in all, each timed by itself; up to {args.workers} train side by side.
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
## Balanced fits of the last layer against a plain one, at 15:1

{tables.markdown(_refits(by_key))}
## Overfitting

{tables.markdown(imbalance_cells.overfitting(cells))}
Figures 1 to 3 of the study, beside the same on the balanced test. A line is
the mean over the seeds, its band their range from the lowest to the highest.

![figure 1](figure1.png)
![figure 2](figure2.png)
![figure 3](figure3.png)

## Table 3 here: plain rung, seed 0

{tables.markdown(third)}""")
  print((out / 'report.md').read_text())
