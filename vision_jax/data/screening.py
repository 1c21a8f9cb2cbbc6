"""Leaves out pictures that show no animal well: one rule for all splits.

Images are measured, rules judge the measures, and a table names what is
dropped and why; config.data.screened reads that table. The rules see neither
labels nor splits, and the split is drawn before anything is dropped, so that
what is left of the test set is a part of it. Which network says what shows an
animal is the caller's business.
"""

from collections.abc import Iterable, Mapping, Sequence
import pathlib
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vision_jax.data import errors
from vision_jax.data import tables

SCREENED = 'screened'
_NEAR = 2  # Bits of 64 in which near duplicates may differ, as in `audit`.


class Rule(NamedTuple):
  """Drops an image whose measure is below, or above, a limit.

  Attributes:
    measure: Name in `measure`.
    below: Whether small values are dropped.
    limit: The last value that is kept.
  """
  measure: str
  below: bool
  limit: float


RULES = {
    'dark': Rule('brightness', True, 0.3),
    'blurred': Rule('sharpness', True, 0.0004),
    'uniform': Rule('entropy', True, 3.0),
    'text': Rule('text', False, 0.5),
    'no animal': Rule('animal', True, 0.02),
}


def measure(pixels: np.ndarray) -> dict[str, float]:
  """Returns what the rules look at.

  Args:
    pixels: uint8 [h, w, c].

  Returns:
    brightness: The 99th percentile of the luma, in [0, 1]: even a dark animal
      on a dark ground has a highlight. sharpness: The variance of the luma's
      Laplacian. entropy: Of the luma's histogram, in bits of 8. text: The
      share of pixels near the most common luma, times 20 times the share of
      steps over 1/3 between neighbours, at most 1 each: print and maps are
      flat with many hard edges.
  """
  grey = np.asarray(Image.fromarray(
      pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).convert('L'))
  luma = grey.astype(np.float32) / 255
  laplacian = (luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2]
               + luma[1:-1, 2:] - 4 * luma[1:-1, 1:-1])
  shares = np.bincount(grey.ravel(), minlength=256) / grey.size
  used = shares[shares > 0]
  mode = int(shares.argmax())
  flat = shares[max(0, mode - 8):mode + 9].sum()
  steps = np.abs(np.diff(luma, axis=1)) > 1 / 3
  return {
      'brightness': float(np.quantile(luma, 0.99)),
      'sharpness': float(laplacian.var()),
      'entropy': float(-(used * np.log2(used)).sum()),
      'text': float(flat * min(1.0, 20 * steps.mean())),
  }


def judge(
    ids: Sequence[str], measures: Sequence[Mapping[str, float]],
) -> list[dict[str, Any]]:
  """Returns a row per image and rule that drops it: id, rule, value, limit.

  Rules whose measure is missing do not act.
  """
  rows = []
  for name, values in zip(ids, measures, strict=True):
    for rule, (what, below, limit) in RULES.items():
      if what not in values:
        continue
      if values[what] < limit if below else values[what] > limit:
        rows.append({'id': name, 'rule': rule, 'value': values[what],
                     'limit': limit})
  return rows


def duplicates(
    ids: Sequence[str], hashes: Sequence[int | None],
) -> list[dict[str, Any]]:
  """Returns a row per image that repeats an earlier one, by difference hash.

  Args:
    ids: Names.
    hashes: Of `images.dhash`; None takes no part.
  """
  known = [i for i, value in enumerate(hashes) if value is not None]
  bits = np.array([hashes[i] for i in known], np.uint64)
  rows = []
  for place in range(1, len(known)):
    distance = np.bitwise_count(bits[:place] ^ bits[place])
    if distance.min() <= _NEAR:
      rows.append({'id': ids[known[place]], 'rule': 'duplicate',
                   'value': int(distance.min()), 'limit': _NEAR,
                   'of': ids[known[int(distance.argmin())]]})
  return rows


def read(path: str | pathlib.Path) -> dict[str, str]:
  """Returns {id: the rules that drop it} of a table.

  Raises:
    errors.DataError: There is no such table, it has other columns, or a row is
      not complete.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise errors.DataError(
        f'config.data.screened: there is no table {path}; make one by '
        'python -m experiments.rare_species_screening.')
  columns, rows = tables.read(path)
  if not {'id', 'rule'} <= set(columns):
    raise errors.DataError(
        f'{path} needs the columns id and rule; it has {columns}.')
  found: dict[str, str] = {}
  for number, row in enumerate(rows, start=1):
    name, rule = row['id'], row['rule']
    if not name or not rule:
      raise errors.DataError(
          f'{path}, data row {number}: id {name!r} and rule {rule!r} must both '
          'be filled in; complete or delete the row.')
    found[name] = f'{found[name]}, {rule}' if name in found else rule
  return found


def apply(
    parts: Mapping[str, np.ndarray], source, dropped: Iterable[str],
) -> dict[str, np.ndarray]:
  """Returns the splits without what is dropped, and that as 'screened'.

  Args:
    parts: Of `splits.make`.
    source: A `sources.Source`.
    dropped: Ids; those that the source does not have are ignored.

  Raises:
    errors.DataError: A class has no training example left.
  """
  names = set(dropped)
  gone = np.flatnonzero([name in names for name in source.ids])
  kept = {name: rows[~np.isin(rows, gone)] for name, rows in parts.items()}
  left = np.bincount(source.labels[kept['train']],
                     minlength=len(source.class_names))
  if np.any(left == 0):
    raise errors.DataError(
        'config.data.screened leaves no training example of these classes; '
        'take some of their images out of the table:'
        + errors.shortlist(
            [source.class_names[c] for c in np.flatnonzero(left == 0)]))
  return {**kept, SCREENED: gone.astype(np.int64)}
