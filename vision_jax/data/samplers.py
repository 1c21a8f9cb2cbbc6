"""Which training examples an epoch visits, and in what order.

A sampler maps (labels, seed, epoch) to places among the training examples.
Its length does not depend on the epoch, so that epochs have equally many
steps. Weights in the loss are the other way to the same end
(imbalance_losses.py). 'mixed:<a>:<b>' is for labelled and unlabelled examples
together (joined.py): groups of a + b, in each of them a labelled ones first.
"""

import functools

import numpy as np

from vision_jax.data import errors


def over(labels, generator, progress):
  """All examples, the smaller classes repeated up to the largest's size."""
  del progress
  groups = _groups(labels)
  most = max(map(len, groups))
  return np.concatenate([
      np.r_[group, generator.choice(group, most - len(group))]
      for group in groups])


def under(labels, generator, progress):
  """As many of every class as the smallest has, others in every epoch."""
  del progress
  groups = _groups(labels)
  least = min(map(len, groups))
  return np.concatenate([
      generator.choice(group, least, replace=False) for group in groups])


def square_root(labels, generator, progress):
  """Draws with probability proportional to the root of the class's size.

  Source: Mahajan et al., 2018, arXiv:1805.00932, section 2.2.
  """
  del progress
  return _draw(labels, np.sqrt(np.bincount(labels)), generator)


def class_aware(labels, generator, progress):
  """Visits the classes in turn, and the examples of a class in turn.

  Source: Shen et al., 2016, arXiv:1512.05830, section 3.2.
  """
  del progress
  groups = _groups(labels)
  turns = np.arange(len(labels)) % len(groups)
  counts = np.bincount(turns)
  classes = generator.permutation(len(groups))
  places = np.empty(len(labels), np.int64)
  for turn, index in enumerate(classes):
    places[turns == turn] = _rounds(groups[index], counts[turn], generator)
  return places


def progressive(labels, generator, progress):
  """Draws from all examples alike at first, from all classes alike at last.

  Source: Kang et al., 2020, arXiv:1910.09217, equation 2.
  """
  counts = np.bincount(labels)
  balanced = (counts > 0) / (counts > 0).sum()
  shares = (1 - progress) * counts / counts.sum() + progress * balanced
  return _draw(labels, shares, generator)


def shuffled(labels, generator, progress):
  """Every example once."""
  del progress
  return np.arange(len(labels))


def _mixed(labels, generator, progress, *, sizes):
  """Every unlabelled example once, beside labelled ones as often as needed."""
  del progress
  kinds = np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)
  if not all(map(len, kinds)):
    raise errors.DataError(
        "config.train.sampler='mixed:...' needs labelled and unlabelled "
        "examples: set config.train.split='all_train'.")
  groups = -(-len(kinds[1]) // sizes[1])
  parts = [_rounds(kind, groups * size, generator).reshape(groups, size)
           for kind, size in zip(kinds, sizes, strict=True)]
  return np.concatenate(parts, axis=1).ravel()


def mixed_sizes(name: str) -> tuple[int, int]:
  """Reads 'mixed:<labelled>:<unlabelled>', the examples of each in a group.

  A batch holds whole groups, so its size must be a multiple of theirs.

  Raises:
    errors.DataError: The name has another form.
  """
  kind, *sizes = name.split(':')
  if (kind != 'mixed' or len(sizes) != 2
      or not all(size.isdecimal() and int(size) for size in sizes)):
    raise errors.DataError(
        f"config.train.sampler is {name!r}; it must be 'mixed:<labelled>:"
        "<unlabelled>' with positive numbers, such as 'mixed:1:3'.")
  return int(sizes[0]), int(sizes[1])


SAMPLERS = {
    function.__name__: function for function in (
        shuffled, over, under, square_root, class_aware, progressive)}


@functools.cache
def _length(name: str, counts: tuple[int, ...]) -> int:
  labels = np.repeat(np.arange(len(counts)), counts)
  return len(SAMPLERS[name](labels, np.random.default_rng(0), 0.0))


def length(name: str, labels: np.ndarray) -> int:
  """Returns how many places an epoch of the sampler has."""
  if name.startswith('mixed'):
    # Its layout never depends on the draw.
    return len(order(name, labels, seed=0, epoch=0, epochs=1))
  errors.check_choice('sampler', name, allowed=tuple(SAMPLERS))
  if np.any(labels < 0):
    raise errors.DataError(
        f'config.train.sampler={name!r} needs every label; for labelled and '
        "unlabelled examples together use 'mixed:<labelled>:<unlabelled>'.")
  return _length(name, tuple(np.bincount(labels).tolist()))


def order(
    name: str, labels: np.ndarray, *, seed: int, epoch: int, epochs: int,
) -> np.ndarray:
  """Returns the places that an epoch visits, in a random order.

  Args:
    name: A key of `SAMPLERS`, or 'mixed:<labelled>:<unlabelled>'.
    labels: int [n], of the training examples; negative where unlabelled.
    seed: Any non-negative integer.
    epoch: Number of epochs before this one.
    epochs: Length of training, at the end of which `progressive` is balanced.

  Returns:
    int64 [length(name, labels)], each in [0, n).

  Raises:
    errors.DataError: There is no such sampler.
  """
  if name.startswith('mixed'):
    sampler = functools.partial(_mixed, sizes=mixed_sizes(name))
  else:
    errors.check_choice('sampler', name, allowed=tuple(SAMPLERS))
    sampler = SAMPLERS[name]
  generator = np.random.Generator(
      np.random.Philox(np.random.SeedSequence((seed, epoch))))
  labels = np.asarray(labels)
  places = sampler(labels, generator, epoch / max(1, epochs - 1))
  if name == 'class_aware' or name.startswith('mixed'):
    return places
  return generator.permutation(places)


def _groups(labels: np.ndarray) -> list[np.ndarray]:
  """Returns the places of each class that occurs."""
  return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def _rounds(group, count: int, generator) -> np.ndarray:
  """Returns `count` places: the group in a random order, again and again."""
  rounds = [generator.permutation(group)
            for _ in range(-(-count // len(group)))]
  return np.concatenate(rounds)[:count]


def _draw(labels, weights, generator) -> np.ndarray:
  """Draws n places with replacement, classes with probability ~ `weights`."""
  chances = (weights / np.maximum(np.bincount(labels), 1))[labels]
  return generator.choice(len(labels), len(labels), p=chances / chances.sum())
