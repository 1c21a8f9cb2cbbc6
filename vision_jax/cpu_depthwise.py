"""Depthwise convolutions that are fast on a CPU without oneDNN.

Each channel is convolved by itself, which XLA's grouped convolution does slowly.
Equal to the plain form in value and gradient. `pads` is ((top, bottom), (left,
right)) throughout. Times: float32, two cores.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from vision_jax import views


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x, kernel, strides, pads):
  """Each channel by itself, a sum of shifted products; kernel [h, w, 1, C].

  For 16x112x112x32, 3x3: 7 ms against 174 ms, gradients 42 ms against 290 ms.
  """
  weights = kernel.reshape(-1, kernel.shape[-1])
  shifted = views.windows(views.pad(x, pads), kernel.shape[:2], strides)
  return sum(w * k for w, k in zip(shifted, weights, strict=True))


def _forward(x, kernel, strides, pads):
  return convolve(x, kernel, strides, pads), (x, kernel)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _kernel_gradient(x, g, kernel, strides, pads):
  """Gradient of `convolve` with respect to its kernel, [h w, C] in float32.

  Row by row of `g`, so that the rows that meet it stay in the cache, and
  without padding, for an entry of the kernel looks only at what is inside: 18
  ms against 290 ms for sums over 16x56x56x144, 3x3, on one core.
  """
  height, width = kernel.shape[:2]
  rows, columns = x.shape[1:3]
  (top, _), (left, _) = pads
  # Of each column of the kernel: the outputs from `low` to `high` are inside.
  spans = []
  for j in range(width):
    low = max(0, -(-(left - j) // strides[1]))
    high = min(g.shape[2], (columns - 1 + left - j) // strides[1] + 1)
    spans.append((low, max(low, high)))

  def add(totals, place):
    image, i = place // g.shape[1], place % g.shape[1]
    g_row, products = g[image, i], []
    for k in range(height):
      row = i * strides[0] + k - top
      inside = (row >= 0) & (row < rows)
      x_row = x[image, row.clip(0, rows - 1)]
      for j, (low, high) in enumerate(spans):
        first = low * strides[1] + j - left
        x_part = x_row[first:first + (high - low) * strides[1]:strides[1]]
        product = x_part * g_row[low:high]
        products.append(jnp.where(inside, product, 0).astype(jnp.float32))
    return jax.tree.map(jnp.add, totals, products), None

  zeros = [jnp.zeros((high - low, x.shape[3])) for low, high in spans] * height
  totals, _ = lax.scan(add, zeros, jnp.arange(g.shape[0] * g.shape[1]))
  return jnp.stack([total.sum(0) for total in totals])


def _backward(strides, pads, residuals, g):
  x, kernel = residuals
  dk = _kernel_gradient(x, g, kernel, strides, pads)
  # The transpose is the same sum of shifts, of the dilated and padded g.
  margins = views.gradient_margins(g, kernel, strides, pads, x.shape)
  g = lax.pad(g, jnp.zeros((), g.dtype), (
      (0, 0, 0),
      *((*margin, s - 1) for margin, s in zip(margins, strides, strict=True)),
      (0, 0, 0)))
  dx = convolve(g, kernel[::-1, ::-1], (1, 1), ((0, 0), (0, 0)))
  return dx, dk.reshape(kernel.shape).astype(kernel.dtype)


convolve.defvjp(_forward, _backward)
