"""A generator against a discriminator: two updates in one step.

The discriminator's gradient stops at the images, the generator's at the
discriminator's weights. BatchNorm statistics of a player move in its own
update alone, the discriminator's with real and then with fake images.
"""

import functools

import jax
import jax.numpy as jnp
import ml_collections

from vision_jax import adversarial
from vision_jax import config as config_lib
from vision_jax import losses
from vision_jax import metrics
from vision_jax import players as players_lib
from vision_jax import task as task_lib
from vision_jax.analysis import gan_reports
from vision_jax.analysis import generative
from vision_jax.data import diff_augment
from vision_jax.models import gan
from vision_jax.models import inputs

# Fields of classifiers.
_IGNORED = ('model.weights', 'model.frozen', 'model.remat', 'loss.',
            'train.label_smoothing', 'taxonomy.')


def make(
    config: ml_collections.ConfigDict,
    info: task_lib.Info,
    *,
    check_range=gan.check_range,
    objective: adversarial.Objective | None = None,
    train: bool = True) -> task_lib.Task:
  """Returns the adversarial task of a whole config.

  `params`, `batch_stats` and `opt_state` are dictionaries of the two players.
  A batch is divided among the discriminator's updates of a step, and a part
  that is all padding makes none; the generator takes the labels of the first
  part, the only one that never is.

  Args:
    config: The whole config.
    info: What is known of the data.
    check_range: (output, bounds) -> None; refuses data of another range than
      the generator's.
    objective: What the players minimise; None = `config.gan.loss`.
    train: Whether BatchNorm and dropout act while training.

  Raises:
    ConfigError: If a field is wrong or would be ignored.
    ValueError: If the generator's range is not the data's.
  """
  fields = config.gan
  config_lib.refuse_ignored(config, _IGNORED, 'gan')
  players_lib.check_penalties(config, train=train)
  target = config_lib.choose(
      'model.target', config.model.target, inputs.RANGES)
  check_range(config.model.output, target.bounds)
  objective = objective or players_lib.make_objective(fields)
  players = players_lib.make(config, info)
  play = functools.partial(players.play, train=train)
  always, sometimes = (
      diff_augment.check(f'gan.{name}', fields[name])
      for name in ('diff_augment', 'ada_augment'))
  updates = fields.discriminator_steps
  if config.train.batch_size % updates:
    raise config_lib.ConfigError(
        f'config.train.batch_size={config.train.batch_size} does not divide '
        f'among config.gan.discriminator_steps={updates} updates.')
  sums = metrics.averages(
      'discriminator_loss', 'generator_loss', 'real_logit', 'fake_logit',
      *(('augment_probability',) if sometimes else ()))

  def init(key):
    return task_lib.create_state(
        players.init(key), players.optimizer,
        keep_ema=config.optimizer.ema_decay > 0,
        keep_best=config.callbacks.restore_best)

  def draw(params, stats, labels, key):
    latents = jax.random.normal(
        jax.random.fold_in(key, 0), (len(labels), fields.latent_dims))
    return play('generator', params, stats, latents, labels,
                key=jax.random.fold_in(key, 1))

  def judge(params, stats, images, labels, key):
    return play('discriminator', params, stats, images, labels, key=key)

  def augment(state, images, key):
    images = diff_augment.apply(key, images, always)
    if not sometimes:
      return images
    return diff_augment.sometimes(
        jax.random.fold_in(key, len(always)), images, sometimes,
        state.batch_stats['ada']['probability'])

  def move_discriminator(state, real, labels, mask, key):
    keys = jax.random.split(key, 7)
    old = state.batch_stats['discriminator']
    fake, _ = draw(state.params['generator'],
                   state.batch_stats['generator'], labels, keys[0])
    images = (augment(state, real, keys[1]),
              augment(state, jax.lax.stop_gradient(fake), keys[2]))

    def loss_of(params):
      real_logit, stats = judge(params, old, images[0], labels, keys[3])
      fake_logit, stats = judge(params, stats, images[1], labels, keys[4])
      loss = sum(objective.discriminator(real_logit, fake_logit, keys[5]))
      total = loss + players_lib.regularize(
          fields, state, lambda x: judge(params, old, x, labels, keys[3])[0],
          images, (real_logit, fake_logit), keys[6])
      return losses.masked_mean(total, mask), (stats, {
          'discriminator_loss': loss, 'real_logit': real_logit,
          'fake_logit': fake_logit})

    grads, (stats, each) = jax.grad(loss_of, has_aux=True)(
        state.params['discriminator'])
    state = players_lib.remember_logits(fields, state, {
        side: losses.masked_mean(each[f'{side}_logit'], mask)
        for side in ('real', 'fake')})
    sign = objective.real_sign * jnp.sign(each['real_logit'])
    state = players_lib.adapt_augmentation(
        fields, state, losses.masked_mean(sign, mask), mask.sum())
    if sometimes:
      each['augment_probability'] = jnp.broadcast_to(
          state.batch_stats['ada']['probability'], mask.shape)
    return players.move(state, 'discriminator', grads, stats), each

  def move_generator(state, labels, mask, key):
    keys = jax.random.split(key, 3)

    def loss_of(params):
      fake, stats = draw(
          params, state.batch_stats['generator'], labels, keys[0])
      logits, _ = judge(
          state.params['discriminator'], state.batch_stats['discriminator'],
          augment(state, fake, keys[1]), labels, keys[2])
      loss = objective.generator(logits)
      return losses.masked_mean(loss, mask), (stats, loss)

    grads, (stats, loss) = jax.grad(loss_of, has_aux=True)(
        state.params['generator'])
    return players.move(state, 'generator', grads, stats), loss

  def train_step(state, batch, key):
    real, size = target(batch['image']), len(batch['image']) // updates
    labels, mask, parts = batch['label'], batch['mask'], []
    for i in range(updates):
      part = slice(i * size, (i + 1) * size)
      moved, each = move_discriminator(
          state, real[part], labels[part], mask[part],
          jax.random.fold_in(key, i))
      parts.append(each)
      state = among(mask[part].any(), moved, state) if i else moved
    state, loss = move_generator(
        state, labels[:size], mask[:size], jax.random.fold_in(key, updates))
    ema = task_lib.update_ema(state, state.params, config.optimizer.ema_decay)
    return state.replace(step=state.step + 1, ema=ema), (
        add_up(mask, loss, jax.tree.map(lambda *x: jnp.concatenate(x), *parts)))

  def among(taken, moved, state):
    return jax.tree.map(
        lambda new, old: jnp.where(taken, new, old), moved, state)

  def add_up(mask, loss, each):
    total = sums.single_from_model_output(
        mask=mask, generator_loss=jnp.zeros_like(mask), **each)
    # The generator's losses are those of the first part alone.
    own = type(total.generator_loss).from_model_output(
        mask=mask[:len(loss)], generator_loss=loss)
    return total.replace(generator_loss=own)

  def generate(state, latents, labels):
    images = players.look(state, 'generator', latents, labels)
    return target.to_unit(images).clip(0.0, 1.0)

  def eval_step(state, batch):
    key, labels = jax.random.key(config.seed), batch['label']
    # Images of no split, such as a user's own, have no id.
    ids = batch['id'] if 'id' in batch else jnp.arange(len(labels))
    latents = jax.vmap(lambda i: jax.random.normal(
        jax.random.fold_in(key, i), (fields.latent_dims,)))(ids)
    real = target(batch['image'])
    fake = players.look(state, 'generator', latents, labels)
    return {
        'real_logit': players.look(state, 'discriminator', real, labels),
        'fake_logit': players.look(state, 'discriminator', fake, labels),
        'real': generative.pixels(real), 'fake': generative.pixels(fake)}

  classes = len(info.class_names) if fields.conditional else 0
  generator = task_lib.Generator(
      fields.latent_dims, classes, jax.jit(generate))
  drawn = dict(generator=generator, config=config)
  params = jax.eval_shape(init, jax.random.key(0)).params
  return task_lib.Task(
      init=init, train_step=train_step, train_sums=sums, eval_step=eval_step,
      summarize=functools.partial(
          gan_reports.summarize, real_sign=objective.real_sign),
      trainable=jax.tree.map(lambda _: True, params), encode=None,
      table=gan_reports.table, generator=generator,
      preview=functools.partial(gan_reports.preview, **drawn),
      report=functools.partial(gan_reports.report, **drawn))
