"""The report of experiments/rare_species.py: one table, and what it says.

Takes outputs and run folders; trains nothing.
"""

import json
import pathlib
import shlex
from typing import Any

import numpy as np

from experiments import tables
from vision_jax import imbalance_metrics
from vision_jax import metrics
from vision_jax import results
from vision_jax import stats
from vision_jax import writers
from vision_jax.analysis import comparison
from vision_jax.analysis import error_figures
from vision_jax.analysis import errors
from vision_jax.analysis import intervals
from vision_jax.data import taxonomy

_NUMBERS = ('accuracy', 'macro_f1', 'balanced_accuracy', 'auc_macro_ovr',
            'auc_micro_keras', 'log_loss')
_HEADINGS = {'auc_macro_ovr': 'AUC, macro one versus rest',
             'auc_micro_keras': "AUC, Keras' micro"}


def write(args, argv, *, answers, folders, missing, losses, seconds) -> None:
  """Writes table.csv, tail.csv and report.md.

  Args:
    args: Arguments of the command.
    argv: As they were given.
    answers: Test outputs by name, see `rare_species.answer`.
    folders: Run folder by (model, name).
    missing: Why a model could not run, by model.
    losses: Names of the answers that differ in the loss only.
    seconds: Of the whole command.
  """
  out, first = pathlib.Path(args.out), args.models.split(',')[0]
  result = results.read(folders[first, 'sound'])
  names = tuple(result['class_names'])
  shown = {name: of for name, of in answers.items()
           if name not in (*losses, 'balanced softmax')}
  rows = [number_row(name, of, names) for name, of in shown.items()]
  paired = paired_rows(shown, names)
  tail = tail_rows(
      {name: answers[name] for name in ('balanced softmax', *losses)},
      np.array(train_counts(folders[first, 'modern'], names)))
  writers.write_csv(out / 'table.csv', rows)
  writers.write_csv(out / 'paired.csv', paired)
  writers.write_csv(out / 'tail.csv', tail)
  error_figures.rates(
      [errors.rate(row['cross_phylum'], row['n']) for row in rows],
      [row['name'] for row in rows], out / 'cross_phylum.png',
      xlabel='taken for another phylum')
  writers.write_text(out / 'report.md', _text(
      args, argv, result, rows, paired, tail, preprocessing(folders),
      answers['ensemble']['weights'], missing, seconds,
      sum(results.read(folder)['seconds'] for folder in folders.values())))
  print((out / 'report.md').read_text())


def predictions_of(outputs: dict[str, Any], names) -> errors.Predictions:
  """Returns outputs as the predictions that errors.py counts."""
  return errors.Predictions(
      names, ('',) * len(outputs['label']), outputs['label'],
      outputs['probabilities'])


def number_row(name: str, outputs, names) -> dict[str, Any]:
  """Returns a row of the table: each number with its 95 % interval."""
  labels, p = outputs['label'], outputs['probabilities']
  # The mean of float32 probabilities adds up to one only nearly.
  p = p / p.sum(axis=-1, keepdims=True)
  values = metrics.classification(labels, p)
  ends = intervals.classification(labels, p)
  row = {'name': name, 'told': outputs['information'], 'n': values['n']}
  for number in _NUMBERS:
    row |= {number: values[number], f'{number}_low': ends[number][0],
            f'{number}_high': ends[number][1]}
  predictions = predictions_of(outputs, names)
  across = errors.across_parents(predictions)
  return row | {
      'mistakes': int((predictions.predicted != labels).sum()),
      'cross_phylum': int(across.sum()),
      'wrong_phylum_mass': float(wrong_mass(predictions).mean())}


def wrong_mass(predictions: errors.Predictions) -> np.ndarray:
  """Returns the probability [n] that each example gives to other phyla."""
  _, parent = taxonomy.parents(predictions.class_names)
  other = parent[predictions.labels][:, None] != parent
  return np.where(other, predictions.probabilities, 0.0).sum(axis=-1)


def paired_rows(answers, names) -> list[dict[str, Any]]:
  """Compares each with 'sound' on the same images."""
  base = predictions_of(answers['sound'], names)
  rows = []
  for name, outputs in answers.items():
    if name == 'sound':
      continue
    other = predictions_of(outputs, names)
    gain = stats.paired_bootstrap(
        lambda y, p: float((y == p).mean()), base.labels, other.predicted,
        base.predicted)
    mass = stats.bootstrap(
        lambda a, b: float((a - b).mean()),
        (wrong_mass(other), wrong_mass(base)), strata=base.labels)
    across = stats.mcnemar(
        ~errors.across_parents(other), ~errors.across_parents(base))
    rows.append({
        'name': name, 'n': len(base.labels),
        'accuracy gained': gain.estimate, '95 %': _pair(gain),
        'cross-phylum mistakes removed': across.only_a, 'added': across.only_b,
        'McNemar p': across.p_value,
        'wrong-phylum mass gained': mass.estimate, '95 % ': _pair(mass)})
  return rows


def _pair(interval: stats.Interval) -> str:
  return f'[{interval.low:+.4f}, {interval.high:+.4f}]'


def train_counts(folder, names) -> list[int]:
  """Returns the training examples of each class, from the run's manifest."""
  manifest = json.loads((pathlib.Path(folder) / 'manifest.json').read_text())
  rows = manifest['files']
  labels = [row['label'] for row in rows if row['split'] == 'train']
  return [labels.count(name) for name in names]


def tail_rows(answers, counts) -> list[dict[str, Any]]:
  """Returns the recall of large and small families under each loss."""
  members = imbalance_metrics.groups(counts)
  rows = []
  for name, outputs in answers.items():
    labels, guess = outputs['label'], outputs['probabilities'].argmax(-1)
    row = {'loss': name}
    for group in imbalance_metrics.group_rates(
        labels, guess, members, len(counts)):
      row[f'{group["group"]} families'] = imbalance_metrics.rate_text(
          group['recall_hits'], group['recall_n'])
    row['balanced accuracy'] = metrics.from_confusion(metrics.confusion(
        labels, guess, len(counts)))['balanced_accuracy']
    rows.append(row)
  return rows


def preprocessing(folders) -> list[dict[str, Any]]:
  """Compares, model by model, two published runs that differ in it alone."""
  rows = []
  for model, name in folders:
    if not name.startswith('published, '):
      continue
    found = comparison.compare(
        folders[model, name], folders[model, 'published'],
        fields=('published.preprocess_of',))
    rows.append({
        'model': model, 'given that of': name.rpartition(' ')[2],
        'instead of': 'mobilenet_v2', 'n': found.n,
        'accuracy gained': found.accuracy.estimate,
        '95 %': _pair(found.accuracy), 'McNemar p': found.test.p_value})
  return rows


def _cells(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Joins each number with its interval into one cell."""
  shown = []
  for row in rows:
    cells = {'': row['name'], 'told': row['told'], 'n': row['n']}
    for name in _NUMBERS:
      heading = (_HEADINGS[name] if name in _HEADINGS
                 else name.replace('_', ' '))
      cells[heading] = (f'{row[name]:.3f} [{row[f"{name}_low"]:.3f}, '
                        f'{row[f"{name}_high"]:.3f}]')
    shown.append(cells | {
        'mistakes': row['mistakes'], 'cross-phylum': row['cross_phylum'],
        'wrong-phylum mass': row['wrong_phylum_mass']})
  return shown


def _text(args, argv, result, rows, paired, tail, costs, weights, missing,
          seconds, spent) -> str:
  parts = result['examples']
  absent = ''.join(f'- `{model}`: {why}\n' for model, why in missing.items())
  if absent:
    absent = f'\nLeft out, their weights being missing:\n\n{absent}'
  chosen = ', '.join(f'{name} {value:.2f}' for name, value in weights.items())
  first, *others = args.models.split(',')
  return f"""# Families on `{args.data}` with {', '.join([first, *others])}

Command: `python -m experiments.rare_species {shlex.join(argv)}`

Machine: {tables.machine()}. This command took {seconds:.0f} s, and the runs
{spent:.0f} s when they ran, beside whatever else ran then; what had finished or
was cached took no time. Images of {args.size} pixels. {len(result['class_names'])} families, split by family into
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

{tables.markdown(paired)}
A cross-phylum mistake is a prediction in another phylum; the wrong-phylum mass
is the probability given to other phyla, whatever was predicted.

![cross-phylum mistakes](cross_phylum.png)

## What another network's preprocessing costs

The study gave MobileNetV2's to all networks. These pairs of `published` runs
differ in the preprocessing alone. That of EfficientNet-Lite0, (x - 127) / 128,
is nearly MobileNetV2's, so that the study's mistake costs this one nothing, and
it is given VGG16's instead to show what a foreign one does.

{tables.markdown(costs)}
## Losses for the tail

The head of `modern` under other losses. Large families have at least the mean
number of training images, small ones fewer.

{tables.markdown(tail)}
## Mistakes

[Pairs, galleries, calibration, class size, phyla](errors/errors.md).
"""
