"""Plain convolutional classifiers of the studies, as presets of other parts.

Defines no layers of its own.
"""

from vision_jax.models import heads
from vision_jax.models import unet


def make_published_a(num_classes: int) -> heads.Classifier:
  """Classifier A of the butterfly study: two levels, no dropout, 512 units.

  Deeper nowhere and wider in the head than B1 and B2: 67,195,284 parameters
  for 20 classes of 128 px images, against their 33,936,020.
  """
  return heads.Classifier(
      encoder=unet.Encoder(features=(64, 128), dropout=0.0),
      head=heads.Head(num_classes, ('flatten', 'dense:512')))
