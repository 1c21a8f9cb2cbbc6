"""Runs that train together: the numbers of separate runs."""

import jax
import pytest

import run_helpers
from vision_jax import config as config_lib
from vision_jax import loop
from vision_jax import runs
from vision_jax import seeds
from vision_jax import writers

# Augmentation, mixing, a sampler and BatchNorm: all that a seed decides.
_FIELDS = dict(
    callbacks__restore_best=False, callbacks__monitor='train_loss',
    callbacks__patience=0, train__epochs=2, train__batch_size=16,
    train__sampler='over', augment__rotation=20.0, augment__mixup_alpha=0.3,
    model__head=('flatten', 'dense:8', 'batch_norm', 'dropout:0.3'),
    optimizer__learning_rate=1e-3)


_SEEDS = (3, 8)


@pytest.fixture(scope='module', name='run')
def build():
  return runs.build(run_helpers.make_config(**_FIELDS))


@pytest.fixture(scope='module', name='alone')
def train_alone(run, tmp_path_factory):
  """Rows by epoch and result of a run of its own for each seed."""
  found = []
  for seed in _SEEDS:
    folder = tmp_path_factory.mktemp(f'seed{seed}')
    result = loop.train(config_lib.replace(run.config, seed=seed), folder)
    found.append((writers.read_rows(folder / 'metrics.jsonl'), result))
  return found


def _assert_same_numbers(trained, alone):
  """Compares variants with the (rows, result) of a run of each."""
  for i, (rows, result) in enumerate(alone):
    for row, together in zip(rows, trained.rows, strict=True):
      for name in ('train_loss', 'train_accuracy'):
        assert together[name][i] == pytest.approx(row[name], abs=1e-5)
    for name in ('loss', 'accuracy', 'log_loss'):
      assert trained.rows[-1][f'test_{name}'][i] == pytest.approx(
          result['test'][name], abs=1e-5)


@pytest.mark.parametrize('batching', ['vmap', 'unroll'])
def test_equal_to_separate_runs(run, alone, batching):
  test = run.dataset.splits['test']
  trained = seeds.train(
      run, [seeds.Variant(seed) for seed in _SEEDS], watched={'test': test},
      batching=batching)
  _assert_same_numbers(trained, alone)
  assert len(jax.tree.leaves(trained.state.params)[0]) == len(_SEEDS)
  first, second = (seeds.take(trained, i) for i in (0, 1))
  assert (first[0].config.seed, second[0].config.seed) == _SEEDS
  assert any((a != b).any() for a, b in zip(
      *(jax.tree.leaves(state.params) for _, state in (first, second))))


def test_a_run_that_may_stop_early_is_refused():
  run = runs.build(run_helpers.make_config(callbacks__patience=2))
  with pytest.raises(config_lib.ConfigError, match='patience=0'):
    seeds.train(run, [seeds.Variant(0)], watched={})


def test_a_run_that_ends_within_an_epoch_is_refused():
  run = runs.build(run_helpers.make_config(**_FIELDS, train__max_steps=1))
  with pytest.raises(config_lib.ConfigError, match='train.max_steps=0'):
    seeds.train(run, [seeds.Variant(0)], watched={})


def test_an_evaluation_that_draws_from_the_seed_is_refused():
  run = runs.build(run_helpers.make_config(
      task='gan', model__name='point_gan', model__output='tanh',
      model__target='signed', callbacks__restore_best=False,
      callbacks__monitor='train_generator_loss', gan__latent_dims=2,
      gan__generator_features=(3,), gan__discriminator_features=(3,)))
  with pytest.raises(config_lib.ConfigError, match="task='gan' draws"):
    seeds.train(run, [seeds.Variant(0)], watched={})


# What the seeds' tests do not need again is left out: it takes time to compile.
_FEWER = dict(
    callbacks__restore_best=False, callbacks__monitor='train_loss',
    train__batch_size=16, model__name='dense_autoencoder',
    model__features=(8,), model__head=('flatten', 'batch_norm', 'dropout:0.3'))
_FRACTIONS = (1.0, 0.5)


@pytest.fixture(scope='module', name='fractions_alone')
def train_fractions(tmp_path_factory):
  """Rows by epoch and result of a run of its own for each fraction."""
  found = []
  for seed, fraction in enumerate(_FRACTIONS):
    folder = tmp_path_factory.mktemp(f'fraction{seed}')
    result = loop.train(run_helpers.make_config(
        **_FEWER, seed=seed, data__label_fraction=fraction), folder)
    found.append((writers.read_rows(folder / 'metrics.jsonl'), result))
  return found


@pytest.mark.parametrize('batching', ['vmap', 'unroll'])
def test_fractions_equal_separate_runs(fractions_alone, batching):
  run = runs.build(run_helpers.make_config(**_FEWER))
  trained = seeds.train(
      run, [seeds.Variant(*pair) for pair in enumerate(_FRACTIONS)],
      watched={'test': run.dataset.splits['test']}, batching=batching)
  # More steps an epoch where there are more examples.
  assert [int(step) for step in trained.state.step] == [
      2 * each.info.steps_per_epoch for each in trained.runs] == [6, 4]
  _assert_same_numbers(trained, fractions_alone)
  for i, (_, result) in enumerate(fractions_alone):
    assert result['examples']['train'] == len(
        trained.runs[i].dataset.splits['train'])


@pytest.mark.parametrize('fields', [
    {'optimizer__schedule': 'cosine'}, {'loss__weights': 'inverse'}])
def test_steps_that_follow_from_the_fraction_need_copies(fields):
  run = runs.build(run_helpers.make_config(**{
      **_FEWER, 'data__procedural_examples': 70, **fields}))
  variants = [seeds.Variant(0, fraction) for fraction in (1.0, 0.3)]
  with pytest.raises(config_lib.ConfigError, match="batching='unroll'"):
    seeds.train(run, variants, watched={})


def test_fractions_of_an_imbalanced_set_are_refused():
  run = runs.build(run_helpers.make_config(
      **_FEWER, data__imbalance__kind='step', data__imbalance__total=30,
      data__imbalance__test_per_class=3))
  with pytest.raises(config_lib.ConfigError, match='imbalance'):
    seeds.train(run, [seeds.Variant(0, 0.5)], watched={})
