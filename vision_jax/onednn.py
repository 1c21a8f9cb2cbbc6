"""Convolutions of a JAX program by oneDNN, on a CPU.

XLA's own forms are up to four times slower where channels are few, strides 2 or
groups many. float32 alone. `forward`, `input_gradient` and `kernel_gradient`
are differentiable in reverse mode, any number of times, for each one's
gradients are the two others. `geometry` is (strides, pads, groups), with pads
((top, bottom), (left, right)).
"""

import functools
import importlib.metadata
import math
import pathlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from vision_jax import foreign
from vision_jax import onednn_api

PREFIX = 'vision_jax_'
_PACKAGE = 'onednn-cpu-gomp'


@functools.cache
def _available() -> bool:
  """Loads oneDNN and makes it known to XLA; False where it is not installed."""
  try:
    files = importlib.metadata.files(_PACKAGE)
  except importlib.metadata.PackageNotFoundError:
    return False
  path = next(pathlib.Path(file.locate()).resolve() for file in files
              if file.name == 'libdnnl.so.3')
  try:
    library = onednn_api.Library(path)
  except OSError as error:
    warnings.warn(
        f'oneDNN is installed and does not load ({error}), so convolutions '
        'are slower. If libgomp is missing, install it (libgomp1 in Debian).')
    return False
  for kind in onednn_api.PLACES:
    foreign.register(PREFIX + kind, _target(library, kind))
  return True


def _target(library, kind):
  """The function behind a target; it keeps what it made for each shape."""
  made = {}
  order = onednn_api.PLACES[kind].values()

  def make(geometry, shapes):
    numbers = lambda data: np.frombuffer(data, np.int64).tolist()
    arrays = dict(zip(order, map(numbers, shapes)))
    *strides, top, bottom, left, right, groups = numbers(geometry)
    return onednn_api.Convolution(library, kind, onednn_api.Shapes(
        arrays[0], arrays[1], arrays[2], strides,
        ((top, bottom), (left, right)), groups))

  def run(geometry, shapes, addresses):
    with library.lock:
      if (geometry, shapes) not in made:
        made[geometry, shapes] = make(geometry, shapes)
      made[geometry, shapes].run(addresses)
  return run


def applies(shape, kernel_shape, pads, dtype) -> bool:
  """Whether oneDNN can convolve [B, H, W, C] with [h, w, C / groups, F].

  False where it is not installed.
  """
  smallest = min(n + sum(pad) - k for n, pad, k in zip(
      shape[1:3], pads, kernel_shape))
  return (dtype == jnp.float32 and math.prod(shape) > 0 and smallest >= 0
          and min(map(min, pads)) >= 0 and _available())


def _call(kind, shape, one, other, geometry):
  strides, pads, groups = geometry
  return jax.ffi.ffi_call(
      PREFIX + kind, jax.ShapeDtypeStruct(shape, jnp.float32),
      vmap_method='sequential')(one, other, geometry=np.array(
          [*strides, *pads[0], *pads[1], groups], np.int64))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def forward(x, kernel, geometry):
  """Convolves [B, H, W, C] with [h, w, C / groups, F]; [B, H', W', F]."""
  strides, pads, _ = geometry
  sides = [(n + sum(pad) - k) // step + 1 for n, pad, k, step in zip(
      x.shape[1:3], pads, kernel.shape, strides)]
  shape = (x.shape[0], *sides, kernel.shape[-1])
  return _call('forward', shape, x, kernel, geometry)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def input_gradient(g, kernel, shape, geometry):
  """Gradient of `forward` with respect to its input of `shape`."""
  return _call('input_gradient', shape, g, kernel, geometry)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def kernel_gradient(x, g, shape, geometry):
  """Gradient of `forward` with respect to its kernel of `shape`."""
  return _call('kernel_gradient', shape, x, g, geometry)


forward.defvjp(
    lambda x, kernel, geometry: (forward(x, kernel, geometry), (x, kernel)),
    lambda geometry, saved, g: (
        input_gradient(g, saved[1], saved[0].shape, geometry),
        kernel_gradient(saved[0], g, saved[1].shape, geometry)))
input_gradient.defvjp(
    lambda g, kernel, shape, geometry: (
        input_gradient(g, kernel, shape, geometry), (g, kernel)),
    lambda shape, geometry, saved, x: (
        forward(x, saved[1], geometry),
        kernel_gradient(x, saved[0], saved[1].shape, geometry)))
kernel_gradient.defvjp(
    lambda x, g, shape, geometry: (
        kernel_gradient(x, g, shape, geometry), (x, g)),
    lambda shape, geometry, saved, kernel: (
        input_gradient(saved[1], kernel, saved[0].shape, geometry),
        forward(saved[0], kernel, geometry)))
