"""Convolutions whose gradients are fast on a CPU.

The reformulations behind `vision_jax.ops`, which decides when they run; each
equals `plain` in value and gradient (reverse mode only, of any order). `pads`
is ((top, bottom), (left, right)) throughout. Times: float32, two cores.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')
# Rows of one matrix product: enough to be efficient, few enough for the cache.
_ROWS = 4096


def plain(x, kernel, strides, padding, groups=1):
  """The convolution as XLA runs it, in the layout NHWC, HWIO."""
  return lax.conv_general_dilated(
      x, kernel, strides, padding, dimension_numbers=_DIMENSIONS,
      feature_group_count=groups)


def explicit_pads(x, kernel, strides, padding):
  """Returns ((top, bottom), (left, right)) of any form of padding."""
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(
        x.shape[1:3], kernel.shape[:2], strides, padding)
  return tuple(tuple(pair) for pair in padding)


def windows(x, size, strides):
  """Lists the strided views of a padded [B, H, W, C], one a kernel entry."""
  height, width = (
      (n - k) // s + 1 for n, k, s in zip(x.shape[1:3], size, strides))
  return [
      x[:, i:i + (height - 1) * strides[0] + 1:strides[0],
        j:j + (width - 1) * strides[1] + 1:strides[1]]
      for i in range(size[0]) for j in range(size[1])]


def chunks(pixels, *arrays):
  """Splits the leading axis so that a chunk has about `_ROWS` pixels."""
  batch = arrays[0].shape[0]
  size = max(n for n in range(1, batch + 1)
             if batch % n == 0 and (n == 1 or n * pixels <= _ROWS))
  return tuple(a.reshape(batch // size, size, *a.shape[1:]) for a in arrays)


def pad(x, pads):
  """Pads the height and width of [B, H, W, C] with zeros."""
  return jnp.pad(x, ((0, 0), *pads, (0, 0)))


def kernel_gradient(x, g, kernel, pads):
  """Gradient of one chunk with respect to the kernel, in float32."""
  rows = jnp.concatenate(
      windows(pad(x, pads), kernel.shape[:2], (1, 1)), axis=-1)
  rows = rows.reshape(-1, rows.shape[-1])
  g = g.reshape(-1, g.shape[-1])
  product = lambda a, b: lax.dot_general(
      a, b, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)
  # The smaller side first: 62 ms against 111 ms for 16x32x32, 128 -> 256.
  small = rows.shape[1] <= g.shape[1]
  gradient = product(rows, g) if small else product(g, rows).T
  return gradient.reshape(kernel.shape)


def _margins(g, kernel, strides, pads, shape):
  """Padding of the dilated `g` that gives the input's gradient its `shape`."""
  margins = []
  for size, k, step, out, (low, _) in zip(
      shape[1:3], kernel.shape, strides, g.shape[1:3], pads):
    before = k - 1 - low
    margins.append((before, size + low - ((out - 1) * step + 1)))
  return margins


def input_gradient(g, kernel, pads, shape):
  """Gradient of the convolution with respect to its input of `shape`.

  As a convolution with an explicitly turned kernel: the transposed form that
  `lax` derives leaves the fast path inside a scan (84 ms against 13 ms).
  """
  turned = kernel[::-1, ::-1].swapaxes(2, 3)
  return plain(
      g, turned, (1, 1), _margins(g, kernel, (1, 1), pads, shape))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def dense(x, kernel, pads):
  """Convolution over all channels with step 1.

  The gradient of the kernel is a product of gathered rows, chunk by chunk:
  15 ms against 57 ms for 16x128x128, 3 -> 64; 86 ms against 389 ms for
  16x64x64, 64 -> 128.
  """
  return plain(x, kernel, (1, 1), pads)


def _dense_forward(x, kernel, pads):
  return dense(x, kernel, pads), (x, kernel)


def _dense_backward(pads, residuals, g):
  x, kernel = residuals
  add = lambda total, chunk: (
      total + kernel_gradient(*chunk, kernel, pads), None)
  pixels = g.shape[1] * g.shape[2]
  total, _ = lax.scan(
      add, jnp.zeros(kernel.shape, jnp.float32), chunks(pixels, x, g))
  dx = input_gradient(g, kernel, pads, x.shape)
  return dx, total.astype(kernel.dtype)


dense.defvjp(_dense_forward, _dense_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise(x, kernel, strides, pads):
  """Each channel by itself, a sum of shifted products; kernel [h, w, 1, C].

  For 16x112x112x32, 3x3: 7 ms against 174 ms, gradients 42 ms against 290 ms.
  """
  weights = kernel.reshape(-1, kernel.shape[-1])
  views = windows(pad(x, pads), kernel.shape[:2], strides)
  return sum(w * k for w, k in zip(views, weights, strict=True))


def _depthwise_forward(x, kernel, strides, pads):
  return depthwise(x, kernel, strides, pads), (x, kernel)


def _depthwise_backward(strides, pads, residuals, g):
  x, kernel = residuals
  views = windows(pad(x, pads), kernel.shape[:2], strides)
  dk = jnp.stack([
      jnp.sum(w * g, (0, 1, 2), dtype=jnp.float32) for w in views])
  # The transpose is the same sum of shifts, of the dilated and padded g.
  margins = _margins(g, kernel, strides, pads, x.shape)
  g = lax.pad(g, jnp.zeros((), g.dtype), (
      (0, 0, 0),
      *((*margin, s - 1) for margin, s in zip(margins, strides, strict=True)),
      (0, 0, 0)))
  dx = depthwise(g, kernel[::-1, ::-1], (1, 1), ((0, 0), (0, 0)))
  return dx, dk.reshape(kernel.shape).astype(kernel.dtype)


depthwise.defvjp(_depthwise_forward, _depthwise_backward)
