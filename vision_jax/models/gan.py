"""Generators and discriminators: the jellyfish study's, and two for points.

The study's are its Figures 7 and 8. A conditional generator scales and shifts
by class (conditional BatchNorm, de Vries et al. 2017, arXiv:1707.00683); a
conditional discriminator adds the product of a class vector and its pooled
features (projection, Miyato & Koyama 2018, arXiv:1802.05637). Knows no loss.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision_jax import ops
from vision_jax.models import layers

# The networks end in one of these; the data must have exactly this range.
HEAD_RANGE = {'tanh': (-1.0, 1.0)}
NORMS = ('batch', 'spectral', 'none')
_INIT = nn.initializers.xavier_uniform()
_SLOPE = 0.2
# The epsilon of Keras and the momentum of the study; the fast variance would
# cost a digit.
_NORM = dict(momentum=0.8, epsilon=1e-3, use_fast_variance=False)


def check_range(head: str, bounds: tuple[float, float]) -> None:
  """Raises ValueError unless `head` has exactly the data's range `bounds`.

  Were the data's narrower, the discriminator could tell a sample by a value
  that no image has.
  """
  if head not in HEAD_RANGE:
    raise ValueError(
        f'a generator ends in {" or ".join(HEAD_RANGE)}, not {head!r}: set '
        "config.model.output='tanh'")
  if HEAD_RANGE[head] != tuple(bounds):
    raise ValueError(
        f'head {head!r} has the range {HEAD_RANGE[head]}, the data '
        f"{tuple(bounds)}: set config.model.target='signed'")


def _leaky_relu(x: jax.Array) -> jax.Array:
  # At exactly zero, where black pixels and padding end up before any bias has
  # moved, Keras and PyTorch have the small slope and `nn.leaky_relu` the other.
  return jnp.where(x > 0, x, _SLOPE * x)


class ClassNorm(nn.Module):
  """BatchNorm whose scale and shift depend on the class where there are any.

  Attributes:
    classes: number of classes; 0 is plain BatchNorm.
    dtype: type of the computation; parameters are always float32.
  """
  classes: int = 0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
      self, x: jax.Array, labels: jax.Array, *, train: bool) -> jax.Array:
    norm = functools.partial(
        layers.BatchNorm, use_running_average=not train, dtype=self.dtype,
        **_NORM)
    if not self.classes:
      return norm()(x)
    x = norm(use_scale=False, use_bias=False)(x)
    embed = lambda init, name: nn.Embed(
        self.classes, x.shape[-1], embedding_init=init, dtype=self.dtype,
        name=name)(labels)
    scale = embed(nn.initializers.ones, 'scale')
    shift = embed(nn.initializers.zeros, 'shift')
    return x * scale[:, None, None] + shift[:, None, None]


class UpConv(nn.Module):
  """3x3 convolution of [B, H, W, C] after doubling its pixels, with bias.

  Parameters are those of `layers.Conv`; see `ops.upsample_conv`.
  """
  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.param('kernel', _INIT, (3, 3, x.shape[-1], self.features))
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    return ops.upsample_conv(x, kernel) + bias.astype(self.dtype)


class Generator(nn.Module):
  """Latents [B, d] to images [B, H, W, C] in [-1, 1].

  A dense layer to the smallest map, then for each of `features` a doubling of
  the pixels, a 3x3 convolution, BatchNorm and ReLU. The first map has the
  first features' channels.

  Attributes:
    shape: height, width and channels of an image.
    features: channels of the convolutions.
    classes: classes to draw; 0 = unconditional.
    dtype: type of the computation; the images are float32.
  """
  shape: tuple[int, int, int]
  features: tuple[int, ...] = (256, 256, 256, 128)
  classes: int = 0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
      self, latents: jax.Array, labels: jax.Array, *, train: bool) -> jax.Array:
    step = 2 ** len(self.features)
    height, width, channels = self.shape
    if height % step or width % step:
      raise ValueError(
          f'images of {height}x{width} do not halve {len(self.features)} times '
          'evenly: change config.data.image_size or '
          'config.gan.generator_features')
    small = (height // step, width // step, self.features[0])
    x = nn.Dense(small[0] * small[1] * small[2], kernel_init=_INIT,
                 dtype=self.dtype)(latents)
    x = nn.relu(x).reshape(-1, *small)
    for features in self.features:
      x = UpConv(features, self.dtype)(x)
      x = nn.relu(ClassNorm(self.classes, self.dtype)(x, labels, train=train))
    x = layers.Conv(channels, kernel_init=_INIT, dtype=self.dtype)(x)
    return jnp.tanh(x.astype(jnp.float32))


class Discriminator(nn.Module):
  """Images [B, H, W, C] to one logit each, [B].

  3x3 convolutions, the first three in steps of two, each with leaky ReLU and
  dropout, all but the first with BatchNorm; the second one's map is padded by
  a row and a column before its BatchNorm, as in the study.

  Attributes:
    features: channels of the convolutions.
    classes: classes of a projection; 0 = unconditional.
    dropout: rate after each convolution.
    norm: batch; spectral (Miyato et al. 2018, arXiv:1802.05957), which takes
      its place; or none.
    dtype: type of the computation; the logits are float32.
  """
  features: tuple[int, ...] = (32, 64, 128, 256, 512)
  classes: int = 0
  dropout: float = 0.25
  norm: str = 'batch'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
      self, x: jax.Array, labels: jax.Array, *, train: bool) -> jax.Array:
    for i, features in enumerate(self.features):
      step = 2 if i < 3 else 1
      x = self._bounded(layers.Conv(
          features, strides=(step, step), kernel_init=_INIT,
          dtype=self.dtype), train)(x)
      if i == 1:
        x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
      if i and self.norm == 'batch':
        x = layers.BatchNorm(
            use_running_average=not train, dtype=self.dtype, **_NORM)(x)
      x = _leaky_relu(x)
      x = layers.Dropout(self.dropout)(x, train=train)
    logits = self._bounded(
        nn.Dense(1, kernel_init=_INIT, dtype=self.dtype), train)(
            x.reshape(len(x), -1))[:, 0].astype(jnp.float32)
    pooled = x.astype(jnp.float32).mean((1, 2))
    return logits + self._projection(pooled, labels, train)

  def _bounded(self, layer: nn.Module, train: bool):
    """Returns `layer`, spectrally normalised where that is asked for."""
    if self.norm != 'spectral':
      return layer
    return lambda *args: nn.SpectralNorm(layer)(*args, update_stats=train)

  def _projection(self, pooled: jax.Array, labels: jax.Array, train: bool):
    if not self.classes:
      return 0.0
    embed = self._bounded(nn.Embed(self.classes, pooled.shape[-1]), train)
    return (embed(labels) * pooled).sum(-1)


class PointGenerator(nn.Module):
  """Latents [B, d] to points, images of `shape` in [-1, 1]; an MLP."""
  shape: tuple[int, int, int]
  features: tuple[int, ...] = (64, 64)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
      self, latents: jax.Array, labels: jax.Array, *, train: bool) -> jax.Array:
    del labels, train  # The same for every class and in both modes.
    x = latents
    for features in self.features:
      x = _leaky_relu(nn.Dense(features, dtype=self.dtype)(x))
    height, width, channels = self.shape
    x = nn.Dense(height * width * channels, dtype=self.dtype)(x)
    return jnp.tanh(x.astype(jnp.float32)).reshape(-1, *self.shape)


class PointDiscriminator(nn.Module):
  """Points, images of any shape, to one logit each, [B]; an MLP."""
  features: tuple[int, ...] = (64, 64)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
      self, x: jax.Array, labels: jax.Array, *, train: bool) -> jax.Array:
    del labels, train
    x = x.reshape(len(x), -1)
    for features in self.features:
      x = _leaky_relu(nn.Dense(features, dtype=self.dtype)(x))
    return nn.Dense(1, dtype=self.dtype)(x)[:, 0].astype(jnp.float32)
