"""Compares two finished runs on the same test examples, or refuses to.

Two numbers may stand side by side only if their runs differ in what the
comparison is about and in nothing else: not in the label fraction, the split
or the protocol.
"""

import csv
import pathlib
from typing import NamedTuple

import numpy as np

from vision_jax import checkpoint
from vision_jax import config as config_lib
from vision_jax import config_io
from vision_jax import metrics
from vision_jax import stats

# What may always differ: none of it decides a number.
_FREE = ('name', 'report.', 'runtime.', 'checkpoint.', 'data.root',
         'data.cache_dir', 'data.hint', 'data.resident_megabytes')


class Comparison(NamedTuple):
  """Run A against run B on the same n test examples.

  Attributes:
    n: Number of examples.
    accuracy: Difference A - B with its 95 % paired bootstrap interval.
    macro_f1: Likewise.
    test: McNemar's counts and exact p-value.
  """
  n: int
  accuracy: stats.Interval
  macro_f1: stats.Interval
  test: stats.PairedTest


def compare(
    a: str | pathlib.Path,
    b: str | pathlib.Path,
    *,
    fields: tuple[str, ...],
    read=checkpoint.read_config) -> Comparison:
  """Compares the predictions of two run folders.

  Args:
    a: A finished classification run.
    b: Another.
    fields: Prefixes of the config fields that the comparison is about, such
      as 'model.'.
    read: (folder) -> config; for runs that an older version made, another.

  Raises:
    ConfigError: If the runs differ in another field, or in their test
      examples.
  """
  changed = config_io.changes(read(a), read(b))
  other = {key: values for key, values in changed.items()
           if not key.startswith((*fields, *_FREE))}
  if other:
    raise config_lib.ConfigError(
        f'{a} and {b} cannot be compared in {", ".join(fields)}: they differ '
        'in ' + ', '.join(f'{key} ({old!r}, {new!r})'
                          for key, (old, new) in other.items()) + ' too.')
  rows_a, rows_b = _predictions(a), _predictions(b)
  if rows_a.keys() != rows_b.keys() or any(
      rows_a[key][0] != rows_b[key][0] for key in rows_a):
    raise config_lib.ConfigError(
        f'{a} and {b} were not tested on the same examples.')
  names = sorted({name for row in (*rows_a.values(), *rows_b.values())
                  for name in row})
  number = {name: i for i, name in enumerate(names)}
  labels, guess_a = np.array(
      [[number[name] for name in row] for row in rows_a.values()]).T
  guess_b = np.array([number[rows_b[key][1]] for key in rows_a])
  def macro_f1(y, p):
    return metrics.from_confusion(
        metrics.confusion(y, p, len(names)))['macro_f1']
  return Comparison(
      n=len(labels),
      accuracy=stats.paired_bootstrap(
          lambda y, p: float((y == p).mean()), labels, guess_a, guess_b),
      macro_f1=stats.paired_bootstrap(macro_f1, labels, guess_a, guess_b),
      test=stats.mcnemar(guess_a == labels, guess_b == labels))


def _predictions(folder) -> dict[str, tuple[str, str]]:
  """Returns {path: (label, predicted)} of a run's test examples."""
  path = pathlib.Path(folder) / 'predictions.csv'
  if not path.is_file():
    raise config_lib.ConfigError(
        f'{folder} has no predictions.csv: it is no finished run.')
  with path.open(newline='', encoding='utf-8') as file:
    return {row['path']: (row['label'], row['predicted'])
            for row in csv.DictReader(file)}
