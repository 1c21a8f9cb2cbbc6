"""A head whose class probabilities respect those of the classes' parents.

Knows a tree of two levels as an array and nothing of taxonomies.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision_jax.models import heads


class HierarchicalHead(nn.Module):
  """Log-probabilities [B, classes] that factor as p(parent) p(class | parent).

  The classes of a parent add up to that parent's probability exactly, and the
  cross-entropy of a class is that of its parent plus that among its siblings.
  Being log-probabilities, the outputs are logits of themselves. Source: Morin
  and Bengio, 2005, "Hierarchical probabilistic neural network language model".

  Attributes:
    parents: parent of each class, numbered from 0 without gaps.
    specs: of the layers that both levels share, see `heads.Head`.
    dtype: type of the computation; the outputs are float32.
  """
  parents: tuple[int, ...]
  specs: tuple[str, ...]
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
      self, x: jax.Array, *, train: bool, context: jax.Array | None = None,
  ) -> jax.Array:
    x = heads.Head(0, self.specs, self.dtype, name='trunk')(
        x, train=train, context=context)
    parent = nn.Dense(
        max(self.parents) + 1, dtype=self.dtype, name='parents')(x)
    child = nn.Dense(len(self.parents), dtype=self.dtype, name='children')(x)
    return join(parent.astype(jnp.float32), child.astype(jnp.float32),
                self.parents)


def join(
    parent: jax.Array, child: jax.Array, parents: tuple[int, ...]) -> jax.Array:
  """Returns log p(class) [B, C] from logits of parents [B, P] and classes.

  Args:
    parent: logits of the parents.
    child: logits [B, C] of the classes, compared among siblings only.
    parents: parent of each class.
  """
  index = jnp.asarray(parents)
  member = index == jnp.arange(parent.shape[-1])[:, None]
  among = jax.nn.logsumexp(
      jnp.where(member, child[:, None, :], -jnp.inf), axis=-1)
  return child - among[:, index] + jax.nn.log_softmax(parent)[:, index]
