"""Vision transformers S/16 and B/16 (arXiv:2010.11929), as timm has them.

Preprocessing: RGB in [0, 1] to [-1, 1] (the AugReg weights, arXiv:2106.10270).
'vit_b16_torch' is torchvision's: ImageNet's zero mean and unit deviation.

The table of positions belongs to one image size: the one the module was
initialised with, a multiple of 16. That of a file is resampled where it is of
another size, provided that both images are square.
"""

import functools
import math
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vision_jax.models import layers
from vision_jax.models import spec

_SIZES = {'vit_s16': ('small', 384, 6), 'vit_b16': ('base', 768, 12)}
_DEPTH = 12
_PATCH = 16
_TORCH = 'vit_b_16-c867db91.pth'
NAMES = (*_SIZES, 'vit_b16_torch')
# Names of torchvision's layers -> those of timm's.
_FROM_TORCHVISION = (
    (r'^conv_proj\.', 'patch_embed.proj.'),
    (r'^class_token$', 'cls_token'),
    (r'^encoder\.pos_embedding$', 'pos_embed'),
    (r'^encoder\.ln\.', 'norm.'),
    (r'^heads\.head\.', 'head.'),
    (r'^encoder\.layers\.encoder_layer_(\d+)\.', r'blocks.\1.'),
    (r'\.ln_(\d)\.', r'.norm\1.'),
    (r'\.self_attention\.in_proj_', '.attn.qkv.'),
    (r'\.self_attention\.out_proj\.', '.attn.proj.'),
    (r'\.mlp\.(0|linear_1)\.', '.mlp.fc1.'),
    (r'\.mlp\.(3|linear_2)\.', '.mlp.fc2.'))
_INIT = nn.initializers.truncated_normal(0.02)


class Attention(nn.Module):
  """Multi-head self-attention over [B, N, D]."""
  heads: int
  dense: Any

  @nn.compact
  def __call__(self, x):
    batch, tokens, width = x.shape
    qkv = self.dense(3 * width, name='qkv')(x)
    qkv = qkv.reshape(batch, tokens, 3, self.heads, width // self.heads)
    x = nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
    return self.dense(width, name='proj')(x.reshape(batch, tokens, width))


class Block(nn.Module):
  """Attention and a two-layer perceptron, each normalised before."""
  heads: int
  dense: Any
  norm: Any

  @nn.compact
  def __call__(self, x):
    y = self.norm(name='norm1')(x)
    x = x + Attention(self.heads, self.dense, name='attn')(y)
    y = self.norm(name='norm2')(x)
    y = self.dense(4 * x.shape[-1], name='mlp_fc1')(y)
    y = self.dense(x.shape[-1], name='mlp_fc2')(nn.gelu(y, approximate=False))
    return x + y


class ViT(spec.Backbone):
  """Sixteen-pixel patches and a class token through twelve blocks.

  Features are the normalised class token; the maps of the levels are the
  patch tokens [B, H / 16, W / 16, D] behind each block, not normalised.

  Attributes:
    width: channels of a token.
    heads: attention heads.
  """
  width: int = 768
  heads: int = 12

  @nn.compact
  def forward(self, x, *, train, head):
    del train  # Nothing here behaves differently in training.
    if x.shape[1] % _PATCH or x.shape[2] % _PATCH:
      raise ValueError(
          f'image height and width must be multiples of {_PATCH}, not '
          f'{x.shape[1]}x{x.shape[2]}')
    dense = functools.partial(nn.Dense, kernel_init=_INIT, dtype=self.dtype)
    norm = functools.partial(
        nn.LayerNorm, epsilon=1e-6, use_fast_variance=False, dtype=self.dtype)
    x = layers.Conv(
        self.width, (_PATCH, _PATCH), strides=(_PATCH, _PATCH),
        padding='VALID', dtype=self.dtype, name='patch_embed_proj')(x)
    batch, height, width, _ = x.shape
    x = x.reshape(batch, height * width, self.width)
    token = self.param('cls_token', _INIT, (1, 1, self.width))
    position = self.param(
        'pos_embed', _INIT, (1, height * width + 1, self.width))
    token = jnp.broadcast_to(token, (batch, 1, self.width))
    x = jnp.concatenate([token.astype(self.dtype), x], axis=1)
    x = x + position.astype(self.dtype)
    maps = {}
    for index in range(_DEPTH):
      x = self.run_block(
          Block(self.heads, dense, norm, name=f'blocks_{index}'), x)
      maps[f'block{index + 1}'] = x[:, 1:].reshape(
          batch, height, width, self.width)
    if not head:
      return maps, None
    x = norm(name='norm')(x)[:, 0]
    if self.num_classes:
      x = dense(self.num_classes, name='head')(x)
    return maps, x


def _torch_layer(path: tuple[str, ...]) -> str:
  """Name of a layer in timm's files."""
  name = re.sub(r'^blocks_(\d+)', r'blocks.\1', '.'.join(path))
  return name.replace('patch_embed_', 'patch_embed.').replace('mlp_', 'mlp.')


def _from_torchvision(file) -> dict[str, np.ndarray]:
  """Gives the tensors of torchvision's file timm's names."""
  tensors = {}
  for name, value in file.tensors.items():
    for pattern, replacement in _FROM_TORCHVISION:
      name = re.sub(pattern, replacement, name)
    tensors[name] = value
  return tensors


def resample_positions(table: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """Resamples a table of positions to images of another size.

  Bicubic with antialiasing, as timm; the class token's row stays. A table
  that fits, or that belongs to no square grid, comes back as it is.

  Args:
    table: float [1, h * h + 1, D].
    shape: (1, k * k + 1, D), of the table that is wanted.
  """
  if (table.shape == shape or table.ndim != 3
      or (table.shape[0], table.shape[2]) != (shape[0], shape[2])):
    return table
  old, new = math.isqrt(table.shape[1] - 1), math.isqrt(shape[1] - 1)
  if (old**2, new**2) != (table.shape[1] - 1, shape[1] - 1):
    return table
  grid = jax.image.resize(
      table[:, 1:].reshape(1, old, old, -1), (1, new, new, table.shape[2]),
      'cubic', antialias=True)
  return np.concatenate([table[:, :1], grid.reshape(1, new**2, -1)], axis=1)


def make_spec(name: str, **options) -> spec.Spec:
  """Builds one of `NAMES`; `options` are `Backbone`'s attributes."""
  size, width, heads = _SIZES[name.removesuffix('_torch')]
  repository = f'vit_{size}_patch16_224.augreg_in21k_ft_in1k'
  stages = {
      f'block{i + 1}': rf'blocks_{i}/.*' for i in range(_DEPTH)}
  stages['block1'] = r'(patch_embed_proj/.*|cls_token|pos_embed|blocks_0/.*)'
  stages['block12'] = r'(blocks_11|norm)/.*'
  record = spec.Spec(
      name=name,
      module=ViT(width=width, heads=heads, **options),
      preprocess=spec.scale_to_one,
      input_range=(0.0, 1.0),
      image_size=224,
      stages=stages,
      weights={'top': spec.Weights(
          f'{repository}.safetensors',
          f'https://huggingface.co/timm/{repository}/resolve/main/'
          'model.safetensors')},
      head=('head',),
      layer_names={'torch': _torch_layer},
      fit={'pos_embed': resample_positions})
  if name in _SIZES:
    return record
  return record._replace(
      preprocess=spec.standardise,
      weights={'top': spec.torch_weights(_TORCH)},
      adapt=_from_torchvision)
