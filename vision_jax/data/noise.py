"""Noise that a network has to take out of an image: pure, keyed, on device.

Images are float32 [..., H, W, C] in [0, 1] and stay in that range. Training
draws afresh every step; what is evaluated always carries the same noise, which
follows from the example alone. The target of a denoiser never comes here.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections

from vision_jax.data import errors

Key = jax.Array
Corrupt = Callable[[Key, jax.Array], jax.Array]

KINDS = ('none', 'salt_pepper', 'gaussian', 'masking')
# Not the run's seed: every model and seed is tested on the same noisy images.
_FIXED_SEED = 0


def salt_and_pepper(
    key: Key, images: jax.Array, salt: float, pepper: float
) -> jax.Array:
  """Sets a share `salt` of the pixels to 1 and a share `pepper` to 0.

  One uniform number decides for a pixel, all its channels together, so that
  the expected rates are exactly these and no pixel is hit twice.

  Args:
    key: jax.random key.
    images: float [..., H, W, C].
    salt: rate of white pixels.
    pepper: rate of black pixels; with `salt` at most 1.
  """
  u = jax.random.uniform(key, (*images.shape[:-1], 1))
  return jnp.where(u < salt, 1.0, jnp.where(u >= 1 - pepper, 0.0, images))


def gaussian(key: Key, images: jax.Array, std: float) -> jax.Array:
  """Adds normal noise of deviation `std` to every value and clips to [0, 1]."""
  noise = std * jax.random.normal(key, images.shape, images.dtype)
  return jnp.clip(images + noise, 0.0, 1.0)


def masking(key: Key, images: jax.Array, rate: float) -> jax.Array:
  """Sets a share `rate` of the pixels to 0, all channels together."""
  return salt_and_pepper(key, images, 0.0, rate)


def make(
    config: ml_collections.ConfigDict,
    *,
    sample_salt_and_pepper=salt_and_pepper) -> Corrupt:
  """Makes the corruption (key, image [H, W, C]) -> image; 'none' keeps it.

  Args:
    config: the node `config.noise`.
    sample_salt_and_pepper: the sampler of kind 'salt_pepper'.

  Raises:
    DataError: the kind is unknown or a strength out of its range.
  """
  if config.kind not in KINDS:
    raise errors.DataError(
        f'config.noise.kind is {config.kind!r}; it must be one of '
        f'{", ".join(map(repr, KINDS))}.')
  rates = (config.salt, config.pepper, config.masking)
  if min(*rates, config.std) < 0 or max(rates) > 1 or sum(rates[:2]) > 1:
    raise errors.DataError(
        f'config.noise has salt={config.salt}, pepper={config.pepper}, '
        f'masking={config.masking}, std={config.std}: rates have to lie in '
        '[0, 1], salt + pepper too, and std must not be negative.')
  return {
      'none': lambda key, image: image,
      'salt_pepper': lambda key, image: sample_salt_and_pepper(
          key, image, config.salt, config.pepper),
      'gaussian': lambda key, image: gaussian(key, image, config.std),
      'masking': lambda key, image: masking(key, image, config.masking),
  }[config.kind]


def apply(
    corrupt: Corrupt, images: jax.Array, ids: jax.Array, key: Key
) -> jax.Array:
  """Corrupts images [B, H, W, C], each with the key fold_in(key, id).

  Args:
    corrupt: of `make`.
    images: float32 [B, H, W, C] in [0, 1].
    ids: int32 [B], the examples' rows in their dataset.
    key: of this step; the same key gives the same noise.
  """
  keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(ids)
  return jax.vmap(corrupt)(keys, images)


def apply_fixed(
    corrupt: Corrupt, images: jax.Array, ids: jax.Array) -> jax.Array:
  """Corrupts images with noise that depends on their ids alone."""
  return apply(corrupt, images, ids, jax.random.key(_FIXED_SEED))
