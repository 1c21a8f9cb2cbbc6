"""Losses per example, and the masked mean that joins them.

Nothing here averages over a batch by itself: padding rows carry mask 0.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def cross_entropy(
    logits: jax.Array, labels: jax.Array, *, smoothing: float = 0.0,
) -> jax.Array:
  """Cross-entropy of each example, in nats, [B].

  Args:
    logits: [B, classes].
    labels: [B] integers, or [B, classes] probabilities (soft labels).
    smoothing: mass moved to the uniform distribution, in [0, 1)
      (Szegedy et al. 2016, arXiv:1512.00567).

  Raises:
    ValueError: if the shapes do not fit each other.
  """
  if labels.shape == logits.shape[:-1]:
    labels = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
  if labels.shape != logits.shape:
    raise ValueError(
        f'labels {labels.shape} fit neither logits {logits.shape} nor their '
        'leading shape')
  return optax.softmax_cross_entropy(
      logits, optax.smooth_labels(labels, smoothing))


def mean_squared_error(
    predictions: jax.Array, targets: jax.Array) -> jax.Array:
  """Squared error of each example, averaged over its other axes, [B].

  Raises:
    ValueError: if the shapes differ (they would broadcast silently).
  """
  if predictions.shape != targets.shape:
    raise ValueError(
        f'predictions {predictions.shape} and targets {targets.shape} differ')
  error = jnp.square(predictions - targets)
  return error.mean(tuple(range(1, error.ndim)))


def kernel_mask(params: Any) -> Any:
  """Marks the leaves that decay: those named 'kernel', of two axes or more.

  The others are biases, scales and embeddings, also those of classes and
  positions, which have several axes: a scale has no reason to be near 0, and
  timm excludes a transformer's class token and positions.
  """
  return jax.tree_util.tree_map_with_path(
      lambda path, leaf: leaf.ndim > 1 and path[-1].key == 'kernel', params)


def kernel_squares(params: Any, trainable: Any) -> jax.Array:
  """Sum of squares of all trainable kernels: L2 as Keras' regularizers.l2.

  Args:
    params: Parameter tree; see `kernel_mask`.
    trainable: Tree of bool in its shape.
  """
  leaves = (jax.tree.leaves(tree)
            for tree in (params, kernel_mask(params), trainable))
  return sum((jnp.square(leaf).sum()
              for leaf, kernel, moves in zip(*leaves, strict=True)
              if kernel and moves), start=jnp.zeros(()))


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
  """Mean of `values` [B] over the rows with `mask` [B] 1; 0 if there is none.

  Raises:
    ValueError: if the shapes differ.
  """
  if values.shape != mask.shape:
    raise ValueError(f'values {values.shape} and mask {mask.shape} differ')
  return (values * mask).sum() / jnp.maximum(mask.sum(), 1.0)
