"""The networks of the benchmark as a Keras user writes them.

Functional models, channels_last. A layer's name is the path of ours with dots
for slashes, so that weights are copied by path (benchmark_keras.py). Imports
Keras, so import this module only where the peer runs.
"""

import math

from keras import Model
from keras import layers
import tensorflow as tf

from experiments import benchmark_keras_backbones as backbones


def make_players(config, classes: int) -> list[Model]:
  """Returns the twins of what the config's task trains: one, or a GAN's two."""
  model, shape = config.model, (*config.data.image_size, config.data.channels)
  if config.task == 'gan':
    fields = config.gan
    return [_generator(fields.latent_dims, fields.generator_features),
            _discriminator(
                shape, fields.discriminator_features, model.dropout)]
  if config.task == 'reconstruction':
    make = {'unet': lambda x: _unet(x, model.features, model.dropout),
            'dense_autoencoder': lambda x: _dense(x, model.features, shape),
            'conv_autoencoder': lambda x: _conv(x, model.features)}[model.name]
  else:
    encode = {
        'unet': lambda x: _levels(x, model.features, model.dropout)[-1],
        'imbalance_cnn': _imbalance_encoder,
        'vgg16': lambda x: x,
        'efficientnet_b0': lambda x: backbones.efficientnet_b0(
            x, 'encoder.backbone.'),
        'resnet50_torch': lambda x: backbones.resnet50(
            x, 'encoder.backbone.')}[model.name]
    # What is frozen is not part of the step: it takes features.
    shape = (7, 7, 512) if model.name == 'vgg16' else shape
    make = lambda x: _head(encode(x), classes, model.head)
  inputs = layers.Input(shape)
  return [Model(inputs, make(inputs))]


def _relu(x):
  return layers.Activation('relu')(x)


def _head(x, classes, specs):
  """The head of `specs`, as models/heads.py reads them, with class logits."""
  x = (layers.Flatten() if specs[0] == 'flatten'
       else layers.GlobalAveragePooling2D())(x)
  counts = {'dense': 0, 'batch_norm': 0, 'dropout': 0}
  for spec in specs[1:]:
    kind, _, argument = spec.partition(':')
    x = {'dense': lambda: layers.Dense(
             int(argument), activation='relu',
             name=f'head.Dense_{counts["dense"]}'),
         'batch_norm': lambda: layers.BatchNormalization(
             momentum=0.99, epsilon=1e-3,
             name=f'head.BatchNorm_{counts["batch_norm"]}'),
         'dropout': lambda: layers.Dropout(float(argument))}[kind]()(x)
    counts[kind] += 1
  return layers.Dense(classes, name='head.logits')(x)


def _levels(x, features, dropout):
  """Levels of convolution, pooling, ReLU and dropout."""
  maps = []
  for i, n in enumerate(features):
    x = layers.Conv2D(n, 3, padding='same', name=f'encoder.level_{i}')(x)
    # Maximum and ReLU commute: after the pool it costs a quarter.
    x = layers.Dropout(dropout)(_relu(layers.MaxPooling2D()(x)))
    maps.append(x)
  return maps


def _unet(x, features, dropout):
  """The study's: skips are added, nothing between transposed convolutions."""
  *levels, x = _levels(x, features, dropout)
  for i, n in enumerate((*features[-2::-1], 3)):
    x = layers.Conv2DTranspose(n, 2, 2, name=f'up_{i}')(x)
    if levels:
      x = x + levels.pop()
  return layers.Activation('sigmoid')(x)


def _dense(x, features, shape):
  """Dense layers down and up again."""
  x = layers.Flatten()(x)
  for i, n in enumerate(features):
    x = layers.Dense(n, activation='relu', name=f'encoder.Dense_{i}')(x)
  for i, n in enumerate(features[-2::-1]):
    x = layers.Dense(n, activation='relu', name=f'decoder.Dense_{i}')(x)
  x = layers.Dense(math.prod(shape), activation='sigmoid',
                   name=f'decoder.Dense_{len(features) - 1}')(x)
  return layers.Reshape(shape)(x)


def _conv(x, features):
  """Three convolutions in steps of 2, three transposed ones back."""
  for i, n in enumerate(features):
    x = backbones.conv(x, f'encoder.Conv_{i}', n, 3, 2, bias=True)
    x = _relu(x)
  sizes = (*features[-2::-1], 3)
  for i, n in enumerate(sizes):
    x = Doubling(n, 3, 2, padding='same', name=f'decoder.Doubling_{i}')(x)
    x = layers.Activation('relu' if i + 1 < len(sizes) else 'sigmoid')(x)
  return x


class Doubling(layers.Conv2DTranspose):
  """Twice as many pixels, cut off in front where Keras cuts off behind.

  A cropping layer does the same in one and a half times the time.
  """

  def call(self, x):
    batch, height, width = tf.shape(x)[0], 2 * x.shape[1], 2 * x.shape[2]
    return self.bias + tf.nn.conv2d_transpose(
        x, self.kernel, (batch, height, width, self.filters), 2,
        ((0, 0), (1, 0), (1, 0), (0, 0)))


def _imbalance_encoder(x):
  """Four convolutions with ReLU and overlapping pooling."""
  for i, (n, size, stride) in enumerate(
      ((32, 7, 2), (64, 5, 1), (128, 3, 1), (128, 3, 1)), 1):
    x = layers.Conv2D(
        n, size, stride, padding='same' if i > 1 else 'valid',
        activation='relu', name=f'encoder.conv{i}')(x)
    x = layers.MaxPooling2D(3, 2)(x)
  return x


def _norm(name):
  return layers.BatchNormalization(momentum=0.8, epsilon=1e-3, name=name)


def _generator(latent_dims, features):
  """The jellyfish study's, [B, d] to [B, 64, 64, 3] in [-1, 1]."""
  inputs = layers.Input((latent_dims,))
  x = layers.Dense(16 * features[0], activation='relu',
                   name='generator.Dense_0')(inputs)
  x = layers.Reshape((4, 4, features[0]))(x)
  for i, n in enumerate(features):
    x = layers.UpSampling2D()(x)
    x = layers.Conv2D(n, 3, padding='same', name=f'generator.UpConv_{i}')(x)
    x = _relu(_norm(f'generator.ClassNorm_{i}.BatchNorm_0')(x))
  x = layers.Conv2D(3, 3, padding='same', activation='tanh',
                    name='generator.Conv_0')(x)
  return Model(inputs, x)


def _discriminator(shape, features, dropout):
  """The jellyfish study's, [B, 64, 64, 3] to one logit each."""
  inputs = x = layers.Input(shape)
  for i, n in enumerate(features):
    x = layers.Conv2D(n, 3, 2 if i < 3 else 1, padding='same',
                      name=f'discriminator.Conv_{i}')(x)
    if i == 1:
      x = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
    if i:
      x = _norm(f'discriminator.BatchNorm_{i - 1}')(x)
    x = layers.Dropout(dropout)(layers.LeakyReLU(0.2)(x))
  x = layers.Dense(1, name='discriminator.Dense_0')(layers.Flatten()(x))
  return Model(inputs, layers.Flatten()(x))
