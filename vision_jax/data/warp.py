"""One resampling of an image on the device, for every change of geometry.

It draws nothing at random; augment.py chooses the matrices.
"""

import jax
import jax.numpy as jnp


def affine(image: jax.Array, matrix: jax.Array, shift: jax.Array) -> jax.Array:
  """Resamples an image bilinearly, mirrored beyond its border.

  The output at centred position x is the input at `matrix @ x + shift`, with
  both in (row, column) pixels from the image's centre. The mirror does not
  repeat the border pixel, as in numpy.pad(mode='reflect').

  Args:
    image: float [H, W, C], at least 2 x 2.
    matrix: float [2, 2].
    shift: float [2], pixels.
  """
  height, width, channels = image.shape
  centre = (jnp.array([height, width]) - 1) / 2
  grid = jnp.stack(jnp.meshgrid(
      jnp.arange(height), jnp.arange(width), indexing='ij')).reshape(2, -1)
  points = matrix @ (grid - centre[:, None]) + (shift + centre)[:, None]
  row, down = _mirror(points[0], height)
  column, right = _mirror(points[1], width)
  # A gather of flat rows is several times faster on a CPU than
  # jax.scipy.ndimage.map_coordinates.
  pixels, corner = image.reshape(-1, channels), row * width + column
  top = _blend(pixels[corner], pixels[corner + 1], right)
  bottom = _blend(pixels[corner + width], pixels[corner + width + 1], right)
  return _blend(top, bottom, down).reshape(image.shape)


def _mirror(x: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
  """Splits mirrored coordinates into a lower neighbour and a fraction."""
  last = size - 1
  x = last - jnp.abs(jnp.mod(x, 2 * last) - last)
  low = jnp.clip(jnp.floor(x), 0, last - 1).astype(jnp.int32)
  return low, (x - low)[:, None]


def _blend(a: jax.Array, b: jax.Array, fraction: jax.Array) -> jax.Array:
  return a + fraction * (b - a)
