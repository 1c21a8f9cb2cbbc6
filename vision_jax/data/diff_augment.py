"""Augmentation that a gradient passes through, for all a discriminator sees.

Real and generated images are changed alike, so the generator need not learn
the changes. Source: Zhao et al. 2020, arXiv:2006.10738, with its strengths.
Images are float32 [B, H, W, C] in [-1, 1].
"""

import jax
import jax.numpy as jnp

from vision_jax import config as config_lib

Key = jax.Array


def color(key: Key, images: jax.Array) -> jax.Array:
  """Brightness +-.5, saturation 0 to 2, contrast .5 to 1.5, in this order."""
  draw = lambda k, low, high: jax.random.uniform(
      k, (len(images), 1, 1, 1), minval=low, maxval=high)
  brightness, saturation, contrast = jax.random.split(key, 3)
  x = images + draw(brightness, -0.5, 0.5)
  grey = x.mean(-1, keepdims=True)
  x = grey + (x - grey) * draw(saturation, 0.0, 2.0)
  mean = x.mean((1, 2, 3), keepdims=True)
  return mean + (x - mean) * draw(contrast, 0.5, 1.5)


def translation(key: Key, images: jax.Array) -> jax.Array:
  """Shifts by whole pixels, an eighth of the side at most; zeros come in."""
  _, height, width, _ = images.shape
  most = jnp.array([height // 8, width // 8])
  shifts = jax.random.randint(key, (len(images), 2), -most, most + 1)
  rows = jnp.arange(height) - shifts[:, :1]
  columns = jnp.arange(width) - shifts[:, 1:]
  inside = (((rows >= 0) & (rows < height))[:, :, None]
            & ((columns >= 0) & (columns < width))[:, None])
  moved = jax.vmap(lambda image, r, c: image[r][:, c])(
      images, rows.clip(0, height - 1), columns.clip(0, width - 1))
  return jnp.where(inside[..., None], moved, 0.0)


def cutout(key: Key, images: jax.Array) -> jax.Array:
  """Zeroes a box of half the side around a random pixel."""
  count, height, width, _ = images.shape
  centre = jax.random.uniform(key, (count, 2)) * jnp.array([height, width])
  near = lambda size, c: jnp.abs(
      jnp.arange(size) + 0.5 - c[:, None]) < size / 4
  box = (near(height, centre[:, 0])[:, :, None]
         & near(width, centre[:, 1])[:, None])
  return jnp.where(box[..., None], 0.0, images)


_PARTS = {'color': color, 'translation': translation, 'cutout': cutout}


def check(field: str, names) -> tuple[str, ...]:
  """Returns the names of the changes that `config.<field>` lists.

  Raises:
    ConfigError: If one is unknown.
  """
  for name in names:
    config_lib.choose(field, name, _PARTS)
  return tuple(names)


def apply(key: Key, images: jax.Array, names: tuple[str, ...]) -> jax.Array:
  """Applies the named changes in their order; () is none."""
  for i, name in enumerate(names):
    images = _PARTS[name](jax.random.fold_in(key, i), images)
  return images


def sometimes(
    key: Key, images: jax.Array, names: tuple[str, ...],
    probability: jax.Array) -> jax.Array:
  """Applies each named change to each image with a probability of its own.

  Source: Karras et al. 2020, arXiv:2006.06676, section 3. At a probability of
  0 the images stay as they are, at 1 this is `apply`.

  Args:
    key: As for `apply`.
    images: [B, H, W, C].
    names: The changes, in their order.
    probability: That of a change, [].
  """
  for i, name in enumerate(names):
    changed = _PARTS[name](jax.random.fold_in(key, i), images)
    drawn = jax.random.uniform(
        jax.random.fold_in(key, len(names) + i), (len(images), 1, 1, 1))
    images = jnp.where(drawn < probability, changed, images)
  return images
