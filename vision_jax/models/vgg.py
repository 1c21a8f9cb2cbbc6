"""VGG16 and VGG19 (Simonyan & Zisserman, arXiv:1409.1556), as Keras has them.

Preprocessing: RGB in [0, 1] to BGR in [0, 255] less ImageNet's mean. The
names that end in '_torch' are the same networks for torchvision's files, with
ImageNet's zero mean and unit deviation. The classifier flattens the last map,
so with classes the image size is fixed by the weights (224 for the published
ones).
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vision_jax import ops
from vision_jax.models import layers
from vision_jax.models import spec

_WIDTHS = (64, 128, 256, 512, 512)
_DEPTHS = {'vgg16': (2, 2, 3, 3, 3), 'vgg19': (2, 2, 4, 4, 4)}
_DIGESTS = {
    'vgg16': (
        'md5:64373286793e3c8b2b4e3219cbf3544b',
        'md5:6d6bbae143d832006294945121d1f1fc'),
    'vgg19': (
        'md5:cbe5617147190e668d6c5d5026f83318',
        'md5:253f8cb515780f3b799900260a226db6'),
}
_TORCH = {'vgg16': 'vgg16-397923af.pth', 'vgg19': 'vgg19-dcbb9e9d.pth'}
_TORCH_HEAD = {'fc1': 'classifier.0', 'fc2': 'classifier.3',
               'predictions': 'classifier.6'}
NAMES = (*_DEPTHS, *(f'{name}_torch' for name in _TORCH))


class VGG(spec.Backbone):
  """Five blocks of 3x3 convolutions, each ending in a halving max pool.

  Attributes:
    depths: convolutions in each block.
  """
  depths: tuple[int, ...] = _DEPTHS['vgg16']

  @nn.compact
  def forward(self, x, *, train, head):
    del train  # Nothing here behaves differently in training.
    maps = {}
    x = x.astype(self.dtype)
    for block, (width, depth) in enumerate(zip(_WIDTHS, self.depths), 1):
      names = [f'block{block}_conv{i}' for i in range(1, depth + 1)]
      x = self.run_part(functools.partial(_block, names, width), self, x)
      maps[f'block{block}'] = x
    if not head:
      return maps, None
    if not self.num_classes:
      return maps, jnp.mean(x, axis=(1, 2))
    x = x.reshape(x.shape[0], -1)
    for name in ('fc1', 'fc2'):
      x = nn.relu(layers.Dense(4096, dtype=self.dtype, name=name)(x))
    return maps, layers.Dense(
        self.num_classes, dtype=self.dtype, name='predictions')(x)


def _block(names, width, module, x):
  """Convolutions of `module` with ReLU, and a halving max pool."""
  for name in names:
    x = nn.relu(layers.Conv(
        width, dtype=module.dtype, parent=module, name=name)(x))
  return ops.max_pool(x)


def _torch_names(depths: tuple[int, ...]) -> dict[str, str]:
  """Names of the layers in torchvision's files, by ours."""
  names, index = dict(_TORCH_HEAD), 0
  for block, depth in enumerate(depths, 1):
    for conv in range(1, depth + 1):
      names[f'block{block}_conv{conv}'] = f'features.{index}'
      index += 2  # A ReLU follows each convolution,
    index += 1  # and a pooling layer each block.
  return names


def _adapt_torch(file) -> dict[str, np.ndarray]:
  """Brings the first dense layer's inputs from [C, h, w] to [h, w, C]."""
  tensors = dict(file.tensors)
  name = f'{_TORCH_HEAD["fc1"]}.weight'
  if name in tensors and tensors[name].shape[1:] == (512 * 7 * 7,):
    weight = tensors[name].reshape(-1, 512, 7, 7)
    tensors[name] = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)
  return tensors


def make_spec(name: str, **options) -> spec.Spec:
  """Builds one of `NAMES`; `options` are `VGG`'s attributes."""
  base = name.removesuffix('_torch')
  record = spec.Spec(
      name=name,
      module=VGG(depths=_DEPTHS[base], **options),
      preprocess=spec.centre_bgr,
      input_range=(0.0, 1.0),
      image_size=224,
      stages={f'block{i}': rf'block{i}_conv\d+/.*' for i in range(1, 6)},
      weights=spec.keras_weights(
          base, f'{base}_weights_tf_dim_ordering_tf_kernels',
          '.h5', '_notop.h5', _DIGESTS[base]),
      head=('fc1', 'fc2', 'predictions'),
      layer_names={'keras': spec.keras_layer})
  if name == base:
    return record
  names = _torch_names(_DEPTHS[base])
  return record._replace(
      preprocess=spec.standardise,
      weights={'top': spec.torch_weights(_TORCH[base])},
      head=tuple(_TORCH_HEAD.values()),
      layer_names={'torch': lambda path: names[path[0]]},
      adapt=_adapt_torch)
