"""The report of experiments/rare_species.py: tables, and what they say.

Takes outputs and run folders; trains nothing. The numbers themselves come from
rare_species_rows.py.
"""

import pathlib
import shlex
from typing import Any

import numpy as np

from experiments import rare_species_rows as numbers
from experiments import tables
from vision_jax import results
from vision_jax import writers
from vision_jax.analysis import error_figures
from vision_jax.analysis import errors

_TAXONOMY = ('hierarchical head', 'fusion', 'fusion, metadata missing',
             'hierarchical head, told the phylum')
_PAIRED = {'accuracy_gained': 'accuracy gained, 95 %',
           'removed': 'cross-phylum mistakes removed', 'p': 'McNemar p',
           'mass_gained': 'wrong-phylum mass gained, 95 %'}
_HEADINGS = {'auc_macro_ovr': 'AUC, macro one versus rest',
             'auc_micro_keras': "AUC, Keras' micro"}


def write(args, argv, *, answers, folders, missing, losses, seconds, cold,
          before) -> None:
  """Writes table.csv, tail.csv and report.md.

  Args:
    args: Arguments of the command.
    argv: As they were given.
    answers: Test outputs by name, see `rare_species.answer`.
    folders: Run folder by (model, name).
    missing: Why a model could not run, by model.
    losses: Names of the answers that differ in the loss only.
    seconds: Of the whole command.
    cold: Whether nothing was decoded, encoded or compiled before.
    before: Runs that had ended before.
  """
  out, first = pathlib.Path(args.out), args.models.split(',')[0]
  result = results.read(folders[first, 'sound'])
  names = tuple(result['class_names'])
  shown = {name: of for name, of in answers.items()
           if name not in (*losses, 'balanced softmax')}
  rows = [numbers.number_row(name, of, names)
          for name, of in shown.items()]
  paired = numbers.paired_rows(shown, names)
  tail = numbers.tail_rows(
      {name: answers[name] for name in ('balanced softmax', *losses)},
      np.array(numbers.train_counts(folders[first, 'modern'], names)))
  spent = sum(results.read(folder)['seconds'] for folder in folders.values())
  writers.write_csv(out / 'table.csv', rows)
  writers.write_csv(out / 'paired.csv', paired)
  writers.write_csv(out / 'tail.csv', tail)
  error_figures.rates(
      [errors.rate(row['cross_phylum'], row['n']) for row in rows],
      [row['name'] for row in rows], out / 'cross_phylum.png',
      xlabel='taken for another phylum')
  writers.write_text(out / 'report.md', _text(
      args, argv, result, rows, paired, tail, numbers.preprocessing(folders),
      answers['ensemble']['weights'], missing,
      duration(seconds, spent, cold=cold, before=before, runs=len(folders))))
  print((out / 'report.md').read_text())


def taxonomy_lines(rows, paired) -> str:
  """Says, variant by variant, whether mistakes stay inside the phylum."""
  mistakes = {row['name']: row['cross_phylum'] for row in rows}
  lines = []
  for row in paired:
    if row['name'] not in _TAXONOMY:
      continue
    less = row['mass_gained_high'] < 0
    more = row['mass_gained_low'] > 0
    lines.append(
        f'- {row["name"]}: {mistakes[row["name"]]} cross-phylum mistakes, '
        f'`sound` {mistakes["sound"]}; {row["removed"]} removed, '
        f'{row["added"]} added: {_verdict(row)}. Other phyla get '
        f'{"less" if less else "more" if more else "about as much"} '
        f'probability ({row["mass_gained"]:+.4f} '
        f'[{row["mass_gained_low"]:+.4f}, {row["mass_gained_high"]:+.4f}]).')
  return '\n'.join(lines)


def _verdict(row) -> str:
  if row['removed'] == row['added']:
    return 'no fewer'
  change = 'fewer' if row['removed'] > row['added'] else 'more'
  sure = 'significantly' if row['p'] < 0.05 else 'not significantly'
  return f'{change}, {sure} so (McNemar p = {row["p"]:.2g})'


def _cells(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Joins each number with its interval into one cell."""
  shown = []
  for row in rows:
    cells = {'': row['name'], 'told': row['told'], 'n': row['n']}
    for name in numbers.NUMBERS:
      heading = (_HEADINGS[name] if name in _HEADINGS
                 else name.replace('_', ' '))
      cells[heading] = (f'{row[name]:.3f} [{row[f"{name}_low"]:.3f}, '
                        f'{row[f"{name}_high"]:.3f}]')
    shown.append(cells | {
        'mistakes': row['mistakes'], 'cross-phylum': row['cross_phylum'],
        'wrong-phylum mass': row['wrong_phylum_mass']})
  return shown


def _spanned(rows: list[dict[str, Any]], headings: dict[str, str]):
  """Joins each number that has an interval with it, and renames columns."""
  shown = []
  for row in rows:
    cells = {}
    for name, value in row.items():
      if name.endswith(('_low', '_high')):
        continue
      if f'{name}_low' in row:
        value = (f'{value:+.4f} [{row[f"{name}_low"]:+.4f}, '
                 f'{row[f"{name}_high"]:+.4f}]')
      cells[headings[name] if name in headings else name] = value
    shown.append(cells)
  return shown


def duration(seconds: float, spent: float, *, cold: bool, before: int,
             runs: int) -> str:
  """Says how long the command took, and what it found done.

  Args:
    seconds: Of this command.
    spent: Of all runs when they ran.
    cold: Whether nothing was decoded, encoded or compiled before.
    before: Runs that had ended before.
    runs: All runs.
  """
  if cold and not before:
    return (f'This command took {seconds:.0f} s from a cold start: no run had '
            'ended, no\nimage was decoded or encoded and no program compiled '
            'before.')
  return (f'This command took {seconds:.0f} s; {before} of {runs} runs had '
          f'ended before, and what was\ncached took no time. When they ran, the '
          f'runs took {spent:.0f} s.')


def _text(args, argv, result, rows, paired, tail, costs, weights, missing,
          took) -> str:
  parts = result['examples']
  absent = ''.join(f'- `{model}`: {why}\n' for model, why in missing.items())
  if absent:
    absent = f'\nLeft out, their weights being missing:\n\n{absent}'
  chosen = ', '.join(f'{name} {value:.2f}' for name, value in weights.items())
  first, *others = args.models.split(',')
  return f"""# Families on `{args.data}` with {', '.join([first, *others])}

Command: `python -m experiments.rare_species {shlex.join(argv)}`

Machine: {tables.machine()}.
{took}

Images of {args.size} pixels. {len(result['class_names'])} families, split by family into
{parts['train']} training, {parts['validation']} validation and {parts['test']}
test images.
Intervals are 95 %: Wilson's for the accuracy, the bootstrap's within families
for the others.

{tables.markdown(_cells(rows))}
`told` says what the model knows of a test image: those told the phylum cannot
be compared with the others as if they had seen the image alone. The ensemble
is the mean of probabilities with weights chosen on validation ({chosen}); the
averaged weights are those of three rates of `modern` from one start.
{absent}
## Against `sound`, on the same images

{tables.markdown(_spanned(paired, _PAIRED))}
A cross-phylum mistake is a prediction in another phylum; the wrong-phylum mass
is the probability given to other phyla, whatever was predicted.

{taxonomy_lines(rows, paired)}

![cross-phylum mistakes](cross_phylum.png)

## What another network's preprocessing costs

The study gave MobileNetV2's to all networks. These pairs of `published` runs
differ in the preprocessing alone. That of EfficientNet-Lite0, (x - 127) / 128,
is nearly MobileNetV2's, so that the study's mistake costs this one nothing, and
it is given VGG16's instead to show what a foreign one does.

{tables.markdown(_spanned(costs, _PAIRED))}
## Losses for the tail

The head of `modern` under other losses. Large families have at least the mean
number of training images, small ones fewer.

{tables.markdown(tail)}
## Mistakes

[Pairs, galleries, calibration, class size, phyla](errors/errors.md).
"""
