"""Array operations of the networks, in the form that is fastest.

Every function equals its plain `lax` form in value and gradient; the modules
of `models/layers.py` call them, so the choice is made here and nowhere else.
Holds no parameters and no randomness of its own.
"""

import jax
from jax import lax
import jax.numpy as jnp

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')


def conv(x, kernel, *, strides=(1, 1), padding='SAME', groups=1):
  """Convolves [B, H, W, C] with a kernel [h, w, C / groups, features]."""
  return lax.conv_general_dilated(
      x, kernel, strides, padding, dimension_numbers=_DIMENSIONS,
      feature_group_count=groups)


def conv_transpose(x, kernel, *, strides, padding='SAME'):
  """Transposed convolution, as `lax.conv_transpose` (kernel not flipped)."""
  return lax.conv_transpose(
      x, kernel, strides, padding, dimension_numbers=_DIMENSIONS)


def max_pool(x, *, window=(2, 2), strides=None, padding='VALID'):
  """Maximum over windows of [B, H, W, C]; ties give the first its gradient."""
  strides = strides or window
  return lax.reduce_window(
      x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), padding)


def dropout(x, key, *, rate):
  """Zeroes entries with probability `rate`, scales the rest by 1/(1-rate)."""
  keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
  return jnp.where(keep, x / (1.0 - rate), 0.0)
