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
  """Numbers the groups: split, class and what the pattern captured.

  Raises:
    errors.DataError: The pattern is none, or what it captured once would be in
      several groups.
  """
  if not pattern:
    return np.arange(len(source.ids), dtype=np.int64)
  regex = _compile('group_pattern', pattern)
  if regex.groups < 1:
    raise errors.DataError(
        f'config.data.group_pattern {pattern!r} needs a group in parentheses '
        'that captures what the members of a group share.')
  numbers, groups, homes = {}, [], {}
  for name, label, split in zip(source.ids, source.labels, source.splits):
    shared = _shared(regex, name)
    # Without a match, the id, which no other example has.
    key = name if shared is None else (split, label, shared)
    groups.append(numbers.setdefault(key, len(numbers)))
    if shared is not None:
      homes.setdefault(shared, {}).setdefault((split, label), name)
  _check_whole(homes, pattern)
  return np.asarray(groups, np.int64)


def _check_whole(homes: dict[tuple, dict[tuple, str]], pattern: str) -> None:
  """Raises where what a group shares is found in several classes or splits.

  Args:
    homes: {what is shared: {(split, class): one of the ids there}}.
    pattern: For the message.
  """
  torn = [f'{"/".join(shared)}: {", ".join(list(names.values())[:3])}'
          for shared, names in homes.items() if len(names) > 1]
  if torn:
    raise errors.DataError(
        f'config.data.group_pattern {pattern!r} captures the same in several '
        'classes, or in several of the splits that the source itself makes. If '
        'these files are unrelated, capture the class or split as well: inside '
        'the group or, where something lies between, in named groups, such as '
        r"'^(?P<folder>.*)/copy-\d+-(?P<source>.*)'. If they are related, this "
        'data cannot be split by group here; keep one class '
        'of them by config.data.classes, or move them into one split:'
        f'{errors.shortlist(torn)}')


def _shared(regex: re.Pattern, name: str) -> tuple[str, ...] | None:
  """What a name shares with its group: the named groups, else group 1."""
  match = regex.search(name)
  if not match:
    return None
  parts = tuple(match.groupdict().values()) or (match.group(1),)
  return None if None in parts else parts


def _compile(field: str, pattern: str) -> re.Pattern:
  try:
    return re.compile(pattern)
  except re.error as error:
    raise errors.DataError(
        f'config.data.{field} {pattern!r} is no regular expression: {error}.'
    ) from error
