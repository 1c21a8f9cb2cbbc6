"""Turns config.data into examples: ids, labels, groups and a way to read them.

`load` picks the kind of source, then applies what all kinds share: classes to
keep, ids to leave out, groups. No image is opened here, and nothing is decided
about training, validation and test beyond what the source itself says.
"""

import difflib
import re
from typing import Callable, NamedTuple
import warnings

from absl import logging
import numpy as np

from vision_jax.data import builtin
from vision_jax.data import errors
from vision_jax.data import listing
from vision_jax.data import prepared

_LISTERS = {
    'digits': builtin.list_digits,
    'procedural': builtin.list_procedural,
    'line': builtin.list_points,
    'cosine': builtin.list_points,
    'folders': listing.list_folders,
    'csv': listing.list_csv,
}


class Source(NamedTuple):
  """Random access to n labelled examples.

  Attributes:
    name: The kind of source, as in config.data.source.
    class_names: All class names, in the order of the labels.
    ids: n unique names; for files the posix path relative to the data folder.
    labels: int32 [n], indices into `class_names`.
    splits: str [n]: 'train', 'validation', 'test' or '' (the source has none).
    groups: int64 [n]; equal numbers mark examples that must stay together.
    read: Maps an index to encoded bytes or decoded uint8 pixels [h, w, c].
    stamps: n strings that change when a content may have; () where contents
      are made in memory and a disk cache would be no gain.
    ignored: Names of files and folders that are no part of the data.
    context: n tuples of ancestors, see `listing.Listing`; () for none.
  """
  name: str
  class_names: tuple[str, ...]
  ids: tuple[str, ...]
  labels: np.ndarray
  splits: np.ndarray
  groups: np.ndarray
  read: Callable[[int], bytes | np.ndarray]
  stamps: tuple[str, ...] = ()
  ignored: tuple[str, ...] = ()
  context: tuple[tuple[str, ...], ...] = ()


def load(config_data) -> Source:
  """Lists the examples that config.data describes, opening no image.

  Args:
    config_data: The data part of the configuration.

  Returns:
    The examples, sorted by id for files. With config.data.classes, labels
    follow the order given there; without, that of the sorted names.

  Raises:
    errors.DataError: The data is missing, empty or contradicts the
      configuration; the message names the field or file and the remedy.
  """
  kind = config_data.source
  if kind.startswith('tfds:'):
    found = prepared.list_tfds(kind.removeprefix('tfds:'), config_data)
  else:
    errors.check_choice('source', kind, allowed=(*_LISTERS, 'tfds:<name>'))
    found = _LISTERS[kind](config_data)
  if found.ignored:
    logging.info('Ignored, being no image of a class: %s',
                 errors.shortlist(found.ignored))
  labels = np.asarray(found.labels, np.int32)
  source = Source(
      name=kind, class_names=found.class_names, ids=found.ids, labels=labels,
      splits=np.asarray(found.splits, str),
      groups=np.arange(len(labels), dtype=np.int64), read=found.read,
      stamps=found.stamps, ignored=found.ignored, context=found.context)
  source = _exclude(source, config_data.exclude_pattern)
  source = _keep_classes(source, tuple(config_data.classes))
  source = source._replace(groups=_groups(source, config_data.group_pattern))
  counts = np.bincount(source.labels, minlength=len(source.class_names))
  if np.any(counts == 1):
    warnings.warn(
        'Classes with one example, which cannot be both trained on and '
        'tested:' + errors.shortlist(
            [source.class_names[c] for c in np.flatnonzero(counts == 1)]))
  return source


def take(source: Source, indices: np.ndarray) -> Source:
  """The source restricted to the examples `indices` (int64 [m]), in order."""
  return source._replace(
      ids=tuple(source.ids[i] for i in indices),
      labels=source.labels[indices],
      splits=source.splits[indices],
      groups=source.groups[indices],
      read=lambda i: source.read(int(indices[i])),
      stamps=tuple(source.stamps[i] for i in indices) if source.stamps else (),
      context=(tuple(source.context[i] for i in indices)
               if source.context else ()))


def _exclude(source: Source, pattern: str) -> Source:
  if not pattern:
    return source
  regex = _compile('exclude_pattern', pattern)
  kept = [i for i, name in enumerate(source.ids) if not regex.search(name)]
  if not kept:
    raise errors.DataError(
        f'config.data.exclude_pattern {pattern!r} leaves no example; one of '
        f'the ids is {source.ids[0]!r}.')
  return take(source, np.asarray(kept, np.int64))


def _keep_classes(source: Source, names: tuple[str, ...]) -> Source:
  """Keeps the classes `names` in that order; () keeps all."""
  if not names:
    return source
  for name in names:
    if name not in source.class_names:
      near = difflib.get_close_matches(name, source.class_names, n=1)
      raise errors.DataError(
          f'config.data.classes: there is no class {name!r}'
          + (f', did you mean {near[0]!r}?' if near else '.')
          + f' Classes:{errors.shortlist(source.class_names, limit=30)}')
  kept = np.flatnonzero(np.isin(
      source.labels, [source.class_names.index(name) for name in names]))
  source = take(source, kept)
  labels = [names.index(source.class_names[label]) for label in source.labels]
  return source._replace(
      class_names=names, labels=np.asarray(labels, np.int32))


def _groups(source: Source, pattern: str) -> np.ndarray:
  """Numbers the groups: split, class and what the pattern's group 1 found."""
  if not pattern:
    return np.arange(len(source.ids), dtype=np.int64)
  regex = _compile('group_pattern', pattern)
  if regex.groups < 1:
    raise errors.DataError(
        f'config.data.group_pattern {pattern!r} needs a group in parentheses '
        'that captures what the members of a group share.')
  numbers, groups = {}, []
  for name, label, split in zip(source.ids, source.labels, source.splits):
    match = regex.search(name)
    # Without a match, the id, which no other example has.
    key = (split, label, match.group(1)) if match else name
    groups.append(numbers.setdefault(key, len(numbers)))
  return np.asarray(groups, np.int64)


def _compile(field: str, pattern: str) -> re.Pattern:
  try:
    return re.compile(pattern)
  except re.error as error:
    raise errors.DataError(
        f'config.data.{field} {pattern!r} is no regular expression: {error}.'
    ) from error
