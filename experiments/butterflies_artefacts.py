"""What the mistakes of study 0 do to its numbers: `published` beside `sound`.

Reads the finished runs of both protocols and trains nothing.
"""

import pathlib
from typing import Any

import numpy as np

from experiments import butterflies_cells as cells_lib
from experiments import tables
from vision_jax import metrics
from vision_jax import results
from vision_jax.analysis import comparison
from vision_jax.analysis import errors

# What the protocols differ in, and with it the encoder that a model starts
# from.
_FIELDS = ('protocol', 'published.', 'callbacks.', 'model.frozen',
           'model.weights', 'train.epochs', 'data.validation_fraction')


def compare(
    published: dict[cells_lib.Cell, pathlib.Path],
    sound: dict[cells_lib.Cell, pathlib.Path]) -> list[dict[str, Any]]:
  """Returns a row per published cell, with the sound one where that is trained.

  Args:
    published: Finished runs with the study's mistakes.
    sound: Finished runs without.

  Returns:
    Of each cell the accuracy on the same test images, the difference with its
    paired 95 % interval, and macro F1 four times: as printed, as the published
    run has it (a mean over batches), from the same predictions as a whole, and
    of the sound run.

  Raises:
    ConfigError: If two runs differ in more than their protocols do.
  """
  rows = []
  for cell, folder in published.items():
    run = results.read(folder)
    printed = cells_lib.PUBLISHED[cell.model, cell.fraction]
    row = {
        'labels': cell.labels, 'model': cell.model, 'seed': cell.seed,
        'epochs, published': run['epochs'], 'epochs, sound': None,
        'accuracy, Table I': printed[0],
        'accuracy, published': run['test']['accuracy'],
        'accuracy, sound': None, 'sound - published, 95 %': None,
        'F1, Table I': printed[1],
        'F1, published': run['test']['macro_f1'],
        'F1, same predictions, whole set': whole_f1(folder),
        'F1, sound': None}
    rows.append(row | (_mended(folder, sound[cell]) if cell in sound else {}))
  return rows


def _mended(published: pathlib.Path, sound: pathlib.Path) -> dict[str, Any]:
  """Returns what the sound run adds to a row."""
  found = comparison.compare(
      sound, published, fields=_FIELDS, read=cells_lib.read_config)
  run, gain = results.read(sound), found.accuracy
  return {
      'epochs, sound': run['epochs'],
      'accuracy, sound': run['test']['accuracy'],
      'sound - published, 95 %':
          f'{gain.estimate:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]',
      'F1, sound': run['test']['macro_f1']}


def distance(rows: list[dict[str, Any]], metric: str, protocol: str) -> str:
  """Says how far a protocol's numbers lie from Table I's on average."""
  gaps = [abs(row[f'{metric}, {protocol}'] - row[f'{metric}, Table I'])
          for row in rows if row[f'{metric}, {protocol}'] is not None]
  return f'{np.mean(gaps):.3f} (n = {len(gaps)})' if gaps else 'not measured'


def whole_f1(folder: str | pathlib.Path) -> float:
  """Returns macro F1 over all test predictions of a run at once."""
  found = errors.read(folder)
  return metrics.from_confusion(metrics.confusion(
      found.labels, found.predicted, len(found.class_names)))['macro_f1']


def section(rows: list[dict[str, Any]]) -> str:
  """Returns what the report of the published protocol says of `rows`."""
  if not rows:
    return ''
  far = {(metric, protocol): distance(rows, metric, protocol)
         for metric in ('accuracy', 'F1') for protocol in ('published', 'sound')}
  return f"""## What the mistakes do

The same models on the same labelled and test images, with the study's mistakes
and without; `sound` holds 15 % of the labelled images out for validation, the
study none. One early-stopping object serves all published fits, in the order
of this table, and watches the loss of the last mini-batch: what the first fit
reached there ends the others. B2's encoder is frozen like B1's, both keep their
dropout, and all are tested on the weights of the last epoch. Its F1 is a mean
over batches, each of which holds three or four of the twenty classes.

{tables.markdown(rows)}
Mean distance from Table I: accuracy, published {far['accuracy', 'published']},
sound {far['accuracy', 'sound']}; F1, published {far['F1', 'published']},
sound {far['F1', 'sound']}.

"""
