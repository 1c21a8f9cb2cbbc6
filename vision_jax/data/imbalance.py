"""Draws imbalanced training sets, and one balanced test set for all of them.

Everything here is a pure function of labels and numbers. Each class is put in
one random order that depends on the seed alone. The end of every order is the
balanced test, which no set trains on; a set takes the beginning of each. So
the sets of different ratios nest and are tested on the same images. How often
a training example is visited is decided in samplers.py.
"""

from typing import NamedTuple

import numpy as np

from vision_jax.data import errors

KINDS = ('step', 'long_tail')
_TRAIN_SHARE = 0.7


class Sets(NamedTuple):
  """Sorted int64 rows of an imbalanced set and of its two tests.

  Attributes:
    train: 70 % of each class of the set.
    own_test: The rest, as imbalanced as `train`; the study's test.
    balanced_test: Equally many of each class, the same for every ratio. It
      may share images with `own_test`, never with `train`.
  """
  train: np.ndarray
  own_test: np.ndarray
  balanced_test: np.ndarray


def step_profile(classes: int, *, mu: float, rho: float) -> np.ndarray:
  """Relative sizes of classes, the largest first: 1, ..., 1, 1/rho, ..., 1/rho.

  Source: Buda et al., 2018, arXiv:1710.05381, equations 1 and 2.

  Args:
    classes: Number of classes.
    mu: Share of the classes that are in the minority, in [0, 1).
    rho: Size of a majority class over that of a minority class, at least 1.

  Raises:
    errors.DataError: `mu` or `rho` is out of its range, or `mu` leaves no
      class on one of the two sides of a step.
  """
  if not 0 <= mu < 1 or rho < 1:
    raise errors.DataError(
        f'Step imbalance needs 0 <= mu < 1 and rho >= 1, not mu={mu} and '
        f'rho={rho} (minority_share and ratio of config.data.imbalance).')
  minority = int(np.floor(mu * classes + 0.5))
  if rho > 1 and not 0 < minority < classes:
    raise errors.DataError(
        f'config.data.imbalance.minority_share={mu} puts {minority} of '
        f'{classes} classes in the minority, so that no class is larger than '
        f'another; choose a share near k/{classes} with k from 1 to '
        f'{classes - 1}, or set config.data.imbalance.ratio to 1.')
  return np.r_[np.ones(classes - minority), np.full(minority, 1 / rho)]


def long_tail_profile(classes: int, *, rho: float) -> np.ndarray:
  """Relative sizes that fall exponentially from 1 to 1/rho.

  Source: Cui et al., 2019, arXiv:1901.05555, section 5.1.

  Raises:
    errors.DataError: `rho` is below 1.
  """
  if rho < 1:
    raise errors.DataError(
        'Long-tail imbalance needs config.data.imbalance.ratio >= 1, not '
        f'{rho}.')
  return rho ** -np.linspace(0, 1, classes)


def class_counts(
    profile: np.ndarray, total: int, *, fixed: str = 'total') -> np.ndarray:
  """Returns whole class sizes, int64 [classes], in the shares of `profile`.

  Args:
    profile: Relative sizes, the largest 1.
    total: Examples of the whole set where it is balanced.
    fixed: 'total': the sizes add up to `total` whatever the ratio (largest
      remainders, ties to the earlier class). 'majority': the largest class
      keeps the size that it has in the balanced set, and the others shrink.

  Raises:
    errors.DataError: A class is left without an example.
  """
  errors.check_choice('fixed', fixed, allowed=('total', 'majority'))
  if fixed == 'majority':
    sizes = np.floor(total / len(profile) * profile + 0.5).astype(np.int64)
  else:
    exact = total * profile / profile.sum()
    sizes = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(-(exact - sizes).round(9), kind='stable')
    sizes[order[:total - sizes.sum()]] += 1
  if sizes.min() < 1:
    raise errors.DataError(
        f'{total} examples leave none for the smallest of {len(profile)} '
        'classes; raise config.data.imbalance.total or lower '
        'config.data.imbalance.ratio.')
  return sizes


def draw(
    labels: np.ndarray, sizes: np.ndarray, *, seed: int, test_per_class: int,
) -> Sets:
  """Draws a set with the given class sizes, and its tests.

  Args:
    labels: int [n], classes numbered from 0.
    sizes: int [classes], falling; the first goes to the class with the most
      examples (ties to the smaller label), and so on.
    seed: Of the order of the examples.
    test_per_class: Images a class in the balanced test.

  Raises:
    errors.DataError: A class has too few examples.
  """
  labels = np.asarray(labels)
  available = np.bincount(labels, minlength=len(sizes))
  shuffle = np.argsort(
      np.random.Philox(seed).random_raw(len(labels)), kind='stable')
  train, own, balanced = [], [], []
  for label, size in zip(np.argsort(-available, kind='stable'), sizes):
    members = shuffle[labels[shuffle] == label]
    cut = int(np.floor(_TRAIN_SHARE * size + 0.5))
    if size > len(members) or cut > len(members) - test_per_class:
      raise errors.DataError(
          f'Class {label} has {len(members)} examples, but {size} are to be '
          f'drawn ({cut} to train on) beside {test_per_class} of the balanced '
          'test; lower config.data.imbalance.total or '
          'config.data.imbalance.test_per_class.')
    train.append(members[:cut])
    own.append(members[cut:size])
    balanced.append(members[len(members) - test_per_class:])
  return Sets(*(np.sort(np.concatenate(part)) for part in (
      train, own, balanced)))


def step(
    labels: np.ndarray, *, mu: float, rho: float, total: int, seed: int,
    test_per_class: int = 10, fixed: str = 'total') -> Sets:
  """Draws step imbalance: the rarest classes of `labels` are the minority.

  With mu .5, total 320 and rho 1, 3, 7, 15 these are the study's sets.

  Args:
    labels: int [n].
    mu: See `step_profile`.
    rho: See `step_profile`.
    total: See `class_counts`.
    seed: See `draw`.
    test_per_class: See `draw`.
    fixed: See `class_counts`.
  """
  profile = step_profile(int(np.max(labels)) + 1, mu=mu, rho=rho)
  return draw(labels, class_counts(profile, total, fixed=fixed), seed=seed,
              test_per_class=test_per_class)


def long_tail(
    labels: np.ndarray, *, rho: float, total: int, seed: int,
    test_per_class: int = 10, fixed: str = 'total') -> Sets:
  """Draws exponential imbalance; the arguments are those of `step`."""
  profile = long_tail_profile(int(np.max(labels)) + 1, rho=rho)
  return draw(labels, class_counts(profile, total, fixed=fixed), seed=seed,
              test_per_class=test_per_class)


def from_config(labels: np.ndarray, node, *, seed: int) -> Sets:
  """Draws the sets that the node config.data.imbalance describes.

  Raises:
    errors.DataError: A field is out of its range.
  """
  errors.check_choice('imbalance.kind', node.kind, allowed=KINDS)
  options = dict(
      rho=node.ratio, total=node.total, seed=seed, fixed=node.fixed,
      test_per_class=node.test_per_class)
  if node.kind == 'step':
    return step(labels, mu=node.minority_share, **options)
  return long_tail(labels, **options)


def make(source, config_data) -> dict[str, np.ndarray]:
  """Divides a source as `splits.make` does, into the sets of config.data.

  'test' is the balanced test and 'validation' what it leaves of the set's own
  test. With config.data.imbalance.test 'own', 'test' is the set's own test, as
  in the study, and there is no validation. 'unlabelled' is the rest.

  Raises:
    errors.DataError: The source has splits or groups of its own.
  """
  node = config_data.imbalance
  if np.any(source.splits != '') or (
      len(np.unique(source.groups)) < len(source.groups)):
    raise errors.DataError(
        'config.data.imbalance draws single examples from one pool; this data '
        'has splits or groups. Set config.data.imbalance.kind="none", or name '
        'a folder without splits and clear config.data.group_pattern.')
  errors.check_choice(
      'imbalance.test', node.test, allowed=('balanced', 'own'))
  sets = from_config(source.labels, node, seed=config_data.split_seed)
  test, validation = sets.own_test, np.zeros(0, np.int64)
  if node.test == 'balanced':
    test = sets.balanced_test
    validation = np.setdiff1d(sets.own_test, test)
  used = np.concatenate([sets.train, validation, test])
  return dict(
      train=sets.train, validation=validation, test=test,
      unlabelled=np.setdiff1d(np.arange(len(source.labels)), used))
