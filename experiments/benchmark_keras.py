"""The Keras side of the benchmark: weights, optimizers, training steps.

Keras 3 on TensorFlow as fast as it gets without rewriting operations: the
whole step is one graph on arrays that stay, without metrics or Python between
its parts, run as it is or compiled by XLA; bf16 by the mixed policy. Imports
Keras, so import this module only where the peer runs.
"""

import os
from typing import Any

# Before Keras and TensorFlow are imported, which read them then. XLA's flags
# are ours: TensorFlow is timed without them, as its users have it.
os.environ['KERAS_BACKEND'] = 'tensorflow'
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '2'
os.environ.pop('XLA_FLAGS', None)

import keras
import numpy as np
import tensorflow as tf

from experiments import benchmark_equality as equality
from experiments import benchmark_keras_networks as networks

_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)
_LEAVES = {'kernel': 'kernel', 'bias': 'bias', 'gamma': 'scale',
           'beta': 'bias', 'moving_mean': 'mean', 'moving_variance': 'var'}


def variables(model: keras.Model):
  """Yields (layer, variable, our path) of all but random states."""
  for layer in model.layers:
    for variable in layer.variables:
      if variable.name in _LEAVES:
        path = layer.name.replace('.', '/')
        yield layer, variable, f'{path}/{_LEAVES[variable.name]}'


def to_keras(layer: keras.Layer, array: np.ndarray) -> np.ndarray:
  """Returns one of our arrays in Keras' layout for `layer`."""
  if array.ndim != 4:
    return array
  if isinstance(layer, keras.layers.Conv2DTranspose):
    return array[::-1, ::-1].transpose(0, 1, 3, 2)
  if isinstance(layer, keras.layers.DepthwiseConv2D):
    return array.transpose(0, 1, 3, 2)
  return array


def make_optimizer(config) -> keras.optimizers.Optimizer:
  """Returns the config's optimizer."""
  fields = config.optimizer
  moments = dict(beta_1=fields.b1, beta_2=fields.b2, epsilon=fields.eps)
  return {
      'adam': lambda: keras.optimizers.Adam(fields.learning_rate, **moments),
      'adamax': lambda: keras.optimizers.Adamax(
          fields.learning_rate, **moments),
      'sgd': lambda: keras.optimizers.SGD(
          fields.learning_rate, momentum=fields.b1),
  }[fields.name]()


def prepare(config, images: tf.Tensor) -> tf.Tensor:
  """Returns images in [0, 1] as the network takes them."""
  if config.model.name == 'efficientnet_b0':
    return images * 255
  if config.model.name == 'resnet50_torch':
    column = lambda x: tf.constant(x, images.dtype)
    return (images - column(_MEAN)) / column(_DEVIATION)
  return {'unit': lambda x: x, 'signed': lambda x: 2 * x - 1,
          'pixels': lambda x: 255 * x - 127.5}[config.model.input](images)


class Peer:
  """A workload in Keras: `step()` trains once and returns its losses.

  Args:
    config: Of the workload.
    batch: Images or features, and labels.
    classes: Number of classes.
    compiled: Whether XLA compiles the step.
    latents: What a GAN draws for its two updates; None = draw it.
    exact: Whether dropout rests and gradients are kept, for a comparison.
      Keras then computes in float64 where the other side has float32.

  Attributes:
    models: the networks.
    losses: the last step's, by our names.
    gradients: the last step's where `exact`, one list a model.
  """

  def __init__(self, config, batch: dict[str, np.ndarray], *, classes: int,
               compiled: bool = False, latents: Any = None,
               exact: bool = False):
    self.config, self.exact, self.latents = config, exact, latents
    plain = 'float64' if exact else 'float32'
    keras.config.set_dtype_policy(
        plain if config.model.dtype == 'float32' else 'mixed_bfloat16')
    self.models = networks.make_players(config, classes)
    if exact:
      for layer in sum((model.layers for model in self.models), []):
        if isinstance(layer, keras.layers.Dropout):
          layer.rate = 0.0
    self.type = tf.as_dtype(self.models[0].variable_dtype)
    self.features = 'features' in batch
    inputs = batch['features' if self.features else 'image']
    self.inputs = tf.constant(inputs, self.type)
    self.labels = tf.constant(batch['label'])
    self.optimizers = [make_optimizer(config) for _ in self.models]
    for optimizer, model in zip(self.optimizers, self.models):
      optimizer.build(model.trainable_variables)
    self.gradients, self.losses = None, None
    take = {'gan': self._gan, 'reconstruction': self._reconstruction,
            'classification': self._classification}[config.task]
    self._take = tf.function(take, jit_compile=compiled)

  def step(self) -> dict[str, tf.Tensor]:
    """Trains once."""
    self.losses, self.gradients = self._take(self.inputs, self.labels)
    return self.losses

  def _move(self, which, tape, loss):
    weights = self.models[which].trainable_variables
    found = tape.gradient(loss, [weight.value for weight in weights])
    self.optimizers[which].apply(found, weights)
    return found

  def _classification(self, inputs, labels):
    with tf.GradientTape() as tape:
      if not self.features:
        inputs = prepare(self.config, inputs)
      logits = tf.cast(self.models[0](inputs, training=True), self.type)
      loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(
          labels, logits, from_logits=True))
    found = self._move(0, tape, loss)
    return {'loss': loss}, self._keep(found)

  def _keep(self, *gradients):
    return gradients if self.exact else ()

  def _reconstruction(self, images, labels):
    del labels
    noise, noisy = self.config.noise, images
    if noise.kind == 'salt_pepper':
      u = tf.random.uniform((*images.shape[:3], 1))
      noisy = tf.where(u < noise.salt, 1.0, tf.where(
          u >= 1 - noise.pepper, 0.0, images))
    with tf.GradientTape() as tape:
      output = self.models[0](prepare(self.config, noisy), training=True)
      loss = tf.reduce_mean(tf.square(tf.cast(output, self.type) - images))
    found = self._move(0, tape, loss)
    return {'loss': loss}, self._keep(found)

  def _draw(self, update):
    if self.latents is not None:
      return tf.constant(self.latents[update], self.type)
    return tf.random.normal(
        (len(self.inputs), self.config.gan.latent_dims), dtype=self.type)

  def _gan(self, images, labels):
    del labels
    generate = lambda z: self.models[0](z, training=True)
    judge = lambda x: tf.cast(
        self.models[1](x, training=True)[:, 0], self.type)
    lift = lambda: self.config.gan.label_noise * tf.random.uniform(
        (len(images),), dtype=self.type)
    entropy = lambda logits, target: tf.reduce_mean(
        tf.nn.sigmoid_cross_entropy_with_logits(target, logits))
    fake = generate(self._draw(0))
    with tf.GradientTape() as tape:
      d_loss = entropy(judge(2 * images - 1), 1 - lift())
      d_loss += entropy(judge(fake), lift())
    second = self._move(1, tape, d_loss)
    with tf.GradientTape() as tape:
      g_loss = tf.reduce_mean(tf.nn.softplus(-judge(generate(self._draw(1)))))
    first = self._move(0, tape, g_loss)
    return ({'discriminator_loss': d_loss, 'generator_loss': g_loss},
            self._keep(first, second))


def difference(config, arrays: dict[str, np.ndarray], *, classes: int):
  """Repeats the first step of `benchmark_workloads.first_step`.

  Returns:
    Largest relative difference of the 'loss' and of the 'gradient'.
  """
  group = equality.groups(arrays)
  latents = group['latents']
  peer = Peer(
      config, group['batch'], classes=classes, exact=True, latents=[
          latents[str(i)] for i in range(len(latents))] or None)
  for model in peer.models:
    for layer, variable, name in variables(model):
      variable.assign(to_keras(layer, group['weights'][name]))
  losses = {name: float(value) for name, value in peer.step().items()}
  return {'loss': equality.losses(group['loss'], losses),
          'gradient': equality.gradients(
              _gradients(peer, group['moment']), config)}


def _gradients(peer: Peer, moments):
  """Yields (our moment, the peer's gradient) of each parameter."""
  for model, found in zip(peer.models, peer.gradients):
    by_id = {id(weight): gradient.numpy() for weight, gradient in zip(
        model.trainable_variables, found)}
    for layer, variable, name in variables(model):
      if variable.trainable:
        yield to_keras(layer, moments[name]), by_id[id(variable)]


def device_peak() -> None:
  """Returns None: the process' own memory is counted."""


def wait() -> None:
  """Waits for the device: a step on a CPU has ended when it returns."""
