"""Array operations of the networks, each in the form that runs fastest.

Every function equals its plain `lax` form in value and gradient (tested). XLA
has poor kernels for some gradients on a CPU, so on one CPU device these are
written as matrix products and slices; elsewhere the plain form runs. The
layers of `models/layers.py` call these functions, so the choice is made here
and nowhere else. Holds no parameters. Times: float32, two cores, AVX-512.
"""

import functools

import jax
from jax import lax
from jax.extend import random as extend_random
import jax.numpy as jnp

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')
# Rows of one matrix product: enough to be efficient, few enough for the cache.
_ROWS = 4096


def _reformulate() -> bool:
  # With several devices the batch is sharded, and a scan over it would not be.
  return jax.default_backend() == 'cpu' and jax.local_device_count() == 1


def _plain_conv(x, kernel, strides, padding, groups=1):
  return lax.conv_general_dilated(
      x, kernel, strides, padding, dimension_numbers=_DIMENSIONS,
      feature_group_count=groups)


def _pads(x, kernel, strides, padding):
  """Returns ((top, bottom), (left, right)) of any form of padding."""
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(
        x.shape[1:3], kernel.shape[:2], strides, padding)
  return tuple(tuple(pair) for pair in padding)


def _windows(x, size, strides):
  """Lists the strided views of a padded [B, H, W, C], one a kernel entry."""
  height, width = (
      (n - k) // s + 1 for n, k, s in zip(x.shape[1:3], size, strides))
  return [
      x[:, i:i + (height - 1) * strides[0] + 1:strides[0],
        j:j + (width - 1) * strides[1] + 1:strides[1]]
      for i in range(size[0]) for j in range(size[1])]


def _chunks(pixels, *arrays):
  """Splits the leading axis so that a chunk has about `_ROWS` pixels."""
  batch = arrays[0].shape[0]
  size = max(n for n in range(1, batch + 1)
             if batch % n == 0 and (n == 1 or n * pixels <= _ROWS))
  return tuple(a.reshape(batch // size, size, *a.shape[1:]) for a in arrays)


def _pad(x, pads):
  return jnp.pad(x, ((0, 0), *pads, (0, 0)))


def _kernel_gradient(x, g, kernel, strides, pads):
  """Gradient of one chunk with respect to the kernel, in float32."""
  rows = jnp.concatenate(
      _windows(_pad(x, pads), kernel.shape[:2], strides), axis=-1)
  rows = rows.reshape(-1, rows.shape[-1])
  g = g.reshape(-1, g.shape[-1])
  product = lambda a, b: lax.dot_general(
      a, b, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)
  # The smaller side first: 62 ms against 111 ms for 16x32x32, 128 -> 256.
  small = rows.shape[1] <= g.shape[1]
  gradient = product(rows, g) if small else product(g, rows).T
  return gradient.reshape(kernel.shape)


def _transpose_conv(g, kernel, strides, pads, shape):
  """Gradient of the convolution with respect to its input of `shape`.

  As a convolution with an explicitly turned kernel: the transposed form that
  `lax` derives leaves the fast path inside a scan (84 ms against 13 ms).
  """
  turned = kernel[::-1, ::-1].swapaxes(2, 3)
  margins = []
  for n, k, s, o, (low, _) in zip(
      shape[1:3], kernel.shape, strides, g.shape[1:3], pads):
    before = k - 1 - low
    margins.append((before, n + k - 1 - before - ((o - 1) * s + 1)))
  return lax.conv_general_dilated(
      g, turned, (1, 1), margins, lhs_dilation=strides,
      dimension_numbers=_DIMENSIONS)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x, kernel, strides, pads):
  return _plain_conv(x, kernel, strides, pads)


def _conv_forward(x, kernel, strides, pads):
  return _conv(x, kernel, strides, pads), (x, kernel)


def _conv_backward(strides, pads, residuals, g):
  x, kernel = residuals
  add = lambda total, chunk: (
      total + _kernel_gradient(*chunk, kernel, strides, pads), None)
  pixels = g.shape[1] * g.shape[2]
  total, _ = lax.scan(
      add, jnp.zeros(kernel.shape, jnp.float32), _chunks(pixels, x, g))
  dx = _transpose_conv(g, kernel, strides, pads, x.shape)
  return dx, total.astype(kernel.dtype)


_conv.defvjp(_conv_forward, _conv_backward)


def _space_to_depth_conv(x, kernel, pads):
  """Stride 2 as stride 1 on blocks of 2x2 pixels."""
  size = [n + n % 2 for n in kernel.shape[:2]]
  out = [(x.shape[i + 1] + sum(pads[i]) - kernel.shape[i]) // 2 + 1
         for i in (0, 1)]
  ends = [2 * (out[i] - 1) + size[i] - x.shape[i + 1] - pads[i][0]
          for i in (0, 1)]
  x = lax.pad(x, jnp.zeros((), x.dtype), (
      (0, 0, 0), *((pads[i][0], ends[i], 0) for i in (0, 1)), (0, 0, 0)))
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5).reshape(*x.shape[:2], width // 2, -1)
  kernel = jnp.pad(
      kernel, (*((0, size[i] - kernel.shape[i]) for i in (0, 1)),
               (0, 0), (0, 0)))
  kernel = kernel.reshape(size[0] // 2, 2, size[1] // 2, 2, channels, -1)
  kernel = kernel.transpose(0, 2, 1, 3, 4, 5).reshape(
      size[0] // 2, size[1] // 2, 4 * channels, -1)
  return _conv(x, kernel, (1, 1), ((0, 0), (0, 0)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise(x, kernel, strides, pads):
  """Sum of shifted products; kernel [h, w, 1, C]."""
  weights = kernel.reshape(-1, kernel.shape[-1])
  windows = _windows(_pad(x, pads), kernel.shape[:2], strides)
  return sum(w * k for w, k in zip(windows, weights, strict=True))


def _depthwise_forward(x, kernel, strides, pads):
  return _depthwise(x, kernel, strides, pads), (x, kernel)


def _depthwise_backward(strides, pads, residuals, g):
  x, kernel = residuals
  windows = _windows(_pad(x, pads), kernel.shape[:2], strides)
  dk = jnp.stack([
      jnp.sum(w * g, (0, 1, 2), dtype=jnp.float32) for w in windows])
  # The transpose is the same sum of shifts, of the dilated and padded g.
  margins = []
  for n, k, s, o, (low, _) in zip(
      x.shape[1:3], kernel.shape[:2], strides, g.shape[1:3], pads):
    before = k - 1 - low
    margins.append((before, n + k - 1 - before - ((o - 1) * s + 1), s - 1))
  g = lax.pad(
      g, jnp.zeros((), g.dtype), ((0, 0, 0), *margins, (0, 0, 0)))
  dx = _depthwise(g, kernel[::-1, ::-1], (1, 1), ((0, 0), (0, 0)))
  return dx, dk.reshape(kernel.shape).astype(kernel.dtype)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def conv(x, kernel, *, strides=(1, 1), padding='SAME', groups=1):
  """Convolves [B, H, W, C] with a kernel [h, w, C / groups, features].

  On a CPU the kernel's gradient is a product of gathered rows, chunk by chunk.

  Args:
    x: [B, H, W, C].
    kernel: [h, w, C / groups, features].
    strides: height and width of a step.
    padding: 'SAME', 'VALID' or ((top, bottom), (left, right)).
    groups: groups of channels.

  Returns:
    [B, H', W', features].
  """
  strides = tuple(strides)
  if not _reformulate():
    return _plain_conv(x, kernel, strides, padding, groups)
  pads = _pads(x, kernel, strides, padding)
  if groups == x.shape[-1] == kernel.shape[-1]:
    return _depthwise(x, kernel, strides, pads)
  if groups > 1:
    return _plain_conv(x, kernel, strides, pads, groups)
  if strides == (2, 2) and x.shape[-1] <= 4 and min(kernel.shape[:2]) > 1:
    return _space_to_depth_conv(x, kernel, pads)
  return _conv(x, kernel, strides, pads)


def conv_transpose(x, kernel, *, strides, padding='SAME'):
  """Transposed convolution, as `lax.conv_transpose` (kernel not flipped).

  Where the kernel is as large as the step, no two outputs overlap and it is a
  dense layer and a reshape.
  """
  height, width, _, features = kernel.shape
  blocks = (height, width) == tuple(strides) and isinstance(padding, str)
  if not (blocks and _reformulate()):
    return lax.conv_transpose(
        x, kernel, strides, padding, dimension_numbers=_DIMENSIONS)
  # A product for each row of the kernel: whole rows interleave faster than
  # pixels do.
  rows = [jnp.einsum('bhwc,jcf->bhwjf', x, row) for row in kernel[::-1, ::-1]]
  return jnp.stack(rows, axis=2).reshape(
      x.shape[0], x.shape[1] * height, x.shape[2] * width, features)


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
  return _pad(y, ((0, shape[1] - 2 * height), (0, shape[2] - 2 * width)))


@jax.custom_vjp
def _max_pool(x):
  return _pool(x)[0]


def _max_pool_forward(x):
  y, index = _pool(x)
  # An empty array carries the shape, which a residual cannot.
  return y, (index, jnp.zeros((*x.shape[:3], 0)))


def _max_pool_backward(residuals, g):
  index, like = residuals
  return _unpool(index, g, like.shape),


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def max_pool(x, *, window=(2, 2), strides=None, padding='VALID'):
  """Maximum over windows of [B, H, W, C]; the first of equals has the gradient.

  `strides` None means `window`. 2x2 on a CPU remembers the place of the
  maximum in a byte.
  """
  strides = tuple(window if strides is None else strides)
  if (2, 2) == tuple(window) == strides and padding == 'VALID':
    if _reformulate():
      return _max_pool(x)
  return lax.reduce_window(
      x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv_pool(x, kernel, pads):
  return _conv_pool_forward(x, kernel, pads)[0]


def _conv_pool_forward(x, kernel, pads):
  apply = lambda _, chunk: (
      None, _pool(_plain_conv(chunk[0], kernel, (1, 1), pads)))
  _, (y, index) = lax.scan(apply, None, _chunks(x.shape[1] * x.shape[2], x))
  y, index = (a.reshape(-1, *a.shape[2:]) for a in (y, index))
  return y, (x, kernel, index)


def _conv_pool_backward(pads, residuals, g):
  x, kernel, index = residuals
  size = [n + sum(pad) - k + 1
          for n, pad, k in zip(x.shape[1:3], pads, kernel.shape)]

  def add(total, chunk):
    x, index, g = chunk
    g = _unpool(index, g, (None, *size))
    dx = _transpose_conv(g, kernel, (1, 1), pads, x.shape)
    return total + _kernel_gradient(x, g, kernel, (1, 1), pads), dx

  total, dx = lax.scan(
      add, jnp.zeros(kernel.shape, jnp.float32),
      _chunks(x.shape[1] * x.shape[2], x, index, g))
  return dx.reshape(x.shape), total.astype(kernel.dtype)


_conv_pool.defvjp(_conv_pool_forward, _conv_pool_backward)


def conv_pool(x, kernel, *, padding='SAME'):
  """2x2 `max_pool` of a `conv` with step 1.

  On a CPU the two run chunk by chunk, so that what lies between them, four
  times the output, stays in the cache both ways.
  """
  if not _reformulate():
    return max_pool(conv(x, kernel, padding=padding))
  return _conv_pool(x, kernel, _pads(x, kernel, (1, 1), padding))


def dropout(x, key, *, rate):
  """Zeroes entries of `x` with probability `rate`, scales up the others.

  Sixteen random bits an entry, so the probability is `rate` to within 2^-17;
  the scale is exact for it. A Threefry block yields four entries instead of
  the one of `jax.random.bernoulli`: 10 ms against 72 ms for 4.2 million.
  """
  keep = round((1.0 - rate) * 2**16)
  count = lax.iota(jnp.uint32, -(-x.size // 4) * 2)
  words = extend_random.threefry_2x32(jax.random.bits(key, (2,)), count)
  bits = lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:x.size]
  return jnp.where(bits.reshape(x.shape) < keep, x * (2**16 / keep), 0)
