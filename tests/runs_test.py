"""The jitted training step: donated buffers, bf16 computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import run_helpers
from vision_jax import config as config_lib
from vision_jax import runs
from vision_jax.data import batches
from vision_jax.data import errors


def make_step(**fields):
  """Returns a run's training step and the arguments of its first call."""
  run = runs.build(run_helpers.make_config(**{
      'model__name': 'dense_autoencoder', 'model__features': (8,),
      'model__head': ('flatten', 'batch_norm'), **fields}))
  rows, mask = batches.train_indices(
      run.dataset.splits['train'], 8, seed=0, step=0, remainder='pad')
  state = runs.init_state(run)
  carry = state, runs.start_sums(run), runs.start_guard(run, state)
  return runs.make_train_step(run, run.store), (
      *carry, run.store.arrays, run.store.feed(rows), mask, 0)


def test_every_buffer_of_the_state_is_used_again():
  step, args = make_step()
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(args[:3]))
  memory = step.lower(*args).compile().memory_analysis()
  assert memory.alias_size_in_bytes >= size
  before = args[0]
  step(*args)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))


def test_bf16_computes_in_bf16_and_keeps_float32():
  step, args = make_step(model__dtype='bfloat16')
  plain, same = make_step()
  products = [line for line in step.lower(*args).as_text().splitlines()
              if 'dot_general' in line]
  assert products and all('bf16' in line for line in products)
  assert 'bf16' not in plain.lower(*same).as_text()
  state, sums, _ = step(*args)
  for leaf in jax.tree.leaves((state.params, state.batch_stats,
                               state.opt_state)):
    assert leaf.dtype in (jnp.float32, jnp.int32)
  loss = float(sums.compute()['loss'])
  assert np.isfinite(loss)
  # Eight bits of mantissa.
  expected = float(plain(*same)[1].compute()['loss'])
  assert loss == pytest.approx(expected, rel=2e-2)
  assert loss != expected


@pytest.mark.skipif(
    jax.default_backend() != 'cpu' or jax.local_device_count() > 1,
    reason='for one CPU device')
@pytest.mark.parametrize('megabytes', [2048, 0])
def test_one_cpu_is_fed_from_the_host_and_others_from_the_device(
    monkeypatch, megabytes):
  run = runs.build(run_helpers.make_config(data__resident_megabytes=megabytes))
  assert ('image' in run.store.arrays) == bool(megabytes)
  index = list(batches.eval_batches(run.dataset.splits['train'], 8))[:3]
  host = list(runs.stream(run, run.store, index))
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  moved = list(runs.stream(run, run.store, index))
  assert ('image' in host[0][0]) == (not megabytes)
  assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(host))
  assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(moved))
  jax.tree.map(np.testing.assert_array_equal, host, moved)
  np.testing.assert_array_equal(
      [inputs['id'] for inputs, _ in host], [rows for rows, _ in index])


@pytest.mark.parametrize('fields, message', [
    (dict(model__variant='residul'), "model.variant.*mean 'residual'"),
    (dict(model__head=('averge',)), "config.model.head: .*'averge'"),
    (dict(model__head=()), 'config.model.head: '),
    (dict(model__dropout=1.5), '1.5'),
    (dict(task='reconstruction', model__skip='ad'),
     "model.skip.*mean 'add'"),
    (dict(task='reconstruction', model__output='sigmod'),
     "model.output.*mean 'sigmoid'"),
    (dict(task='reconstruction', model__variant='residul'),
     "model.variant.*mean 'residual'"),
    (dict(task='reconstruction', data__image_size=(9, 9)), '9x9'),
    (dict(seed=-1), 'config.seed=-1'),
    (dict(train__batch_size=0), 'train.batch_size=0')])
def test_a_wrong_value_is_a_config_error(fields, message):
  with pytest.raises(config_lib.ConfigError, match=message):
    runs.build(run_helpers.make_config(**fields))


@pytest.mark.parametrize('fields, message', [
    (dict(augment__rotation=200.0), 'augment.rotation'),
    (dict(augment__hue=0.1, data__channels=1), 'augment.hue')])
def test_a_wrong_augmentation_is_found_before_a_step(fields, message):
  with pytest.raises(errors.DataError, match=message):
    runs.build(run_helpers.make_config(**fields))
