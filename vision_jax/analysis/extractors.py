"""What turns images into features, for the measures of generative.py.

An extractor carries its own name, which holds the hash of its weights: numbers
from different extractors, or from other weights of one, never compare.
"""

import hashlib
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vision_jax import config as config_lib
from vision_jax import pretrained
from vision_jax.analysis import generative
from vision_jax.models import backbones
from vision_jax.pretrained import locate

_BATCH = 32


class Extractor(NamedTuple):
  """Features of images.

  Attributes:
    name: Network, size of its input and hash of its weights.
    rows: images [n, H, W, C] in [0, 1] -> float32 [n, d] on the host.
  """
  name: str
  rows: Callable[[np.ndarray], np.ndarray]


def make(name: str, *, weights: str = 'published') -> Extractor:
  """Returns an extractor.

  Args:
    name: `pixels` (the image averaged to 8x8 pixels), or a backbone.
    weights: 'published', or the path of the backbone's weight file.

  Raises:
    ConfigError: If there is no such backbone or its weights are missing or
      wrong.
  """
  if name == 'pixels':
    return Extractor('pixels, 8x8', _batched(generative.pixels))
  config_lib.choose(
      'extractor', name, dict.fromkeys(('pixels', *backbones.NAMES)))
  spec = backbones.build(name)
  side = spec.image_size
  shapes = jax.eval_shape(lambda: spec.module.init(
      jax.random.key(0), jnp.zeros((1, side, side, 3)), train=False))
  kind = 'notop' if 'notop' in spec.weights else 'top'
  try:
    path = locate.find(
        spec.weights[kind], path='' if weights == 'published' else weights)
    variables = pretrained.load(spec, path, shapes)
  except (FileNotFoundError, ValueError) as error:
    raise config_lib.ConfigError(f'Features of {name}: {error}') from error

  def features(images):
    if images.shape[-1] == 1:
      images = jnp.repeat(images, 3, axis=-1)
    images = jax.image.resize(
        images, (len(images), side, side, 3), 'bilinear')
    return spec.module.apply(
        variables, spec.preprocess(images.clip(0.0, 1.0)), train=False)

  return Extractor(
      f'{name} at {side} px, weights {_digest(variables)}', _batched(features))


def _digest(tree) -> str:
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(tree):
    digest.update(np.asarray(leaf).tobytes())
  return digest.hexdigest()[:8]


def _batched(features):
  """Runs `features` over batches of one shape, the last one padded."""
  step = jax.jit(features)
  def rows(images):
    found = []
    for start in range(0, len(images), _BATCH):
      batch = np.asarray(images[start:start + _BATCH], np.float32)
      short = _BATCH - len(batch)
      padded = np.concatenate([batch, batch[:1].repeat(short, axis=0)])
      found.append(np.asarray(step(padded))[:len(batch)])
    return np.concatenate(found)
  return rows
