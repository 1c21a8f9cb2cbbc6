"""Seeds that train together: the numbers of separate runs."""

import jax
import numpy as np
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


@pytest.mark.parametrize('batching', ['vmap', 'unroll'])
def test_equal_to_separate_runs(tmp_path, batching):
  config = run_helpers.make_config(**_FIELDS)
  run = runs.build(config)
  test = run.dataset.splits['test']
  trained = seeds.train(
      run, (3, 8), watched={'test': test}, batching=batching)
  outputs = seeds.evaluate(run, trained.state, test, batching=batching)
  for i, seed in enumerate((3, 8)):
    folder = tmp_path / str(seed)
    alone = loop.train(config_lib.replace(config, seed=seed), folder)
    rows = writers.read_rows(folder / 'metrics.jsonl')
    for row, together in zip(rows, trained.rows, strict=True):
      for name in ('train_loss', 'train_accuracy'):
        assert together[name][i] == pytest.approx(row[name], abs=1e-5)
    assert trained.rows[-1]['test_loss'][i] == pytest.approx(
        alone['test']['loss'], abs=1e-5)
    one, state = seeds.take(trained, i)
    assert one.config.seed == seed
    step = runs.make_eval_step(one, one.store)
    separate = runs.evaluate(one, state, 'test', one.store, step)
    np.testing.assert_allclose(
        outputs['probabilities'][i], separate['probabilities'], atol=1e-5)
  assert not np.allclose(*outputs['probabilities'], atol=1e-3)
  assert len(jax.tree.leaves(trained.state.params)[0]) == 2


def test_a_run_that_may_stop_early_is_refused():
  run = runs.build(run_helpers.make_config(callbacks__patience=2))
  with pytest.raises(config_lib.ConfigError, match='patience=0'):
    seeds.train(run, (0,), watched={})
