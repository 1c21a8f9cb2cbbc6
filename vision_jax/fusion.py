"""What is known of an example besides its image, as an input of the head.

The ancestors of `batch['context']` become one-hot vectors beside the pooled
features. A missing ancestor is a vector of zeros, and training hides some at
random, so that the same network serves images of which nothing else is known.
A model that is told the phylum has more information than one that is not:
compare it under its own name.
"""

from typing import Callable

import jax
import jax.numpy as jnp

from vision_jax import task as task_lib
from vision_jax.data import taxonomy


def make(
    class_names: tuple[str, ...], *, hidden: float,
) -> Callable[[task_lib.Batch, jax.Array | None], jax.Array]:
  """Returns the function (batch, key) -> context [B, K], K names in all.

  Args:
    class_names: Paths in a taxonomy, which tell the names on each level.
    hidden: Probability that training hides all ancestors of an example; the
      key None hides nothing.

  Raises:
    DataError: If the class names are no paths.
  """
  sizes = [len(level) for level in taxonomy.levels(class_names)]

  def context_of(batch, key):
    count = len(batch['label'])
    if 'context' not in batch:
      # Images from outside the data set come without metadata.
      return jnp.zeros((count, sum(sizes)))
    # one_hot has no place for -1, which is what "missing" is meant to be.
    vectors = jnp.concatenate(
        [jax.nn.one_hot(batch['context'][:, i], size)
         for i, size in enumerate(sizes)], axis=-1)
    if key is None:
      return vectors
    shown = jax.random.bernoulli(key, 1.0 - hidden, (count, 1))
    return jnp.where(shown, vectors, 0.0)
  return context_of
