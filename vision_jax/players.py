"""Builds the two players of config.gan: networks, optimizers, objective.

What they do to each other in a step is tasks/gan.py's.
"""

import functools
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax

from vision_jax import adversarial
from vision_jax import config as config_lib
from vision_jax import optim
from vision_jax import runtime
from vision_jax import task as task_lib
from vision_jax.models import gan

_LECAM_DECAY = 0.99


class Players(NamedTuple):
  """The two players as pure functions; `name` is generator or discriminator.

  Attributes:
    init: (key) -> params and batch_stats, a dictionary of the players each.
    play: (name, params, stats, *inputs, key, train) -> output, next stats.
    look: (state, name, *inputs) -> output of `state.variables()` in
      evaluation.
    move: (state, name, grads, stats) -> state after the player's update.
    optimizer: Whose `init` makes the state of both.
  """
  init: Callable[..., dict[str, Any]]
  play: Callable[..., tuple[jax.Array, Any]]
  look: Callable[..., jax.Array]
  move: Callable[..., task_lib.TrainState]
  optimizer: optax.GradientTransformation


def make(config: ml_collections.ConfigDict, info: task_lib.Info) -> Players:
  """Returns the players of a whole config.

  Raises:
    ConfigError: If a field is wrong.
  """
  if config.gan.ada_images < 1:
    raise config_lib.ConfigError(
        f'config.gan.ada_images={config.gan.ada_images} is not positive: it is '
        'the number of images in which the probability may go from 0 to 1.')
  networks = make_networks(config, info)
  optimizers = _make_optimizers(config, info)
  shapes = {'generator': (1, config.gan.latent_dims),
            'discriminator': (1, *info.input_shape)}

  def random_variables(key):
    variables = {'params': {}, 'batch_stats': {}}
    for i, (name, network) in enumerate(networks.items()):
      made = network.init(
          jax.random.fold_in(key, i), jnp.zeros(shapes[name]),
          jnp.zeros(1, jnp.int32), train=False)
      for kind in variables:
        variables[kind][name] = made.get(kind, {})
    if config.gan.lecam:
      variables['batch_stats']['lecam'] = {
          'real': jnp.zeros(()), 'fake': jnp.zeros(())}
    if config.gan.ada_augment:
      variables['batch_stats']['ada'] = {'probability': jnp.zeros(())}
    return variables

  def play(name, params, stats, *inputs, key, train):
    output, updated = networks[name].apply(
        {'params': params, 'batch_stats': stats}, *inputs, train=train,
        rngs={'dropout': key}, mutable=['batch_stats'])
    return output, {**stats, **updated.get('batch_stats', {})}

  def look(state, name, *inputs):
    variables = {
        kind: tree[name] for kind, tree in state.variables().items()}
    return networks[name].apply(variables, *inputs, train=False)

  def move(state, name, grads, stats):
    updates, opt_state = optimizers[name].update(
        grads, state.opt_state[name], state.params[name])
    scale = optim.after(state.callbacks.rate_scale, grads)
    params = optax.apply_updates(
        state.params[name], jax.tree.map(lambda u: u * scale, updates))
    return state.replace(
        params={**state.params, name: params},
        batch_stats={**state.batch_stats, name: stats},
        opt_state={**state.opt_state, name: opt_state})

  start = lambda params: {
      name: optimizers[name].init(params[name]) for name in networks}
  init = functools.partial(runtime.once, random_variables)
  return Players(init, play, look, move,
                 optax.GradientTransformation(start, None))


def check_penalties(
    config: ml_collections.ConfigDict, *, train: bool) -> None:
  """Raises ConfigError for a gradient penalty on a critic with BatchNorm.

  A penalty bounds the slope of an image's logit, which with BatchNorm depends
  on the other images of its batch, unless that rests (Gulrajani et al. 2017,
  arXiv:1704.00028, section 4).

  Args:
    config: The whole config.
    train: Whether BatchNorm acts while training.
  """
  fields = config.gan
  if not train or fields.norm != 'batch' or config.model.name != 'study_gan':
    return
  for name in ('r1', 'gradient_penalty'):
    if fields[name]:
      raise config_lib.ConfigError(
          f'config.gan.{name}={fields[name]} needs a discriminator that judges '
          "each image alone: set config.gan.norm='spectral' or 'none'.")


def make_networks(config: ml_collections.ConfigDict, info: task_lib.Info):
  """Returns the modules `generator` and `discriminator` of a whole config."""
  fields = config.gan
  classes = len(info.class_names) if fields.conditional else 0
  norm = config_lib.choose(
      'gan.norm', fields.norm, {name: name for name in gan.NORMS})
  draw = tuple(fields.generator_features)
  judge = tuple(fields.discriminator_features)
  shape = tuple(info.input_shape)
  dtype = jnp.dtype(config.model.dtype)
  return config_lib.choose('model.name', config.model.name, {
      'study_gan': lambda: {
          'generator': gan.Generator(
              shape, draw, classes=classes, dtype=dtype),
          'discriminator': gan.Discriminator(
              judge, classes=classes, dropout=config.model.dropout, norm=norm,
              dtype=dtype)},
      'point_gan': lambda: {
          'generator': gan.PointGenerator(shape, draw, dtype=dtype),
          'discriminator': gan.PointDiscriminator(judge, dtype=dtype)},
  })()


def make_objective(fields: ml_collections.ConfigDict) -> adversarial.Objective:
  """Returns the objective of the node `config.gan`.

  Raises:
    ConfigError: If the loss is unknown or ignores a field that is set.
  """
  if fields.loss != 'non_saturating' and (
      fields.label_smoothing or fields.label_noise):
    raise config_lib.ConfigError(
        'config.gan.label_smoothing and label_noise have no effect with '
        f'config.gan.loss={fields.loss!r}; set both to 0.')
  return config_lib.choose('gan.loss', fields.loss, {
      'non_saturating': lambda: adversarial.non_saturating(
          smoothing=fields.label_smoothing, noise=fields.label_noise),
      'least_squares': adversarial.least_squares,
      'hinge': adversarial.hinge,
      'wasserstein': adversarial.wasserstein,
  })()


def regularize(
    fields: ml_collections.ConfigDict, state: task_lib.TrainState, critic,
    images, logits, key) -> jax.Array:
  """Returns the discriminator's regularisers, [B].

  Args:
    fields: The node `config.gan`.
    state: Before the update.
    critic: (images) -> logits [B].
    images: Real and fake ones, each [B, H, W, C].
    logits: Those of the two, each [B].
    key: Of this update.
  """
  real, fake = images
  total = jnp.zeros(len(real))
  if fields.r1:
    # Every so many steps, and so many times as strong (Karras et al. 2020).
    total += fields.r1 * fields.r1_every * jax.lax.cond(
        state.step % fields.r1_every == 0,
        lambda: adversarial.r1_penalty(critic, real),
        lambda: jnp.zeros(len(real)))
  if fields.gradient_penalty:
    total += fields.gradient_penalty * adversarial.gradient_penalty(
        critic, real, fake, key)
  if fields.lecam:
    total += fields.lecam * sum(
        adversarial.lecam(*logits, state.batch_stats['lecam']))
  return total


def remember_logits(
    fields: ml_collections.ConfigDict, state: task_lib.TrainState,
    means: dict[str, jax.Array]) -> task_lib.TrainState:
  """Moves the averages that LeCam keeps towards the batch's mean logits."""
  if not fields.lecam:
    return state
  old = state.batch_stats['lecam']
  new = optax.incremental_update(means, old, 1 - _LECAM_DECAY)
  return state.replace(batch_stats={**state.batch_stats, 'lecam': new})


def adapt_augmentation(
    fields: ml_collections.ConfigDict, state: task_lib.TrainState,
    sign: jax.Array, images: jax.Array) -> task_lib.TrainState:
  """Moves the probability of ADA's changes by a batch's share.

  Up where the discriminator is surer of real images than `ada_target`, down
  where it is less sure. Source: Karras et al. 2020, arXiv:2006.06676, section
  3.1, there every four batches.

  Args:
    fields: The node `config.gan`.
    state: After the discriminator's update.
    sign: Mean sign of its logits of real images, [], 1 = all called real.
    images: Number of those images, [].
  """
  if not fields.ada_augment:
    return state
  step = jnp.sign(sign - fields.ada_target) * images / fields.ada_images
  probability = state.batch_stats['ada']['probability'] + step
  return state.replace(batch_stats={
      **state.batch_stats, 'ada': {'probability': probability.clip(0.0, 1.0)}})


def _make_optimizers(config, info):
  """Returns an optimizer for each player; the discriminator's may be faster."""
  fields, optimizers = config.gan, {}
  for name, rate, updates in (
      ('generator', 1.0, 1),
      ('discriminator', fields.discriminator_rate, fields.discriminator_steps)):
    own = config_lib.replace(
        config, optimizer__learning_rate=config.optimizer.learning_rate * rate)
    optimizers[name] = optim.make_optimizer(
        own.optimizer, trainable=True, epochs=config.train.epochs,
        steps_per_epoch=info.steps_per_epoch * updates)
  return optimizers
