"""Dense and convolutional autoencoders without skip connections.

The denoisers of the butterfly study: 784-128-64-32-64-128-784 units, and three
convolutions in steps of two with three transposed ones back. Encoders and
decoders are modules of their own, which classifiers and variational
autoencoders take too. Knows neither noise nor losses.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision_jax import ops
from vision_jax.models import layers
from vision_jax.models import unet


class Autoencoder(nn.Module):
  """An encoder followed by a decoder.

  Attributes:
    encoder: module from an image [B, H, W, C] to its code.
    decoder: module from the code back to [B, H, W, C].
  """
  encoder: nn.Module
  decoder: nn.Module

  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    return self.decoder(self.encoder(x, train=train), train=train)


class DenseEncoder(nn.Module):
  """Dense layers with ReLU on the flattened image; [B, 1, 1, features[-1]].

  Attributes:
    features: units of each layer.
    dtype: type of the computation.
  """
  features: tuple[int, ...] = (128, 64, 32)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    x = x.reshape(x.shape[0], -1)
    for n in self.features:
      x = nn.relu(nn.Dense(n, dtype=self.dtype)(x))
    # A map of one pixel, as the heads of classifiers take it.
    return x[:, None, None, :]


class DenseDecoder(nn.Module):
  """Dense layers with ReLU from a code to [B, *shape] in the head's range.

  Attributes:
    shape: height, width and channels of the image.
    features: units of each hidden layer.
    head: a key of `unet.HEADS`.
    dtype: type of the computation; the output is float32.
  """
  shape: tuple[int, int, int]
  features: tuple[int, ...] = (64, 128)
  head: str = 'sigmoid'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    x = x.reshape(x.shape[0], -1)
    for n in self.features:
      x = nn.relu(nn.Dense(n, dtype=self.dtype)(x))
    x = nn.Dense(math.prod(self.shape), dtype=self.dtype)(x)
    x = x.astype(jnp.float32).reshape(-1, *self.shape)
    return unet.HEADS[self.head](x)


class ConvEncoder(nn.Module):
  """3x3 convolutions in steps of 2 with ReLU; [B, H / 2^n, W / 2^n, C'].

  H and W must be multiples of 2^n for n levels.

  Attributes:
    features: channels of each level.
    dtype: type of the computation.
  """
  features: tuple[int, ...] = (64, 128, 256)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    factor = 2 ** len(self.features)
    if x.shape[1] % factor or x.shape[2] % factor:
      raise ValueError(
          f'image of {x.shape[1]}x{x.shape[2]} pixels: height and width must '
          f'be multiples of {factor}')
    for n in self.features:
      x = nn.relu(layers.Conv(
          n, strides=(2, 2), padding=((1, 1), (1, 1)), dtype=self.dtype)(x))
    return x


class ConvDecoder(nn.Module):
  """Doubles the map once a level, with ReLU between, up to the image.

  Attributes:
    channels: channels of the image.
    features: channels of each level but the last.
    head: a key of `unet.HEADS`.
    dtype: type of the computation; the output is float32.
  """
  channels: int
  features: tuple[int, ...] = (128, 64)
  head: str = 'sigmoid'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    for n in self.features:
      x = nn.relu(Doubling(n, dtype=self.dtype)(x))
    x = Doubling(self.channels, dtype=self.dtype)(x).astype(jnp.float32)
    return unet.HEADS[self.head](x)


class Doubling(layers.ConvTranspose):
  """3x3 transposed convolution in steps of 2: [B, 2H, 2W, features].

  PyTorch's with padding 1 and output padding 1.
  """
  kernel_size: tuple[int, int] = (3, 3)
  padding: layers.Padding = ops.DOUBLING


def make_dense(
    shape: tuple[int, int, int],
    features: tuple[int, ...] = (128, 64, 32),
    *,
    head: str = 'sigmoid',
    dtype: Any = jnp.float32) -> Autoencoder:
  """Returns the dense autoencoder of `shape`; 222,384 weights at 28x28x1."""
  return Autoencoder(
      DenseEncoder(features, dtype),
      DenseDecoder(shape, features[-2::-1], head, dtype))


def make_conv(
    channels: int,
    features: tuple[int, ...] = (64, 128, 256),
    *,
    head: str = 'sigmoid',
    dtype: Any = jnp.float32) -> Autoencoder:
  """Returns the convolutional autoencoder; 741,379 weights for colour."""
  return Autoencoder(
      ConvEncoder(features, dtype),
      ConvDecoder(channels, features[-2::-1], head, dtype))
