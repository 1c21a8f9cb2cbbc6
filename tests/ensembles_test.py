"""Means of probabilities and of weights."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize
from scipy import special

import run_helpers
from vision_jax import checkpoint
from vision_jax import config as config_lib
from vision_jax import ensembles
from vision_jax import runs
from vision_jax import writers


def make_members(seed=0, n=200, classes=4):
  """Three members of unequal skill, [3, n, classes], and the labels."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, classes, n)
  logits = rng.normal(size=(3, n, classes))
  for logit, skill in zip(logits, (0.2, 1.5, 2.0)):
    logit += skill * np.eye(classes)[labels]
  return special.softmax(logits, axis=-1), labels


def log_loss(members, labels, weights):
  p = ensembles.mix(members, weights)
  return -np.log(p[np.arange(len(labels)), labels]).mean()


def test_weights_are_those_of_a_general_optimizer():
  members, labels = make_members()
  found = ensembles.choose_weights(members, labels)
  reference = optimize.minimize(
      lambda w: log_loss(members, labels, w / w.sum()), np.full(3, 1 / 3),
      bounds=[(1e-9, 1)] * 3)
  expected = reference.x / reference.x.sum()
  np.testing.assert_allclose(found, expected, atol=0.01)
  assert log_loss(members, labels, found) <= reference.fun + 1e-6
  for alone in np.eye(3):
    assert log_loss(members, labels, found) <= log_loss(
        members, labels, alone) + 1e-9


def test_a_member_that_excludes_the_truth_gets_nothing():
  members, labels = make_members()
  members[0] = np.eye(4)[(labels + 1) % 4]
  found = ensembles.choose_weights(members, labels)
  assert found[0] < 1e-6 and np.isfinite(found).all()


def test_a_mean_of_probabilities_is_one():
  members, _ = make_members()
  p = ensembles.mix(members, [0.5, 0.25, 0.25])
  np.testing.assert_allclose(p.sum(1), 1)
  np.testing.assert_allclose(
      p, (2 * members[0] + members[1] + members[2]) / 4)
  for weights in ([0.5, 0.5], [0.5, 0.6, 0.1], [1.5, -0.5, 0]):
    with pytest.raises(ValueError, match='one non-negative weight each'):
      ensembles.mix(members, weights)


def write_run(folder, kernel, **fields):
  """Writes what is read of a finished run."""
  folder.mkdir()
  config = run_helpers.make_config(**fields)
  (folder / 'config.json').write_text(json.dumps(json.loads(
      config.to_json())))
  checkpoint.export(folder, {
      'params': {'head': {'kernel': jnp.asarray(kernel)}}, 'batch_stats': {}})
  return folder


def test_averaged_weights_need_a_common_start(tmp_path):
  a = write_run(tmp_path / 'a', [1.0, 2.0])
  b = write_run(tmp_path / 'b', [3.0, 6.0], optimizer__learning_rate=1e-2)
  c = write_run(tmp_path / 'c', [0.0, 0.0], seed=1)
  found = ensembles.average_weights([a, b])
  np.testing.assert_allclose(found['params']['head']['kernel'], [2.0, 4.0])
  with pytest.raises(config_lib.ConfigError, match='config.seed differs'):
    ensembles.average_weights([a, c])


def test_a_split_without_examples_is_named(tmp_path):
  config = run_helpers.make_config(
      data__validation_fraction=0.0, data__cache_dir=str(tmp_path / 'cache'))
  folder = tmp_path / 'run'
  writers.prepare(folder, config)
  checkpoint.export(
      folder, runs.init_state(runs.build(config)).variables())
  with pytest.raises(
      config_lib.ConfigError, match='run has no validation examples'):
    ensembles.answers(folder)
  found = ensembles.answers(folder, splits=('test',))
  assert found.keys() == {'test'} and len(found['test']['label']) == 12
