"""Random weights that any test can make again, and files that hold them.

A tensor is a function of its published name and shape alone, so that a golden
output needs no stored weights. Kernels are scaled to keep the variance: with
small ones a deep network returns a constant, and any wrong code passes.
"""

import functools
import json
import pathlib
import zlib

from flax import traverse_util
import h5py
import jax
import jax.numpy as jnp
import numpy as np

from vision_jax.models import backbones

GOLDEN = pathlib.Path(__file__).parent / 'golden'


def tensor(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
  """A random tensor, by the part it plays: kernel, scale, offset, variance."""
  rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
  role = name.replace(':0', '').replace('/', '.').split('.')[-1]
  if role == 'count' or role == 'num_batches_tracked':
    return np.zeros(shape, np.int64)
  if 'normalization' in name and '/gamma' not in name and '/beta' not in name:
    low, high = (0.3, 0.6) if role == 'mean' else (0.04, 0.08)
    return rng.uniform(low, high, shape).astype(np.float32)
  if len(shape) > 1 and role in ('weight', 'kernel', 'depthwise_kernel'):
    if role == 'weight':
      fan_in = np.prod(shape[1:])
    elif len(shape) == 4 and shape[3] == 1:
      fan_in = shape[0] * shape[1]
    else:
      fan_in = np.prod(shape[:-1])
    # Wide-open gates would amplify rounding errors from block to block.
    gain = 0.2 if '_se_' in name else 1.0
    values = gain * rng.normal(0, np.sqrt(2 / fan_in), shape)
  elif role in ('gamma', 'weight', 'variable', 'running_var',
                'moving_variance'):
    values = rng.uniform(0.5, 1.5, shape)
  else:
    values = rng.normal(0, 0.2, shape)
  return values.astype(np.float32)


def variables(shapes):
  """Random variables of these shapes, in a fraction of the time of `init`."""
  flat = traverse_util.flatten_dict(dict(shapes), sep='/')
  roles = {'scale': 'gamma', 'var': 'moving_variance'}
  filled = {}
  for path, leaf in flat.items():
    module, _, role = path.rpartition('/')
    name = f'{module}/{roles[role] if role in roles else role}'
    filled[path] = jnp.asarray(tensor(name, leaf.shape), leaf.dtype)
  return traverse_util.unflatten_dict(filled, sep='/')


def images(size: int, count: int = 2, seed: int = 0) -> np.ndarray:
  """Images [count, size, size, 3] in [0, 1]: coarse blobs, no two alike."""
  rng = np.random.default_rng([seed, size])
  coarse = rng.uniform(0, 1, (count, 5, 5, 3))
  index = np.arange(size) * 5 // size
  noise = rng.uniform(0, 0.2, (count, size, size, 3))
  return (0.8 * coarse[:, index][:, :, index] + noise).astype(np.float32)


def write_legacy(path, layers, *, version: str = '3.15.1', unweighted=()):
  """Writes Keras' legacy layout.

  Args:
    path: the file.
    layers: layer name -> {tensor's name: array}.
    version: Keras version that the file names.
    unweighted: names of layers without weights.
  """
  with h5py.File(path, 'w') as file:
    file.attrs['layer_names'] = [
        name.encode() for name in (*unweighted, *layers)]
    file.attrs['keras_version'] = version.encode()
    for name in unweighted:
      file.create_group(name).attrs['weight_names'] = np.array([], 'S1')
    for name, tensors in layers.items():
      group = file.create_group(name)
      group.attrs['weight_names'] = [key.encode() for key in tensors]
      for key, value in tensors.items():
        group[key] = value


def relative(actual, expected) -> float:
  """max |actual - expected| / max |expected|."""
  actual, expected = np.asarray(actual), np.asarray(expected)
  assert actual.shape == expected.shape, (actual.shape, expected.shape)
  return float(np.abs(actual - expected).max() / np.abs(expected).max())


@functools.cache
def shapes_of(name, classes=10):
  """The spec of a backbone and the shapes of its variables."""
  spec = backbones.build(name, num_classes=classes)
  return spec, jax.eval_shape(
      lambda: spec.module.init(
          jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))


@functools.cache
def tensors_of(name):
  """{name in the reference's file: array}, from the golden list."""
  golden = np.load(GOLDEN / f'{name}.npz')
  return {
      key: tensor(key, tuple(shape))
      for key, shape in json.loads(str(golden['tensors'])).items()}


def assert_same(a, b):
  """Two trees of arrays are equal."""
  jax.tree.map(np.testing.assert_array_equal, a, b)
