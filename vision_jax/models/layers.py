"""Thin layers over `vision_jax.ops`, and the parameter counts of a model.

Parameters are laid out as linen's own layers lay them out (kernel HWIO, bias),
so a checkpoint does not depend on which form of an operation ran. Knows no
architecture.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision_jax import ops

Padding = str | Sequence[tuple[int, int]]


class Conv(nn.Module):
  """Convolution of [B, H, W, C] to [B, H', W', features].

  Attributes:
    features: output channels.
    kernel_size: height and width of the kernel.
    strides: height and width of a step.
    padding: 'SAME', 'VALID', or ((top, bottom), (left, right)).
    groups: groups of channels; `groups == C` is a depthwise convolution.
    pool: whether to take the 2x2 maximum of the result; before the bias, with
      which it commutes.
    use_bias: whether to add a bias.
    kernel_init: initialiser of the kernel.
    dtype: type of the computation; parameters are always float32.
  """
  features: int
  kernel_size: tuple[int, int] = (3, 3)
  strides: tuple[int, int] = (1, 1)
  padding: Padding = 'SAME'
  groups: int = 1
  pool: bool = False
  use_bias: bool = True
  kernel_init: Any = nn.initializers.lecun_normal()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (*self.kernel_size, x.shape[-1] // self.groups, self.features)
    kernel = self.param('kernel', self.kernel_init, shape)
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    x = ops.conv(
        x, kernel, strides=self.strides, padding=self.padding,
        groups=self.groups)
    if self.pool:
      x = ops.max_pool(x)
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,))
      x = x + bias.astype(self.dtype)
    return x


def _dense(x, kernel, dimensions, precision=None):
  del dimensions, precision  # `nn.Dense` knows one product.
  return ops.dense(x, kernel)


class Dense(nn.Dense):
  """`nn.Dense`, with its product by `ops`."""
  dot_general: Any = _dense


class ConvTranspose(nn.Module):
  """Transposed convolution of [B, H, W, C], as `nn.ConvTranspose` has it.

  Its kernel [h, w, C, features] is the transpose of PyTorch's
  [C, features, h, w] with both spatial axes reversed.
  """
  features: int
  kernel_size: tuple[int, int] = (2, 2)
  strides: tuple[int, int] = (2, 2)
  padding: Padding = 'SAME'
  use_bias: bool = True
  kernel_init: Any = nn.initializers.lecun_normal()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (*self.kernel_size, x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape)
    x = ops.conv_transpose(
        x.astype(self.dtype), kernel.astype(self.dtype), strides=self.strides,
        padding=self.padding)
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,))
      x = x + bias.astype(self.dtype)
    return x


class Cosines(nn.Module):
  """Cosine of each row of [B, D] with each class's weights, times `scale`.

  Features and weights are divided by their norms, and there is no bias, so
  that no class gains by longer weights. Source: the head of Cao et al., 2019,
  arXiv:1906.07413, section 3.2, with scale 30.

  Attributes:
    features: number of classes.
    scale: factor of the cosines.
    kernel_init: initialiser of the kernel.
    dtype: type of the computation; parameters are always float32.
  """
  features: int
  scale: float = 30.0
  kernel_init: Any = nn.initializers.lecun_normal()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape).astype(self.dtype)
    x = x.astype(self.dtype)
    # Inside the root, so that features of zero have a gradient.
    norm = lambda a, axis: jnp.sqrt(
        jnp.square(a).sum(axis, keepdims=True) + 1e-12)
    return self.scale * (x / norm(x, 1)) @ (kernel / norm(kernel, 0))


class BatchNorm(nn.BatchNorm):
  """`nn.BatchNorm` over all but the last axis, through `ops.batch_norm`.

  Parameters, statistics and attributes are those of the base class. The
  variance is always that of centred values.
  """
  use_fast_variance: bool = False

  def __call__(self, x: jax.Array) -> jax.Array:
    if self.use_running_average or self.is_initializing():
      return super().__call__(x)
    size = x.shape[-1]
    read = lambda kind, name: self.get_variable(kind, name)
    scale = read('params', 'scale') if self.use_scale else jnp.ones(size)
    bias = read('params', 'bias') if self.use_bias else jnp.zeros(size)
    y, *found = ops.batch_norm(
        x.astype(self.dtype or x.dtype), scale, bias, self.epsilon)
    for name, value in zip(('mean', 'var'), found, strict=True):
      moving = read('batch_stats', name)
      self.put_variable('batch_stats', name, self.momentum * moving + (
          1 - self.momentum) * jax.lax.stop_gradient(value))
    return y


class Dropout(nn.Module):
  """Dropout with probability `rate`, drawn from the stream 'dropout'."""
  rate: float

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    if not 0.0 <= self.rate < 1.0:
      raise ValueError(f'dropout rate {self.rate} is not in [0, 1)')
    if not train or self.rate == 0.0:
      return x
    return ops.dropout(x, self.make_rng('dropout'), rate=self.rate)


@contextlib.contextmanager
def resting(pattern: str) -> Iterator[None]:
  """Keeps BatchNorm and dropout of matching modules in evaluation mode.

  A frozen part of a training network then computes what it computed before:
  its statistics neither move nor follow the batch.

  Args:
    pattern: regular expression searched in parameter paths, such as
      'encoder/level_0/'; '' matches no module.
  """
  def intercept(call, args, kwargs, context):
    module = context.module
    if (not pattern or context.method_name != '__call__'
        or not re.search(pattern, '/'.join((*module.path, 'scale')))):
      return call(*args, **kwargs)
    if isinstance(module, (Dropout, nn.Dropout)):
      return args[0]
    if not isinstance(module, nn.BatchNorm):
      return call(*args, **kwargs)
    trained = module.use_running_average
    # Linen modules are frozen dataclasses, and this one is about to be used.
    object.__setattr__(module, 'use_running_average', True)
    try:
      return call(*args, **kwargs)
    finally:
      object.__setattr__(module, 'use_running_average', trained)
  with nn.intercept_methods(intercept):
    yield


def count_parameters(
    params: Mapping[str, Any],
    batch_stats: Mapping[str, Any],
    trainable: Any = True,
) -> dict[str, Any]:
  """Counts parameters as Keras does: moving statistics are frozen ones.

  Args:
    params: parameter tree, arrays or `ShapeDtypeStruct`s.
    batch_stats: tree of moving statistics; {} where there are none.
    trainable: tree of booleans, a prefix of `params`; True means all.

  Returns:
    {'total', 'trainable', 'frozen', 'modules', 'trainable_modules'}, the last
    two by top-level module; a module's count includes its moving statistics.
  """
  size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
  mask = jax.tree.broadcast(trainable, params)
  moving = {
      name: sum(leaf.size for leaf, keep in zip(
          jax.tree.leaves(tree), jax.tree.leaves(mask[name]), strict=True)
                if keep) for name, tree in params.items()}
  modules = {
      name: size(params.get(name, {})) + size(batch_stats.get(name, {}))
      for name in {**params, **batch_stats}}
  total = size(params) + size(batch_stats)
  return {
      'total': total, 'trainable': sum(moving.values()),
      'frozen': total - sum(moving.values()), 'modules': modules,
      'trainable_modules': moving}
