"""Examines files: content hashes, broken images, duplicates, the manifest.

Reading and judging happen in one pass, which also yields the decoded pixels,
so that `cache` needs no second one. It repairs and removes nothing.
"""

from concurrent import futures
import hashlib
import os
from typing import Iterator
import warnings

import numpy as np

from vision_jax.data import errors
from vision_jax.data import filters
from vision_jax.data import images
from vision_jax.data import screening

MISSING = 'no such file'
_NEAR = 2  # Bits of 64 in which near duplicates may differ.
_CHUNK = 1024
_EVALUATED = ('validation', 'test')


def inspect(source, config_data, *, indices=None
            ) -> Iterator[tuple[dict, np.ndarray | None]]:
  """Reads, hashes and decodes every example once, on all cores.

  Args:
    source: A `sources.Source`.
    config_data: Reads image_size, channels, resize, max_pixels, filter
      and masks.
    indices: The examples to read, in order; None for all.

  Yields:
    (record, pixels) in order. The record has `sha256` ('' where the content
    could not be read), `bytes`, `dhash` (int or None) and `reason` ('' for a
    good file); pixels are uint8 [h, w, c], None for a bad file.
  """
  errors.check_choice('resize', config_data.resize, allowed=images.RESIZES)
  if config_data.channels not in (1, 3):
    raise errors.DataError(
        f'config.data.channels is {config_data.channels}; it must be 1 or 3.')
  options = dict(
      size=tuple(config_data.image_size), channels=config_data.channels,
      resize=config_data.resize, max_pixels=config_data.max_pixels)
  indices = range(len(source.ids)) if indices is None else indices
  change = filters.make(config_data)
  with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    yield from pool.map(
        lambda i: _examine(source, i, options, change), indices)


def check_bad_files(bad_files: list[dict], *, on_bad_file: str) -> None:
  """Warns of bad files or, with 'refuse', raises; names each with its reason.

  Args:
    bad_files: Dictionaries with `id` and `reason`.
    on_bad_file: 'skip' or 'refuse'.
  """
  errors.check_choice('on_bad_file', on_bad_file, allowed=('skip', 'refuse'))
  if not bad_files:
    return
  many = errors.count(len(bad_files), 'bad file')
  names = errors.shortlist(
      [f'{row["id"]}: {row["reason"]}' for row in bad_files], limit=20)
  if on_bad_file == 'refuse':
    raise errors.DataError(
        f'{many}; replace or delete what is named, or pass '
        f'--config.data.on_bad_file=skip to go on without them:{names}')
  warnings.warn(f'Skipped {many}:{names}')


def check_duplicates(source, records, parts, *, duplicates: str) -> None:
  """Looks for the same picture on both sides of an evaluation.

  Exact copies across splits are an error ('refuse') or a warning ('warn').
  Exact copies inside a split and near duplicates across splits (perceptual
  hashes that differ in at most two bits) are warnings. Unlabelled examples
  count as training examples: a copy between those two harms no evaluation.

  Args:
    source: A `sources.Source`.
    records: One record of `inspect` an example, all of them good.
    parts: The indices of each split, from `splits.make`; what is in a part
      'screened' harms nothing.
    duplicates: 'refuse', 'warn', or 'ignore' for data that repeats by nature.

  Raises:
    errors.DataError: Exact copies across splits, each pair named.
  """
  errors.check_choice(
      'duplicates', duplicates, allowed=('refuse', 'warn', 'ignore'))
  if duplicates == 'ignore':
    return
  home = np.full(len(source.ids), 'train', object)
  for name in _EVALUATED:
    home[parts[name]] = name
  if screening.SCREENED in parts:
    home[parts[screening.SCREENED]] = screening.SCREENED
  seen, across, inside = {}, [], []
  for i, record in enumerate(records):
    if home[i] == screening.SCREENED:
      continue
    j = seen.setdefault(record['sha256'], i)
    if i != j:
      (inside if home[i] == home[j] else across).append((j, i))
  near = _near_pairs(records, home)
  copies = ('exact copy', 'exact copies')
  for pairs, nouns, where in (
      (inside, copies, 'within a split'),
      (near, ('near duplicate',),
       'across splits (look at the files: they may show the same thing)')):
    if pairs:
      warnings.warn(f'{errors.count(len(pairs), *nouns)} {where}:'
                    f'{errors.shortlist(_name_pairs(source, home, pairs))}')
  if across:
    text = (f'{errors.count(len(across), *copies)} across splits, which would '
            f'be trained on and tested. {_advice(source, across)}'
            f'{errors.shortlist(_name_pairs(source, home, across), limit=20)}')
    if duplicates == 'refuse':
      raise errors.DataError(
          f'{text}\nTo go on all the same: --config.data.duplicates=warn')
    warnings.warn(text)


def manifest(source, records, parts) -> list[dict]:
  """One row an example: id, split, label (class name), sha256, bytes."""
  home = {int(i): name for name, rows in parts.items() for i in rows}
  return [dict(id=source.ids[i], split=home[i],
               label=source.class_names[source.labels[i]],
               sha256=record['sha256'], bytes=record['bytes'])
          for i, record in enumerate(records)]


def _examine(
    source, index: int, options, change: filters.Filter,
) -> tuple[dict, np.ndarray | None]:
  """Reads one example; returns its record and its pixels."""
  record = dict(sha256='', bytes=0, dhash=None, reason='')
  try:
    content = source.read(index)
  except (FileNotFoundError, NotADirectoryError):
    return record | dict(reason=MISSING), None
  except OSError as error:
    return record | dict(reason=f'cannot be read ({error.strerror})'), None
  record['bytes'] = len(content) if isinstance(content, bytes) else (
      content.nbytes)
  record['sha256'] = hashlib.sha256(content).hexdigest()
  try:
    pixels = images.decode(content, **options)
    changed = change(source.ids[index], pixels)
  except errors.ImageError as error:
    return record | dict(reason=str(error)), None
  # Pictures drawn by a program resemble each other by design.
  if isinstance(content, bytes):
    record['dhash'] = images.dhash(pixels)
  return record, changed


def _near_pairs(records, home) -> list[tuple[int, int]]:
  """Pairs (i, j) of different contents and splits with close hashes."""
  hashed = np.array([i for i, record in enumerate(records)
                     if record['dhash'] is not None], np.int64)
  hashes = np.array([records[i]['dhash'] for i in hashed], np.uint64)
  sides = home[hashed]
  pairs = []
  for name, others in (('validation', ('train',)),
                       ('test', ('train', 'validation'))):
    left = np.flatnonzero(sides == name)
    right = np.flatnonzero(np.isin(sides.astype(str), others))
    for start in range(0, len(left), _CHUNK):
      rows = left[start:start + _CHUNK]
      distance = np.bitwise_count(hashes[rows][:, None] ^ hashes[right])
      pairs += [(int(hashed[rows[a]]), int(hashed[right[b]]))
                for a, b in zip(*np.nonzero(distance <= _NEAR))]
  return [(i, j) for i, j in pairs
          if records[i]['sha256'] != records[j]['sha256']]


def _name_pairs(source, home, pairs) -> list[str]:
  def name(i):
    label = source.class_names[source.labels[i]]
    return f'{source.ids[i]} ({home[i]}, {label})'
  return [f'{name(i)} = {name(j)}' for i, j in pairs]


def _advice(source, pairs) -> str:
  """What to do about copies, by who put them on different sides."""
  remove = ('delete one of each pair or leave it out by '
            'config.data.exclude_pattern')
  if any(source.splits[i] != source.splits[j] for i, j in pairs):
    return f'The source itself divides its data so; {remove}.'
  return ('The split was drawn here; keep copies together by '
          f'config.data.group_pattern, or {remove}.')
