"""Writes tests/golden/<backbone>.npz from Keras and PyTorch.

  PYTHONPATH=.:tests:tests/parity python tests/parity/golden.py

Each file holds the outputs of the reference, and the names and shapes of the
tensors in its weight file; the tensors themselves are functions of those.
"""

import json

import jax.numpy as jnp
import numpy as np
import references
import weights_helpers

from vision_jax.models import backbones

# One of each family; sizes that are odd wherever the network allows it.
SIZES = {
    'vgg16': 33, 'resnet50': 49, 'resnet50_torch': 49, 'densenet121': 49,
    'mobilenet_v2': 49, 'mobilenet_v2_torch': 48, 'efficientnet_b0': 49,
    'efficientnet_lite0': 49, 'vit_s16': 48, 'convnext_tiny': 49}


def compute(name):
  """Returns {name: array} to store for one backbone."""
  size = SIZES[name]
  images = weights_helpers.images(size)
  # VGG's classifier would be most of the suite's time, and ConvNeXt's changes
  # the name of a layer.
  headless = name in ('vgg16', 'convnext_tiny')
  classes = 0 if headless else references.CLASSES
  if name in references.KERAS:
    model = references.keras_model(name, size, top=classes > 0)
    inputs = references.keras_input(name, images.copy())
    output = model(inputs, training=False)
    tensors = {
        references.weight_name(weight): tuple(weight.shape)
        for weight in model.weights}
  else:
    import torch
    if name.endswith('_torch'):
      import torchvision_test
      model = torchvision_test.make(name, size)
    elif name == 'vit_s16':
      model = references.vit(384, 6, size, classes)
    else:
      import torch_test
      model = torch_test.lite(size)
    inputs = backbones.build(name).preprocess(jnp.asarray(images))
    with torch.no_grad():
      output = model(torch.tensor(np.asarray(inputs)).permute(0, 3, 1, 2))
    tensors = {
        key: tuple(value.shape) for key, value in model.state_dict().items()}
  return dict(
      size=size, classes=classes, output=np.asarray(output),
      preprocessed=np.asarray(inputs)[0, 0, :5],
      tensors=json.dumps(tensors))


if __name__ == '__main__':
  weights_helpers.GOLDEN.mkdir(exist_ok=True)
  for backbone in SIZES:
    np.savez_compressed(
        weights_helpers.GOLDEN / f'{backbone}.npz', **compute(backbone))
