"""Reconstruction: a network that gives back the image it was shown.

Plain autoencoding; what is drawn over the image before the network sees it is
the augmentation's business, so the target is the image after augmentation.
"""

import functools

import jax
import jax.numpy as jnp
import ml_collections

from vision_jax import config as config_lib
from vision_jax import image_metrics
from vision_jax import losses
from vision_jax import metrics
from vision_jax import optim
from vision_jax import task as task_lib
from vision_jax.analysis import reports
from vision_jax.models import inputs
from vision_jax.models import unet


def make(
    config: ml_collections.ConfigDict,
    info: task_lib.Info,
    *,
    check_range=unet.check_range) -> task_lib.Task:
  """Returns the reconstruction task of a whole config.

  Its per-example outputs are `loss`, the mean squared error in the target's
  range, and `mse`, the same for values in [0, 1].

  Args:
    config: The whole config.
    info: What is known of the data.
    check_range: (output, bounds) -> None; refuses an output that cannot reach
      the target.

  Raises:
    ConfigError: If a field is wrong.
    ValueError: If the output's range does not hold the target's.
  """
  prepare, target = (
      config_lib.choose(f'model.{name}', config.model[name], inputs.RANGES)
      for name in ('input', 'target'))
  check_range(config.model.output, target.bounds)
  model = make_model(config.model, info.input_shape[-1])
  blank = jnp.zeros((1, *info.input_shape))
  random_variables = lambda key: model.init(key, blank, train=False)
  shapes = jax.eval_shape(random_variables, jax.random.key(0))['params']
  trainable = optim.trainable_mask(shapes, config.model.frozen)
  optimizer = optim.make_optimizer(
      config.optimizer, trainable=trainable, epochs=config.train.epochs,
      steps_per_epoch=info.steps_per_epoch)
  sums = metrics.averages('loss')

  def init(key):
    return task_lib.create_state(
        jax.jit(random_variables)(key), optimizer,
        keep_ema=config.optimizer.ema_decay > 0,
        keep_best=config.callbacks.restore_best)

  def train_step(state, batch, key):
    def loss_of(params):
      params = optim.stop_frozen(params, trainable)
      output = model.apply(
          {'params': params}, prepare(batch['image']), train=True,
          rngs={'dropout': key})
      loss = losses.mean_squared_error(output, target(batch['image']))
      return losses.masked_mean(loss, batch['mask']), loss
    grads, loss = jax.grad(loss_of, has_aux=True)(state.params)
    state = task_lib.apply_gradients(
        state, grads, optimizer, batch_stats={},
        ema_decay=config.optimizer.ema_decay)
    return state, sums.single_from_model_output(mask=batch['mask'], loss=loss)

  def reconstruct(state, batch):
    return model.apply(
        state.variables(), prepare(batch['image']), train=False)

  def eval_step(state, batch):
    output = reconstruct(state, batch)
    return {
        'loss': losses.mean_squared_error(output, target(batch['image'])),
        'mse': losses.mean_squared_error(
            target.to_unit(output), batch['image']),
    }

  def summarize(outputs):
    return {'loss': float(outputs['loss'].mean(dtype='float64')),
            **image_metrics.reconstruction(outputs['mse'], data_range=1.0)}

  def table(outputs):
    return {'mse': outputs['mse'].tolist()}

  return task_lib.Task(
      init=init, train_step=train_step, train_sums=sums, eval_step=eval_step,
      summarize=summarize, trainable=trainable, encode=None,
      table=table,
      report=functools.partial(
          reports.reconstruction, with_figures=config.report.figures,
          reconstruct=lambda *args: target.to_unit(reconstruct(*args))))


def make_model(config: ml_collections.ConfigDict, channels: int) -> unet.UNet:
  """Returns the autoencoder that the node `config.model` describes."""
  build = config_lib.choose('model.name', config.name, {'unet': unet.UNet})
  return build(
      channels=channels, features=tuple(config.features),
      dropout=config.dropout, skip=config.skip, head=config.output,
      variant=config.variant, dtype=jnp.dtype(config.dtype))
