"""Variational autoencoder, plain or denoising, trained on the ELBO.

Where `config.noise` has a kind, the posterior is that of the noisy image and
the likelihood that of the clean one (Im et al. 2017, arXiv:1511.06406).
Evaluation draws one latent an image, which follows from its id alone, and
always reports the true ELBO: weights and free bits only act in training.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from vision_jax import config as config_lib
from vision_jax import image_metrics
from vision_jax import likelihoods
from vision_jax import losses
from vision_jax import metrics
from vision_jax import optim
from vision_jax import runtime
from vision_jax import task as task_lib
from vision_jax.analysis import vae_reports
from vision_jax.data import noise as noise_lib
from vision_jax.models import inputs
from vision_jax.models import vae
from vision_jax.tasks import reconstruction

# A dimension whose mean KL is below this many nats carries nothing.
_ACTIVE_NATS = 0.01
_LATENT_SEED = 1
# Fields of classifiers.
_IGNORED = ('model.weights', 'model.frozen_', 'model.remat', 'loss.',
            'train.label_smoothing', 'taxonomy.')


class Terms(NamedTuple):
  """Of each image, in nats: the two terms of the ELBO.

  Attributes:
    log_likelihood: E log p(x|z), one draw, [B].
    kl: KL of each latent dimension, [B, d].
  """
  log_likelihood: jax.Array
  kl: jax.Array


def make(
    config: ml_collections.ConfigDict,
    info: task_lib.Info,
    *,
    sample_salt_and_pepper=noise_lib.salt_and_pepper) -> task_lib.Task:
  """Returns the variational task of a whole config.

  Its per-example outputs are `elbo`, `log_likelihood`, `kl_by_dim` (nats),
  `loss` = beta KL - log-likelihood, and `mse` and `ssim` of the image decoded
  from the posterior's mean against the clean one.

  Args:
    config: The whole config.
    info: What is known of the data.
    sample_salt_and_pepper: The sampler of that kind of noise.

  Raises:
    ConfigError: If a field is wrong or would be ignored.
    DataError: If a field of `config.noise` is wrong.
  """
  fields = config.vae
  config_lib.refuse_ignored(config, _IGNORED, 'vae')
  _check(fields)
  prepare = config_lib.choose(
      'model.input', config.model.input, inputs.RANGES)
  model = make_model(config, info.input_shape)
  log_likelihood = make_likelihood(fields)
  corrupt = noise_lib.make(
      config.noise, sample_salt_and_pepper=sample_salt_and_pepper)
  random_variables = lambda key: model.init(
      key, jnp.zeros((1, *info.input_shape)),
      jnp.zeros((1, fields.latent_dims)), train=False)
  shapes = jax.eval_shape(random_variables, jax.random.key(0))['params']
  trainable = optim.trainable_mask(shapes, config.model.frozen)
  optimizer = optim.make_optimizer(
      config.optimizer, trainable=trainable, epochs=config.train.epochs,
      steps_per_epoch=info.steps_per_epoch)
  sums = metrics.averages('loss', 'log_likelihood', 'kl')

  def init(key):
    return task_lib.create_state(
        runtime.once(random_variables, key), optimizer,
        keep_ema=config.optimizer.ema_decay > 0,
        keep_best=config.callbacks.restore_best)

  def terms(params, images, targets, latent_noise, *, train):
    logits, mean, log_variance = model.apply(
        {'params': params}, prepare(images), latent_noise, train=train)
    return Terms(
        log_likelihood(logits, targets),
        likelihoods.kl_from_standard_normal(mean, log_variance))

  def train_step(state, batch, key):
    latent_key, noise_key = jax.random.split(key)
    images = batch['image']
    noisy = noise_lib.apply(corrupt, images, batch['id'], noise_key)
    latent_noise = normals(latent_key, batch['id'], fields.latent_dims)
    weight = fields.beta * warmup(
        state.step, fields.warmup_epochs * info.steps_per_epoch)
    def loss_of(params):
      params = optim.stop_frozen(params, trainable)
      found = terms(params, noisy, images, latent_noise, train=True)
      return objective(found, batch['mask'], weight, fields.free_bits), found
    grads, found = jax.grad(loss_of, has_aux=True)(state.params)
    state = task_lib.apply_gradients(
        state, grads, optimizer, trainable=trainable, batch_stats={},
        ema_decay=config.optimizer.ema_decay)
    kl = found.kl.sum(-1)
    return state, sums.single_from_model_output(
        mask=batch['mask'], kl=kl, log_likelihood=found.log_likelihood,
        loss=fields.beta * kl - found.log_likelihood)

  def decode(state, latents):
    return jax.nn.sigmoid(model.apply(
        state.variables(), latents, train=False, method='decode'))

  def encode(state, images):
    return model.apply(
        state.variables(), prepare(images), train=False, method='encode')[0]

  def eval_step(state, batch):
    images = batch['image']
    noisy = reconstruction.noisy_input(corrupt, batch)
    # Images of no split draw their latents by their place.
    ids = batch['id'] if 'id' in batch else jnp.arange(len(images))
    latent_noise = normals(
        jax.random.key(_LATENT_SEED), ids, fields.latent_dims)
    found = terms(
        state.variables()['params'], noisy, images, latent_noise, train=False)
    restored = decode(state, encode(state, noisy))
    kl = found.kl.sum(-1)
    return {
        'loss': fields.beta * kl - found.log_likelihood,
        'elbo': found.log_likelihood - kl,
        'log_likelihood': found.log_likelihood,
        'kl_by_dim': found.kl,
        'mse': losses.mean_squared_error(restored, images),
        'ssim': image_metrics.ssim(restored, images),
    }

  def table(outputs):
    columns = {name: outputs[name] for name in ('elbo', 'mse')}
    return {name: values.tolist() for name, values in columns.items()}

  def rows(state, batch):
    noisy = reconstruction.noisy_input(corrupt, batch)
    return reconstruction.figure_rows(
        config.noise, batch['image'], noisy,
        decode(state, encode(state, noisy)))

  generator = task_lib.Generator(
      fields.latent_dims, 0,
      jax.jit(lambda state, latents, labels: decode(state, latents)))
  return task_lib.Task(
      init=init, train_step=train_step, train_sums=sums, eval_step=eval_step,
      summarize=summarize, trainable=trainable, encode=None, table=table,
      generator=generator, report=functools.partial(
          vae_reports.report, generator=generator, encode=encode, rows=rows,
          with_figures=config.report.figures, seed=config.seed))


def summarize(outputs: dict[str, np.ndarray]) -> dict[str, float]:
  """Returns means over a whole split, and how many dimensions are in use."""
  mean = lambda values: values.mean(0, dtype=np.float64)
  by_dim = mean(outputs['kl_by_dim'])
  return {
      **{name: float(mean(outputs[name]))
         for name in ('loss', 'elbo', 'log_likelihood', 'ssim')},
      'kl': float(by_dim.sum()),
      'active_dims': int((by_dim > _ACTIVE_NATS).sum()),
      **image_metrics.reconstruction(outputs['mse'], data_range=1.0)}


def objective(
    found: Terms, mask: jax.Array, weight: jax.Array, free_bits: float,
) -> jax.Array:
  """Returns the training loss, a mean over the rows with mask 1.

  A dimension whose mean KL lies below `free_bits` nats costs that much and is
  not pressed further (Kingma et al. 2016, arXiv:1606.04934, appendix C.8).

  Args:
    found: Terms of each image.
    mask: [B].
    weight: Of the KL term, beta times the warm-up.
    free_bits: In nats; 0 leaves the mean KL as it is.
  """
  mean_kl = jax.vmap(losses.masked_mean, (1, None))(found.kl, mask)
  return (weight * jnp.maximum(mean_kl, free_bits).sum()
          - losses.masked_mean(found.log_likelihood, mask))


def warmup(step: jax.Array, steps: float) -> jax.Array:
  """Returns the share of the KL weight at `step`, rising to 1 in `steps`."""
  return jnp.minimum(1.0, (step + 1) / max(steps, 1.0))


def normals(key: task_lib.Key, ids: jax.Array, dims: int) -> jax.Array:
  """Returns standard normals [B, dims], a row from fold_in(key, id)."""
  return jax.vmap(lambda i: jax.random.normal(
      jax.random.fold_in(key, i), (dims,)))(ids)


def make_likelihood(fields: ml_collections.ConfigDict):
  """Returns (logits, images) -> log-likelihood [B] of `config.vae`."""
  return config_lib.choose('vae.likelihood', fields.likelihood, {
      'bernoulli': likelihoods.bernoulli,
      'gaussian': lambda logits, images: likelihoods.gaussian(
          jax.nn.sigmoid(logits), images, std=fields.std)})


def make_model(
    config: ml_collections.ConfigDict, shape: tuple[int, int, int]) -> vae.VAE:
  """Returns the network of images `shape` that the config describes."""
  build = config_lib.choose('model.name', config.model.name, {
      'dense_vae': vae.make_dense, 'conv_vae': vae.make_conv})
  return build(
      tuple(shape), tuple(config.model.features), config.vae.latent_dims,
      dtype=jnp.dtype(config.model.dtype))


def _check(fields: ml_collections.ConfigDict) -> None:
  for name in ('beta', 'warmup_epochs', 'free_bits'):
    if fields[name] < 0:
      raise config_lib.ConfigError(
          f'config.vae.{name}={fields[name]} must not be negative.')
  for name in ('latent_dims', 'std'):
    if fields[name] <= 0:
      raise config_lib.ConfigError(
          f'config.vae.{name}={fields[name]} must be positive.')
