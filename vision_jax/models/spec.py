"""What every backbone family shares: its record, its base class, its inputs.

A `Spec` keeps together what belongs together: the network, the preprocessing
its weights were trained with, and where those weights are published. Holds no
architecture, and reads no file.
"""

from collections.abc import Callable, Mapping
import types
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vision_jax.models import remat

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STDDEV = (0.229, 0.224, 0.225)
_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
_KERAS = 'https://storage.googleapis.com/tensorflow/keras-applications/'
_TORCHVISION = 'https://download.pytorch.org/models/'


class Weights(NamedTuple):
  """A published weight file.

  Attributes:
    file: its name, in the cache folder too.
    url: where it is published; '' where only a package ships it.
    digest: 'sha256:...' or 'md5:...' as its publisher states it, be it the
      first digits alone; '' where none is published, so that only the tensors
      themselves are checked.
    package: (import name, path inside it) of a package that ships the file.
  """
  file: str
  url: str
  digest: str = ''
  package: tuple[str, str] | None = None


class Spec(NamedTuple):
  """A backbone: architecture, preprocessing and published weights.

  Attributes:
    name: the name it was built by.
    module: linen module; `module(x, *, train)` gives logits, or pooled
      features [B, D] where it has no classes; `module.apply(variables, x,
      train=..., levels=(...), method='features')` gives a tuple of maps
      [B, h, w, C].
    preprocess: images float32 [B, H, W, 3] in `input_range`, RGB, to what the
      network takes; a ValueError for concrete images outside the range.
    input_range: least and greatest value of an image.
    image_size: side, in pixels, that the published weights were trained at.
    stages: level name -> regular expression of the parameter paths
      ('/'-joined) that make it, from the input to the output; the head, which
      belongs to none, is what no stage matches.
    weights: 'top' and 'notop' files, with and without the classifier.
    head: names of the classifier's layers in a weight file.
    layer_names: layout ('keras', 'torch') -> function from a module's path to
      its layer's name in a file of that layout; the other layouts are refused.
    adapt: weight file (`vision_jax.pretrained.File`) -> its tensors under the
      names that `layer_names` gives.
    fit: name of a tensor -> function from (tensor, wanted shape) to a tensor,
      for those that depend on the size of the images.
  """
  name: str
  module: nn.Module
  preprocess: Callable[[jax.Array], jax.Array]
  input_range: tuple[float, float]
  image_size: int
  stages: Mapping[str, str]
  weights: Mapping[str, Weights]
  head: tuple[str, ...]
  layer_names: Mapping[str, Callable[[tuple[str, ...]], str]]
  adapt: Callable[[Any], dict[str, np.ndarray]] = lambda file: file.tensors
  fit: Mapping[str, Callable[..., np.ndarray]] = types.MappingProxyType({})


class Backbone(nn.Module):
  """Base of all families: `forward` is theirs, the two entrances are here.

  Attributes:
    num_classes: outputs of the classifier; 0 leaves it out.
    dtype: type of the computation; parameters are always float32.
    remat: whether the gradient computes what is inside the blocks a second
      time instead of keeping it.
  """
  num_classes: int = 0
  dtype: Any = jnp.float32
  remat: bool = False

  def run_block(self, block: nn.Module, x: jax.Array, **modes) -> jax.Array:
    """Returns `block(x, **modes)`; every block of a family goes through it."""
    return self.run_part(lambda block, x: block(x, **modes), block, x)

  def run_part(self, function, module: nn.Module, x: jax.Array) -> jax.Array:
    """Returns `function(module, x)`, for a block that is no module."""
    if self.remat and not self.is_initializing():
      return remat.run(function, module, x)
    return function(module, x)

  def forward(self, x, *, train: bool, head: bool):
    """Returns ({level: map}, output); the output is None without `head`."""
    raise NotImplementedError(f'{type(self).__name__}.forward')

  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns logits [B, num_classes], or features [B, D] without classes."""
    return self.forward(x, train=train, head=True)[1]

  def features(
      self, x: jax.Array, *, train: bool, levels: tuple[str, ...],
  ) -> tuple[jax.Array, ...]:
    """Returns the maps [B, h, w, C] of the named levels, in their order."""
    maps, _ = self.forward(x, train=train, head=False)
    unknown = [level for level in levels if level not in maps]
    if unknown:
      raise ValueError(
          f'{type(self).__name__} has no level {unknown}; it has {list(maps)}')
    return tuple(maps[level] for level in levels)


def keras_layer(path: tuple[str, ...]) -> str:
  """Keras' flat layer name: the module path joined by underscores."""
  return '_'.join(path)


def keras_weights(
    folder: str, file: str, top: str, notop: str, digests: tuple[str, str],
) -> dict[str, Weights]:
  """Both files of a Keras application: `file` + `top` and `file` + `notop`."""
  url = f'{_KERAS}{folder}/' if folder else _KERAS.replace('tensorflow/', '')
  return {
      kind: Weights(file + end, f'{url}{file}{end}', digest)
      for kind, end, digest in zip(
          ('top', 'notop'), (top, notop), digests, strict=True)}


def torch_weights(file: str) -> Weights:
  """A file of torchvision, whose name ends in the digits of its SHA-256."""
  digits = file.removesuffix('.pth').rpartition('-')[2]
  return Weights(file, _TORCHVISION + file, f'sha256:{digits}')


def check_images(images: jax.Array) -> None:
  """Raises ValueError unless images are float RGB within [0, 1].

  Values are only there to be looked at outside `jit`; shape and type always.
  """
  if images.ndim != 4 or images.shape[-1] != 3:
    raise ValueError(f'images must be [B, H, W, 3], not {images.shape}')
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(
        f'images must be floats in [0, 1], not {images.dtype}: divide by 255')
  if isinstance(images, jax.core.Tracer) or not images.size:
    return
  low, high = float(images.min()), float(images.max())
  if not (low >= 0.0 and high <= 1.0):  # NaN fails this too
    raise ValueError(
        f'images must lie in [0, 1], not [{low:g}, {high:g}]: the backbone '
        'scales and centres them itself')


def scale_to_255(images: jax.Array) -> jax.Array:
  """[0, 1] to [0, 255], for networks that normalise inside."""
  check_images(images)
  return images * 255.0


def scale_to_one(images: jax.Array) -> jax.Array:
  """[0, 1] to [-1, 1] (Keras' mode 'tf')."""
  check_images(images)
  return images * 2.0 - 1.0


def standardise(images: jax.Array) -> jax.Array:
  """[0, 1] to ImageNet's zero mean and unit deviation (Keras' 'torch')."""
  check_images(images)
  return (images - jnp.array(IMAGENET_MEAN)) / jnp.array(IMAGENET_STDDEV)


def centre_bgr(images: jax.Array) -> jax.Array:
  """[0, 1] RGB to BGR in [0, 255] less ImageNet's mean (Keras' 'caffe')."""
  check_images(images)
  return images[..., ::-1] * 255.0 - jnp.array(_CAFFE_MEAN_BGR)
