"""Which training examples an epoch visits, and in what order.

A sampler maps (labels, seed, epoch) to places among the training examples.
Its length does not depend on the epoch, so that epochs have equally many
steps. Weights in the loss are the other way to the same end
(imbalance_losses.py).
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
    group, count = groups[index], counts[turn]
    rounds = [generator.permutation(group)
              for _ in range(-(-count // len(group)))]
    places[turns == turn] = np.concatenate(rounds)[:count]
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


SAMPLERS = {
    function.__name__: function for function in (
        shuffled, over, under, square_root, class_aware, progressive)}


@functools.cache
def _length(name: str, counts: tuple[int, ...]) -> int:
  labels = np.repeat(np.arange(len(counts)), counts)
  return len(SAMPLERS[name](labels, np.random.default_rng(0), 0.0))


def length(name: str, labels: np.ndarray) -> int:
  """Returns how many places an epoch of the sampler has."""
  errors.check_choice('sampler', name, allowed=tuple(SAMPLERS))
  return _length(name, tuple(np.bincount(labels).tolist()))


def order(
    name: str, labels: np.ndarray, *, seed: int, epoch: int, epochs: int,
) -> np.ndarray:
  """Returns the places that an epoch visits, in a random order.

  Args:
    name: A key of `SAMPLERS`.
    labels: int [n], of the training examples.
    seed: Any non-negative integer.
    epoch: Number of epochs before this one.
    epochs: Length of training, at the end of which `progressive` is balanced.

  Returns:
    int64 [length(name, labels)], each in [0, n).

  Raises:
    errors.DataError: There is no such sampler.
  """
  errors.check_choice('sampler', name, allowed=tuple(SAMPLERS))
  generator = np.random.Generator(
      np.random.Philox(np.random.SeedSequence((seed, epoch))))
  labels = np.asarray(labels)
  places = SAMPLERS[name](labels, generator, epoch / max(1, epochs - 1))
  if name == 'class_aware':
    return places
  return generator.permutation(places)


def _groups(labels: np.ndarray) -> list[np.ndarray]:
  """Returns the places of each class that occurs."""
  return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def _draw(labels, weights, generator) -> np.ndarray:
  """Draws n places with replacement, classes with probability ~ `weights`."""
  chances = (weights / np.maximum(np.bincount(labels), 1))[labels]
  return generator.choice(len(labels), len(labels), p=chances / chances.sum())
