"""ConvNeXt-Tiny (Liu et al., arXiv:2201.03545), as Keras and timm have it.

Images are normalised inside, as in Keras, so preprocessing is RGB in [0, 1]
to [0, 255]. Keras', timm's and torchvision's files load; they hold the same
network.
"""

import functools
import re
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vision_jax.models import layers
from vision_jax.models import spec

_DEPTHS = (3, 3, 9, 3)
_WIDTHS = (96, 192, 384, 768)
_PREFIX = 'convnext_tiny_'
_DIGESTS = (
    'sha256:8ae6e78ce2933352b1ef4008e6dd2f17bc40771563877d156bc6426c7cf503ff',
    'sha256:d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1')
NAMES = ('convnext_tiny',)
_INIT = nn.initializers.truncated_normal(0.02)


class LayerScale(nn.Module):
  """Multiplies each channel by a learned factor that starts near zero."""

  @nn.compact
  def __call__(self, x):
    init = nn.initializers.constant(1e-6)
    return x * self.param('gamma', init, (x.shape[-1],)).astype(x.dtype)


class Block(nn.Module):
  """7x7 depthwise convolution and a two-layer perceptron, with a shortcut."""
  conv: Any
  dense: Any
  norm: Any

  @nn.compact
  def __call__(self, x):
    width = x.shape[-1]
    y = self.conv(width, (7, 7), groups=width, name='depthwise_conv')(x)
    y = self.norm(name='layernorm')(y)
    y = self.dense(4 * width, name='pointwise_conv_1')(y)
    y = nn.gelu(y, approximate=False)
    y = self.dense(width, name='pointwise_conv_2')(y)
    return x + LayerScale(name='layer_scale')(y)


class ConvNeXt(spec.Backbone):
  """A patch stem and four stages of blocks, halving the map in between."""

  @nn.compact
  def forward(self, x, *, train, head):
    del train  # Nothing here behaves differently in training.
    conv = functools.partial(
        layers.Conv, kernel_init=_INIT, dtype=self.dtype)
    dense = functools.partial(nn.Dense, kernel_init=_INIT, dtype=self.dtype)
    norm = functools.partial(
        nn.LayerNorm, epsilon=1e-6, use_fast_variance=False, dtype=self.dtype)
    mean = 255.0 * jnp.array(spec.IMAGENET_MEAN)
    x = (x - mean) / (255.0 * jnp.array(spec.IMAGENET_STDDEV))
    maps = {}
    for stage, (width, depth) in enumerate(zip(_WIDTHS, _DEPTHS)):
      if stage:
        x = norm(name=f'downsampling_layernorm_{stage - 1}')(x)
        x = conv(
            width, (2, 2), strides=(2, 2), padding='VALID',
            name=f'downsampling_conv_{stage - 1}')(x)
      else:
        x = conv(
            width, (4, 4), strides=(4, 4), padding='VALID',
            name='stem_conv')(x.astype(self.dtype))
        x = norm(name='stem_layernorm')(x)
      for index in range(depth):
        x = self.run_block(Block(
            conv=conv, dense=dense, norm=norm,
            name=f'stage_{stage}_block_{index}'), x)
      maps[f'stage{stage}'] = x
    if not head:
      return maps, None
    x = norm(name='head_layernorm')(jnp.mean(x, axis=(1, 2)))
    if self.num_classes:
      x = dense(self.num_classes, name='head_dense')(x)
    return maps, x


def _keras_layer(path: tuple[str, ...]) -> str:
  return _PREFIX + '_'.join(path)


def _adapt(file) -> dict[str, np.ndarray]:
  """Gives Keras' last normalisation its name, torchvision's layers timm's."""
  if file.layout == 'torch':
    return dict(_from_torchvision(*item) for item in file.tensors.items())
  # It has no name of its own without a top.
  return {
      re.sub('^layer_normalization/', f'{_PREFIX}head_layernorm/', key): value
      for key, value in file.tensors.items()}


def _from_torchvision(name: str, value: np.ndarray):
  """Name and tensor as timm has them; timm's own stay as they are."""
  match = re.match(r'features\.(\d)\.', name)
  if match and match[1] == '0':
    name = name.replace('features.0.', 'stem.')
  elif match:
    stage, block = int(match[1]) // 2, int(match[1]) % 2
    name = (f'stages.{stage}.{"blocks" if block else "downsample"}.'
            f'{name[match.end():]}')
  for old, new in (
      ('.block.0.', '.conv_dw.'), ('.block.2.', '.norm.'),
      ('.block.3.', '.mlp.fc1.'), ('.block.5.', '.mlp.fc2.'),
      ('classifier.0.', 'head.norm.'), ('classifier.2.', 'head.fc.')):
    name = name.replace(old, new)
  if name.endswith('.layer_scale'):
    return name.replace('layer_scale', 'gamma'), value.reshape(-1)
  return name, value


def _torch_layer(path: tuple[str, ...]) -> str:
  """Name of a layer in timm's files."""
  name = '/'.join(path)
  for pattern, replacement in (
      (r'^stem_conv', 'stem.0'),
      (r'^stem_layernorm', 'stem.1'),
      (r'^head_layernorm', 'head.norm'),
      (r'^head_dense', 'head.fc'),
      (r'^stage_(\d)_block_(\d)/', r'stages.\1.blocks.\2.'),
      (r'depthwise_conv$', 'conv_dw'),
      (r'\.layernorm$', '.norm'),
      (r'pointwise_conv_', 'mlp.fc'),
      (r'\.layer_scale$', '')):
    name = re.sub(pattern, replacement, name)
  match = re.fullmatch(r'downsampling_(layernorm|conv)_(\d)', name)
  if match:
    part = '0' if match[1] == 'layernorm' else '1'
    name = f'stages.{int(match[2]) + 1}.downsample.{part}'
  return name


def make_spec(name: str, **options) -> spec.Spec:
  """Builds 'convnext_tiny'; `options` are `ConvNeXt`'s attributes."""
  stages = {
      f'stage{i}': rf'(downsampling_[a-z]+_{i - 1}/|stage_{i}_).*'
      for i in range(1, 4)}
  return spec.Spec(
      name=name,
      module=ConvNeXt(**options),
      preprocess=spec.scale_to_255,
      input_range=(0.0, 1.0),
      image_size=224,
      stages={
          'stage0': r'(stem_|stage_0_).*', **stages,
          'stage3': rf'({stages["stage3"]}|head_layernorm/.*)'},
      weights=spec.keras_weights(
          'convnext', 'convnext_tiny', '.h5', '_notop.h5', _DIGESTS),
      head=(f'{_PREFIX}head_dense', 'head.fc'),
      layer_names={'keras': _keras_layer, 'torch': _torch_layer},
      adapt=_adapt)
