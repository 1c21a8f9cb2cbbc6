"""The terms of the evidence lower bound, for each image, in nats.

ELBO = E_q(z|x) log p(x|z) - KL(q(z|x) || p(z)), with one draw of z (Kingma and
Welling 2014, arXiv:1312.6114). Nothing here averages over a batch.
"""

import math

import jax
import jax.numpy as jnp
import optax


def bernoulli(logits: jax.Array, images: jax.Array) -> jax.Array:
  """Log-likelihood [B] of images in [0, 1] under independent pixels.

  For values between 0 and 1 it is the negative cross-entropy, which is no
  density, but the customary objective.

  Args:
    logits: [B, H, W, C], log-odds of each value being 1.
    images: [B, H, W, C].
  """
  return -_sum(optax.sigmoid_binary_cross_entropy(logits, images))


def gaussian(mean: jax.Array, images: jax.Array, *, std: float) -> jax.Array:
  """Log-density [B] of images under independent normal pixels.

  Args:
    mean: [B, H, W, C].
    images: [B, H, W, C].
    std: standard deviation of every value.
  """
  constant = math.log(std) + 0.5 * math.log(2 * math.pi)
  return -_sum(0.5 * jnp.square((images - mean) / std) + constant)


def kl_from_standard_normal(
    mean: jax.Array, log_variance: jax.Array) -> jax.Array:
  """KL(N(mean, variance) || N(0, 1)) of each dimension, [B, d]."""
  return 0.5 * (
      jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance)


def _sum(values: jax.Array) -> jax.Array:
  return values.sum(tuple(range(1, values.ndim)))
