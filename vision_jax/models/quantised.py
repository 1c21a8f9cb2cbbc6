"""Layers that multiply 8-bit integers, put in place of a finished network's.

Qwix quantises the arrays and multiplies them. Its own door to linen,
`qwix.quantize_model`, recognises a weight that goes untouched into a function
of `jax.lax`; `layers.Conv` casts its kernel and calls `ops`, so the layers are
intercepted here instead. Only inference: nothing here has a gradient.
"""

from collections.abc import Iterator, Mapping
import contextlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import qwix

from vision_jax import ops
from vision_jax.models import layers

_LAYERS = (layers.Conv, nn.Dense)
_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')


@contextlib.contextmanager
def observing(ranges: dict[str, jax.Array]) -> Iterator[None]:
  """Writes the largest magnitude that enters each layer into `ranges`.

  Its keys are the layers' paths, such as 'encoder/level_0'. Inside jit the
  values are traced, and have to be returned.
  """
  def intercept(call, args, kwargs, context):
    if _is_layer(context):
      name = '/'.join(context.module.path)
      seen = jnp.abs(args[0]).max().astype(jnp.float32)
      ranges[name] = jnp.maximum(ranges[name], seen) if name in ranges else seen
    return call(*args, **kwargs)
  with nn.intercept_methods(intercept):
    yield


@contextlib.contextmanager
def integers(ranges: Mapping[str, float]) -> Iterator[None]:
  """Makes the layers of `ranges` work on 8-bit integers.

  Their kernels must be `qwix.QArray`s in the parameters. An input becomes
  round(x / s) with one s for the layer, 127.5 s = the range, clipped to int8.
  Products are summed exactly, and scaled to float32 afterwards.

  Args:
    ranges: Largest magnitude of each layer's input, by path.

  Raises:
    KeyError: For a convolution or dense layer without a range.
  """
  def intercept(call, args, kwargs, context):
    if not _is_layer(context):
      return call(*args, **kwargs)
    module = context.module
    limit = ranges['/'.join(module.path)]
    x = qwix.quantize(
        args[0].astype(jnp.float32), jnp.int8,
        calibration_method=f'fixed,{-limit},{limit}')
    kernel = module.get_variable('params', 'kernel')
    dense = isinstance(module, nn.Dense)
    y = _dense(x, kernel) if dense else _conv(module, x, kernel)
    if module.use_bias:
      y = y + module.get_variable('params', 'bias')
    return y
  with nn.intercept_methods(intercept):
    yield


def _is_layer(context) -> bool:
  return (context.method_name == '__call__'
          and isinstance(context.module, _LAYERS))


def _dense(x: qwix.QArray, kernel: qwix.QArray) -> jax.Array:
  return qwix.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def _conv(module, x: qwix.QArray, kernel: qwix.QArray) -> jax.Array:
  if module.groups == 1:
    y = qwix.conv_general_dilated(
        x, kernel, module.strides, module.padding,
        dimension_numbers=_DIMENSIONS)
  else:
    # Few products a sum: below 2^24 float32 holds integers exactly, and XLA
    # has no fast depthwise kernel for int8.
    y = ops.conv(
        x.qvalue.astype(jnp.float32), kernel.qvalue.astype(jnp.float32),
        strides=module.strides, padding=module.padding, groups=module.groups)
    y = y * x.scale * kernel.scale
  return ops.max_pool(y) if module.pool else y
