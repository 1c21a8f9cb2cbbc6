"""Maxima over windows whose gradients are fast on a CPU.

The reformulations behind `ops.max_pool`: each remembers the place of the
maximum in a byte, the first of equals. Maps are [B, H, W, C].
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from vision_jax import views


def _pool(x):
  """Maximum of 2x2 windows, and which of the four it is (first of equals)."""
  height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
  a, b, c, d = (
      x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1))
  top, bottom = jnp.maximum(a, b), jnp.maximum(c, d)
  index = jnp.where(bottom > top, 2 + (d > c), b > a)
  return jnp.maximum(top, bottom), index.astype(jnp.uint8)


def _unpool(index, g, shape):
  """Puts `g` where `index` says, zero elsewhere: the transpose of `_pool`."""
  batch, height, width, channels = g.shape
  blocks = (batch, height, 2, width, 2, channels)
  place = (2 * lax.broadcasted_iota(jnp.uint8, blocks, 2)
           + lax.broadcasted_iota(jnp.uint8, blocks, 4))
  y = jnp.where(
      index[:, :, None, :, None] == place, g[:, :, None, :, None], 0)
  y = y.reshape(batch, 2 * height, 2 * width, channels)
  return views.pad(
      y, ((0, shape[1] - 2 * height), (0, shape[2] - 2 * width)))


@jax.custom_vjp
def of_blocks(x):
  """Maximum of 2x2 windows side by side; odd rows and columns fall away."""
  return _pool(x)[0]


def _of_blocks_forward(x):
  y, index = _pool(x)
  # An empty array carries the shape, which a residual cannot.
  return y, (index, jnp.zeros((*x.shape[:3], 0)))


def _of_blocks_backward(residuals, g):
  index, like = residuals
  return _unpool(index, g, like.shape),


of_blocks.defvjp(_of_blocks_forward, _of_blocks_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def of_windows(x, window, strides):
  """Maximum of windows that may overlap, of a padded map."""
  return _of_windows_forward(x, window, strides)[0]


def _of_windows_forward(x, window, strides):
  first, *others = views.windows(x, window, strides)
  y, index = first, jnp.zeros(first.shape, jnp.uint8)
  for place, view in enumerate(others, 1):
    index = jnp.where(view > y, jnp.uint8(place), index)
    y = jnp.maximum(y, view)
  return y, (index, jnp.zeros((*x.shape[:3], 0)))


def _of_windows_backward(window, strides, residuals, g):
  index, like = residuals
  zero, total = jnp.zeros((), g.dtype), 0
  for place in range(window[0] * window[1]):
    margins = [
        (low, n - low - (m - 1) * s - 1, s - 1) for low, n, m, s in zip(
            divmod(place, window[1]), like.shape[1:3], g.shape[1:3], strides)]
    total += lax.pad(
        jnp.where(index == place, g, 0), zero,
        ((0, 0, 0), *margins, (0, 0, 0)))
  return total,


of_windows.defvjp(
    _of_windows_forward, _of_windows_backward)
