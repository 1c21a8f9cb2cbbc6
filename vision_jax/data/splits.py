"""Divides examples into train, validation, test and unlabelled.

Everything here is a pure function of labels, groups and a seed. One ordering
of the examples, every prefix of which has the class shares of the whole, gives
all splits: a larger fraction is a longer prefix, so fractions nest.
"""

import math

import numpy as np

from vision_jax.data import errors
from vision_jax.data import imbalance

NAMES = ('train', 'validation', 'test', 'unlabelled')
# Keeps 0.1 * 2550 from falling to 254 by rounding of floats.
_EPSILON = 1e-9


def order(labels: np.ndarray, groups: np.ndarray, *, seed: int) -> np.ndarray:
  """Orders examples so that every prefix is stratified.

  Each class is shuffled group by group. The member of rank r in a class of
  size n gets the priority (r + 0.5) / n and a group the mean of its members';
  sorting by priority spreads every class evenly.

  Args:
    labels: int [n].
    groups: int [n]; members of a group share one label.
    seed: Any non-negative integer.

  Returns:
    int64 [n], a permutation in which each group is contiguous.

  Raises:
    ValueError: A group has members of several classes.
  """
  labels, groups = np.asarray(labels), np.asarray(groups)
  keys, first, unit = np.unique(groups, return_index=True, return_inverse=True)
  unit_labels = labels[first]
  if np.any(unit_labels[unit] != labels):
    bad = keys[unit[unit_labels[unit] != labels][0]]
    raise ValueError(f'Group {bad} has members of several classes.')
  sizes = np.bincount(unit, minlength=len(keys))
  shuffle = _permutation(len(keys), seed=seed)
  priority = np.empty(len(keys))
  for label in np.unique(labels):
    members = shuffle[unit_labels[shuffle] == label]
    ends = np.cumsum(sizes[members])
    priority[members] = (ends - sizes[members] / 2) / ends[-1]
  place = np.empty(len(keys), np.int64)
  # Equal priorities of different classes are settled by the shuffle.
  place[shuffle[np.argsort(priority[shuffle], kind='stable')]] = np.arange(
      len(keys))
  return np.argsort(place[unit], kind='stable')


def stratified(labels, groups, *, fraction: float, seed: int,
               round_up: bool = False) -> tuple[np.ndarray, np.ndarray]:
  """Cuts off a stratified fraction; the fractions of one seed nest.

  Args:
    labels: int [n].
    groups: int [n]; a group that the cut would divide goes to the first part.
    fraction: Share of the examples in the first part, in [0, 1].
    seed: Seed of the ordering.
    round_up: Whether fraction * n is rounded up rather than down.

  Returns:
    The first part in the order of `order` and the rest, sorted; int64 indices.
  """
  if not 0 <= fraction <= 1:
    raise errors.DataError(f'A fraction must be in [0, 1], not {fraction}.')
  ordered = order(labels, groups, seed=seed)
  wanted = fraction * len(ordered)
  count = (math.ceil(wanted - _EPSILON) if round_up
           else math.floor(wanted + _EPSILON))
  groups = np.asarray(groups)[ordered]
  while 0 < count < len(ordered) and groups[count] == groups[count - 1]:
    count += 1
  return ordered[:count], np.sort(ordered[count:])


def make(source, config_data) -> dict[str, np.ndarray]:
  """Divides a source as config.data says.

  Test is the source's own, or `test_fraction` of what is not its validation
  split. `label_fraction` of the remaining training pool is labelled, the rest
  unlabelled. `validation_fraction` of the labelled examples joins the source's
  own validation split, rounded as `validation_rounding` says. With
  config.data.imbalance, `imbalance.make` divides.

  Args:
    source: A `sources.Source`; its ids, labels, groups, splits are read.
    config_data: The data part of the configuration.

  Returns:
    Sorted, disjoint int64 indices for each of `NAMES`, together all examples.

  Raises:
    errors.DataError: A field is out of its range, or a class has no example
      left to train on.
  """
  _check_fields(config_data)
  if config_data.imbalance.kind != 'none':
    parts = imbalance.make(source, config_data)
    _check(source, parts)
    return parts
  labels, groups, seed = source.labels, source.groups, config_data.split_seed
  pool = np.flatnonzero(~np.isin(source.splits, ('test', 'validation')))
  validation = np.flatnonzero(source.splits == 'validation')
  test = np.flatnonzero(source.splits == 'test')
  if not test.size:
    chosen, rest = stratified(
        labels[pool], groups[pool], fraction=config_data.test_fraction,
        seed=seed, round_up=True)
    test, pool = pool[chosen], pool[rest]
  chosen, rest = stratified(
      labels[pool], groups[pool], fraction=config_data.label_fraction,
      seed=seed)
  labelled, unlabelled = pool[chosen], pool[rest]
  hold_out = {'class': _hold_out, 'total': _hold_out_total}
  errors.check_choice('validation_rounding', config_data.validation_rounding,
                      allowed=tuple(hold_out))
  held_out = hold_out[config_data.validation_rounding](
      labels[labelled], groups[labelled],
      fraction=config_data.validation_fraction)
  parts = dict(
      train=labelled[~held_out],
      validation=np.concatenate([validation, labelled[held_out]]),
      test=test, unlabelled=unlabelled)
  parts = {name: np.sort(parts[name]).astype(np.int64) for name in NAMES}
  _check(source, parts)
  return parts


def _hold_out(labels, groups, *, fraction: float) -> np.ndarray:
  """Marks the validation examples of an ordered, labelled set.

  Walking along each class, a group is held out as soon as the quota
  floor(fraction * seen) has room for all of it. That depends on the prefix
  only, so that the validation sets of growing label fractions nest.

  Args:
    labels: int [n], in the order of `order`.
    groups: int [n], likewise; groups are contiguous.
    fraction: Share to hold out, in [0, 1).

  Returns:
    bool [n].
  """
  starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]][:len(groups)])
  seen, taken = {}, {}
  mask = np.zeros(len(labels), bool)
  for start, end in zip(starts, np.r_[starts[1:], len(groups)]):
    label, size = labels[start], end - start
    seen[label] = seen.get(label, 0) + size
    if taken.get(label, 0) + size <= fraction * seen[label] + _EPSILON:
      taken[label] = taken.get(label, 0) + size
      mask[start:end] = True
  return mask


def _hold_out_total(labels, groups, *, fraction: float) -> np.ndarray:
  """Marks the first ceil(fraction * n) examples and what their groups add.

  The examples come stratified, so each prefix is; the arguments and the result
  are those of `_hold_out`.
  """
  count = math.ceil(fraction * len(labels) - _EPSILON)
  while 0 < count < len(groups) and groups[count] == groups[count - 1]:
    count += 1
  return np.arange(len(labels)) < count


def _check_fields(config_data) -> None:
  for field in ('test_fraction', 'label_fraction'):
    if not 0 <= config_data[field] <= 1:
      raise errors.DataError(
          f'config.data.{field} must be in [0, 1], not {config_data[field]}.')
  if not 0 <= config_data.validation_fraction < 1:
    raise errors.DataError(
        'config.data.validation_fraction must be in [0, 1), not '
        f'{config_data.validation_fraction}.')
  if config_data.split_seed < 0:
    raise errors.DataError(
        'config.data.split_seed must not be negative, as '
        f'{config_data.split_seed} is.')


def _check(source, parts) -> None:
  """Raises where a class cannot be trained; asserts that groups are whole."""
  counts = np.bincount(source.labels[parts['train']],
                       minlength=len(source.class_names))
  if np.any(counts == 0):
    missing = [source.class_names[c] for c in np.flatnonzero(counts == 0)]
    raise errors.DataError(
        'No training example is left of these classes; leave them out by '
        'config.data.classes, or raise config.data.label_fraction or lower '
        f'config.data.test_fraction:{errors.shortlist(missing)}')
  home = np.full(len(source.labels), -1)
  for number, name in enumerate(NAMES):
    assert np.all(home[parts[name]] == -1), f'{name} overlaps another split'
    home[parts[name]] = number
  _, first, unit = np.unique(
      source.groups, return_index=True, return_inverse=True)
  assert np.array_equal(home[first][unit], home), 'a group straddles splits'


def _permutation(n: int, *, seed: int) -> np.ndarray:
  """Shuffles range(n); from raw Philox bits, which NumPy keeps for ever."""
  return np.argsort(np.random.Philox(seed).random_raw(n), kind='stable')
