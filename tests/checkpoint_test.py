"""Weights move between runs strictly, by name and shape."""

import jax.numpy as jnp
import numpy as np
import pytest

import run_helpers
from vision_jax import checkpoint
from vision_jax import config as config_lib

PARAMS = {'encoder': {'a': jnp.zeros((2, 3)), 'b': jnp.zeros(3)},
          'head': {'w': jnp.zeros(2)}}


def export(tmp_path, params):
  checkpoint.export(tmp_path, {'params': params, 'batch_stats': {}})
  return checkpoint.load_weights(tmp_path)['params']


def test_only_the_module_is_taken(tmp_path):
  donor = {'encoder': {'a': jnp.ones((2, 3)), 'b': jnp.ones(3)},
           'up': {'w': jnp.ones(9)}}
  params = checkpoint.transfer(
      PARAMS, export(tmp_path, donor), module='encoder', source='x')
  assert (params['encoder']['a'] == 1).all()
  assert (params['head']['w'] == 0).all()
  assert set(params) == {'encoder', 'head'}


def test_every_leaf_that_does_not_fit_is_listed(tmp_path):
  donor = {'encoder': {'a': jnp.ones((2, 4)), 'c': jnp.ones(3)}}
  with pytest.raises(config_lib.ConfigError) as error:
    checkpoint.transfer(
        PARAMS, export(tmp_path, donor), module='encoder', source='run x')
  message = str(error.value)
  for part in ('run x', 'missing b', 'extra c', 'a is (2, 4), wanted (2, 3)'):
    assert part in message


def test_an_absent_module_is_named(tmp_path):
  weights = export(tmp_path, {'decoder': {'w': jnp.ones(1)}})
  with pytest.raises(config_lib.ConfigError, match="'encoder', only decoder"):
    checkpoint.transfer(PARAMS, weights, module='encoder', source='x')


def test_an_unfinished_run_says_how_to_finish_it(tmp_path):
  with pytest.raises(config_lib.ConfigError, match='Train it first'):
    checkpoint.load_weights(tmp_path / 'nothing')


@pytest.mark.parametrize('best, kept', [(0, [4]), (1, [2, 4])])
def test_the_last_and_the_best_checkpoints_are_kept(tmp_path, best, kept):
  config = run_helpers.make_config(
      checkpoint__keep_last=1, checkpoint__keep_best=best).checkpoint
  with checkpoint.open_manager(tmp_path, config) as manager:
    for step, loss in enumerate((3.0, 1.0, 2.0, 4.0), start=1):
      checkpoint.save(manager, step, {'x': jnp.full(2, step)}, monitor=loss)
    manager.wait_until_finished()
    assert sorted(manager.all_steps()) == kept
    tree = checkpoint.restore(manager, {'x': jnp.zeros(2, jnp.int32)})
  np.testing.assert_array_equal(tree['x'], [4, 4])


def test_no_checkpoint_restores_nothing(tmp_path):
  config = config_lib.base().checkpoint
  with checkpoint.open_manager(tmp_path, config) as manager:
    assert checkpoint.restore(manager, {'x': jnp.zeros(2)}) is None
