"""What the mistakes of study 0 do to its numbers: `published` beside `sound`.

Reads the finished runs of both protocols and trains nothing.
"""

import pathlib
from typing import Any

from experiments import butterflies_cells as cells_lib
from experiments import tables
from vision_jax import results
from vision_jax import stats
from vision_jax import metrics
from vision_jax.analysis import comparison
from vision_jax.analysis import errors

# What the protocols differ in, and with it the encoder that a model starts
# from.
_FIELDS = ('protocol', 'published.', 'callbacks.', 'model.frozen',
           'model.weights', 'train.epochs', 'data.validation_fraction')


def compare(
    published: dict[cells_lib.Cell, pathlib.Path],
    sound: dict[cells_lib.Cell, pathlib.Path]) -> list[dict[str, Any]]:
  """Returns a row per cell that has been trained in both protocols.

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
  for cell in (cell for cell in published if cell in sound):
    folders = published[cell], sound[cell]
    found = comparison.compare(
        *reversed(folders), fields=_FIELDS, read=cells_lib.read_config)
    run, mended = (results.read(folder) for folder in folders)
    printed = cells_lib.PUBLISHED.get((cell.model, cell.fraction), ('', ''))
    rows.append({
        'labels': cell.labels, 'model': cell.model, 'seed': cell.seed,
        'epochs, published': run['epochs'], 'epochs, sound': mended['epochs'],
        'accuracy, Table I': printed[0],
        'accuracy, published': run['test']['accuracy'],
        'accuracy, sound': mended['test']['accuracy'],
        'sound - published, 95 %': _difference(found.accuracy),
        'F1, Table I': printed[1],
        'F1, published': run['test']['macro_f1'],
        'F1, same predictions, whole set': whole_f1(folders[0]),
        'F1, sound': mended['test']['macro_f1']})
  return rows


def whole_f1(folder: str | pathlib.Path) -> float:
  """Returns macro F1 over all test predictions of a run at once."""
  found = errors.read(folder)
  return metrics.from_confusion(metrics.confusion(
      found.labels, found.predicted, len(found.class_names)))['macro_f1']


def section(rows: list[dict[str, Any]]) -> str:
  """Returns what the report of the published protocol says of `rows`."""
  table = (tables.markdown(rows) if rows else
           'No cell has been trained in both protocols.\n')
  return f"""## What the mistakes do

The same models on the same labelled and test images, with the study's mistakes
and without. One early-stopping object serves all published fits, in the order
of this table, and watches the loss of the last mini-batch: what the first fit
reached there ends the others. B2's encoder is frozen like B1's, both keep their
dropout, and all are tested on the weights of the last epoch. Its F1 is a mean
over batches, each of which holds three or four of the twenty classes.

{table}
"""


def _difference(value: stats.Interval) -> str:
  return f'{value.estimate:+.3f} [{value.low:+.3f}, {value.high:+.3f}]'
