"""Variational autoencoders: an encoder to a normal posterior, and a decoder.

Built from the encoders and decoders of `autoencoders.py`. Draws no random
number (the caller passes the noise) and knows no likelihood: the decoder ends
in logits.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision_jax.models import autoencoders


class VAE(nn.Module):
  """Posterior and logits of [B, H, W, C] (Kingma and Welling 2014).

  Attributes:
    encoder: module from an image to features [B, h, w, F].
    decoder: module from latents [B, d] to logits [B, H, W, C].
    latent_dims: length d of a latent vector.
    dtype: type of the computation; the posterior is float32.
  """
  encoder: nn.Module
  decoder: nn.Module
  latent_dims: int
  dtype: Any = jnp.float32

  def setup(self):
    self.posterior = nn.Dense(2 * self.latent_dims, dtype=self.dtype)

  def __call__(self, x: jax.Array, noise: jax.Array, *, train: bool):
    """Returns logits, mean and log-variance.

    Args:
      x: [B, H, W, C].
      noise: standard normal [B, d]; zeros decode the posterior's mean.
      train: whether the network trains.
    """
    mean, log_variance = self.encode(x, train=train)
    latents = mean + jnp.exp(0.5 * log_variance) * noise
    return self.decode(latents, train=train), mean, log_variance

  def encode(self, x: jax.Array, *, train: bool):
    """Returns mean and log-variance of the posterior, each [B, d]."""
    features = self.encoder(x, train=train)
    both = self.posterior(features.reshape(features.shape[0], -1))
    return jnp.split(both.astype(jnp.float32), 2, axis=-1)

  def decode(self, latents: jax.Array, *, train: bool) -> jax.Array:
    """Returns logits [B, H, W, C] of latents [B, d]."""
    return self.decoder(latents, train=train)


class Expanded(nn.Module):
  """Puts latents [B, d] on a map [B, *shape], from which `decoder` goes on.

  Attributes:
    shape: height, width and channels of the map.
    decoder: module from that map to an image.
    dtype: type of the computation.
  """
  shape: tuple[int, int, int]
  decoder: nn.Module
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    height, width, channels = self.shape
    x = nn.relu(nn.Dense(height * width * channels, dtype=self.dtype)(x))
    return self.decoder(x.reshape(-1, *self.shape), train=train)


def make_dense(
    shape: tuple[int, int, int],
    features: tuple[int, ...],
    latent_dims: int,
    *,
    dtype: Any = jnp.float32) -> VAE:
  """Returns a VAE of dense layers, `features` units each way."""
  return VAE(
      autoencoders.DenseEncoder(features, dtype),
      autoencoders.DenseDecoder(shape, features[::-1], 'linear', dtype),
      latent_dims, dtype)


def make_conv(
    shape: tuple[int, int, int],
    features: tuple[int, ...],
    latent_dims: int,
    *,
    dtype: Any = jnp.float32) -> VAE:
  """Returns a VAE of convolutions in steps of 2, one for each of `features`."""
  factor = 2 ** len(features)
  decoder = autoencoders.ConvDecoder(
      shape[2], features[-2::-1], 'linear', dtype)
  lowest = (shape[0] // factor, shape[1] // factor, features[-1])
  return VAE(autoencoders.ConvEncoder(features, dtype),
             Expanded(lowest, decoder, dtype), latent_dims, dtype)
