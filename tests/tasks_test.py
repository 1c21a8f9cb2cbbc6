"""Classification and reconstruction: what moves, what stays, what is summed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import run_helpers
from vision_jax import checkpoint
from vision_jax import config as config_lib
from vision_jax import features
from vision_jax import loop
from vision_jax import runs
from vision_jax import task as task_lib
from vision_jax import writers

INFO = task_lib.Info(('a', 'b', 'c'), (8, 8, 3), 4)


def make_batch(seed=0, size=6, masked=2):
  rng = np.random.default_rng(seed)
  return {
      'image': jnp.asarray(rng.uniform(size=(size, 8, 8, 3)), jnp.float32),
      'label': jnp.asarray(rng.integers(0, 3, size), jnp.int32),
      'id': jnp.arange(size), 'mask': jnp.asarray(
          [1.0] * (size - masked) + [0.0] * masked)}


def make(**fields):
  config = run_helpers.make_config(**fields)
  task = runs.make_task(config, INFO)
  return task, task.init(jax.random.key(0))


def moved(before, after):
  return jax.tree.map(lambda a, b: bool((a != b).any()), before, after)


def test_a_frozen_encoder_keeps_every_bit_and_the_head_moves():
  task, state = make(model__frozen='^encoder/')
  after, _ = task.train_step(state, make_batch(), jax.random.key(1))
  changed = moved(state.params, after.params)
  assert not any(jax.tree.leaves(changed['encoder']))
  assert all(jax.tree.leaves(changed['head']))
  assert jax.tree.leaves(task.trainable['encoder']) == [False] * 4


def test_a_free_encoder_moves_in_every_leaf():
  task, state = make()
  after, _ = task.train_step(state, make_batch(), jax.random.key(1))
  assert all(jax.tree.leaves(moved(state.params, after.params)))


def test_dropout_rests_in_a_frozen_encoder_unless_it_is_told_to_act():
  def losses(mode):
    task, state = make(model__frozen='^encoder/', model__frozen_mode=mode)
    return [float(task.train_step(state, make_batch(), jax.random.key(i))[1]
                  .compute()['loss']) for i in (1, 2)]
  first, second = losses('eval')
  assert first == second
  first, second = losses('train')
  assert first != second


def test_dropout_rests_in_a_frozen_encoder_of_an_autoencoder():
  def losses(**fields):
    task, state = make(task='reconstruction', model__frozen='^encoder/',
                       **fields)
    return [float(task.train_step(state, make_batch(), jax.random.key(i))[1]
                  .compute()['loss']) for i in (1, 2)]
  first, second = losses()
  assert first == second
  first, second = losses(model__frozen_mode='train')
  assert first != second


def test_padding_changes_neither_sums_nor_weights():
  task, state = make(model__dropout=0.0)
  full = make_batch(size=4, masked=0)
  padded = {key: jnp.concatenate([value, value[:2]])
            for key, value in full.items()}
  padded['mask'] = jnp.asarray([1.0] * 4 + [0.0] * 2)
  (one, a), (other, b) = (
      task.train_step(state, batch, jax.random.key(1))
      for batch in (full, padded))
  np.testing.assert_allclose(
      a.compute()['loss'], b.compute()['loss'], rtol=1e-6)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5),
               one.params, other.params)


def test_the_loss_is_the_cross_entropy_of_the_logits():
  task, state = make()
  batch = make_batch()
  outputs = task.eval_step(state, batch)
  np.testing.assert_allclose(outputs['probabilities'].sum(-1), 1, atol=1e-6)
  expected = -np.log(np.asarray(outputs['probabilities'])[
      np.arange(6), np.asarray(batch['label'])])
  np.testing.assert_allclose(outputs['loss'], expected, rtol=1e-5)


def test_the_average_of_weights_ramps_up_and_is_what_is_evaluated():
  task, state = make(optimizer__ema_decay=0.99)
  after, _ = task.train_step(state, make_batch(), jax.random.key(1))
  expected = optax.incremental_update(after.params, state.params, 0.9)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
               after.ema, expected)
  assert after.variables()['params'] is after.ema


def test_reconstruction_learns_and_measures_in_unit_range():
  task, state = make(task='reconstruction', model__dropout=0.0,
                     optimizer__learning_rate=1e-2)
  batch = make_batch(masked=0)
  step = jax.jit(task.train_step)
  first = task.eval_step(state, batch)['mse'].mean()
  for i in range(60):
    state, _ = step(state, batch, jax.random.key(i))
  outputs = task.eval_step(state, batch)
  assert outputs['mse'].mean() < 0.7 * first
  np.testing.assert_allclose(outputs['mse'], outputs['loss'], rtol=1e-5)


def test_an_output_that_cannot_reach_the_target_is_refused():
  with pytest.raises(ValueError, match='sigmoid'):
    make(task='reconstruction', model__target='signed')
  task, state = make(task='reconstruction', model__target='signed',
                     model__output='tanh')
  outputs = task.eval_step(state, make_batch())
  # The same error in [-1, 1] is four times that in [0, 1].
  np.testing.assert_allclose(outputs['loss'], 4 * outputs['mse'], rtol=1e-5)


def test_an_unknown_task_names_the_nearest():
  with pytest.raises(config_lib.ConfigError, match="mean 'classification'"):
    make(task='classificaton')


_GAN = dict(model__name='study_gan', model__output='tanh',
            model__target='signed', gan__generator_features=(4,),
            gan__discriminator_features=(4,))
_VAE = dict(model__name='dense_vae', model__input='unit')


@pytest.mark.parametrize('field, value, tasks', [
    ('model__weights', 'runs/x', ('reconstruction', 'vae', 'gan')),
    ('model__frozen_mode', 'train', ('vae', 'gan')),
    ('model__frozen_stages', 1, ('reconstruction', 'vae', 'gan')),
    ('model__remat', True, ('reconstruction', 'vae', 'gan')),
    ('model__frozen', 'encoder', ('gan',)),
    ('loss__l2', 0.1, ('reconstruction', 'vae', 'gan', 'contrastive')),
    ('train__label_smoothing', 0.1,
     ('reconstruction', 'vae', 'gan', 'contrastive')),
    ('taxonomy__fusion', True,
     ('reconstruction', 'vae', 'gan', 'contrastive', 'semi_supervised')),
    ('taxonomy__hierarchical', True, ('semi_supervised',))])
def test_a_field_that_a_task_would_ignore_is_refused(field, value, tasks):
  for task in tasks:
    own = {'gan': _GAN, 'vae': _VAE, 'semi_supervised': {
        'train__sampler': 'mixed:1:3'}}
    config = run_helpers.make_config(
        task=task, **(own[task] if task in own else {}), **{field: value})
    name = field.replace('__', '.')
    with pytest.raises(
        config_lib.ConfigError, match=f'config.{name}=.*{task}'):
      runs.make_task(config, INFO)


@pytest.mark.parametrize('frozen, views', [
    ('^encoder/', 0), ('^encoder/', 2),
    # Every leaf, but the path of no dropout.
    ('^encoder/level', 0)])
def test_training_from_cached_features_equals_training_through_the_encoder(
    tmp_path, frozen, views):
  fields = dict(model__frozen=frozen, augment__views=views,
                augment__flip_horizontal=views > 0,
                augment__translation=0.2 * (views > 0))
  rows = []
  for cached in (True, False):
    config = run_helpers.make_config(train__cache_features=cached, **fields)
    run = runs.build(config)
    stores = features.make_stores(run, runs.init_state(run))
    assert ('features' in stores.training[0].arrays) == cached
    folder = tmp_path / str(cached)
    loop.train(config, folder)
    rows.append(writers.read_rows(folder / 'metrics.jsonl'))
  for a, b in zip(*rows, strict=True):
    for name, value in a.items():
      np.testing.assert_allclose(b[name], value, atol=1e-5, err_msg=name)


def test_a_step_from_cached_features_carries_no_encoder(tmp_path, monkeypatch):
  config = run_helpers.make_config(
      model__frozen='^encoder/', optimizer__ema_decay=0.9, loss__l2=1e-3)
  run = runs.build(config)
  whole = runs.init_state(run)
  stores = features.make_stores(run, whole)
  state = features.detach(run, whole, stores)
  for tree in (state.params, state.ema, state.best['params']):
    assert tree.keys() == {'head'}
  joined = features.attach(state, whole)
  assert joined.variables().keys() == whole.variables().keys()
  jax.tree.map(np.testing.assert_array_equal, joined.variables(),
               whole.variables())
  jax.tree.map(np.testing.assert_array_equal, joined.best, whole.best)
  images = features.Stores(run.store, (run.store,))
  assert features.detach(run, whole, images) is whole
  saved = []
  monkeypatch.setattr(checkpoint, 'save', lambda manager, step, tree, **_: (
      saved.append(tree['state'])))
  loop.train(config, tmp_path / 'run')
  assert saved and all('encoder' not in state.params for state in saved)
  exported = checkpoint.load_weights(tmp_path / 'run')
  jax.tree.map(np.testing.assert_array_equal, exported['params']['encoder'],
               jax.device_get(whole.params['encoder']))


def test_the_encoder_never_sees_an_image_twice(tmp_path, monkeypatch):
  seen = []
  compute = features._compute
  def counting(run, state, members, view):
    seen.append(len(members))
    return compute(run, state, members, view)
  monkeypatch.setattr(features, '_compute', counting)
  for fraction in (0.5, 1.0, 0.5):
    config = run_helpers.make_config(
        model__frozen='^encoder/', data__cache_dir=str(tmp_path),
        data__label_fraction=fraction)
    run = runs.build(config)
    features.make_stores(run, runs.init_state(run))
  # 48 to train and validate on and 12 to test; the rest is found again.
  assert seen == [24 + 12, 24]


def test_fresh_augmentation_is_never_cached():
  config = run_helpers.make_config(
      model__frozen='^encoder/', augment__flip_horizontal=True)
  run = runs.build(config)
  stores = features.make_stores(run, runs.init_state(run))
  assert stores.training[0] is run.store
