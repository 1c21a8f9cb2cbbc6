"""Array operations of the networks, each in the form that runs fastest.

Every function equals its plain `lax` form in value and gradient (tested). XLA
has poor kernels for some operations on a CPU, so on one CPU device these are
oneDNN's, or matrix products and slices; elsewhere the plain form runs. The
layers of `models/layers.py` call these functions, so the choice is made here
and nowhere else. Holds no parameters. Times: float32, two cores, AVX-512; all
forms are timed by `experiments.benchmark --what=operations`, and what else was
tried is in experiments/results/benchmark/notes.md.
"""

import functools

import jax
from jax import lax
from jax.extend import random as extend_random
import jax.numpy as jnp

from vision_jax import cpu_conv
from vision_jax import cpu_dense
from vision_jax import cpu_depthwise
from vision_jax import cpu_pool
from vision_jax import onednn
from vision_jax import views

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')
# A smaller kernel gains nothing as a stem.
_STEM = 5
# Of a transposed 3x3 convolution in steps of 2, PyTorch's with padding 1 and
# output padding 1.
DOUBLING = ((1, 2), (1, 2))
# From how many numbers on, and up to how many rows, a dense layer's kernel is
# slower to copy than to multiply.
_LARGE_KERNEL, _FEW_ROWS = 2**22, 32


def _reformulate() -> bool:
  # With several devices the batch is sharded, and a scan over it would not be.
  return jax.default_backend() == 'cpu' and jax.local_device_count() == 1


def conv(x, kernel, *, strides=(1, 1), padding='SAME', groups=1):
  """Convolves [B, H, W, C] with a kernel [h, w, C / groups, features].

  On a CPU: by oneDNN where it is installed and faster; see `cpu_conv.dense`.

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
    return cpu_conv.plain(x, kernel, strides, padding, groups)
  pads = views.explicit_pads(x, kernel.shape[:2], strides, padding)
  library = onednn.applies(x.shape, kernel.shape, pads, x.dtype)
  if groups > 1:
    if library:
      return onednn.forward(x, kernel, (strides, pads, groups))
    if groups == x.shape[-1] == kernel.shape[-1]:
      return cpu_depthwise.convolve(x, kernel, strides, pads)
    return cpu_conv.plain(x, kernel, strides, pads, groups)
  if kernel.shape[:2] == (1, 1) and not any(map(any, pads)):
    # Only the pixels that are looked at.
    x, strides = x[:, ::strides[0], ::strides[1]], (1, 1)
  if (strides == (2, 2) and x.shape[-1] <= cpu_conv.FEW_CHANNELS
      and min(kernel.shape[:2]) >= _STEM and not library):
    return cpu_conv.stem(x, kernel, pads)
  return cpu_conv.dense(x, kernel, strides, pads)


def conv_transpose(x, kernel, *, strides, padding='SAME'):
  """Transposed convolution, as `lax.conv_transpose` (kernel not flipped).

  Where the kernel is as large as the step, no two outputs overlap and it is a
  dense layer and a reshape: its gradients take 15 ms against 498 ms for
  16x16x16, 256 -> 128. Others are an input's gradient, which oneDNN has.

  Args:
    x: [B, H, W, C].
    kernel: [h, w, C, features].
    strides: height and width of a step.
    padding: 'SAME', 'VALID' or ((top, bottom), (left, right)), of `x` with its
      pixels `strides` apart.

  Returns:
    [B, H', W', features].
  """
  strides, size = tuple(strides), kernel.shape[:2]
  if isinstance(padding, str):
    if size == strides and _reformulate():
      return _blocks(x, kernel)
  else:
    padding = tuple(map(tuple, padding))
    outputs = [(n - 1) * s + 1 + sum(pad) - k + 1 for n, s, pad, k in zip(
        x.shape[1:3], strides, padding, size)]
    pads = tuple((k - 1 - low, k - 1 - high)
                 for k, (low, high) in zip(size, padding))
    shape = (x.shape[0], *outputs, kernel.shape[3])
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    if _reformulate() and onednn.applies(shape, turned.shape, pads, x.dtype):
      return cpu_conv.transposed(x, turned, strides, pads, shape)
    if (size, strides, padding) == ((3, 3), (2, 2), DOUBLING):
      return _doubling(x, kernel)
  return lax.conv_transpose(
      x, kernel, strides, padding, dimension_numbers=_DIMENSIONS)


def _blocks(x, kernel):
  """The transposed convolution whose kernel is as large as its step.

  A product for each row of the kernel: whole rows interleave faster than pixels
  do. As matrices, for the sake of their gradients: see `cpu_conv._product`.
  """
  channels, features = kernel.shape[2:]
  batch, rows, columns, _ = x.shape
  flat = x.reshape(-1, channels)
  products = [
      (flat @ row.swapaxes(0, 1).reshape(channels, -1)).reshape(
          batch, rows, columns, -1)
      for row in kernel[::-1, ::-1]]
  return _below_each_other(products, features)


def _below_each_other(rows, features):
  """Interleaves rows [B, H, W, w F], w pixels side by side: [B, h H, w W, F].

  Not by `stack`: where an axis is 1 long, XLA copies into its own order.
  """
  batch, height, columns, each = rows[0].shape
  y = jnp.concatenate([row.reshape(batch, height, -1) for row in rows], axis=2)
  return y.reshape(
      batch, len(rows) * height, columns * each // features, features)


def _doubling(x, kernel):
  """3x3 in steps of 2 with padding `DOUBLING`: [B, 2H, 2W, features].

  The four pixels of each 2x2 block of the result see one, two, two and four
  pixels of the input, so four small convolutions take its place, without a
  product by zero.
  """
  # Even rows see entry 1 of the kernel at their own pixel; odd rows entry 0 at
  # their own and entry 2 at the next.
  entries = (slice(1, 2), slice(0, 3, 2))
  rows = [jnp.concatenate([
      conv(x, kernel[entries[i], entries[j]], padding=((0, i), (0, j)))
      for j in (0, 1)], axis=3) for i in (0, 1)]
  return _below_each_other(rows, kernel.shape[3])


def upsample_conv(x, kernel):
  """3x3 'SAME' convolution of [B, H, W, C] after doubling its pixels.

  Rows 2i and 2i + 1 of the result see two rows of `x` each, so on a CPU four
  2x2 convolutions of `x` with sums of the kernel's entries take its place:
  4/9 of the products, and the doubled image is never written.

  Args:
    x: [B, H, W, C].
    kernel: [3, 3, C, features].

  Returns:
    [B, 2H, 2W, features].
  """
  if not _reformulate():
    x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    return cpu_conv.plain(x, kernel, (1, 1), 'SAME')
  # Even rows see the pixel before (entry 0) and their own (1 and 2), odd rows
  # their own (0 and 1) and the one after (2).
  def fold(k, odd, axis):
    before, own, after = (
        lax.slice_in_dim(k, i, i + 1, axis=axis) for i in range(3))
    return lax.concatenate(
        [before + own, after] if odd else [before, own + after], axis)
  pads = ((1, 0), (0, 1))
  rows = []
  for i in (0, 1):
    half = fold(kernel, i, 0)
    rows.append(jnp.concatenate([
        cpu_conv.dense(x, fold(half, j, 1), (1, 1), (pads[i], pads[j]))
        for j in (0, 1)], axis=3))
  return _below_each_other(rows, kernel.shape[-1])


def dense(x, kernel):
  """The product of [B, D] and [D, features].

  On a CPU, XLA hands a product to a library that first copies the kernel into
  another order; not so where an operand's first axis is summed over. For few
  rows and a large kernel the copy takes longest: 32x131,072 to 512 in 66 ms
  instead of 104, 20x25,088 to 256 in 5.4 instead of 7.0 (two cores, AVX2).
  """
  if (_reformulate() and x.ndim == 2 and x.dtype == jnp.float32
      and len(x) <= _FEW_ROWS and kernel.size >= _LARGE_KERNEL):
    return cpu_dense.few_rows(x, kernel)
  return lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def max_pool(x, *, window=(2, 2), strides=None, padding='VALID'):
  """Maximum over windows of [B, H, W, C]; the first of equals has the gradient.

  `strides` None means `window`. 2x2 on a CPU remembers the place of the
  maximum in a byte: the gradient takes 49 ms against 239 ms for 16x128x128x64.
  So do other windows: 3x3 in steps of 2 takes 4 ms against 41 ms for
  10x111x111x32.

  Args:
    x: [B, H, W, C].
    window: height and width.
    strides: height and width of a step.
    padding: 'SAME', 'VALID' or ((top, bottom), (left, right)), of -inf.
  """
  strides = tuple(window if strides is None else strides)
  pads = ((0, 0), *views.explicit_pads(x, window, strides, padding), (0, 0))
  if cpu_pool.fits(window, strides) and _reformulate():
    if any(map(any, pads)):
      x = jnp.pad(x, pads, constant_values=-jnp.inf)
    if (2, 2) == tuple(window) == strides:
      return cpu_pool.of_blocks(x)
    return cpu_pool.of_windows(x, tuple(window), strides)
  return lax.reduce_window(
      x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), pads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_norm(x, scale, bias, epsilon):
  """Normalises [..., C] over all but the last axis, as BatchNorm in training.

  The gradient keeps x alone and passes over it twice; the derived one writes
  and reads the centred and the normalised x as well. So would XLA write the
  centred x, if it did not take the mean behind a barrier for another one. The
  statistics serve moving averages and have no gradient. Source: Ioffe &
  Szegedy 2015, arXiv:1502.03167, the equations of section 3.

  Args:
    x: [..., C].
    scale: [C].
    bias: [C].
    epsilon: added to the variance.

  Returns:
    The normalised x, and its mean and (biased) variance, both [C] and float32.
  """
  return _batch_norm_forward(x, scale, bias, epsilon)[0]


def _batch_norm_forward(x, scale, bias, epsilon):
  axes = tuple(range(x.ndim - 1))
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  mean = wide.mean(axes)
  variance = jnp.square(wide - lax.optimization_barrier(mean)).mean(axes)
  inverse = lax.rsqrt(variance + epsilon)
  y = ((wide - mean) * (scale * inverse) + bias).astype(x.dtype)
  return (y, mean, variance), (x, mean, inverse, scale)


def _batch_norm_backward(epsilon, residuals, gradients):
  del epsilon  # Within `inverse`.
  x, mean, inverse, scale = residuals
  axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
  g, x = gradients[0].astype(mean.dtype), x.astype(mean.dtype)
  d_bias = g.sum(axes)
  d_scale = (g * (x - lax.optimization_barrier(mean))).sum(axes) * inverse
  dx = (g - d_bias / count - (x - mean) * (inverse * d_scale / count)) * (
      scale * inverse)
  return (dx.astype(gradients[0].dtype), d_scale.astype(scale.dtype),
          d_bias.astype(scale.dtype))


batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


@jax.custom_vjp
def swish(x):
  """x sigmoid(x), for any shape.

  The gradient keeps x alone; XLA writes and reads the derived one's sigmoid.
  Source: Ramachandran et al. 2017, arXiv:1710.05941.
  """
  return x / (1 + jnp.exp(-x))


def _swish_backward(x, g):
  sigmoid = 0.5 + 0.5 * jnp.tanh(0.5 * x)
  return (g * sigmoid * (1 + x * (1 - sigmoid)),)


swish.defvjp(lambda x: (swish(x), x), _swish_backward)


def dropout(x, key, *, rate):
  """Zeroes entries of `x` with probability `rate`, scales up the others.

  Sixteen random bits an entry, so the probability is `rate` to within 2^-17;
  the scale is exact for it. A Threefry block yields four entries instead of
  the one of `jax.random.bernoulli`: 10 ms against 72 ms for 4.2 million.

  Args:
    x: any shape.
    key: of the draws, one an entry.
    rate: in [0, 1); traced, it lets one program serve many rates.
  """
  if isinstance(rate, jax.Array):
    keep = jnp.maximum(jnp.round((1.0 - rate) * 2**16), 1).astype(jnp.uint32)
  else:
    keep = max(1, round((1.0 - rate) * 2**16))
  count = lax.iota(jnp.uint32, -(-x.size // 4) * 2)
  words = extend_random.threefry_2x32(jax.random.bits(key, (2,)), count)
  bits = lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:x.size]
  scale = jnp.asarray(2**16 / keep, x.dtype)
  return jnp.where(bits.reshape(x.shape) < keep, x * scale, 0)
