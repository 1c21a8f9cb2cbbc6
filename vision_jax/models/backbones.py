"""Backbones by name. Each family lives, whole, in a file of its own."""

import jax.numpy as jnp

from vision_jax.models import convnext
from vision_jax.models import densenet
from vision_jax.models import efficientnet
from vision_jax.models import inception
from vision_jax.models import mobilenet
from vision_jax.models import resnet
from vision_jax.models import spec
from vision_jax.models import vgg
from vision_jax.models import vit

_FAMILIES = (vgg, resnet, densenet, mobilenet, efficientnet, vit, convnext,
             inception)
NAMES = tuple(name for family in _FAMILIES for name in family.NAMES)


def build(
    name: str, *, num_classes: int = 0, dtype=jnp.float32, **options,
) -> spec.Spec:
  """Builds a backbone: network, preprocessing, where its weights are.

  Args:
    name: one of `NAMES`.
    num_classes: outputs of the classifier; 0 leaves it out, and the module
      returns pooled features.
    dtype: type of the computation; parameters are always float32.
    **options: further attributes of the family's module, such as
      EfficientNet's `drop_path`.

  Returns:
    The `spec.Spec`.

  Raises:
    ValueError: no backbone has that name.
  """
  for family in _FAMILIES:
    if name in family.NAMES:
      return family.make_spec(
          name, num_classes=num_classes, dtype=dtype, **options)
  raise ValueError(f'no backbone {name!r}; there are {", ".join(NAMES)}')
