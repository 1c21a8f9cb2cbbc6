"""MobileNetV2, width 1.0 (Sandler et al., arXiv:1801.04381), as Keras has it.

Preprocessing: RGB in [0, 1] to [-1, 1].
XLA's SAME padding equals the explicit padding that Keras computes for a known
image size, odd sizes included; a Keras model built for unknown sizes pads
odd maps differently and is not what this reproduces.

'mobilenet_v2_torch' is torchvision's: one pixel of padding on every side,
other BatchNorm constants, ImageNet's zero mean and unit deviation.
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vision_jax.models import layers
from vision_jax.models import spec

# (output channels, stride, first block, blocks) of each group of blocks.
_GROUPS = (
    (24, 2, 1, 2), (32, 2, 3, 3), (64, 2, 6, 4), (96, 1, 10, 3),
    (160, 2, 13, 3), (320, 1, 16, 1))
_TORCH = 'mobilenet_v2-b0353104.pth'
NAMES = ('mobilenet_v2', 'mobilenet_v2_torch')


class InvertedResidual(nn.Module):
  """1x1 expansion, 3x3 depthwise, 1x1 projection; adds x where it fits."""
  features: int
  stride: int
  expansion: int
  padding: layers.Padding
  conv: Any
  norm: Any

  @nn.compact
  def __call__(self, x):
    width = self.expansion * x.shape[-1]
    y = x
    if self.expansion > 1:
      y = self.conv(width, (1, 1), name='expand')(y)
      y = nn.relu6(self.norm(name='expand_BN')(y))
    y = self.conv(
        width, (3, 3), strides=(self.stride, self.stride),
        padding=self.padding, groups=width, name='depthwise')(y)
    y = nn.relu6(self.norm(name='depthwise_BN')(y))
    y = self.conv(self.features, (1, 1), name='project')(y)
    y = self.norm(name='project_BN')(y)
    return x + y if x.shape == y.shape else y


class MobileNetV2(spec.Backbone):
  """A stem, seventeen inverted residuals and a 1x1 convolution to 1280.

  Attributes:
    torch: whether it is torchvision's variant.
  """
  torch: bool = False

  @nn.compact
  def forward(self, x, *, train, head):
    conv = functools.partial(layers.Conv, use_bias=False, dtype=self.dtype)
    norm = functools.partial(
        layers.BatchNorm, use_running_average=not train,
        momentum=0.9 if self.torch else 0.999,
        epsilon=1e-5 if self.torch else 1e-3, use_fast_variance=False,
        dtype=self.dtype)
    padding = ((1, 1), (1, 1)) if self.torch else 'SAME'
    block = functools.partial(
        InvertedResidual, padding=padding, conv=conv, norm=norm)
    x = conv(32, (3, 3), strides=(2, 2), padding=padding, name='Conv1')(
        x.astype(self.dtype))
    x = nn.relu6(norm(name='bn_Conv1')(x))
    x = self.run_block(block(16, 1, 1, name='expanded_conv'), x)
    maps = {'stride2': x}
    reduction = 2
    for features, stride, first, blocks in _GROUPS:
      reduction *= stride
      for index in range(first, first + blocks):
        x = self.run_block(block(
            features, stride if index == first else 1, 6,
            name=f'block_{index}'), x)
      maps[f'stride{reduction}'] = x
    x = conv(1280, (1, 1), name='Conv_1')(x)
    x = nn.relu6(norm(name='Conv_1_bn')(x))
    maps['stride32'] = x
    if not head:
      return maps, None
    x = jnp.mean(x, axis=(1, 2))
    if self.num_classes:
      x = nn.Dense(self.num_classes, dtype=self.dtype, name='predictions')(x)
    return maps, x


def _torch_layer(path: tuple[str, ...]) -> str:
  """Name of a layer in torchvision's files."""
  outer = {
      'Conv1': '0.0', 'bn_Conv1': '0.1', 'Conv_1': '18.0', 'Conv_1_bn': '18.1'}
  if len(path) == 1:
    return f'features.{outer[path[0]]}' if path[0] in outer else 'classifier.1'
  block, layer = path
  number = 0 if block == 'expanded_conv' else int(block.split('_')[1])
  parts = ('expand', 'depthwise', 'project')[0 if number else 1:]
  kind = layer.removesuffix('_BN')
  place, norm = parts.index(kind), int(kind != layer)
  # A convolution and its BatchNorm are one layer but for the last two.
  part = place + norm if kind == 'project' else f'{place}.{norm}'
  return f'features.{number + 1}.conv.{part}'


def make_spec(name: str, **options) -> spec.Spec:
  """Builds one of `NAMES`; `options` are `MobileNetV2`'s attributes."""
  record = spec.Spec(
      name=name,
      module=MobileNetV2(torch=name.endswith('_torch'), **options),
      preprocess=spec.scale_to_one,
      input_range=(0.0, 1.0),
      image_size=224,
      stages={
          'stride2': r'(Conv1|bn_Conv1|expanded_conv)/.*',
          'stride4': r'block_[12]/.*',
          'stride8': r'block_[345]/.*',
          'stride16': r'block_([6-9]|1[0-2])/.*',
          'stride32': r'(block_1[3-6]|Conv_1|Conv_1_bn)/.*'},
      weights=spec.keras_weights(
          'mobilenet_v2',
          'mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224',
          '.h5', '_no_top.h5', ('', '')),
      head=('predictions',),
      layer_names={'keras': spec.keras_layer})
  if not record.module.torch:
    return record
  return record._replace(
      preprocess=spec.standardise,
      weights={'top': spec.torch_weights(_TORCH)},
      head=('classifier.1',),
      layer_names={'torch': _torch_layer})
