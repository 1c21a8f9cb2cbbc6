"""Reconstruction: a network that gives back the image, plain or denoising.

Where `config.noise` has a kind, the network sees a noisy image and its target
is the image before: fresh noise every training step, and in evaluation noise
that follows from the example alone. Augmentation is part of the target.
"""

import functools

import jax
import jax.numpy as jnp
import ml_collections

from vision_jax import classifiers
from vision_jax import config as config_lib
from vision_jax import image_metrics
from vision_jax import losses
from vision_jax import metrics
from vision_jax import optim
from vision_jax import runtime
from vision_jax import task as task_lib
from vision_jax.analysis import reports
from vision_jax.data import noise as noise_lib
from vision_jax.models import autoencoders
from vision_jax.models import inputs
from vision_jax.models import layers
from vision_jax.models import unet

# Fields of classifiers.
_IGNORED = ('model.weights', 'model.frozen_stages', 'model.remat', 'loss.',
            'train.label_smoothing', 'taxonomy.')


def make(
    config: ml_collections.ConfigDict,
    info: task_lib.Info,
    *,
    check_range=unet.check_range,
    sample_salt_and_pepper=noise_lib.salt_and_pepper) -> task_lib.Task:
  """Returns the reconstruction task of a whole config.

  Its per-example outputs are `loss`, the mean squared error in the target's
  range, `mse`, the same for values in [0, 1], and `ssim`; all three compare
  the output with the clean image.

  Args:
    config: The whole config.
    info: What is known of the data.
    check_range: (output, bounds) -> None; refuses an output that cannot reach
      the target.
    sample_salt_and_pepper: The sampler of that kind of noise.

  Raises:
    ConfigError: If a field is wrong or would be ignored.
    DataError: If a field of `config.noise` is wrong.
    ValueError: If the output's range does not hold the target's.
  """
  config_lib.refuse_ignored(config, _IGNORED, 'reconstruction')
  config_lib.choose(
      'model.output', config.model.output, dict.fromkeys(unet.HEAD_RANGE))
  prepare, target = (
      config_lib.choose(f'model.{name}', config.model[name], inputs.RANGES)
      for name in ('input', 'target'))
  check_range(config.model.output, target.bounds)
  model = make_model(config.model, info.input_shape)
  corrupt = noise_lib.make(
      config.noise, sample_salt_and_pepper=sample_salt_and_pepper)
  random_variables = lambda key: model.init(
      key, jnp.zeros((1, *info.input_shape)), train=False)
  shapes = jax.eval_shape(random_variables, jax.random.key(0))['params']
  trainable = optim.trainable_mask(shapes, config.model.frozen)
  rests = classifiers.resting_pattern(
      config.model, config.model.frozen, trainable)
  optimizer = optim.make_optimizer(
      config.optimizer, trainable=trainable, epochs=config.train.epochs,
      steps_per_epoch=info.steps_per_epoch)
  sums = metrics.averages('loss')

  def init(key):
    return task_lib.create_state(
        runtime.once(random_variables, key), optimizer,
        keep_ema=config.optimizer.ema_decay > 0,
        keep_best=config.callbacks.restore_best)

  def train_step(state, batch, key):
    noisy = noise_lib.apply(
        corrupt, batch['image'], batch['id'], jax.random.fold_in(key, 1))
    def loss_of(params):
      params = optim.stop_frozen(params, trainable)
      with layers.resting(rests):
        output = model.apply(
            {'params': params}, prepare(noisy), train=True,
            rngs={'dropout': key})
      loss = losses.mean_squared_error(output, target(batch['image']))
      return losses.masked_mean(loss, batch['mask']), loss
    grads, loss = jax.grad(loss_of, has_aux=True)(state.params)
    state = task_lib.apply_gradients(
        state, grads, optimizer, trainable=trainable, batch_stats={},
        ema_decay=config.optimizer.ema_decay)
    return state, sums.single_from_model_output(mask=batch['mask'], loss=loss)

  def reconstruct(state, images):
    return model.apply(state.variables(), prepare(images), train=False)

  def eval_step(state, batch):
    output = reconstruct(state, noisy_input(corrupt, batch))
    restored = target.to_unit(output)
    return {
        'loss': losses.mean_squared_error(output, target(batch['image'])),
        'mse': losses.mean_squared_error(restored, batch['image']),
        'ssim': image_metrics.ssim(restored, batch['image']),
    }

  def summarize(outputs):
    mean = lambda name: float(outputs[name].mean(dtype='float64'))
    return {'loss': mean('loss'), 'ssim': mean('ssim'),
            **image_metrics.reconstruction(outputs['mse'], data_range=1.0)}

  def table(outputs):
    return {'mse': outputs['mse'].tolist()}

  @jax.jit
  def rows(state, batch):
    noisy = noisy_input(corrupt, batch)
    restored = target.to_unit(reconstruct(state, noisy))
    return figure_rows(config.noise, batch['image'], noisy, restored)

  return task_lib.Task(
      init=init, train_step=train_step, train_sums=sums, eval_step=eval_step,
      summarize=summarize, trainable=trainable, encode=None,
      table=table,
      report=functools.partial(
          reports.reconstruction, with_figures=config.report.figures,
          rows=rows))


def noisy_input(
    corrupt: noise_lib.Corrupt, batch: task_lib.Batch) -> jax.Array:
  """Returns what evaluation shows the network, [B, H, W, C].

  An image without an id is of no split, such as a user's own in prediction:
  it is taken as it is.
  """
  if 'id' not in batch:
    return batch['image']
  return noise_lib.apply_fixed(corrupt, batch['image'], batch['id'])


def figure_rows(
    config: ml_collections.ConfigDict, images, noisy, restored,
) -> dict[str, jax.Array]:
  """Returns the rows of a figure; the noisy one only where there is noise."""
  if config.kind == 'none':
    return {'original': images, 'reconstruction': restored}
  return {'original': images, 'noisy': noisy, 'restored': restored}


def make_model(config: ml_collections.ConfigDict, shape: tuple[int, int, int]):
  """Returns the autoencoder of images `shape` that `config.model` describes.

  Its output has the range of `config.model.output`, its encoder is the module
  'encoder'.

  Raises:
    ConfigError: If there is no such autoencoder.
  """
  features, dtype = tuple(config.features), jnp.dtype(config.dtype)
  build = config_lib.choose('model.name', config.name, {
      'unet': lambda: unet.UNet(
          channels=shape[-1], features=features, dropout=config.dropout,
          skip=config_lib.choose(
              'model.skip', config.skip, {skip: skip for skip in unet.SKIPS}),
          head=config.output, dtype=dtype, variant=config_lib.choose(
              'model.variant', config.variant,
              {variant: variant for variant in unet.VARIANTS})),
      'dense_autoencoder': lambda: autoencoders.make_dense(
          tuple(shape), features, head=config.output, dtype=dtype),
      'conv_autoencoder': lambda: autoencoders.make_conv(
          shape[-1], features, head=config.output, dtype=dtype),
  })
  return build()
