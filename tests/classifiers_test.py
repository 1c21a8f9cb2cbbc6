"""Encoders with their own preparation, frozen in part, with their weights."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import run_helpers
from vision_jax import classifiers
from vision_jax import config as config_lib
from vision_jax import runs
from vision_jax import task as task_lib
from vision_jax.models import backbones

INFO = task_lib.Info(('a', 'b', 'c'), (32, 32, 3), 4)


def make_task(**fields):
  return runs.make_task(run_helpers.make_config(**{
      'model__name': 'mobilenet_v2', 'model__head': ('average',), **fields}),
                        INFO)


def make_batch():
  rng = np.random.default_rng(0)
  return {'image': jnp.asarray(rng.uniform(size=(4, 32, 32, 3)), jnp.float32),
          'label': jnp.asarray([0, 1, 2, 0]), 'id': jnp.arange(4),
          'mask': jnp.ones(4)}


def test_a_backbone_brings_its_own_preparation():
  config = run_helpers.make_config(model__name='vgg16').model
  found = classifiers.make(config, 3)
  images = make_batch()['image']
  np.testing.assert_array_equal(
      found.prepare(images), backbones.build('vgg16').preprocess(images))


@pytest.mark.parametrize('head, shape', [
    (('average',), (1, 1, 1, 512)), (('flatten',), (1, 1, 1, 512))])
def test_a_head_takes_pooled_features_or_the_map(head, shape):
  config = run_helpers.make_config(
      model__name='vgg16', model__head=head).model
  found = classifiers.make(config, 3)
  image = jnp.zeros((1, 32, 32, 3))
  variables = jax.eval_shape(
      lambda: found.module.init(jax.random.key(0), image, train=False))
  features = jax.eval_shape(lambda v: found.module.apply(
      v, image, train=False, method='encode'), variables)
  assert features.shape == shape


@pytest.mark.parity  # A minute of compilation.
def test_first_stages_stay_fixed_with_their_statistics():
  task = make_task(model__frozen_stages=2)
  state = task.init(jax.random.key(0))
  after, _ = jax.jit(task.train_step)(state, make_batch(), jax.random.key(1))
  spec = backbones.build('mobilenet_v2')
  found = classifiers.make(
      run_helpers.make_config(model__name='mobilenet_v2').model, 3)
  assert len(found.stages) == len(spec.stages)
  first = re.compile('|'.join(found.stages[:2]))
  moved = {'frozen': [], 'free': []}
  for name in ('params', 'batch_stats'):
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(getattr(state, name)),
        jax.tree.leaves(getattr(after, name)), strict=True):
      key = jax.tree_util.keystr(path, simple=True, separator='/')
      kind = 'frozen' if first.search(key) else 'free'
      moved[kind].append(bool((a != b).any()))
  assert moved['frozen'] and not any(moved['frozen'])
  assert np.mean(moved['free']) > 0.9


def test_too_many_frozen_stages_are_an_error():
  with pytest.raises(config_lib.ConfigError, match='frozen_stages=99'):
    make_task(model__frozen_stages=99)


def test_a_missing_weight_file_is_named(tmp_path, monkeypatch):
  task = make_task(model__weights=str(tmp_path / 'none.h5'))
  with pytest.raises(config_lib.ConfigError, match='none.h5'):
    task.init(jax.random.key(0))


def test_an_unknown_network_names_the_nearest():
  with pytest.raises(config_lib.ConfigError, match="mean 'mobilenet_v2'"):
    make_task(model__name='mobilenet_v3')
