"""Classes as paths in a taxonomy: 'animalia/chordata/felidae'.

A class name carries its ancestors, so that whoever knows the names knows the
tree: a model, a report, a prediction for new images. The context of an example
is what its own row says of its ancestors, which may be missing.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from vision_jax.data import errors

SEPARATOR = '/'
UNKNOWN = 'unknown'
MISSING = -1


def paths(
    labels: Sequence[str], ancestors: Sequence[Sequence[str]], *, table: str,
) -> Mapping[str, str]:
  """Returns the path of each label, from the ancestors that its rows name.

  A row that leaves an ancestor out takes no part; a label of which no row
  names it gets 'unknown' there.

  Args:
    labels: The label of each row.
    ancestors: The ancestors of each row, the highest first; '' is missing.
    table: Where the rows come from, for the message.

  Raises:
    errors.DataError: Rows of one label name different ancestors, or a name
      holds the separator.
  """
  known: dict[str, list[set[str]]] = {}
  for label, row in zip(labels, ancestors, strict=True):
    levels = known.setdefault(label, [set() for _ in row])
    for found, name in zip(levels, row, strict=True):
      if SEPARATOR in name + label:
        raise errors.DataError(
            f'{table}: {name + " " + label!r} holds {SEPARATOR!r}, which '
            'divides the levels of a taxonomy; rename it, or empty '
            'config.data.csv_parent_columns.')
      if name:
        found.add(name)
  result = {}
  for label, levels in known.items():
    for found in levels:
      if len(found) > 1:
        raise errors.DataError(
            f'{table} puts {label!r} below '
            f'{" and below ".join(sorted(found))}; correct the wrong rows, or leave the column out of '
            'config.data.csv_parent_columns.')
    result[label] = SEPARATOR.join(
        (*(next(iter(found), UNKNOWN) for found in levels), label))
  return result


def leaf(name: str) -> str:
  """Returns the last part of a class path: the family."""
  return name.rpartition(SEPARATOR)[2]


def parents(class_names: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
  """Returns the sorted parent paths and int32 [classes], each class's parent.

  Raises:
    errors.DataError: The class names are no paths.
  """
  above = [name.rpartition(SEPARATOR)[0] for name in class_names]
  if not all(above):
    raise errors.DataError(
        f'The class names are no paths such as phylum{SEPARATOR}family: '
        f'{", ".join(class_names[:3])}. Name the columns of the ancestors by '
        'config.data.csv_parent_columns.')
  names = tuple(sorted(set(above)))
  return names, np.array([names.index(name) for name in above], np.int32)


def levels(class_names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
  """Returns the sorted names that occur on each level above the classes.

  Raises:
    errors.DataError: The class names are no paths of one length.
  """
  parents(class_names)
  split = [name.split(SEPARATOR)[:-1] for name in class_names]
  if len({len(row) for row in split}) > 1:
    raise errors.DataError(
        'The class names are paths of different lengths: '
        f'{errors.shortlist(class_names)}')
  return tuple(tuple(sorted(set(level))) for level in zip(*split))


def restrict(
    probabilities: np.ndarray, context: np.ndarray,
    class_names: Sequence[str]) -> np.ndarray:
  """Returns probabilities given the known ancestors of each example.

  Classes below other ancestors get zero and the others are scaled up: Bayes'
  rule for an ancestor that is known for certain. Where nothing is known, or
  all of the probability would be lost, an example keeps what it has.

  Args:
    probabilities: float [n, classes].
    context: int [n, levels] of `encode`.
    class_names: Paths.
  """
  own = encode([name.split(SEPARATOR)[:-1] for name in class_names],
               class_names)
  known = context[:, None, :]
  fits = np.all((known == MISSING) | (known == own), axis=-1)
  kept = np.where(fits, probabilities, 0.0)
  total = kept.sum(axis=-1, keepdims=True)
  return np.where(total > 0, kept / np.where(total > 0, total, 1.0),
                  probabilities)


def encode(
    context: Sequence[Sequence[str]], class_names: Sequence[str],
) -> np.ndarray:
  """Returns the places int32 [n, levels] of the rows' ancestors in `levels`.

  What is missing, or no class's ancestor, is -1.
  """
  places = [{name: i for i, name in enumerate(level)}
            for level in levels(class_names)]
  return np.array(
      [[place.get(name, MISSING) for name, place in zip(row, places)]
       for row in context], np.int32)
