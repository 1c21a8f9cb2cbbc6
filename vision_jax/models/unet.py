"""U-Net autoencoder and its encoder, which also serves alone in classifiers.

The layout is the butterfly study's: three levels of convolution, ReLU,
pooling and dropout; three 2x2 transposed convolutions back. Knows nothing of
losses: the range of its output is declared in `HEAD_RANGE` and the task
compares it with the range of the target.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision_jax import ops
from vision_jax.models import layers

HEAD_RANGE = {
    'sigmoid': (0.0, 1.0),
    'tanh': (-1.0, 1.0),
    'linear': (-math.inf, math.inf),
}
HEADS = {'sigmoid': nn.sigmoid, 'tanh': jnp.tanh, 'linear': lambda x: x}
SKIPS = ('add', 'concat', 'none')
VARIANTS = ('plain', 'residual')


def check_range(head: str, target_range: tuple[float, float]) -> None:
  """Raises ValueError where `head` cannot reach all of `target_range`.

  Args:
    head: a key of `HEAD_RANGE`.
    target_range: lowest and highest value of the target.
  """
  _check_choice('head', head, tuple(HEAD_RANGE))
  low, high = HEAD_RANGE[head]
  if target_range[0] < low or target_range[1] > high:
    raise ValueError(
        f'head {head!r} has the range [{low}, {high}], which does not hold '
        f'the target range [{target_range[0]}, {target_range[1]}]: rescale '
        'the target or choose another head')


def _check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
  if value not in choices:
    raise ValueError(f'{field} is {value!r}; it must be one of {choices}')


class ResidualBlock(nn.Module):
  """Two 3x3 convolutions with GroupNorm, and a shortcut around them.

  The shortcut (He et al. 2016, arXiv:1512.03385) lets a deeper level train as
  easily as a plain one; GroupNorm (Wu & He 2018, arXiv:1803.08494) does not
  depend on the batch, so that a frozen encoder and a small batch see the same
  function.
  """
  features: int
  pool: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    norm = lambda: nn.GroupNorm(
        num_groups=math.gcd(32, self.features), dtype=self.dtype)
    conv = lambda size: layers.Conv(
        self.features, (size, size), use_bias=False, dtype=self.dtype)
    y = nn.relu(norm()(conv(3)(x)))
    y = norm()(conv(3)(y))
    if x.shape[-1] != self.features:
      x = conv(1)(x)
    x = nn.relu(x + y)
    return ops.max_pool(x) if self.pool else x


class Encoder(nn.Module):
  """Halves the image once a level; the features of U-Net and of B1 and B2.

  Attributes:
    features: channels of each level.
    dropout: rate after each level.
    variant: 'plain' (the study's convolution and ReLU) or 'residual'.
    dtype: type of the computation.
  """
  features: tuple[int, ...] = (64, 128, 256)
  dropout: float = 0.3
  variant: str = 'plain'
  dtype: Any = jnp.float32

  def setup(self):
    _check_choice('variant', self.variant, VARIANTS)
    block = {
        'plain': functools.partial(layers.Conv, pool=True),
        'residual': functools.partial(ResidualBlock, pool=True),
    }[self.variant]
    self.level = [block(n, dtype=self.dtype) for n in self.features]
    self.drop = [layers.Dropout(self.dropout) for _ in self.features]

  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns the deepest level, [B, H / 2^n, W / 2^n, features[-1]]."""
    return self.levels(x, train=train)[-1]

  def levels(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, ...]:
    """Returns every level, shallow to deep; the last one is the latent."""
    levels = []
    for block, drop in zip(self.level, self.drop, strict=True):
      # Maximum and ReLU commute: after the pool it costs a quarter.
      x = drop(nn.relu(block(x)), train=train)
      levels.append(x)
    return tuple(levels)


class UNet(nn.Module):
  """Autoencoder of [B, H, W, C] in the range of its head (`HEAD_RANGE`).

  H and W must be multiples of 2^levels. The parameters under 'encoder' are
  those of `Encoder` alone, so they move into a classifier as they are. The
  study's decoder has no activation between its transposed convolutions; the
  'residual' variant refines each merged level with a `ResidualBlock`.

  Attributes:
    channels: channels C of the output.
    features: channels of each level.
    dropout: rate after each level of the encoder.
    skip: how a level of the encoder joins the decoder: 'add' (the study),
      'concat' (Ronneberger et al. 2015, arXiv:1505.04597) or 'none'.
    head: a key of `HEAD_RANGE`.
    variant: 'plain' or 'residual'.
    dtype: type of the computation; the output is float32.
  """
  channels: int = 3
  features: tuple[int, ...] = (64, 128, 256)
  dropout: float = 0.3
  skip: str = 'add'
  head: str = 'sigmoid'
  variant: str = 'plain'
  dtype: Any = jnp.float32

  def setup(self):
    _check_choice('skip', self.skip, SKIPS)
    _check_choice('head', self.head, tuple(HEAD_RANGE))
    self.encoder = Encoder(
        self.features, self.dropout, self.variant, self.dtype)
    self.up = [
        layers.ConvTranspose(n, dtype=self.dtype)
        for n in (*self.features[-2::-1], self.channels)]
    if self.variant == 'residual':
      self.refine = [
          ResidualBlock(n, dtype=self.dtype) for n in self.features[-2::-1]]

  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    factor = 2 ** len(self.features)
    if x.shape[1] % factor or x.shape[2] % factor:
      raise ValueError(
          f'image of {x.shape[1]}x{x.shape[2]} pixels: height and width must '
          f'be multiples of {factor}')
    return self.decode(self.encoder.levels(x, train=train))

  def decode(self, levels: tuple[jax.Array, ...]) -> jax.Array:
    """Returns the image [B, H, W, C] of the levels of `Encoder.levels`."""
    x = levels[-1]
    for i, shallower in enumerate(levels[-2::-1]):
      x = self.up[i](x)
      if self.skip == 'add':
        x = x + shallower
      elif self.skip == 'concat':
        x = jnp.concatenate([x, shallower], axis=-1)
      if self.variant == 'residual':
        x = self.refine[i](x)
    return HEADS[self.head](self.up[-1](x).astype(jnp.float32))
