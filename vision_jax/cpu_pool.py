"""Maxima over windows whose gradients are fast on a CPU.

The reformulations behind `ops.max_pool`: each remembers the place of the
maximum in a byte, the first of equals. Maps are [B, H, W, C].
"""

import functools
import math

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from vision_jax import views


def _pool(x):
  """Maximum of 2x2 windows, and which of the four it is (first of equals)."""
  height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
  a, b, c, d = (
      x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1))
  top, bottom = jnp.maximum(a, b), jnp.maximum(c, d)
  index = jnp.where(bottom > top, 2 + (d > c), b > a)
  return jnp.maximum(top, bottom), index.astype(jnp.uint8)


def _unpool(index, g, shape, window, strides):
  """Puts `g` where `index` says and zero elsewhere: the transpose of a pool.

  Written from the side of the input, whose entry lies in as many windows as
  overlap: a sum over these, not over the places of a window, each of which
  would be a map that is spread out and padded.

  Args:
    index: uint8 [B, H', W', C], places as `_place` numbers them.
    g: [B, H', W', C].
    shape: of the input, [B, H, W, C].
    window: height and width.
    strides: height and width of a step.
  """
  batch, _, _, channels = g.shape
  overlaps = [-(-k // s) for k, s in zip(window, strides)]
  rows, columns = (-(-n // s) for n, s in zip(shape[1:3], strides))
  pads = [(lap - 1, n - m) for lap, n, m in zip(
      overlaps, (rows, columns), g.shape[1:3])]
  g, index = views.pad(g, pads), views.pad(index, pads)
  blocks = (batch, rows, strides[0], columns, strides[1], channels)
  within = [lax.broadcasted_iota(jnp.uint8, blocks, axis) for axis in (2, 4)]
  total = 0
  for up, left in np.ndindex(*overlaps):
    top, side = overlaps[0] - 1 - up, overlaps[1] - 1 - left
    mine, theirs = (
        t[:, top:top + rows, None, side:side + columns, None]
        for t in (g, index))
    place = _place(within[0] + up * strides[0], within[1] + left * strides[1],
                   window, strides)
    total += jnp.where(theirs == place, mine, 0)
  total = total.reshape(
      batch, rows * strides[0], columns * strides[1], channels)
  return total[:, :shape[1], :shape[2]]


def _place(row, column, window, strides):
  """Numbers the places of a window, with room for what lies within a step."""
  return row * (-(-window[1] // strides[1]) * strides[1]) + column


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
  return _unpool(index, g, like.shape, (2, 2), (2, 2)),


of_blocks.defvjp(_of_blocks_forward, _of_blocks_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def of_windows(x, window, strides):
  """Maximum of windows that may overlap, of a padded map."""
  return _of_windows_forward(x, window, strides)[0]


def fits(window, strides) -> bool:
  """Whether a byte can tell the places of such a window."""
  return math.prod(k + s - 1 for k, s in zip(window, strides)) <= 256


def _of_windows_forward(x, window, strides):
  first, *others = views.windows(x, window, strides)
  y, index = first, jnp.zeros(first.shape, jnp.uint8)
  for number, view in enumerate(others, 1):
    place = _place(*divmod(number, window[1]), window, strides)
    index = jnp.where(view > y, jnp.uint8(place), index)
    y = jnp.maximum(y, view)
  return y, (index, jnp.zeros((*x.shape[:3], 0)))


def _of_windows_backward(window, strides, residuals, g):
  index, like = residuals
  return _unpool(index, g, like.shape, window, strides),


of_windows.defvjp(
    _of_windows_forward, _of_windows_backward)
