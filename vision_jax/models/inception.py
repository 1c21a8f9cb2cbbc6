"""InceptionV3 (Szegedy et al. 2016, arXiv:1512.00567), as torchvision has it.

Its pooled features are those of the Fréchet inception distance, up to the
weights: papers use TensorFlow's, these are torchvision's. Modules bear the
names of torchvision's file. Preprocessing: RGB in [0, 1] to [-1, 1], which is
what its `transform_input` makes of standardised images.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vision_jax import ops
from vision_jax.models import layers
from vision_jax.models import spec

NAMES = ('inception_v3_torch',)


class Unit(nn.Module):
  """Convolution, BatchNorm and ReLU."""
  features: int
  kernel_size: tuple[int, int] = (1, 1)
  strides: tuple[int, int] = (1, 1)
  padding: str = 'SAME'
  train: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = layers.Conv(
        self.features, self.kernel_size, strides=self.strides,
        padding=self.padding, use_bias=False, dtype=self.dtype, name='conv')(x)
    return nn.relu(layers.BatchNorm(
        use_running_average=not self.train, momentum=0.9, epsilon=1e-3,
        use_fast_variance=False, dtype=self.dtype, name='bn')(x))


def _halve(x: jax.Array) -> jax.Array:
  return ops.max_pool(x, window=(3, 3), strides=(2, 2))


class Mixed(nn.Module):
  """Branches side by side, their channels joined.

  Attributes:
    kind: layout of torchvision's InceptionA to InceptionE, 'a' to 'e'.
    unit: makes a `Unit`.
    width: channels that vary between blocks of a kind.
  """
  kind: str
  unit: functools.partial
  width: int = 0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return jnp.concatenate(getattr(self, f'_{self.kind}')(x), axis=-1)

  def _chain(self, x, branch, *units):
    """Runs units (features, kernel, options...) named <branch>_<i>."""
    for i, (features, kernel, *options) in enumerate(units, 1):
      halved = dict(strides=(2, 2), padding='VALID') if options else {}
      x = self.unit(
          features, kernel, **halved, name=f'{branch}_{i}')(x)
    return x

  def _pool(self, x, features):
    x = nn.avg_pool(x, (3, 3), padding='SAME')
    return self.unit(features, name='branch_pool')(x)

  def _a(self, x):
    return (
        self.unit(64, name='branch1x1')(x),
        self._chain(x, 'branch5x5', (48, (1, 1)), (64, (5, 5))),
        self._chain(
            x, 'branch3x3dbl', (64, (1, 1)), (96, (3, 3)), (96, (3, 3))),
        self._pool(x, self.width))

  def _b(self, x):
    return (
        self.unit(384, (3, 3), strides=(2, 2), padding='VALID',
                  name='branch3x3')(x),
        self._chain(x, 'branch3x3dbl', (64, (1, 1)), (96, (3, 3)),
                    (96, (3, 3), 'halved')),
        _halve(x))

  def _c(self, x):
    w = self.width
    return (
        self.unit(192, name='branch1x1')(x),
        self._chain(x, 'branch7x7', (w, (1, 1)), (w, (1, 7)), (192, (7, 1))),
        self._chain(x, 'branch7x7dbl', (w, (1, 1)), (w, (7, 1)), (w, (1, 7)),
                    (w, (7, 1)), (192, (1, 7))),
        self._pool(x, 192))

  def _d(self, x):
    return (
        self._chain(
            x, 'branch3x3', (192, (1, 1)), (320, (3, 3), 'halved')),
        self._chain(x, 'branch7x7x3', (192, (1, 1)), (192, (1, 7)),
                    (192, (7, 1)), (192, (3, 3), 'halved')),
        _halve(x))

  def _e(self, x):
    def fork(y, name):
      return [self.unit(384, (1, 3), name=f'{name}a')(y),
              self.unit(384, (3, 1), name=f'{name}b')(y)]
    single = self._chain(x, 'branch3x3', (384, (1, 1)))
    double = self._chain(x, 'branch3x3dbl', (448, (1, 1)), (384, (3, 3)))
    return (
        self.unit(320, name='branch1x1')(x), *fork(single, 'branch3x3_2'),
        *fork(double, 'branch3x3dbl_3'), self._pool(x, 192))


# Block, its kind and its width, by the level that it belongs to.
_BLOCKS = {
    'mixed5': (('Mixed_5b', 'a', 32), ('Mixed_5c', 'a', 64),
               ('Mixed_5d', 'a', 64)),
    'mixed6': (('Mixed_6a', 'b', 0), ('Mixed_6b', 'c', 128),
               ('Mixed_6c', 'c', 160), ('Mixed_6d', 'c', 160),
               ('Mixed_6e', 'c', 192)),
    'mixed7': (('Mixed_7a', 'd', 0), ('Mixed_7b', 'e', 0),
               ('Mixed_7c', 'e', 0)),
}


class Inception(spec.Backbone):
  """A stem of five convolutions and eleven blocks of branches."""

  @nn.compact
  def forward(self, x, *, train, head):
    unit = functools.partial(Unit, train=train, dtype=self.dtype)
    valid = functools.partial(unit, kernel_size=(3, 3), padding='VALID')
    x = valid(32, strides=(2, 2), name='Conv2d_1a_3x3')(x.astype(self.dtype))
    x = valid(32, name='Conv2d_2a_3x3')(x)
    x = _halve(unit(64, (3, 3), name='Conv2d_2b_3x3')(x))
    x = unit(80, name='Conv2d_3b_1x1')(x)
    x = _halve(valid(192, name='Conv2d_4a_3x3')(x))
    maps = {'stem': x}
    for level, blocks in _BLOCKS.items():
      for name, kind, width in blocks:
        x = self.run_block(Mixed(kind, unit, width, name=name), x)
      maps[level] = x
    if not head:
      return maps, None
    x = jnp.mean(x, axis=(1, 2))
    if self.num_classes:
      x = nn.Dense(self.num_classes, dtype=self.dtype, name='fc')(x)
    return maps, x


def _adapt(file) -> dict[str, np.ndarray]:
  """Leaves out the auxiliary classifier, which only training uses."""
  return {key: value for key, value in file.tensors.items()
          if not key.startswith('AuxLogits.')}


def make_spec(name: str, **options) -> spec.Spec:
  """Builds 'inception_v3_torch'; `options` are `Inception`'s attributes."""
  return spec.Spec(
      name=name,
      module=Inception(**options),
      preprocess=spec.scale_to_one,
      input_range=(0.0, 1.0),
      image_size=299,
      stages={'stem': r'Conv2d_.*', 'mixed5': r'Mixed_5.*',
              'mixed6': r'Mixed_6.*', 'mixed7': r'Mixed_7.*'},
      weights={'top': spec.torch_weights('inception_v3_google-0cc3c7bd.pth')},
      head=('fc',),
      layer_names={'torch': '.'.join},
      adapt=_adapt)
