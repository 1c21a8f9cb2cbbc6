"""Classification heads, and the classifier that joins one to an encoder.

A head is written as a tuple of specs, so that the order of its parts is the
config's to choose. Knows no particular encoder.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision_jax.models import layers

_POOLINGS = ('flatten', 'average', 'max')
_FORMS = (
    "'flatten', 'average', 'max' (the first spec, and only the first), "
    "'dense:<units>', 'batch_norm', 'dropout:<rate>', 'cosine:<scale>' (the "
    'last spec, and only the last)')


def parse_spec(spec: str) -> tuple[str, int | float | None]:
  """Reads one spec of a head, e.g. 'dense:256' as ('dense', 256).

  Raises:
    ValueError: for anything else than the forms that its message lists.
  """
  name, colon, argument = spec.partition(':')
  try:
    if not colon and name in (*_POOLINGS, 'batch_norm'):
      return name, None
    if name == 'dense' and int(argument) > 0:
      return name, int(argument)
    if name == 'dropout' and 0.0 <= float(argument) < 1.0:
      return name, float(argument)
    if name == 'cosine' and 0.0 < float(argument) < float('inf'):
      return name, float(argument)
  except ValueError:
    pass
  raise ValueError(f'head spec {spec!r}: it must be one of {_FORMS}')


def parse_specs(
    specs: tuple[str, ...]) -> tuple[tuple[str, int | float | None], ...]:
  """Reads the specs of a head; raises ValueError naming the bad one."""
  parsed = tuple(parse_spec(spec) for spec in specs)
  for i, (name, _) in enumerate(parsed):
    if (name in _POOLINGS) != (i == 0):
      raise ValueError(
          f'head spec {specs[i]!r} at position {i} of {tuple(specs)}: the '
          f'first spec, and only the first, must be one of {_POOLINGS}')
    if name == 'cosine' and i + 1 < len(parsed):
      raise ValueError(
          f'head spec {specs[i]!r} at position {i} of {tuple(specs)}: it must '
          'be the last')
  if not parsed:
    raise ValueError(f'a head needs a first spec, one of {_POOLINGS}')
  return parsed


class Head(nn.Module):
  """Turns features [B, h, w, C] into logits [B, num_classes].

  'dense:<units>' is a dense layer with ReLU; the last dense layer, to
  `num_classes` and named 'logits', has none and needs no spec, unless its
  logits are to be scaled cosines (`layers.Cosines`). BatchNorm has
  Keras's momentum (.99) and epsilon (1e-3), with which the studies ran. A
  `context` [B, K], what is known besides the image, joins the pooled features.

  Attributes:
    num_classes: number of classes; 0 stops before the logits.
    specs: e.g. ('flatten', 'dense:256', 'batch_norm', 'dropout:0.5').
    dtype: type of the computation; the logits are float32.
    kernel_init: initialiser of the dense layers' kernels.
  """
  num_classes: int
  specs: tuple[str, ...] = ('flatten', 'dense:512')
  dtype: Any = jnp.float32
  kernel_init: Any = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(
      self, x: jax.Array, *, train: bool, context: jax.Array | None = None,
  ) -> jax.Array:
    (pooling, _), *rest = parse_specs(self.specs)
    x = {'flatten': lambda x: x.reshape(x.shape[0], -1),
         'average': lambda x: x.mean((1, 2)),
         'max': lambda x: x.max((1, 2))}[pooling](x)
    if context is not None:
      x = jnp.concatenate([x, context.astype(x.dtype)], axis=-1)
    for name, argument in rest:
      if name == 'dense':
        x = nn.relu(layers.Dense(
            argument, dtype=self.dtype, kernel_init=self.kernel_init)(x))
      elif name == 'batch_norm':
        x = layers.BatchNorm(
            use_running_average=not train, momentum=0.99, epsilon=1e-3,
            dtype=self.dtype)(x)
      elif name == 'dropout':
        x = layers.Dropout(argument)(x, train=train)
    if self.num_classes:
      last = layers.Dense
      if self.specs[-1].startswith('cosine'):
        scale = parse_spec(self.specs[-1])[1]
        last = functools.partial(layers.Cosines, scale=scale)
      x = last(
          self.num_classes, dtype=self.dtype, kernel_init=self.kernel_init,
          name='logits')(x)
    return x.astype(jnp.float32)


class Pooled(nn.Module):
  """A backbone as an encoder: one of its maps, or its own pooled features.

  Attributes:
    backbone: module of `models/backbones.py` without classes.
    level: the map to return, [B, h, w, C]; '' for the pooled features, shaped
      [B, 1, 1, D] so that a pooling head takes them as they are.
  """
  backbone: nn.Module
  level: str = ''

  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    if self.level:
      return self.backbone.features(x, train=train, levels=(self.level,))[0]
    return self.backbone(x, train=train)[:, None, None, :]


class Classifier(nn.Module):
  """An encoder followed by a head; logits [B, num_classes] of [B, H, W, C].

  Attributes:
    encoder: module from an image to features [B, h, w, C].
    head: module from those features, and from further inputs that it may
      take, to logits.
  """
  encoder: nn.Module
  head: nn.Module

  def __call__(self, x: jax.Array, *, train: bool, **inputs) -> jax.Array:
    return self.classify(self.encode(x, train=train), train=train, **inputs)

  def encode(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns the encoder's features, which a frozen encoder may cache."""
    return self.encoder(x, train=train)

  def classify(
      self, features: jax.Array, *, train: bool, **inputs) -> jax.Array:
    """Returns the head's logits of features from `encode`."""
    return self.head(features, train=train, **inputs)
