"""The CNN of the imbalance study: four convolutions and two dense layers.

Sizes follow the study's Table 2, whose printed padding of the third
convolution contradicts its own sizes. Knows nothing of imbalance.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision_jax import ops
from vision_jax.models import heads
from vision_jax.models import layers

_WIDTHS = (32, 64, 128, 128)
_KERNELS = (7, 5, 3, 3)
_INIT = nn.initializers.normal(0.01)


class Encoder(nn.Module):
  """Four times convolution, ReLU and pooling, [B, H, W, 3] to [B, h, w, 128].

  Pooling takes 3x3 windows in steps of 2 and rounds sizes down. With 227
  pixels the sizes are 111, 55, 55, 27, 27, 13, 13 and 6. BatchNorm comes
  before the ReLU, with epsilon 1e-5 and momentum .9.

  Attributes:
    batch_norm: whether each convolution is normalised.
    conv3_padding: of the third convolution; 2 is what the table prints, which
      gives 29, 14, 14 and 6 from there on.
    dtype: type of the computation.
  """
  batch_norm: bool = False
  conv3_padding: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    paddings = (0, 2, self.conv3_padding, 1)
    sizes = zip(_WIDTHS, _KERNELS, paddings, strict=True)
    for i, (width, size, padding) in enumerate(sizes, 1):
      x = layers.Conv(
          width, (size, size), strides=(2, 2) if i == 1 else (1, 1),
          padding=((padding, padding),) * 2, kernel_init=_INIT,
          dtype=self.dtype, name=f'conv{i}')(x)
      if self.batch_norm:
        x = layers.BatchNorm(
            use_running_average=not train, momentum=0.9, epsilon=1e-5,
            dtype=self.dtype, name=f'norm{i}')(x)
      if min(x.shape[1:3]) < 3:
        raise ValueError(
            f'conv{i} leaves {x.shape[1]}x{x.shape[2]} pixels, too few to '
            'pool: images need 67 pixels a side or more')
      x = ops.max_pool(nn.relu(x), window=(3, 3), strides=(2, 2))
    return x


def make(
    num_classes: int,
    *,
    head: tuple[str, ...] = ('flatten', 'dense:512'),
    batch_norm: bool = False,
    conv3_padding: int = 1,
    dtype: Any = jnp.float32,
) -> heads.Classifier:
  """Returns the study's classifier: 2,642,378 parameters for ten classes.

  Every kernel starts from a normal distribution of deviation .01 and every
  bias from zero, which suits pixels of the size of 0 to 255.

  Args:
    num_classes: number of classes; 0 ends at the 512 features before them.
    head: see `heads.Head`; the regularised rung adds 'dropout:0.5'.
    batch_norm: whether each convolution is normalised (704 more parameters).
    conv3_padding: see `Encoder`.
    dtype: type of the computation.
  """
  return heads.Classifier(
      Encoder(batch_norm, conv3_padding, dtype),
      heads.Head(num_classes, head, dtype, kernel_init=_INIT))
