"""Random changes of training images: pure, keyed, on the device.

Images are float32 [H, W, C] (or [B, H, W, C] where said) in [0, 1], and stay in
that range. An augmented image depends on (key, id) only, never on the order of
a batch; mixing two images also depends on who else is in the batch. Evaluation
streams never come here, and nothing is stored.
"""

from collections.abc import Callable

import dm_pix
import jax
import jax.numpy as jnp
import ml_collections

from vision_jax.data import errors
from vision_jax.data import noise
from vision_jax.data import warp

Key = jax.Array
Augment = Callable[[Key, jax.Array], jax.Array]

# The largest value of each strength that still means something.
_LIMITS = {
    'rotation': 180.0, 'translation': 1.0, 'zoom': 0.99, 'brightness': 1.0,
    'contrast': 1.0, 'saturation': 1.0, 'hue': 0.5, 'cutout': 1.0,
    'salt_pepper_salt': 1.0, 'salt_pepper_pepper': 1.0,
    'gaussian_noise': float('inf'), 'crop_padding': float('inf'),
    'mixup_alpha': float('inf'), 'cutmix_alpha': float('inf'),
}


def check(
    config: ml_collections.ConfigDict, channels: int, *,
    field: str = 'config.augment') -> None:
  """Raises where `config` cannot augment images of so many channels.

  Args:
    config: the `augment` fields of vision_jax.config.base().
    channels: of the images, 1 or 3.
    field: what the message calls `config`.

  Raises:
    errors.DataError: a strength is out of its range, or changes a colour that
      grey images do not have; the message names it.
  """
  _check_ranges(config, field=field)
  for name in ('saturation', 'hue'):
    if config[name] and channels != 3:
      raise errors.DataError(
          f'{field}.{name} = {config[name]} needs 3 channels, not {channels}: '
          'set it to 0, or config.data.channels to 3.')


def make(config: ml_collections.ConfigDict) -> Augment:
  """Makes the augmentation (key, image [H, W, C]) -> image of `config`.

  In this order, each step only where its strength is not zero: flips; one
  resampling for rotation, zoom and translation; reflected padding and random
  crop; brightness, contrast, saturation, hue; cutout; Gaussian noise;
  salt-and-pepper. All off is the identity.

  Args:
    config: the `augment` fields of vision_jax.config.base().

  Raises:
    errors.DataError: a strength is out of its range. The function that is made
      raises it for a grey image that is to change its colour.
  """
  _check_ranges(config)
  steps = []
  if config.flip_horizontal:
    steps.append(dm_pix.random_flip_left_right)
  if config.flip_vertical:
    steps.append(dm_pix.random_flip_up_down)
  if config.rotation or config.translation or config.zoom:
    steps.append(lambda key, image: _random_affine(key, image, config))
  if config.crop_padding:
    steps.append(lambda key, image: _random_crop(
        key, image, config.crop_padding))
  steps.extend(_color_steps(config))
  if config.cutout:
    steps.append(lambda key, image: _cutout(key, image, config.cutout))
  if config.gaussian_noise:
    steps.append(lambda key, image: noise.gaussian(
        key, image, config.gaussian_noise))
  if config.salt_pepper_salt or config.salt_pepper_pepper:
    steps.append(lambda key, image: noise.salt_and_pepper(
        key, image, config.salt_pepper_salt, config.salt_pepper_pepper))

  def augment(key: Key, image: jax.Array) -> jax.Array:
    check(config, image.shape[-1])
    for i, step in enumerate(steps):
      image = step(jax.random.fold_in(key, i), image)
    return image

  return augment


def apply(
    config: ml_collections.ConfigDict,
    images: jax.Array,
    ids: jax.Array,
    key: Key,
) -> jax.Array:
  """Augments images [B, H, W, C], each with the key fold_in(key, id).

  Args:
    config: the `augment` fields of vision_jax.config.base().
    images: float32 [B, H, W, C] in [0, 1].
    ids: int32 [B], the examples' rows in their dataset.
    key: of this epoch or view; the same key gives the same images.
  """
  keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(ids)
  return jax.vmap(make(config))(keys, images)


def mix(
    config: ml_collections.ConfigDict,
    key: Key,
    batch: dict[str, jax.Array],
    num_classes: int,
) -> dict[str, jax.Array]:
  """Blends each image with a partner and adds the soft labels `target`.

  Mixup (Zhang et al., 2018) averages two images, CutMix (Yun et al., 2019)
  pastes a box of the one into the other; with both on, a coin decides for each
  image. Every real row (mask > 0) is the partner of exactly one other real row;
  padding rows stay as they are.

  Args:
    config: the `augment` fields: `mixup_alpha`, `cutmix_alpha`, 0 = off.
    key: of this step.
    batch: `image` [B, H, W, C], `label` int [B], `mask` [B] and more.
    num_classes: width of `target`.

  Returns:
    The batch; unless both are off, with a new `image` and with `target` [B,
    num_classes]: `share` [B] of the own label, the rest of row `partner`'s.

  Raises:
    errors.DataError: a strength is out of its range.
  """
  _check_ranges(config)
  order_key, coin_key, mixup_key, cutmix_key = jax.random.split(key, 4)
  images, one_hot = batch['image'], jax.nn.one_hot(batch['label'], num_classes)
  weights = []
  if config.mixup_alpha:
    weights.append(_mixup_weight(mixup_key, images.shape, config.mixup_alpha))
  if config.cutmix_alpha:
    weights.append(
        _cutmix_weight(cutmix_key, images.shape, config.cutmix_alpha))
  if not weights:
    return batch
  coin = jax.random.bernoulli(coin_key, shape=(len(images), 1, 1, 1))
  weight = jnp.where(coin, weights[0], weights[-1])
  partner = _partners(order_key, batch['mask'])
  own = weight.mean(axis=(1, 2, 3))[:, None]
  return batch | {
      'image': weight * images + (1 - weight) * images[partner],
      'target': own * one_hot + (1 - own) * one_hot[partner],
      'share': own[:, 0], 'partner': partner,
  }


def _random_affine(
    key: Key, image: jax.Array, config: ml_collections.ConfigDict
) -> jax.Array:
  angle_key, zoom_key, shift_key = jax.random.split(key, 3)
  angle = jax.random.uniform(angle_key, minval=-1.0)
  angle *= jnp.deg2rad(config.rotation)
  scale = 1 + config.zoom * jax.random.uniform(zoom_key, minval=-1.0)
  sine, cosine = jnp.sin(angle), jnp.cos(angle)
  shift = jax.random.uniform(shift_key, (2,), minval=-1.0)
  shift *= config.translation * jnp.array(image.shape[:2])
  matrix = jnp.array([[cosine, -sine], [sine, cosine]]) / scale
  return warp.affine(image, matrix, shift)


def _random_crop(key: Key, image: jax.Array, padding: int) -> jax.Array:
  padded = jnp.pad(
      image, ((padding, padding), (padding, padding), (0, 0)), mode='reflect')
  return dm_pix.random_crop(key, padded, image.shape)


def _color_steps(config: ml_collections.ConfigDict) -> list[Augment]:
  steps = []
  if config.brightness:
    steps.append(lambda key, image: dm_pix.random_brightness(
        key, image, config.brightness))
  if config.contrast:
    steps.append(lambda key, image: dm_pix.random_contrast(
        key, image, 1 - config.contrast, 1 + config.contrast))
  if config.saturation:
    steps.append(lambda key, image: dm_pix.random_saturation(
        key, image, 1 - config.saturation, 1 + config.saturation))
  if config.hue:
    steps.append(lambda key, image: dm_pix.random_hue(
        key, image, config.hue))
  if steps:
    steps.append(lambda key, image: jnp.clip(image, 0.0, 1.0))
  return steps


def _cutout(key: Key, image: jax.Array, fraction: float) -> jax.Array:
  """Fills a square around a random pixel with the image's mean colour.

  Part of it may lie outside, as in DeVries and Taylor, 2017, "Improved
  regularization of convolutional neural networks with cutout".
  """
  height, width, _ = image.shape
  side = fraction * min(height, width)
  inside = _box(jax.random.uniform(key, (2,)), (side, side), height, width)
  return jnp.where(inside, image.mean(axis=(0, 1)), image)


def _mixup_weight(key: Key, shape: tuple[int, ...], alpha: float) -> jax.Array:
  """Returns the weight [B, H, W, 1] of the own image: one share an image."""
  share = jax.random.beta(key, alpha, alpha, (shape[0], 1, 1, 1))
  return jnp.broadcast_to(share, (*shape[:3], 1))


def _cutmix_weight(key: Key, shape: tuple[int, ...], alpha: float) -> jax.Array:
  """Returns the weight [B, H, W, 1] of the own image: 0 inside the box."""
  size, height, width, _ = shape
  share_key, centre_key = jax.random.split(key)
  side = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha, (size,)))
  centre = jax.random.uniform(centre_key, (size, 2))
  return 1.0 - jax.vmap(lambda c, s: _box(
      c, (s * height, s * width), height, width))(centre, side)


def _box(centre, sides, height: int, width: int) -> jax.Array:
  """Returns bool [H, W, 1]: pixels in a box; `centre` is in [0, 1]."""
  rows = jnp.abs(jnp.arange(height) + 0.5 - centre[0] * height)
  columns = jnp.abs(jnp.arange(width) + 0.5 - centre[1] * width)
  return ((rows < sides[0] / 2)[:, None] & (columns < sides[1] / 2))[..., None]


def _partners(key: Key, mask: jax.Array) -> jax.Array:
  """Returns int [B]: real rows in one random cycle, padding its own partner."""
  order = jnp.argsort(jax.random.uniform(key, mask.shape) + 2.0 * (mask == 0))
  real = jnp.sum(mask > 0)
  place = jnp.arange(len(mask))
  following = jnp.where(place < real, (place + 1) % jnp.maximum(real, 1), place)
  return jnp.zeros_like(order).at[order].set(order[following])


def _check_ranges(
    config: ml_collections.ConfigDict, *, field: str = 'config.augment',
) -> None:
  for name, limit in _LIMITS.items():
    if not 0 <= config[name] <= limit:
      raise errors.DataError(
          f'{field}.{name} = {config[name]}: it has to lie in [0, {limit}].')
  if config.salt_pepper_salt + config.salt_pepper_pepper > 1:
    raise errors.DataError(
        f'{field}.salt_pepper_salt and {field}.salt_pepper_pepper exceed 1 '
        'together; lower one of them.')
