"""Convolutions whose gradients are fast on a CPU.

The reformulations behind `vision_jax.ops`, which decides when they run; each
equals `plain` in value and gradient (reverse mode only, of any order). `dense`
chooses for each part between Winograd's form, oneDNN and XLA; `stem` serves
where oneDNN is not installed. `pads` is ((top, bottom), (left, right))
throughout. Times: float32, two cores.
"""

import functools
import math

import jax
from jax import lax
import jax.numpy as jnp

from vision_jax import onednn
from vision_jax import views
from vision_jax import winograd

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')
# Rows of one matrix product: enough to be efficient, few enough for the cache.
_ROWS = 4096
_GATHERED_ROWS = 1024  # Of gathered windows, which are longer.
# An image's: transposing it costs little, gathering so short pieces much.
FEW_CHANNELS = 4
# Features from which on a kernel's gradient is faster as a product.
_MANY = 64


def plain(x, kernel, strides, padding, groups=1):
  """The convolution as XLA runs it, in the layout NHWC, HWIO."""
  return lax.conv_general_dilated(
      x, kernel, strides, padding, dimension_numbers=_DIMENSIONS,
      feature_group_count=groups)


def chunks(pixels, *arrays, rows=_ROWS):
  """Splits the leading axis so that a chunk has about `rows` pixels.

  Each [B, H, W, C] becomes [chunks, images * H, W, C]: where an axis for a
  chunk's images is 1 long, XLA copies all of them into its own order.
  """
  batch = arrays[0].shape[0]
  size = max(n for n in range(1, batch + 1)
             if batch % n == 0 and (n == 1 or n * pixels <= rows))
  return tuple(a.reshape(batch // size, -1, *a.shape[2:]) for a in arrays)


def _product(a, b):
  """Contracts all but the last axes: [a's channels, b's channels].

  As matrices: over several axes XLA writes a transposed copy first, which took
  ten times as long as the product in ResNet50.
  """
  a, b = (x.reshape(-1, x.shape[-1]) for x in (a, b))
  return lax.dot_general(a, b, (((0,), (0,)), ((), ())),
                         preferred_element_type=jnp.float32)


def _is_pointwise(kernel, strides, pads):
  """Whether a convolution looks at each pixel by itself."""
  return (kernel.shape[:2] == (1, 1) and strides == (1, 1)
          and not any(map(any, pads)))


def _matrix_product(x, kernel, turned=False):
  """Convolves with a 1x1 kernel, `turned` with its axes exchanged.

  As matrices, as in `_product`: XLA computes g once where both read it so, and
  exchanges no axes in memory.
  """
  rows = x.reshape(math.prod(x.shape[:3]), x.shape[3])
  y = lax.dot_general(
      rows, kernel[0, 0], (((1,), (int(turned),)), ((), ())))
  return y.reshape(*x.shape[:3], y.shape[1])


def _gathered(x, size, strides):
  """All windows of a padded [B, H, W, C] as channels, [B, H', W', h w C]."""
  return jnp.concatenate(views.windows(x, size, strides), axis=-1)


def _over_chunks(function, zeros, x, g, rows=_ROWS):
  """Sums `function` over chunks of x and g that stay in the cache."""
  def add(total, chunk):
    images = [each.reshape(-1, *whole.shape[1:])
              for each, whole in zip(chunk, (x, g))]
    return jax.tree.map(jnp.add, total, function(*images)), None
  pieces = chunks(g.shape[1] * g.shape[2], x, g, rows=rows)
  return lax.scan(add, zeros, pieces)[0]


def _by_library(shape, kernel, pads):
  """Whether oneDNN convolves; a 1x1 kernel is a product, which XLA has."""
  return kernel.shape[:2] != (1, 1) and onednn.applies(
      shape, kernel.shape, pads, kernel.dtype)


def _gradient_form(shape, kernel, strides, pads):
  """Names the form of a kernel's gradient, for an input of `shape`.

  With many channels XLA's is faster than oneDNN's: 20 ms against 29 ms for
  8x56x56, 64 to 64; but 65 ms against 50 ms for 16x128x128, 32 to 32. In steps
  of 2 that of gathered windows is: 54 ms against 74 ms for 32x64x64, 64 to 128.
  """
  height, width, channels, features = kernel.shape
  if _is_pointwise(kernel, strides, pads):
    return 'pointwise'
  if (strides == (1, 1) and height * width * features <= channels
      and all(max(pad) < k for pad, k in zip(pads, kernel.shape))):
    return 'few outputs'
  if strides == (1, 1) and winograd.applies_to_gradient(
      shape, kernel.shape, pads, kernel.dtype):
    return 'winograd'
  if _by_library(shape, kernel, pads) and (
      channels <= FEW_CHANNELS or features < _MANY):
    return 'library'
  if strides != (1, 1) and channels > FEW_CHANNELS:
    return 'windows'
  return 'xla'


def _input_gradient(g, kernel, strides, pads, shape):
  """Gradient of the convolution with respect to its input of `shape`."""
  if _is_pointwise(kernel, strides, pads):
    return _matrix_product(g, kernel, turned=True)
  margins = views.gradient_margins(g, kernel, strides, pads, shape)
  if strides == (1, 1) and winograd.applies(
      g.shape, kernel.shape, margins, g.dtype):
    return _by_winograd(g, kernel, margins, turned=True)
  if _by_library(shape, kernel, pads):
    return onednn.input_gradient(g, kernel, shape, (strides, pads, 1))
  return lax.conv_general_dilated(
      g, kernel[::-1, ::-1].swapaxes(2, 3), (1, 1), margins,
      lhs_dilation=strides, dimension_numbers=_DIMENSIONS)


def _kernel_gradient(x, g, kernel, strides, pads):
  """Gradient of the convolution with respect to its kernel, in float32.

  XLA's form transposes both arrays, and gathers what is best not gathered.
  """
  height, width, channels, features = shape = kernel.shape
  form = _gradient_form(x.shape, kernel, strides, pads)
  if form == 'pointwise':
    return _product(x, g).reshape(shape)
  if form == 'few outputs':  # 6 ms against 26 ms for 16x64x64, 128 -> 3.
    margins = views.gradient_margins(g, kernel, strides, pads, x.shape)
    rows = _gathered(views.pad(g, margins), (height, width), strides)
    total = _product(rows, x).reshape(height, width, features, channels)
    return total[::-1, ::-1].swapaxes(2, 3)
  if form == 'winograd':
    return _winograd_gradient(x, g, pads, height)
  if form == 'library':
    return onednn.kernel_gradient(x, g, shape, (strides, pads, 1))
  if form == 'windows':
    return _strided_gradient(x, g, shape, strides, pads)
  _, back = jax.vjp(lambda k: plain(x, k, strides, pads), kernel)
  return back(g)[0]


# `jit` within the step's: layers of the same shapes are traced once.


@functools.partial(jax.jit, static_argnums=(2, 3))
def _winograd_gradient(x, g, pads, size):
  zero = jnp.zeros((x.shape[-1], g.shape[-1]))
  return winograd.from_products(_over_chunks(
      lambda x, g: winograd.kernel_gradient(x, g, pads, size),
      [[zero] * (size + 1)] * (size + 1), x, g))


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _strided_gradient(x, g, shape, strides, pads):
  sizes = (math.prod(shape[:3]), shape[3])
  small = sizes[0] <= sizes[1]  # The smaller factor first.
  def product(x, g):
    rows = _gathered(views.pad(x, pads), shape[:2], strides)
    return _product(rows, g) if small else _product(g, rows)
  total = _over_chunks(
      product, jnp.zeros(sizes if small else sizes[::-1]), x, g,
      _GATHERED_ROWS)
  return (total if small else total.T).reshape(shape)


@functools.partial(jax.jit, static_argnums=2, static_argnames='turned')
def _by_winograd(x, kernel, pads, *, turned=False):
  (pieces,) = chunks(x.shape[1] * x.shape[2], x)
  def convolve(_, chunk):
    y = winograd.forward(chunk.reshape(-1, *x.shape[1:]), kernel, pads,
                         turned=turned)
    return None, y.reshape(-1, *y.shape[2:])
  height = x.shape[1] + sum(pads[0]) - kernel.shape[0] + 1
  _, y = lax.scan(convolve, None, pieces)
  return y.reshape(-1, height, *y.shape[2:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def dense(x, kernel, strides, pads):
  """Convolution over all channels, in the form that is fastest."""
  if _is_pointwise(kernel, strides, pads):
    return _matrix_product(x, kernel)
  if strides == (1, 1) and winograd.applies(
      x.shape, kernel.shape, pads, x.dtype):
    return _by_winograd(x, kernel, pads)
  if _by_library(x.shape, kernel, pads):
    return onednn.forward(x, kernel, (strides, pads, 1))
  return plain(x, kernel, strides, pads)


def _solid(x, kernel, strides, pads, shape):
  """Returns x as an array that XLA computes once, where that pays.

  Most forms of a kernel's gradient read x and g transposed or in pieces. What
  made them is cheap, such as a pool or a ReLU, so XLA repeats it there, reading
  its own inputs across the memory: 340 ms instead of 35 ms for a pool of
  32x128x128x64 on one core.
  """
  form = _gradient_form(shape, kernel, strides, pads)
  return x if form in ('pointwise', 'library') else views.computed_once(x)


def _dense_forward(x, kernel, strides, pads):
  x = _solid(x, kernel, strides, pads, x.shape)
  return dense(x, kernel, strides, pads), (x, kernel)


def _dense_backward(strides, pads, residuals, g):
  x, kernel = residuals
  g = _solid(g, kernel, strides, pads, x.shape)
  dk = _kernel_gradient(x, g, kernel, strides, pads)
  return (_input_gradient(g, kernel, strides, pads, x.shape),
          dk.astype(kernel.dtype))


dense.defvjp(_dense_forward, _dense_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def transposed(g, kernel, strides, pads, shape):
  """Gradient of `dense` with respect to its input of `shape`.

  As a layer it is a transposed convolution, whose gradients are a convolution
  and the convolution's kernel gradient.
  """
  return _input_gradient(g, kernel, strides, pads, shape)


def _transposed_forward(g, kernel, strides, pads, shape):
  g = _solid(g, kernel, strides, pads, shape)
  return transposed(g, kernel, strides, pads, shape), (g, kernel)


def _transposed_backward(strides, pads, shape, residuals, x):
  g, kernel = residuals
  x = _solid(x, kernel, strides, pads, shape)
  dk = _kernel_gradient(x, g, kernel, strides, pads)
  return dense(x, kernel, strides, pads), dk.astype(kernel.dtype)


transposed.defvjp(_transposed_forward, _transposed_backward)


def stem(x, kernel, pads):
  """Convolution in steps of 2, as one in steps of 1 over blocks of 2x2 pixels.

  An image's three channels are too few for XLA's convolution; a block has
  twelve. 7x7 over 10x227x227x3 to 32 on one core: 27 + 31 ms against 32 + 42.
  """
  height, width, channels, features = kernel.shape
  # Of the blocked kernel, the result and the blocked image.
  sizes = [-(-n // 2) for n in (height, width)]
  outs = [(n + sum(p) - k) // 2 + 1
          for n, p, k in zip(x.shape[1:3], pads, (height, width))]
  blocks = [out + size - 1 for out, size in zip(outs, sizes)]
  margins = [(p[0], 2 * b - n - p[0], 0)
             for p, b, n in zip(pads, blocks, x.shape[1:3])]
  x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *margins, (0, 0, 0)))
  x = x.reshape(-1, blocks[0], 2, blocks[1], 2, channels)
  x = x.swapaxes(2, 3).reshape(-1, *blocks, 4 * channels)
  kernel = jnp.pad(kernel, (
      (0, height % 2), (0, width % 2), (0, 0), (0, 0)))
  kernel = kernel.reshape(sizes[0], 2, sizes[1], 2, channels, features)
  kernel = kernel.swapaxes(1, 2).reshape(*sizes, 4 * channels, features)
  return dense(x, kernel, (1, 1), ((0, 0), (0, 0)))
