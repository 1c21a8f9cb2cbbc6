"""Padding and strided views of maps [B, H, W, C], for convolutions and pools.

By `lax` alone: brackets and `jnp.pad` take JAX several times longer to trace,
and a network has thousands of them.
"""

from jax import lax
import jax.numpy as jnp


def explicit_pads(x, size, strides, padding):
  """Returns ((top, bottom), (left, right)) of any form of padding."""
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(x.shape[1:3], size, strides, padding)
  return tuple(map(tuple, padding))


def computed_once(x):
  """Returns x, in a form that XLA does not repeat in each of two readers.

  It never repeats a division, which later turns out to be by one.
  """
  return x / jnp.where(x == x, 1, x)


def pad(x, pads):
  """Pads with zeros; `pads` is ((top, bottom), (left, right))."""
  return lax.pad(x, jnp.zeros((), x.dtype), (
      (0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)))


def gradient_margins(g, kernel, strides, pads, shape):
  """Padding of the dilated `g` that gives the input's gradient its `shape`."""
  margins = []
  for size, k, step, out, (low, _) in zip(
      shape[1:3], kernel.shape, strides, g.shape[1:3], pads):
    before = k - 1 - low
    margins.append((before, size + low - ((out - 1) * step + 1)))
  return tuple(margins)


def windows(x, size, strides):
  """Lists the strided views of a padded map, one for each entry of a kernel.

  Args:
    x: [B, H, W, C].
    size: height and width of the kernel.
    strides: height and width of a step.

  Returns:
    height * width views [B, H', W', C], row by row; empty ones where the
    kernel is larger than the map.
  """
  batch, *sides, channels = x.shape
  height, width = (max(0, (n - k) // s * s + 1)
                   for n, k, s in zip(sides, size, strides))
  def view(i, j):
    i, j = i if height else 0, j if width else 0
    return lax.slice(x, (0, i, j, 0), (batch, i + height, j + width, channels),
                     (1, *strides, 1))
  return [view(i, j) for i in range(size[0]) for j in range(size[1])]
