"""The adversarial step: who moves what, and the study's mistakes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vision_jax import adversarial
from vision_jax import checkpoint
from vision_jax import config as config_lib
from vision_jax import loop
from vision_jax import players
from vision_jax import runs
from vision_jax import task as task_lib
from vision_jax.models import gan
from vision_jax.models import layers

INFO = task_lib.Info(('a', 'b'), (8, 8, 3), steps_per_epoch=4)


def small_config(**fields):
  """A small GAN of 8x8 images with the study's kind of step."""
  config = config_lib.base().unlock()
  config.task = 'gan'
  config.model.name = 'study_gan'
  config.model.output = 'tanh'
  config.model.target = 'signed'
  config.model.dropout = 0.25
  config.callbacks.restore_best = False
  config.optimizer.name = 'adamax'
  config.optimizer.learning_rate = 1.5e-4
  config.optimizer.b1 = 0.5
  config.optimizer.eps = 1e-7
  config.gan.latent_dims = 5
  config.gan.generator_features = (6,)
  config.gan.discriminator_features = (4, 6)
  config.train.batch_size = 4
  return config_lib.replace(config, **fields)


def make_batch(size=4):
  rng = np.random.default_rng(0)
  return {
      'image': jnp.asarray(rng.uniform(size=(size, 8, 8, 3)), jnp.float32),
      'label': jnp.arange(size) % 2,
      'id': jnp.arange(size), 'mask': jnp.ones(size)}


def one_step(config, batch=None):
  """Returns the task, the state before and after a step, and its metrics."""
  task = runs.make_task(config, INFO)
  state = task.init(jax.random.key(1))
  batch = batch or make_batch(config.train.batch_size)
  after, sums = jax.jit(task.train_step)(state, batch, jax.random.key(2))
  return task, state, after, sums.compute()


def test_counts_of_the_study():
  config = config_lib.replace(
      small_config(), gan__latent_dims=100,
      gan__generator_features=(256, 256, 256, 128),
      gan__discriminator_features=(32, 64, 128, 256, 512))
  info = INFO._replace(input_shape=(64, 64, 3))
  task = runs.make_task(config, info)
  state = jax.eval_shape(task.init, jax.random.key(0))
  count = lambda name: layers.count_parameters(
      state.params[name], state.batch_stats[name])
  assert (count('generator')['total'], count('generator')['trainable']) == (
      2_486_019, 2_484_227)
  assert (count('discriminator')['total'],
          count('discriminator')['trainable']) == (1_613_889, 1_611_969)


def test_both_players_and_their_statistics_move_in_one_step():
  _, before, after, _ = one_step(small_config())
  for name in ('generator', 'discriminator'):
    for kind in ('params', 'batch_stats'):
      old, new = (jax.tree.leaves(getattr(s, kind)[name])
                  for s in (before, after))
      moved = [bool(jnp.any(a != b)) for a, b in zip(old, new, strict=True)]
      # A bias before BatchNorm has no gradient but rounding's.
      assert sum(moved) >= 0.6 * len(moved), (name, kind)


@pytest.mark.parametrize('still,mover', [
    ('generator', 'discriminator'), ('discriminator', 'generator')])
def test_no_gradient_reaches_the_other_player(still, mover, monkeypatch):
  """With one player's update left out, the other's is the very same."""
  config = small_config(model__dropout=0.0)
  make = players.make
  def without(name):
    def patched(*args):
      made = make(*args)
      return made._replace(move=lambda state, who, *rest: (
          state if who == name else made.move(state, who, *rest)))
    return patched
  monkeypatch.setattr(players, 'make', without(still))
  _, before, after, _ = one_step(config)
  same = jax.tree.map(lambda a, b: bool(jnp.all(a == b)),
                      before.params[still], after.params[still])
  assert all(jax.tree.leaves(same))
  assert after.opt_state[still] is not None
  moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)),
                       before.params[mover], after.params[mover])
  assert any(jax.tree.leaves(moved))


def test_black_has_the_small_slope():
  """Of leaky ReLU at exactly zero, as in Keras and PyTorch."""
  judge = gan.PointDiscriminator((3, 4))
  black = jnp.zeros((1, 1, 1, 2))
  variables = judge.init(jax.random.key(0), black, None, train=False)
  slopes = jax.grad(lambda v: judge.apply(v, black, None, train=False)[0])(
      variables)['params']['Dense_0']['bias']
  second, last = (variables['params'][f'Dense_{i}']['kernel'] for i in (1, 2))
  np.testing.assert_allclose(
      slopes, 0.2 * 0.2 * (second @ last)[:, 0], rtol=1e-5)


def test_published_training_rests_batch_norm_and_dropout():
  steps = [one_step(small_config(
      model__dropout=rate, published__switches=('inference_mode',)))
           for rate in (0.0, 0.9)]
  assert steps[0][3] == steps[1][3]
  _, before, after, _ = steps[0]
  jax.tree.map(np.testing.assert_array_equal,
               before.batch_stats, after.batch_stats)


def test_a_label_above_one_has_no_minimum():
  objective = adversarial.study_cross_entropy()
  logit = jnp.log(jnp.float32(0.999999)) - jnp.log1p(-jnp.float32(0.999999))
  draws = jax.vmap(lambda key: objective.discriminator(
      logit[None], logit[None], key)[1])(jax.random.split(jax.random.key(0), 2000))
  # The formula at the label 1.05, which the noise approaches.
  lowest = -1.05 * math.log(0.999999) + 0.05 * math.log(1e-6)
  assert lowest == pytest.approx(-0.690, abs=1e-3)
  assert 2 * float(draws.min()) == pytest.approx(lowest, abs=5e-3)
  assert float(draws.min()) < 0


def test_published_targets_leave_the_unit_interval_and_sound_ones_do_not():
  real, fake = adversarial.binary_targets(
      jax.random.key(0), (10_000,), smoothing=0.1, noise=0.05)
  assert 0.85 <= real.min() < 0.86 and 0.89 < real.max() <= 0.9
  assert 0.0 <= fake.min() < 0.01 and 0.04 < fake.max() <= 0.05
  with pytest.raises(ValueError, match='not above 1'):
    adversarial.binary_targets(
        jax.random.key(0), (2,), smoothing=0.9, noise=0.2)


def test_data_of_another_range_than_the_generators_is_refused():
  with pytest.raises(ValueError, match='config.model.target'):
    runs.make_task(small_config(model__target='unit'), INFO)
  task = runs.make_task(small_config(
      model__target='unit', published__switches=('unchecked_range',)), INFO)
  state = task.init(jax.random.key(0))
  images = task.generator.generate(
      state, jnp.ones((2, 5)), jnp.zeros(2, jnp.int32))
  assert 0 <= images.min() and images.max() <= 1


def test_labels_are_refused_where_the_loss_ignores_them():
  with pytest.raises(config_lib.ConfigError, match='label_noise'):
    runs.make_task(small_config(gan__loss='hinge', gan__label_noise=0.1), INFO)


def test_a_batch_that_does_not_divide_among_the_updates_is_refused():
  with pytest.raises(config_lib.ConfigError, match='discriminator_steps=3'):
    runs.make_task(small_config(gan__discriminator_steps=3), INFO)


def test_padding_changes_no_loss():
  config = small_config(published__switches=('inference_mode',))
  batch = make_batch(4)
  batch['mask'] = jnp.array([1., 1, 1, 0])
  other = batch | {'image': batch['image'].at[3].set(0.25)}
  _, _, first, metrics = one_step(config, batch)
  _, _, second, others = one_step(config, other)
  assert metrics == others
  for a, b in zip(jax.tree.leaves(first.params),
                  jax.tree.leaves(second.params), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('real', [1, 3, 4])
def test_the_sums_hold_every_real_row_of_all_updates(real, monkeypatch):
  """Two updates see rows 0 and 1, then 2 and 3; a last batch may lack some."""
  config = small_config(
      gan__discriminator_steps=2, gan__norm='none', model__dropout=0.0)
  batch = make_batch(4) | {'mask': (jnp.arange(4) < real).astype(float)}
  # The players stay as they are, so that every logit is known beforehand.
  make = players.make
  monkeypatch.setattr(players, 'make', lambda *args: make(*args)._replace(
      move=lambda state, *_: state))
  task, state, _, metrics = one_step(config, batch)
  logits = task.eval_step(state, batch)['real_logit']
  assert all(np.isfinite(value) for value in metrics.values())
  np.testing.assert_allclose(
      metrics['real_logit'], logits[:real].mean(), rtol=1e-5)


@pytest.mark.parametrize('real', [2, 4])
def test_a_part_that_is_all_padding_moves_no_discriminator(real):
  """Two updates, the second of which has nothing to see where real is 2."""
  config = small_config(
      gan__discriminator_steps=2, gan__norm='none', gan__lecam=0.1,
      gan__ada_augment=('color',), model__dropout=0.0)
  batch = make_batch(4) | {'mask': (jnp.arange(4) < real).astype(float)}
  task = runs.make_task(config, INFO)
  state = task.init(jax.random.key(1))
  # Momentum would move the weights without a gradient.
  state = jax.jit(task.train_step)(
      state, make_batch(4), jax.random.key(0))[0]
  after, _ = jax.jit(task.train_step)(state, batch, jax.random.key(2))
  single = runs.make_task(config_lib.replace(
      config, gan__discriminator_steps=1, train__batch_size=2), INFO)
  alone, _ = jax.jit(single.train_step)(
      state, {name: rows[:2] for name, rows in batch.items()},
      jax.random.key(2))
  gaps = jax.tree.leaves(jax.tree.map(
      lambda a, b: float(jnp.abs(a - b).max()),
      *((s.params['discriminator'], s.opt_state['discriminator'],
         s.batch_stats['lecam'], s.batch_stats['ada'])
        for s in (after, alone))))
  assert (max(gaps) < 1e-6) == (real == 2)


@pytest.mark.parametrize('name', ['r1', 'gradient_penalty'])
def test_a_gradient_penalty_on_batch_norm_is_refused_unless_that_rests(name):
  fields = {f'gan__{name}': 1.0}
  with pytest.raises(config_lib.ConfigError, match=f'gan.{name}=1.0.*norm'):
    runs.make_task(small_config(**fields), INFO)
  runs.make_task(small_config(
      **fields, published__switches=('inference_mode',)), INFO)
  runs.make_task(small_config(
      **fields, model__name='point_gan'), INFO)


@pytest.mark.parametrize('fields', [
    dict(gan__loss='wasserstein', gan__gradient_penalty=10.0,
         gan__discriminator_steps=2, gan__norm='none'),
    dict(gan__norm='spectral', gan__conditional=True, gan__r1=1.0,
         gan__r1_every=2, gan__loss='hinge', optimizer__ema_decay=0.9,
         gan__diff_augment=('color', 'translation', 'cutout')),
    dict(gan__loss='least_squares', gan__lecam=0.1, gan__norm='none'),
], ids=['wasserstein', 'modern', 'lecam'])
def test_every_remedy_takes_a_finite_step(fields):
  _, before, after, metrics = one_step(small_config(**fields))
  assert all(np.isfinite(v) for v in metrics.values())
  for tree in (after.params, after.batch_stats, after.ema):
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))
  if after.ema:
    # The ramp's first decay is 1 / 10.
    for old, new, mean in zip(*map(jax.tree.leaves, (
        before.params, after.params, after.ema)), strict=True):
      np.testing.assert_allclose(mean, 0.1 * old + 0.9 * new, rtol=1e-5,
                                 atol=1e-7)
  if 'lecam' in after.batch_stats:
    assert float(after.batch_stats['lecam']['real']) == pytest.approx(
        0.01 * float(metrics['real_logit']), rel=1e-4)


def test_a_conditional_generator_heeds_its_label():
  config = small_config(gan__conditional=True)
  task = runs.make_task(config, INFO)
  state = task.init(jax.random.key(0))
  # All classes start alike and part as they train.
  shifts = state.params['generator']['ClassNorm_0']['shift']['embedding']
  state.params['generator']['ClassNorm_0']['shift']['embedding'] = (
      shifts.at[1].add(0.5))
  latents = jnp.ones((2, 5))
  a, b = task.generator.generate(state, latents, jnp.array([0, 1]))
  assert float(jnp.abs(a - b).max()) > 1e-3
  assert task.generator.classes == 2


@pytest.mark.parametrize('sign,start,end', [
    (1.0, 0.5, 0.54), (0.2, 0.5, 0.46), (1.0, 0.99, 1.0), (-1.0, 0.02, 0.0),
    (0.6, 0.5, 0.5)])
def test_the_probability_follows_how_sure_the_discriminator_is(
    sign, start, end):
  fields = small_config(
      gan__ada_augment=('color',), gan__ada_target=0.6,
      gan__ada_images=100).gan
  state = task_lib.create_state(
      {'params': {}, 'batch_stats': {'ada': {'probability': start}}},
      optax.identity(), keep_ema=False, keep_best=False)
  after = players.adapt_augmentation(
      fields, state, jnp.float32(sign), jnp.float32(4))
  assert float(after.batch_stats['ada']['probability']) == pytest.approx(end)


@pytest.mark.parametrize('target,expected', [
    (-1.5, [4 / 6, 1.0, 1.0]), (1.5, [0.0, 0.0, 0.0])])
def test_the_probability_moves_in_the_step_and_stays_one(target, expected):
  config = small_config(
      gan__ada_augment=('color', 'translation', 'cutout'),
      gan__ada_target=target, gan__ada_images=6)
  task = runs.make_task(config, INFO)
  state, step = task.init(jax.random.key(1)), jax.jit(task.train_step)
  for i, probability in enumerate(expected):
    before = state.params['generator']
    state, sums = step(state, make_batch(), jax.random.key(i))
    assert float(state.batch_stats['ada']['probability']) == pytest.approx(
        probability)
    assert float(sums.compute()['augment_probability']) == pytest.approx(
        probability)
    # A gradient reaches the generator through the changes.
    moved = jax.tree.map(
        lambda a, b: bool(jnp.any(a != b)), before, state.params['generator'])
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize('fields', [
    {}, dict(gan__norm='spectral', gan__conditional=True)],
    ids=['plain', 'modern'])
def test_few_bits_change_little_and_are_kept_nowhere(fields):
  wide = one_step(small_config(**fields))[3]
  _, _, after, narrow = one_step(
      small_config(model__dtype='bfloat16', **fields))
  differ = [abs(float(narrow[name] - wide[name])) for name in wide]
  # Eight bits of mantissa, through a dozen layers.
  assert 1e-6 < max(differ) < 0.1
  assert {leaf.dtype for tree in (after.params, after.batch_stats)
          for leaf in jax.tree.leaves(tree)} == {jnp.dtype('float32')}


def test_a_speed_of_no_images_is_refused():
  with pytest.raises(ValueError, match='ada_images=0 is not positive'):
    runs.make_task(small_config(gan__ada_images=0), INFO)


def test_at_probability_zero_the_discriminator_moves_as_without():
  plain, adaptive = (
      one_step(small_config(gan__ada_augment=parts))[2]
      for parts in ((), ('color', 'cutout')))
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
      plain.params['discriminator'], adaptive.params['discriminator'])


class Killed(Exception):
  """Stands for the end of the process."""


def test_resume_is_bit_exact_for_both_players_and_the_average(
    tmp_path, monkeypatch):
  config = small_config(
      optimizer__ema_decay=0.9, gan__lecam=0.1, gan__norm='spectral',
      gan__ada_augment=('color', 'cutout'), gan__ada_images=100,
      gan__ada_target=-1.5,
      data__source='procedural', data__procedural_examples=24,
      data__image_size=(8, 8), data__channels=3,
      data__validation_fraction=0.0, train__epochs=2, train__remainder='drop',
      report__progress=False, report__figures=False,
      checkpoint__every_steps=1, callbacks__monitor='train_generator_loss')
  loop.train(config, tmp_path / 'straight')
  make = runs.make_train_step
  def make_dying(*args):
    step, count = make(*args), iter(range(100))
    def dying(*inputs):
      if next(count) == 6:
        raise Killed
      return step(*inputs)
    return dying
  monkeypatch.setattr(runs, 'make_train_step', make_dying)
  with pytest.raises(Killed):
    loop.train(config, tmp_path / 'resumed')
  monkeypatch.setattr(runs, 'make_train_step', make)
  loop.train(config, tmp_path / 'resumed')
  one, other = (checkpoint.load_weights(tmp_path / name)
                for name in ('straight', 'resumed'))
  # Orbax keeps the average as params, and the raw weights beside it.
  assert set(one) == {'params', 'batch_stats', 'raw'}
  jax.tree.map(np.testing.assert_array_equal, one, other)
