"""Plain convolutional classifiers of the studies, as presets of other parts.

The encoder here is a chain of plain convolutions; whatever has skips or
norms lives in a file of its own.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vision_jax import ops
from vision_jax.models import heads
from vision_jax.models import layers
from vision_jax.models import unet


def make_published_a(num_classes: int) -> heads.Classifier:
  """Classifier A of the butterfly study: two levels, no dropout, 512 units.

  Deeper nowhere and wider in the head than B1 and B2: 67,195,284 parameters
  for 20 classes of 128 px images, against their 33,936,020.
  """
  return heads.Classifier(
      encoder=unet.Encoder(features=(64, 128), dropout=0.0),
      head=heads.Head(num_classes, ('flatten', 'dense:512')))


class Encoder(nn.Module):
  """The baseline of the rare-species study, [B, H, W, C] to [B, h, w, 128].

  Three times a 3x3 convolution without padding, ReLU and 2x2 pooling that
  rounds down: 224 pixels become 111, 54 and 26. With the head ('flatten',
  'dense:128', 'dropout:0.3') and 202 classes it has 11,195,018 parameters.

  Attributes:
    features: channels of the convolutions.
    dtype: type of the computation.
  """
  features: tuple[int, ...] = (32, 64, 128)
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    del train  # No layer of it depends on that.
    for i, width in enumerate(self.features, 1):
      x = layers.Conv(
          width, padding='VALID', dtype=self.dtype, name=f'conv{i}')(x)
      if min(x.shape[1:3]) < 2:
        raise ValueError(
            f'conv{i} leaves {x.shape[1]}x{x.shape[2]} pixels, too few to '
            'pool: images need 22 pixels a side or more')
      x = ops.max_pool(nn.relu(x), window=(2, 2), strides=(2, 2))
    return x
