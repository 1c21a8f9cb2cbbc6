"""Optimizers, schedules and freezing against formulas and PyTorch."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision_jax import config as config_lib
from vision_jax import optim

PARAMS = {'encoder': {'kernel': jnp.ones((2, 3)), 'bias': jnp.ones(3)},
          'head': {'kernel': jnp.full((3, 1), 2.0)}}


def make_config(**fields):
  config = config_lib.base().optimizer
  config.update(fields)
  return config


def make(config, trainable=None, steps_per_epoch=10, epochs=5):
  if trainable is None:
    trainable = jax.tree.map(lambda _: True, PARAMS)
  return optim.make_optimizer(
      config, trainable=trainable, steps_per_epoch=steps_per_epoch,
      epochs=epochs)


def run(optimizer, grads, params=PARAMS):
  state = optimizer.init(params)
  for grad in grads:
    updates, state = optimizer.update(grad, state, params)
    params = jax.tree.map(jnp.add, params, updates)
  return params


def test_frozen_leaves_get_no_update_and_no_state():
  mask = optim.trainable_mask(PARAMS, '^encoder/')
  optimizer = make(make_config(), mask)
  grads = jax.tree.map(jnp.ones_like, PARAMS)
  params = run(optimizer, [grads])
  np.testing.assert_array_equal(
      params['encoder']['kernel'], PARAMS['encoder']['kernel'])
  assert (params['head']['kernel'] != PARAMS['head']['kernel']).all()
  sizes = sum(leaf.size for leaf in jax.tree.leaves(optimizer.init(PARAMS)))
  assert sizes < 2 * 3 + 6  # Two moments of the head and a few counters.


def test_a_frozen_pattern_that_matches_nothing_is_an_error():
  with pytest.raises(config_lib.ConfigError, match='encoder/bias'):
    optim.trainable_mask(PARAMS, '^encodr/')


def test_stop_frozen_stops_the_gradient():
  mask = optim.trainable_mask(PARAMS, 'kernel$')
  grads = jax.grad(lambda p: sum(
      jnp.sum(leaf) for leaf in jax.tree.leaves(optim.stop_frozen(p, mask))))(
          PARAMS)
  assert not grads['head']['kernel'].any()
  assert grads['encoder']['bias'].all()


@pytest.mark.parametrize('step, rate', [
    (0, 1e-3), (99, 1e-3), (100, 1e-4), (200, 1e-5), (499, 1e-7)])
def test_step_schedule_falls_tenfold_every_ten_epochs(step, rate):
  schedule = optim.make_schedule(
      make_config(schedule='step'), steps_per_epoch=10, epochs=50)
  np.testing.assert_allclose(schedule(step), rate, rtol=1e-5)


def test_cosine_warms_up_without_a_zero_and_ends_at_zero():
  schedule = optim.make_schedule(
      make_config(schedule='cosine', warmup_epochs=1.0), steps_per_epoch=10,
      epochs=5)
  rates = np.array([schedule(i) for i in range(51)])
  assert rates[0] > 0
  assert rates.argmax() == 10
  np.testing.assert_allclose(rates[10], 1e-3, rtol=1e-6)
  np.testing.assert_allclose(
      rates[30], 1e-3 * 0.5 * (1 + np.cos(np.pi / 2)), rtol=1e-5)
  assert rates[50] < 1e-9


def test_accumulation_equals_the_mean_gradient():
  rng = np.random.default_rng(0)
  grads = [jax.tree.map(
      lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), PARAMS)
           for _ in range(4)]
  means = [jax.tree.map(lambda a, b: (a + b) / 2, *grads[i:i + 2])
           for i in (0, 2)]
  two = run(make(make_config(accumulate=2)), grads)
  one = run(make(make_config()), means)
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), two, one)


def rates_of(steps_per_epoch, epochs, **fields):
  """The rate of each real update of plain SGD, as MultiSteps makes them."""
  optimizer = optim.make_optimizer(
      make_config(name='sgd', b1=0.0, learning_rate=1.0, **fields),
      trainable=True, steps_per_epoch=steps_per_epoch, epochs=epochs)
  params = {'kernel': jnp.ones((1, 1))}
  state, update, rates = optimizer.init(params), jax.jit(optimizer.update), []
  for batch in range(1, steps_per_epoch * epochs + 1):
    updates, state = update(params, state, params)
    if batch % fields['accumulate'] == 0:
      rates.append(-float(updates['kernel'][0, 0]))
  return np.array(rates)


@pytest.mark.parametrize('steps_per_epoch, accumulate, updates', [
    (5, 2, 25), (5, 8, 6), (3, 3, 10)])
def test_cosine_lasts_as_long_as_the_updates_that_accumulation_leaves(
    steps_per_epoch, accumulate, updates):
  rates = rates_of(steps_per_epoch, 10, schedule='cosine',
                   accumulate=accumulate)
  np.testing.assert_allclose(
      rates, 0.5 + 0.5 * np.cos(np.pi * np.arange(updates) / updates),
      atol=1e-6)


def test_warm_up_and_steps_count_epochs_whatever_accumulates():
  rates = rates_of(5, 12, schedule='cosine', warmup_epochs=4.0, accumulate=2)
  assert len(rates) == 30 and rates.argmax() == 10  # 4 epochs of 2.5 updates.
  # 50 epochs of 5 batches; update i begins with batch 8 i.
  rates = rates_of(5, 50, schedule='step', step_epochs=10, accumulate=8)
  np.testing.assert_allclose(
      rates, 0.1 ** (np.arange(31) * 8 // 50), rtol=1e-5)


def test_clipping_limits_the_global_norm():
  grads = jax.tree.map(lambda p: 100 * jnp.ones_like(p), PARAMS)
  config = make_config(name='sgd', b1=0.0, learning_rate=1.0, clip_norm=0.5)
  params = run(make(config), [grads])
  moved = sum(float(((a - b)**2).sum()) for a, b in zip(
      jax.tree.leaves(params), jax.tree.leaves(PARAMS)))
  np.testing.assert_allclose(moved, 0.25, rtol=1e-5)


def test_weight_decay_that_would_do_nothing_is_an_error():
  with pytest.raises(config_lib.ConfigError, match='adamw'):
    make(make_config(weight_decay=0.1))


def test_l2_leaves_biases_alone():
  config = make_config(
      name='sgd', b1=0.0, learning_rate=1.0, weight_decay=0.1)
  params = run(make(config), [jax.tree.map(jnp.zeros_like, PARAMS)])
  np.testing.assert_allclose(params['encoder']['kernel'], 0.9)
  np.testing.assert_array_equal(params['encoder']['bias'], 1.0)


def test_deeper_stages_move_less_and_later():
  params = {'a': {'w': jnp.zeros(1)}, 'b': {'w': jnp.zeros(1)},
            'head': {'w': jnp.zeros(1)}}
  scale = optim.scale_by_depth(('^a/', '^b/'), decay=0.5, unfreeze_updates=2)
  state = scale.init(params)
  seen = []
  for _ in range(5):
    updates, state = scale.update(jax.tree.map(jnp.ones_like, params), state)
    seen.append([float(updates[name]['w'][0]) for name in ('a', 'b', 'head')])
  assert seen == [[0, 0, 1], [0, 0, 1], [0, .5, 1], [0, .5, 1], [.25, .5, 1]]


def test_stages_rest_for_whole_epochs_whatever_accumulates():
  params = {'a': {'w': jnp.zeros(1)}, 'head': {'w': jnp.zeros(1)}}
  optimizer = optim.make_optimizer(
      make_config(name='sgd', b1=0.0, unfreeze_epochs=4.0, accumulate=2),
      trainable=jax.tree.map(lambda _: True, params), steps_per_epoch=5,
      epochs=8, stages=('^a/',))
  state, moves = optimizer.init(params), []
  for _ in range(40):
    updates, state = optimizer.update(
        jax.tree.map(jnp.ones_like, params), state, params)
    moves.append(bool(updates['a']['w'][0]))
  # Four epochs are batches 1 to 20, the first ten updates.
  assert moves.index(True) + 1 == 22


@pytest.mark.parametrize('name', ['adamw', 'sgd'])
def test_only_kernels_decay(name):
  """A transformer's token and positions, a class's scales do not."""
  leaf = lambda *shape: jnp.ones(shape)
  params = {'cls_token': leaf(1, 1, 4), 'pos_embed': leaf(1, 5, 4),
            'norm': {'scale': {'embedding': leaf(3, 4)}, 'bias': leaf(4)},
            'dense': {'kernel': leaf(4, 2)}, 'odd': {'kernel': leaf(4)}}
  optimizer = optim.make_optimizer(
      make_config(name=name, weight_decay=0.1, learning_rate=1.0),
      trainable=jax.tree.map(lambda _: True, params), steps_per_epoch=1,
      epochs=1)
  after = run(optimizer, [jax.tree.map(jnp.zeros_like, params)], params)
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), params, after)
  np.testing.assert_allclose(after['dense']['kernel'], 0.9, rtol=1e-6)
  assert sum(jax.tree.leaves(moved)) == 1


def test_layer_decay_without_stages_is_an_error():
  with pytest.raises(config_lib.ConfigError, match='layer_decay'):
    make(make_config(layer_decay=0.5))


@pytest.mark.parametrize('number', [0.0, -0.0, -3.0, np.inf, np.nan])
def test_what_waits_for_gradients_is_the_same(number):
  grads = {'a': jnp.full((2, 3), number), 'b': jnp.array(1.0),
           'none': jnp.zeros(0)}
  for value in (0.25, 1.0):
    got = jax.jit(optim.after)(jnp.array(value), grads)
    assert got == value and got.dtype == jnp.float32


@pytest.mark.skipif(
    jax.default_backend() != 'cpu', reason='only done on a CPU')
def test_no_parameter_is_copied_before_its_update():
  params = {'first': jnp.ones((7, 9)), 'second': jnp.ones((9, 11))}
  def step(params, x, wait):
    loss = lambda p: jnp.square(jnp.tanh(x @ p['first']) @ p['second']).sum()
    grads = jax.grad(loss)(params)
    scale = optim.after(x[0, 0], grads) if wait else x[0, 0]
    return jax.tree.map(lambda p, g: p - scale * g, params, grads)
  def copies(wait):
    program = jax.jit(
        step, donate_argnums=0, static_argnums=2).lower(
            params, jnp.ones((5, 7)), wait).compile().as_text()
    return len(re.findall(r'f32\[9,11\]\S* copy\(%params', program))
  assert copies(wait=False) == 1  # Else XLA has learnt it.
  assert copies(wait=True) == 0


@pytest.mark.parity
@pytest.mark.parametrize('name, torch_name, options', [
    ('adam', 'Adam', {}), ('adamw', 'AdamW', {'weight_decay': 0.1}),
    ('adamax', 'Adamax', {}), ('sgd', 'SGD', {'weight_decay': 0.1})])
def test_torch_agrees(name, torch_name, options):
  torch = pytest.importorskip('torch')
  rng = np.random.default_rng(1)
  start = rng.normal(size=(4, 3)).astype(np.float32)
  grads = rng.normal(size=(6, 4, 3)).astype(np.float32)
  weight = torch.nn.Parameter(torch.tensor(start))
  momentum = {'momentum': 0.9} if name == 'sgd' else {}
  peer = getattr(torch.optim, torch_name)(
      [weight], lr=0.01, **options, **momentum)
  for grad in grads:
    weight.grad = torch.tensor(grad)
    peer.step()
  params = {'kernel': jnp.asarray(start)}
  optimizer = make(
      make_config(name=name, learning_rate=0.01, **options), {'kernel': True})
  ours = run(optimizer, [{'kernel': jnp.asarray(g)} for g in grads], params)
  np.testing.assert_allclose(ours['kernel'], weight.detach(), atol=2e-6)
