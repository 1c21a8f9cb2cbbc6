"""ResNet50 and ResNet101, version 1 (He et al., arXiv:1512.03385), as Keras.

The stride sits on the first 1x1 convolution of a block, convolutions have
biases, and the stem pads by hand. Preprocessing: RGB in [0, 1] to BGR in
[0, 255] less ImageNet's mean.

The names that end in '_torch' are torchvision's and timm's "v1.5": the stride
is on the 3x3 convolution, there are no biases, and preprocessing gives
ImageNet's zero mean and unit deviation.
"""

import functools
import re
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vision_jax import ops
from vision_jax.models import layers
from vision_jax.models import spec

_DEPTHS = {'resnet50': (3, 4, 6, 3), 'resnet101': (3, 4, 23, 3)}
_DIGESTS = {
    'resnet50': (
        'md5:2cb95161c43110f7111970584f804107',
        'md5:4d473c1dd8becc155b73f8504c6f6626'),
    'resnet101': (
        'md5:f1aeb4b969a6efcfb50fad2f0c20cfc5',
        'md5:88cf7a10940856eca736dc7b7e228a21'),
}
_TORCH = {'resnet50': 'resnet50-0676ba61.pth',
          'resnet101': 'resnet101-63fe2227.pth'}
NAMES = (*_DEPTHS, *(f'{name}_torch' for name in _TORCH))


class Bottleneck(nn.Module):
  """1x1, 3x3, 1x1 with a shortcut, projected where the shape changes."""
  width: int
  stride: int
  late: bool
  project: bool
  conv: Any
  norm: Any

  @nn.compact
  def __call__(self, x):
    strides = (self.stride, self.stride)
    first, second = ((1, 1), strides) if self.late else (strides, (1, 1))
    shortcut = x
    if self.project:
      shortcut = self.conv(
          4 * self.width, (1, 1), strides=strides, name='0_conv')(x)
      shortcut = self.norm(name='0_bn')(shortcut)
    x = self.conv(self.width, (1, 1), strides=first, name='1_conv')(x)
    x = nn.relu(self.norm(name='1_bn')(x))
    x = self.conv(
        self.width, (3, 3), strides=second, padding=((1, 1), (1, 1)),
        name='2_conv')(x)
    x = nn.relu(self.norm(name='2_bn')(x))
    x = self.conv(4 * self.width, (1, 1), name='3_conv')(x)
    return nn.relu(shortcut + self.norm(name='3_bn')(x))


class ResNet(spec.Backbone):
  """A 7x7 stem and four stages of bottleneck blocks.

  Attributes:
    depths: blocks in each stage.
    torch: whether it is torchvision's variant, with its BatchNorm constants.
  """
  depths: tuple[int, ...] = _DEPTHS['resnet50']
  torch: bool = False

  @nn.compact
  def forward(self, x, *, train, head):
    conv = functools.partial(
        layers.Conv, use_bias=not self.torch, dtype=self.dtype)
    norm = functools.partial(
        layers.BatchNorm, use_running_average=not train,
        momentum=0.9 if self.torch else 0.99,
        epsilon=1e-5 if self.torch else 1.001e-5, use_fast_variance=False,
        dtype=self.dtype)
    x = conv(
        64, (7, 7), strides=(2, 2), padding=((3, 3), (3, 3)),
        name='conv1_conv')(x.astype(self.dtype))
    x = nn.relu(norm(name='conv1_bn')(x))
    maps = {'conv1': x}
    x = ops.max_pool(
        x, window=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    for stage, depth in enumerate(self.depths):
      for index in range(depth):
        stride = 2 if stage and not index else 1
        x = self.run_block(Bottleneck(
            64 * 2**stage, stride, late=self.torch, project=not index,
            conv=conv, norm=norm,
            name=f'conv{stage + 2}_block{index + 1}'), x)
      maps[f'conv{stage + 2}'] = x
    if not head:
      return maps, None
    x = jnp.mean(x, axis=(1, 2))
    if self.num_classes:
      x = nn.Dense(self.num_classes, dtype=self.dtype, name='predictions')(x)
    return maps, x


def _torch_layer(path: tuple[str, ...]) -> str:
  """Name of a layer in torchvision's and timm's files."""
  if path == ('predictions',):
    return 'fc'
  stem = re.fullmatch(r'conv1_(conv|bn)', path[0])
  if stem:
    return f'{stem[1]}1'
  stage, block = re.fullmatch(r'conv(\d)_block(\d+)', path[0]).groups()
  place, kind = path[1].split('_')
  part = f'{kind}{place}' if place != '0' else (
      f'downsample.{["conv", "bn"].index(kind)}')
  return f'layer{int(stage) - 1}.{int(block) - 1}.{part}'


def make_spec(name: str, **options) -> spec.Spec:
  """Builds one of `NAMES`; `options` are `ResNet`'s attributes."""
  base = name.removesuffix('_torch')
  record = spec.Spec(
      name=name,
      module=ResNet(depths=_DEPTHS[base], torch=name != base, **options),
      preprocess=spec.centre_bgr,
      input_range=(0.0, 1.0),
      image_size=224,
      stages={f'conv{i}': rf'conv{i}_.*' for i in range(1, 6)},
      weights=spec.keras_weights(
          'resnet', f'{base}_weights_tf_dim_ordering_tf_kernels',
          '.h5', '_notop.h5', _DIGESTS[base]),
      head=('predictions',),
      layer_names={'keras': spec.keras_layer})
  if name == base:
    return record
  return record._replace(
      preprocess=spec.standardise,
      weights={'top': spec.torch_weights(_TORCH[base])},
      head=('fc',),
      layer_names={'torch': _torch_layer})
