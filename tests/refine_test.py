"""Remedies of the finished classifier, through the whole run."""

import jax
import numpy as np
import pytest

import run_helpers
from vision_jax import config as config_lib
from vision_jax import refine
from vision_jax import runs


def _build(**fields):
  run = runs.build(run_helpers.make_config(**fields))
  return run, runs.init_state(run)


def _test_logits(run, state):
  outputs = runs.evaluate(
      run, state, 'test', run.store, runs.make_eval_step(run, run.store))
  return np.log(outputs['probabilities'])


def test_features_and_layer_give_the_networks_logits():
  run, state = _build()
  features, labels = refine.embed(run, state, run.dataset.splits['test'])
  last = jax.device_get(state.params['head']['logits'])
  ours = features @ last['kernel'] + last['bias']
  theirs = _test_logits(run, state)
  np.testing.assert_allclose(
      ours - ours.mean(1, keepdims=True),
      theirs - theirs.mean(1, keepdims=True), atol=1e-5)
  np.testing.assert_array_equal(
      labels, run.dataset.labels[run.dataset.splits['test']])


def test_post_hoc_adjustment_divides_by_the_shares():
  run, state = _build(train__refine='post_hoc', loss__tau=0.5)
  before = _test_logits(run, state)
  after = _test_logits(run, refine.apply(run, state))
  moved = np.exp(before) / np.array(run.info.class_counts) ** 0.5
  np.testing.assert_allclose(
      np.exp(after), moved / moved.sum(1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize('name', ['refit', 'crt', 'thresholds', 'tau_norm'])
def test_only_the_last_layer_changes(name):
  run, state = _build(train__refine=name)
  after = refine.apply(run, state)
  changed = jax.tree.map(
      lambda a, b: bool((a != b).any()), state.params, after.params)
  assert not any(jax.tree.leaves(changed['encoder']))
  assert not any(jax.tree.leaves(changed['head']['Dense_0']))
  # Where nothing is to gain, validation leaves the layer as it was.
  if name in ('refit', 'crt'):
    assert changed['head']['logits']['kernel']


def test_withheld_labels_are_no_class_of_the_new_layer():
  fields = dict(
      task='semi_supervised', train__split='all_train',
      train__sampler='mixed:4:8', train__batch_size=12,
      data__label_fraction=0.5)
  run, state = _build(**fields, train__refine='crt')
  after = refine.apply(run, state).params['head']['logits']
  # What the labelled examples alone give.
  members = run.dataset.splits['train']
  features, labels = refine.embed(run, state, members)
  assert set(labels) == {0, 1, 2} and len(members) < len(
      run.dataset.splits['all_train'])
  expected = refine.make_layer(
      'crt', None, features, labels, counts=run.info.class_counts, tau=1.0,
      seed=0)
  np.testing.assert_allclose(after['kernel'], expected.kernel, atol=1e-5)
  np.testing.assert_allclose(after['bias'], expected.bias, atol=1e-5)


def test_refit_weighs_examples_alike_and_retraining_classes():
  rng = np.random.default_rng(0)
  labels = np.repeat([0, 1], [60, 6])
  features = rng.normal(size=(66, 2)) + labels[:, None]
  recalls = {}
  for name in ('refit', 'crt'):
    layer = refine.make_layer(
        name, None, features, labels, counts=(60, 6), tau=1.0, seed=0)
    hits = layer.logits(features).argmax(1) == labels
    recalls[name] = [hits[labels == c].mean() for c in (0, 1)]
  assert recalls['refit'][0] > recalls['crt'][0]
  assert recalls['refit'][1] < recalls['crt'][1]


def test_none_returns_the_state_itself():
  run, state = _build()
  assert refine.apply(run, state) is state


@pytest.mark.parametrize('fields,message', [
    (dict(train__refine='smot'), "did you mean 'smote'"),
    (dict(train__refine='tau_norm', data__validation_fraction=0.0,
          callbacks__monitor='train_loss'), 'validation_fraction'),
    (dict(train__refine='crt', task='reconstruction'), 'last layer'),
    (dict(train__refine='crt', model__head=('flatten', 'cosine:30')),
     "leave 'cosine:30' out")])
def test_refusals(fields, message):
  run, state = _build(**fields)
  with pytest.raises(config_lib.ConfigError, match=message):
    refine.apply(run, state)
