"""The guards of training: finite numbers, frozen weights."""

import warnings

import jax
import jax.numpy as jnp
import pytest

from vision_jax import config as config_lib
from vision_jax import guard
from vision_jax import optim

PARAMS = {'encoder': {'w': jnp.ones(3)}, 'head': {'w': jnp.ones(2)}}


def run(values):
  """Feeds a loss a step, through jit."""
  step = jax.jit(guard.update)
  state = guard.init(PARAMS, ['loss'])
  for i, (loss, weight) in enumerate(values, start=1):
    params = {**PARAMS, 'head': {'w': jnp.broadcast_to(weight, 2)}}
    state = step(state, params, {'loss': jnp.asarray(loss)}, step=i)
  return state


def test_finite_numbers_pass():
  guard.check(run([(1.0, 2.0)] * 3), last_good='')


def test_the_first_bad_step_and_all_that_was_bad_are_named():
  state = run([(1.0, 1.0), (jnp.nan, jnp.inf), (jnp.nan, 1.0)])
  with pytest.raises(guard.NonFiniteError) as error:
    guard.check(state, last_good='Step 1 is good.')
  message = str(error.value)
  assert 'step 2: metric loss, weights of head. Step 1 is good.' in message
  assert 'encoder' not in message


@pytest.mark.parametrize('values', [
    (jnp.nan, 1.0), (jnp.inf, 1.0), (jnp.inf, -jnp.inf), (-jnp.inf, jnp.nan)])
def test_no_other_number_hides_one_that_is_not_finite(values):
  with pytest.raises(guard.NonFiniteError, match='step 1: weights of head'):
    guard.check(run([(0.0, jnp.array(values))]), last_good='')


def test_a_frozen_leaf_that_moves_is_an_error():
  after = {**PARAMS, 'encoder': {'w': jnp.array([1.0, 1.0, 2.0])}}
  mask = {'encoder': {'w': False}, 'head': {'w': False}}
  with pytest.raises(RuntimeError, match='encoder/w'):
    guard.check_moved(PARAMS, after, mask)


def test_stages_that_rest_by_design_are_no_warning_but_a_stuck_head_is():
  params = {'encoder': {'w': jnp.ones(3)}, 'head': {'w': jnp.ones(2)}}
  config = config_lib.base().optimizer
  config.unfreeze_epochs = 1.0
  mask = jax.tree.map(lambda _: True, params)
  optimizer = optim.make_optimizer(
      config, trainable=mask, steps_per_epoch=10, epochs=5,
      stages=('^encoder/',))
  updates, _ = optimizer.update(params, optimizer.init(params), params)
  after = jax.tree.map(jnp.add, params, updates)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    guard.check_moved(params, after, mask, resting='^encoder/')
  with pytest.warns(UserWarning, match='update: head/w.$'):
    guard.check_moved(params, params, mask, resting='^encoder/')
  frozen = {'encoder': {'w': False}, 'head': {'w': True}}
  strayed = {**after, 'encoder': {'w': jnp.zeros(3)}}
  with pytest.raises(RuntimeError, match='encoder/w'):
    guard.check_moved(params, strayed, frozen, resting='^encoder/')


def test_a_trainable_leaf_that_rests_is_a_warning():
  mask = {'encoder': {'w': False}, 'head': {'w': True}}
  with pytest.warns(UserWarning, match='head/w'):
    guard.check_moved(PARAMS, PARAMS, mask)
