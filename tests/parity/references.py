"""The networks of Keras and PyTorch that the backbones are compared with."""

import math
import os
import re

import numpy as np
import weights_helpers

os.environ['KERAS_BACKEND'] = 'jax'

KERAS = {
    'vgg16': 'VGG16', 'vgg19': 'VGG19', 'resnet50': 'ResNet50',
    'resnet101': 'ResNet101', 'densenet121': 'DenseNet121',
    'mobilenet_v2': 'MobileNetV2', 'efficientnet_b0': 'EfficientNetB0',
    'efficientnet_b1': 'EfficientNetB1', 'efficientnet_b2': 'EfficientNetB2',
    'efficientnet_b3': 'EfficientNetB3', 'convnext_tiny': 'ConvNeXtTiny'}
SCALES = {'b0': (1.0, 1.0), 'b1': (1.0, 1.1), 'b2': (1.1, 1.2),
          'b3': (1.2, 1.4)}
CLASSES = 10


def keras_model(name, size, *, top, seed=0):
  """A Keras application with random weights; logits, or pooled features."""
  import keras
  keras.backend.clear_session()
  options = dict(weights=None, include_top=top, input_shape=(size, size, 3))
  if top:
    options.update(classes=CLASSES, classifier_activation=None)
  else:
    options.update(pooling='avg')
  if name.startswith('efficientnet'):
    # The public functions do not let the random layers be turned off.
    from keras.src.applications import efficientnet
    model = efficientnet.EfficientNet(
        *SCALES[name[-2:]], 224, dropout_rate=0, drop_connect_rate=0,
        name=name.replace('_', ''), **options)
  else:
    model = getattr(keras.applications, KERAS[name])(**options)
  return randomise(model, seed)


def weight_name(weight):
  """'layer/role' of a Keras weight, without the number Keras may append."""
  name = '/'.join(weight.path.split('/')[-2:])
  return re.sub(r'/variable_\d+$', '/variable', name)


def randomise(model, seed=0):
  """Sets each weight of a Keras model to the tensor of its name."""
  for weight in model.weights:
    name = weight_name(weight)
    # The last normalisation has a name of its own only under a classifier.
    name = name.replace(
        'convnext_tiny_head_layernorm', 'layer_normalization')
    value = weights_helpers.tensor(name, tuple(weight.shape), seed)
    weight.assign(value.astype(str(weight.dtype)))
  for layer in model.layers:
    if layer.name.startswith('normalization'):
      layer.finalize_state()  # Or it goes on with the statistics of before.
  return model


def keras_input(name, images):
  """What Keras' own preprocessing makes of images in [0, 1]."""
  import keras
  module = {
      'vgg': 'vgg16', 'res': 'resnet', 'den': 'densenet',
      'mob': 'mobilenet_v2', 'eff': 'efficientnet', 'con': 'convnext'}
  preprocess = getattr(keras.applications, module[name[:3]]).preprocess_input
  return preprocess(images * np.float32(255))


def vit(width, heads, size, classes):
  """timm's vision transformer, written again, with the names of its files."""
  import torch
  from torch import nn

  class Attention(nn.Module):

    def __init__(self):
      super().__init__()
      self.qkv = nn.Linear(width, 3 * width)
      self.proj = nn.Linear(width, width)

    def forward(self, x):
      batch, tokens, _ = x.shape
      q, k, v = self.qkv(x).reshape(
          batch, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
      scores = q @ k.transpose(-2, -1) / math.sqrt(width // heads)
      x = scores.softmax(-1) @ v
      return self.proj(x.transpose(1, 2).reshape(batch, tokens, width))

  class Block(nn.Module):

    def __init__(self):
      super().__init__()
      self.norm1 = nn.LayerNorm(width, eps=1e-6)
      self.attn = Attention()
      self.norm2 = nn.LayerNorm(width, eps=1e-6)
      self.mlp = nn.ModuleDict({
          'fc1': nn.Linear(width, 4 * width),
          'fc2': nn.Linear(4 * width, width)})

    def forward(self, x):
      x = x + self.attn(self.norm1(x))
      y = nn.functional.gelu(self.mlp['fc1'](self.norm2(x)))
      return x + self.mlp['fc2'](y)

  class ViT(nn.Module):

    def __init__(self):
      super().__init__()
      self.patch_embed = nn.ModuleDict({'proj': nn.Conv2d(3, width, 16, 16)})
      self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
      self.pos_embed = nn.Parameter(
          torch.zeros(1, (size // 16)**2 + 1, width))
      self.blocks = nn.Sequential(*[Block() for _ in range(12)])
      self.norm = nn.LayerNorm(width, eps=1e-6)
      self.head = nn.Linear(width, classes)

    def pooled(self, x):
      x = self.patch_embed['proj'](x).flatten(2).transpose(1, 2)
      token = self.cls_token.expand(len(x), -1, -1)
      x = torch.cat([token, x], 1) + self.pos_embed
      return self.norm(self.blocks(x))[:, 0]

    def forward(self, x):
      return self.head(self.pooled(x))

  return randomise_torch(ViT())


def randomise_torch(model, seed=0):
  """Sets each tensor of a PyTorch model to the one of its name."""
  import torch
  state = model.state_dict()
  # 'in_proj_weight' is a kernel, though not called a weight.
  model.load_state_dict({
      name: torch.tensor(weights_helpers.tensor(
          name.replace('in_proj_', 'in_proj.'), tuple(value.shape), seed))
      for name, value in state.items()})
  return model.eval()


def torchvision_models():
  """torchvision's networks, even where its compiled operators do not load.

  That of PyPI is built for a PyTorch with CUDA; networks do without them, but
  the import wants their names.
  """
  import torch
  try:
    from torchvision import models
  except RuntimeError:
    library = torch.library.Library('torchvision', 'DEF')
    for name in ('nms', 'qnms', 'roi_align', 'roi_pool', 'ps_roi_align',
                 'ps_roi_pool', 'deform_conv2d'):
      for form in (name, f'_{name}_backward'):
        library.define(f'{form}(Tensor x) -> Tensor')
    torchvision_models.library = library  # Names go when it does.
    from torchvision import models
  return models
