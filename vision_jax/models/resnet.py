"""ResNet50 and ResNet101, version 1 (He et al., arXiv:1512.03385), as Keras.

The stride sits on the first 1x1 convolution of a block (PyTorch's "v1.5" has
it on the 3x3), convolutions have biases, and the stem pads by hand.
Preprocessing: RGB in [0, 1] to BGR in [0, 255] less ImageNet's mean.
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

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
NAMES = tuple(_DEPTHS)


class Bottleneck(nn.Module):
  """1x1, 3x3, 1x1 with a shortcut, projected where the shape changes."""
  width: int
  stride: int
  project: bool
  conv: Any
  norm: Any

  @nn.compact
  def __call__(self, x):
    strides = (self.stride, self.stride)
    shortcut = x
    if self.project:
      shortcut = self.conv(
          4 * self.width, (1, 1), strides=strides, name='0_conv')(x)
      shortcut = self.norm(name='0_bn')(shortcut)
    x = self.conv(self.width, (1, 1), strides=strides, name='1_conv')(x)
    x = nn.relu(self.norm(name='1_bn')(x))
    x = self.conv(self.width, (3, 3), name='2_conv')(x)
    x = nn.relu(self.norm(name='2_bn')(x))
    x = self.conv(4 * self.width, (1, 1), name='3_conv')(x)
    return nn.relu(shortcut + self.norm(name='3_bn')(x))


class ResNet(spec.Backbone):
  """A 7x7 stem and four stages of bottleneck blocks.

  Attributes:
    depths: blocks in each stage.
  """
  depths: tuple[int, ...] = _DEPTHS['resnet50']

  @nn.compact
  def forward(self, x, *, train, head):
    conv = functools.partial(layers.Conv, dtype=self.dtype)
    norm = functools.partial(
        nn.BatchNorm, use_running_average=not train, momentum=0.99,
        epsilon=1.001e-5, use_fast_variance=False, dtype=self.dtype)
    x = conv(
        64, (7, 7), strides=(2, 2), padding=((3, 3), (3, 3)),
        name='conv1_conv')(x.astype(self.dtype))
    x = nn.relu(norm(name='conv1_bn')(x))
    maps = {'conv1': x}
    x = nn.max_pool(
        x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    for stage, depth in enumerate(self.depths):
      for index in range(depth):
        stride = 2 if stage and not index else 1
        x = Bottleneck(
            64 * 2**stage, stride, project=not index, conv=conv, norm=norm,
            name=f'conv{stage + 2}_block{index + 1}')(x)
      maps[f'conv{stage + 2}'] = x
    if not head:
      return maps, None
    x = jnp.mean(x, axis=(1, 2))
    if self.num_classes:
      x = nn.Dense(self.num_classes, dtype=self.dtype, name='predictions')(x)
    return maps, x


def make_spec(name: str, **options) -> spec.Spec:
  """Builds 'resnet50' or 'resnet101'; `options` are `ResNet`'s attributes."""
  return spec.Spec(
      name=name,
      module=ResNet(depths=_DEPTHS[name], **options),
      preprocess=spec.centre_bgr,
      input_range=(0.0, 1.0),
      image_size=224,
      stages={f'conv{i}': rf'conv{i}_.*' for i in range(1, 6)},
      weights=spec.keras_weights(
          'resnet', f'{name}_weights_tf_dim_ordering_tf_kernels',
          '.h5', '_notop.h5', _DIGESTS[name]),
      head=('predictions',),
      layer_names={'keras': spec.keras_layer})
