"""3x3 and 2x2 convolutions with about half of the products, for a CPU.

A tile of 2x2 outputs needs 16 products a pair of channels where the plain form
needs 36: F(2x2, 3x3) of Lavin & Gray 2015, arXiv:1509.09308, section 4.1. For a
2x2 kernel, F(2x2, 2x2), it is 9 of 16. Equal to the plain form up to rounding
(tested); `applies` says where it is faster. `pads` is ((top, bottom), (left,
right)) throughout.
"""

import jax
from jax import lax
import jax.numpy as jnp

from vision_jax import processor
from vision_jax import views

# With fewer channels, and pairs of them, the transforms cost more than the
# products saved.
_FEWEST, _FEWEST_PAIRS = 128, 128 * 256
# Only beside the slower products of narrow vectors do 2x2 kernels, and kernels'
# gradients, gain.
_NARROW = 'AVX2'
# Rounding up to whole tiles may add so many pixels, as a factor.
_MOST_WASTE = 1.35


def applies(shape, kernel_shape, pads, dtype) -> bool:
  """Whether the form pays for an input [B, H, W, C] and a kernel [h, w, C, F].

  Measured on two cores with AVX-512, float32: 25 ms against 30 ms for
  16x32x32, 128 to 256 channels; 4.5 ms against 6.2 ms for 8x14x14, 256 to 256;
  10.6 ms against 6.8 ms for 8x56x56, 64 to 64, where it does not apply.
  """
  height, width, channels, features = kernel_shape
  sizes = (2, 3) if processor.vectors() == _NARROW else (3,)
  if height != width or height not in sizes or dtype != jnp.float32:
    return False
  outputs = [n + sum(pad) - height + 1 for n, pad in zip(shape[1:3], pads)]
  if min(outputs) < 1 or min(min(pad) for pad in pads) < 0:
    return False
  tiles = [-(-n // 2) for n in outputs]
  waste = 4 * tiles[0] * tiles[1] / (outputs[0] * outputs[1])
  return (min(channels, features) >= _FEWEST
          and channels * features >= _FEWEST_PAIRS and waste <= _MOST_WASTE)


def applies_to_gradient(shape, kernel_shape, pads, dtype) -> bool:
  """Whether `kernel_gradient` pays, for the arguments of `applies`.

  On one core with AVX2, float32: 17 ms against 31 ms for 8x14x14, 256 to 256
  channels; 240 ms against 288 ms for 32x32x32, 128 to 256.
  """
  return processor.vectors() == _NARROW and applies(
      shape, kernel_shape, pads, dtype)


def forward(
    x: jax.Array, kernel: jax.Array, pads, *, turned: bool = False,
) -> jax.Array:
  """Convolves one chunk [B, H, W, C] with step 1; [B, H', W', F].

  `turned` takes the kernel [3, 3, F, C] of which the input's gradient needs
  both spatial axes reversed and the others exchanged. To exchange them inside
  the products is free; as an array it takes longer than the products.
  """
  size = kernel.shape[0]
  height, width = (
      n + sum(pad) - size + 1 for n, pad in zip(x.shape[1:3], pads))
  tiles = _input_tiles(x, pads, height, width, size)
  order = range(size)[::-1] if turned else range(size)
  kernels = _in_both(_KERNEL[size], [
      [lax.index_in_dim(row, j, keepdims=False) for j in order]
      for row in (lax.index_in_dim(kernel, i, keepdims=False) for i in order)])
  contract = lambda t, k: lax.dot_general(
      t, k, (((1,), (int(turned),)), ((), ())))
  products = [[contract(t, k) for t, k in zip(*rows, strict=True)]
              for rows in zip(tiles, kernels, strict=True)]
  features = kernel.shape[2 if turned else 3]
  # Two pixels side by side as channels, then two rows.
  batch, down, across = x.shape[0], -(-height // 2), -(-width // 2)
  rows = [lax.concatenate(row, 1).reshape(batch * down, 1, -1)
          for row in _in_both(_OUTPUT[size], products)]
  y = lax.concatenate(rows, 1).reshape(
      batch, 2 * down, 2 * across, features)
  return lax.slice(y, (0, 0, 0, 0), (batch, height, width, features))


def kernel_gradient(
    x: jax.Array, g: jax.Array, pads, size: int) -> list[list[jax.Array]]:
  """What one chunk adds to the kernel's gradient, a grid of products [C, F].

  The transpose of `forward` but for its last transform, `from_products`, which
  the sum over all chunks needs once.
  """
  height, width = g.shape[1:3]
  tiles = _input_tiles(x, pads, height, width, size)
  g = views.pad(g, [(0, height % 2), (0, width % 2)])
  gradients = _in_both(_transposed(_OUTPUT[size]), _tiles(g, 2))
  return [[lax.dot_general(t, y, (((0,), (0,)), ((), ())))
           for t, y in zip(*rows, strict=True)]
          for rows in zip(tiles, gradients, strict=True)]


def from_products(products: list[list[jax.Array]]) -> jax.Array:
  """Returns the kernel's gradient [h, w, C, F] of sums of `kernel_gradient`."""
  transform = _transposed(_KERNEL[len(products) - 1])
  return jnp.stack([jnp.stack(row) for row in _in_both(transform, products)])


def _input_tiles(x, pads, height, width, size):
  """Transformed tiles of the input, a grid of [tiles, C]."""
  margins = [
      (low, n_out + n_out % 2 + size - 1 - n - low)
      for n, n_out, (low, _) in zip(x.shape[1:3], (height, width), pads)]
  return _in_both(_INPUT[size], _tiles(views.pad(x, margins), size + 1))


def _tiles(x, size):
  """The entries of tiles that begin at every second pixel, [tiles, C] each."""
  flat = [view.reshape(-1, x.shape[-1])
          for view in views.windows(x, (size, size), (2, 2))]
  return [flat[i:i + size] for i in range(0, size**2, size)]


def _in_both(transform, grid):
  """Applies a matrix to the columns, then to the rows, of a grid."""
  columns = [_apply(transform, column) for column in zip(*grid)]
  return [_apply(transform, row) for row in zip(*columns)]


def _apply(matrix, arrays):
  """The product of a small matrix and a list of arrays, without its zeros.

  By `lax`, as in `views`.
  """
  results = []
  for row in matrix:
    total = None
    for factor, x in zip(row, arrays, strict=True):
      if abs(factor) not in (0, 1):
        x = lax.mul(x, jnp.full_like(x, abs(factor)))
      if total is None:
        total = x if factor > 0 else lax.neg(x) if factor else None
      elif factor:
        total = (lax.add if factor > 0 else lax.sub)(total, x)
    results.append(total)
  return results


def _transposed(matrix):
  return tuple(zip(*matrix))


# By the kernel's size; 3: the matrices B', G and A' of the paper's equation 7.
_INPUT = {
    2: ((1, -1, 0), (0, 1, 0), (0, -1, 1)),
    3: ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))}
_KERNEL = {
    2: ((1, 0), (1, 1), (0, 1)),
    3: ((1, 0, 0), (.5, .5, .5), (.5, -.5, .5), (0, 0, 1))}
_OUTPUT = {
    2: ((1, 1, 0), (0, 1, 1)),
    3: ((1, 1, 1, 0), (0, 1, -1, -1))}
