"""The numbers of experiments/rare_species.py, a row a model.

Takes test outputs and run folders; rare_species_report.py puts them into words.
"""

import json
import pathlib
from typing import Any

import numpy as np

from vision_jax import imbalance_metrics
from vision_jax import metrics
from vision_jax import stats
from vision_jax.analysis import comparison
from vision_jax.analysis import errors
from vision_jax.analysis import intervals
from vision_jax.data import taxonomy

NUMBERS = ('accuracy', 'macro_f1', 'balanced_accuracy', 'auc_macro_ovr',
           'auc_micro_keras', 'log_loss')


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
  for number in NUMBERS:
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
        'name': name, 'n': len(base.labels), **_ends('accuracy_gained', gain),
        'removed': across.only_a, 'added': across.only_b,
        'p': across.p_value, **_ends('mass_gained', mass)})
  return rows


def _ends(name: str, interval: stats.Interval) -> dict[str, float]:
  return {name: interval.estimate, f'{name}_low': interval.low,
          f'{name}_high': interval.high}


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
        **_ends('accuracy_gained', found.accuracy),
        'McNemar p': found.test.p_value})
  return rows
