"""3x3 convolutions with four ninths of the products, for a CPU.

A tile of 2x2 outputs needs 16 products a pair of channels where the plain form
needs 36: F(2x2, 3x3) of Lavin & Gray 2015, arXiv:1509.09308, section 4.1. Equal
to the plain form up to rounding (tested); `applies` says where it is faster.
`pads` is ((top, bottom), (left, right)) throughout.
"""

import jax
from jax import lax
import jax.numpy as jnp

# With fewer channels the transforms cost more than the products saved.
_FEWEST, _FEWEST_PAIRS = 128, 128 * 256
# Rounding up to whole tiles may add so many pixels, as a factor.
_MOST_WASTE = 1.35


def applies(shape, kernel_shape, pads, dtype) -> bool:
  """Whether the form pays for an input [B, H, W, C] and a kernel [h, w, C, F].

  Measured on two cores with AVX-512, float32: 25 ms against 30 ms for
  16x32x32, 128 to 256 channels; 4.5 ms against 6.2 ms for 8x14x14, 256 to 256;
  10.6 ms against 6.8 ms for 8x56x56, 64 to 64, where it does not apply.
  """
  height, width, channels, features = kernel_shape
  if (height, width) != (3, 3) or dtype != jnp.float32:
    return False
  outputs = [n + sum(pad) - 2 for n, pad in zip(shape[1:3], pads)]
  if min(outputs) < 1 or min(min(pad) for pad in pads) < 0:
    return False
  tiles = [-(-n // 2) for n in outputs]
  waste = 4 * tiles[0] * tiles[1] / (outputs[0] * outputs[1])
  return (min(channels, features) >= _FEWEST
          and channels * features >= _FEWEST_PAIRS and waste <= _MOST_WASTE)


def forward(
    x: jax.Array, kernel: jax.Array, pads, *, turned: bool = False,
) -> jax.Array:
  """Convolves one chunk [B, H, W, C] with step 1; [B, H', W', F].

  `turned` takes the kernel [3, 3, F, C] of which the input's gradient needs
  both spatial axes reversed and the others exchanged. To exchange them inside
  the products is free; as an array it takes longer than the products.
  """
  height, width = (n + sum(pad) - 2 for n, pad in zip(x.shape[1:3], pads))
  tiles = _input_tiles(x, pads, height, width)
  kernels = _in_both(_kernel, [[
      kernel[2 - i, 2 - j] if turned else kernel[i, j] for j in range(3)]
                               for i in range(3)])
  contract = lambda t, k: lax.dot_general(
      t, k, (((1,), (int(turned),)), ((), ())))
  products = [[contract(t, k) for t, k in zip(*rows, strict=True)]
              for rows in zip(tiles, kernels, strict=True)]
  features = kernel.shape[2 if turned else 3]
  blocks = (x.shape[0], -(-height // 2), -(-width // 2), features)
  rows = [jnp.stack([y.reshape(blocks) for y in row], axis=3)
          for row in _in_both(_output, products)]
  y = jnp.stack(rows, axis=2).reshape(
      blocks[0], 2 * blocks[1], 2 * blocks[2], blocks[3])
  return y[:, :height, :width]


def _input_tiles(x, pads, height, width):
  """Transformed 4x4 tiles of the input, [4][4] of [tiles, C]."""
  sizes = [2 * -(-n // 2) for n in (height, width)]
  x = jnp.pad(x, ((0, 0), *(
      (low, size + 2 - n - low)
      for n, size, (low, _) in zip(x.shape[1:3], sizes, pads)), (0, 0)))
  views = [[x[:, i:i + sizes[0] - 1:2, j:j + sizes[1] - 1:2].reshape(
      -1, x.shape[-1]) for j in range(4)] for i in range(4)]
  return _in_both(_input, views)


def _in_both(transform, grid):
  """Applies a transform of lists to the columns, then rows, of a grid."""
  columns = [transform(column) for column in zip(*grid)]
  return [transform(row) for row in zip(*columns)]


# The matrices B', G and A' of the paper's equation 7.
def _input(d):
  return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _kernel(k):
  even, odd = (k[0] + k[2]) / 2, k[1] / 2
  return [k[0], even + odd, even - odd, k[2]]


def _output(m):
  return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]
