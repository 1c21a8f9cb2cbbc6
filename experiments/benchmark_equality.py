"""How far a peer's step is from ours, for peers of any library.

Takes arrays and knows no library; what it compares, the peers bring.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


def groups(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
  """Returns what `benchmark_workloads.first_step` wrote, by kind and name."""
  found = {'weights': {}, 'batch': {}, 'loss': {}, 'moment': {}, 'latents': {}}
  for key, value in arrays.items():
    kind, _, name = key.partition('/')
    found[kind][name] = value
  return found


def losses(ours: Mapping[str, np.ndarray], theirs: Mapping[str, float]):
  """Returns the largest relative difference of losses by name."""
  return max(float(abs(theirs[name] - value) / abs(value))
             for name, value in ours.items())


def gradients(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]], config) -> float:
  """Returns the largest relative difference in the 2-norm.

  Tensors below a thousandth of the largest are left out: a bias before
  BatchNorm has a gradient of rounding alone.

  Args:
    pairs: (our first moment, their gradient), in one layout.
    config: Whose optimizer made the moments.
  """
  # Adam's first moment is 1 - b1 of the gradient, that of sgd all of it.
  scale = 1 if config.optimizer.name == 'sgd' else 1 - config.optimizer.b1
  pairs = [(ours / scale, theirs) for ours, theirs in pairs]
  largest = max(np.linalg.norm(theirs) for _, theirs in pairs)
  return max(
      float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
      for ours, theirs in pairs
      if np.linalg.norm(theirs) > 1e-3 * largest)
