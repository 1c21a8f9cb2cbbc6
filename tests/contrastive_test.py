"""Contrastive pre-training: its numbers, and its encoder in a classifier."""

import jax
import numpy as np
import pytest

import run_helpers
from vision_jax import checkpoint
from vision_jax import config as config_lib
from vision_jax import loop
from vision_jax import runs
from vision_jax import task as task_lib
from vision_jax.data import errors
from vision_jax.tasks import contrastive


def make_config(**fields):
  return run_helpers.make_config(**dict(
      task='contrastive', model__features=(4,), contrastive__dims=6,
      contrastive__views__translation=0.2, callbacks__monitor='train_loss',
      callbacks__restore_best=False, train__epochs=1) | fields)


def test_retrieval_over_a_split_is_a_softmax_over_all_of_it(monkeypatch):
  monkeypatch.setattr(contrastive, '_CHUNK', 4)
  rng = np.random.default_rng(0)
  first = rng.normal(size=(10, 5))
  second = first + rng.normal(size=(10, 5))
  each, found = contrastive.retrieve(first, second, temperature=0.3)
  for i in range(10):
    cosine = second @ first[i] / np.linalg.norm(second, axis=1) / (
        np.linalg.norm(first[i]))
    odds = np.exp(cosine / 0.3)
    assert each[i] == pytest.approx(-np.log(odds[i] / odds.sum()))
    assert found[i] == (cosine.argmax() == i)
  assert 0 < found.sum() < 10


def test_its_encoder_starts_a_classifier_and_labels_play_no_part(tmp_path):
  result = loop.train(make_config(), tmp_path / 'run')
  assert set(result['intervals']) == {'retrieval_accuracy'}
  assert result['test']['n'] == 12
  config = run_helpers.make_config(
      model__features=(4,), model__weights=str(tmp_path / 'run'))
  info = task_lib.Info(('a', 'b', 'c'), (8, 8, 3), 4)
  state = runs.make_task(config, info).init(jax.random.key(5))
  donor = checkpoint.load_weights(tmp_path / 'run')['params']
  jax.tree.map(np.testing.assert_array_equal, state.params['encoder'],
               donor['encoder'])
  # The same batch under other labels moves the weights alike.
  task = runs.make_task(make_config(), info)
  start = task.init(jax.random.key(0))
  rng = np.random.default_rng(0)
  batch = {'image': rng.uniform(size=(6, 8, 8, 3)).astype(np.float32),
           'id': np.arange(6), 'mask': np.ones(6, np.float32)}
  step = jax.jit(task.train_step)
  one, other = (step(start, batch | {'label': np.full(6, label)},
                     jax.random.key(1))[0] for label in (0, 2))
  jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
  assert any(jax.tree.leaves(jax.tree.map(
      lambda a, b: bool((a != b).any()), start.params, one.params)))


def test_an_augmentation_before_the_views_is_refused():
  with pytest.raises(config_lib.ConfigError, match='contrastive.views'):
    runs.make_task(make_config(augment__cutout=0.5),
                   task_lib.Info(('a',), (8, 8, 3), 4))


@pytest.mark.parametrize('name', ['views', 'mixup_alpha', 'cutmix_alpha'])
def test_a_view_of_more_than_one_image_is_refused(name):
  with pytest.raises(
      config_lib.ConfigError, match=f'contrastive.views.{name}'):
    runs.make_task(make_config(**{f'contrastive__views__{name}': 2}),
                   task_lib.Info(('a',), (8, 8, 3), 4))


def test_wrong_fields_are_refused():
  info = task_lib.Info(('a',), (8, 8, 1), 4)
  with pytest.raises(config_lib.ConfigError, match="mean 'eval'"):
    runs.make_task(make_config(model__frozen_mode='evall'), info)
  with pytest.raises(errors.DataError, match='contrastive.views.hue'):
    runs.make_task(make_config(contrastive__views__hue=0.1), info)


def test_images_of_no_split_are_evaluated_by_their_place():
  task = runs.make_task(make_config(), task_lib.Info(('a',), (8, 8, 3), 4))
  state = task.init(jax.random.key(0))
  images = np.random.default_rng(0).uniform(size=(3, 8, 8, 3)).astype('f4')
  found = task.eval_step(state, {'image': images, 'label': np.zeros(3, int)})
  same = task.eval_step(state, {'image': images, 'id': np.arange(3)})
  jax.tree.map(np.testing.assert_array_equal, found, same)
  assert len(task.table(jax.device_get(found))['found']) == 3
