"""DenseNet121 (Huang et al., arXiv:1608.06993), as Keras has it.

Preprocessing: RGB in [0, 1] to ImageNet's zero mean and unit deviation.
torchvision's files load, too: they hold the same network, but for a
BatchNorm epsilon of 1e-5.
"""

import functools
import re
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vision_jax import ops
from vision_jax.models import layers
from vision_jax.models import spec

_DEPTHS = (6, 12, 24, 16)
_GROWTH = 32
_DIGESTS = (
    'md5:9d60b8095a5708f2dcce2bca79d332c7',
    'md5:30ee3e1110167f948a6b9946edeeb738')
NAMES = ('densenet121',)


class DenseLayer(nn.Module):
  """Appends `_GROWTH` channels computed from all channels before them."""
  conv: Any
  norm: Any

  @nn.compact
  def __call__(self, x):
    y = nn.relu(self.norm(name='0_bn')(x))
    y = self.conv(4 * _GROWTH, (1, 1), name='1_conv')(y)
    y = nn.relu(self.norm(name='1_bn')(y))
    y = self.conv(_GROWTH, (3, 3), name='2_conv')(y)
    return jnp.concatenate([x, y], axis=-1)


class Transition(nn.Module):
  """Halves the channels, then the height and width."""
  conv: Any
  norm: Any

  @nn.compact
  def __call__(self, x):
    x = nn.relu(self.norm(name='bn')(x))
    x = self.conv(x.shape[-1] // 2, (1, 1), name='conv')(x)
    return nn.avg_pool(x, (2, 2), strides=(2, 2))


class DenseNet(spec.Backbone):
  """A 7x7 stem and four dense blocks with transitions between them."""

  @nn.compact
  def forward(self, x, *, train, head):
    conv = functools.partial(layers.Conv, use_bias=False, dtype=self.dtype)
    norm = functools.partial(
        layers.BatchNorm, use_running_average=not train, momentum=0.99,
        epsilon=1.001e-5, use_fast_variance=False, dtype=self.dtype)
    x = conv(
        64, (7, 7), strides=(2, 2), padding=((3, 3), (3, 3)),
        name='conv1_conv')(x.astype(self.dtype))
    x = nn.relu(norm(name='conv1_bn')(x))
    maps = {'conv1': x}
    x = ops.max_pool(
        x, window=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    for stage, depth in enumerate(_DEPTHS, 2):
      if stage > 2:
        x = self.run_block(
            Transition(conv=conv, norm=norm, name=f'pool{stage - 1}'), x)
      for index in range(1, depth + 1):
        x = self.run_block(DenseLayer(
            conv=conv, norm=norm, name=f'conv{stage}_block{index}'), x)
      if stage == 5:
        x = nn.relu(norm(name='bn')(x))
      maps[f'conv{stage}'] = x
    if not head:
      return maps, None
    x = jnp.mean(x, axis=(1, 2))
    if self.num_classes:
      x = nn.Dense(self.num_classes, dtype=self.dtype, name='predictions')(x)
    return maps, x


def _torch_layer(path: tuple[str, ...]) -> str:
  """Name of a layer in torchvision's files."""
  name = '/'.join(path)
  for pattern, replacement in (
      (r'^conv1_conv$', 'features.conv0'),
      (r'^conv1_bn$', 'features.norm0'),
      (r'^bn$', 'features.norm5'),
      (r'^predictions$', 'classifier'),
      (r'/0_bn$', '.norm1'), (r'/1_conv$', '.conv1'),
      (r'/1_bn$', '.norm2'), (r'/2_conv$', '.conv2'),
      (r'/bn$', '.norm'), (r'/conv$', '.conv')):
    name = re.sub(pattern, replacement, name)
  match = re.match(r'(?:conv(\d)_block(\d+)|pool(\d))\.', name)
  if not match:
    return name
  stage, block, pool = match.groups()
  start = f'transition{int(pool) - 1}.' if pool else (
      f'denseblock{int(stage) - 1}.denselayer{block}.')
  return f'features.{start}{name[match.end():]}'


def _adapt(file) -> dict[str, np.ndarray]:
  """Gives the layers of torchvision's published file their later names."""
  return {re.sub(r'\.(norm|conv)\.(\d)\.', r'.\1\2.', key): value
          for key, value in file.tensors.items()}


def make_spec(name: str, **options) -> spec.Spec:
  """Builds 'densenet121'; `options` are `DenseNet`'s attributes."""
  return spec.Spec(
      name=name,
      module=DenseNet(**options),
      preprocess=spec.standardise,
      input_range=(0.0, 1.0),
      image_size=224,
      stages={
          'conv1': r'conv1_.*', 'conv2': r'conv2_.*',
          'conv3': r'(pool2/|conv3_).*', 'conv4': r'(pool3/|conv4_).*',
          'conv5': r'(pool4/|conv5_|bn/).*'},
      weights=spec.keras_weights(
          'densenet', 'densenet121_weights_tf_dim_ordering_tf_kernels',
          '.h5', '_notop.h5', _DIGESTS),
      head=('predictions', 'classifier'),
      layer_names={'keras': spec.keras_layer, 'torch': _torch_layer},
      adapt=_adapt)
