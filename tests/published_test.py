"""Each published mistake, and how large its effect is."""

import jax
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from experiments import butterflies_report
from experiments import tables
import run_helpers
from vision_jax import config as config_lib
from vision_jax import loop
from vision_jax import metrics
from vision_jax import published
from vision_jax import results
from vision_jax import runs
from vision_jax import stats
from vision_jax import task as task_lib
from vision_jax import writers

INFO = task_lib.Info(('a', 'b', 'c'), (8, 8, 3), 4)


def sorted_predictions(accuracy, seed=0):
  """500 examples sorted by class, 20 classes, as the study evaluated them."""
  rng = np.random.default_rng(seed)
  labels = np.repeat(np.arange(20), 25)
  wrong = (labels + rng.integers(1, 20, 500)) % 20
  return labels, np.where(rng.uniform(size=500) < accuracy, labels, wrong)


def test_batch_averages_shrink_f1_to_a_third_of_the_true_one():
  labels, predicted = sorted_predictions(0.606)
  batched = published.batch_averages(
      labels, predicted, batch_size=64, classes=20)
  whole = sklearn_metrics.f1_score(labels, predicted, average='macro')
  assert 0.2 * whole < batched['macro_f1'] < 0.4 * whole
  # scikit-learn's macro averages, too, are over the classes that it sees.
  for name, score in (('macro_f1', sklearn_metrics.f1_score),
                      ('macro_precision', sklearn_metrics.precision_score),
                      ('macro_recall', sklearn_metrics.recall_score)):
    parts = [(len(labels[i:i + 64]), score(
        labels[i:i + 64], predicted[i:i + 64], average='macro',
        zero_division=0)) for i in range(0, 500, 64)]
    np.testing.assert_allclose(batched[name], np.average(
        [value for _, value in parts], weights=[n for n, _ in parts]))


def test_one_batch_is_the_true_metric():
  labels, predicted = sorted_predictions(0.606)
  batched = published.batch_averages(
      labels, predicted, batch_size=500, classes=20)
  for name, average in (('macro_f1', sklearn_metrics.f1_score),
                        ('macro_recall', sklearn_metrics.recall_score)):
    np.testing.assert_allclose(
        batched[name], average(labels, predicted, average='macro'), rtol=1e-12)


def test_batch_metrics_depend_on_the_batch_size(tmp_path):
  f1 = []
  for size in (8, 16):
    config = run_helpers.make_config(
        published__switches=('batch_metrics',), train__batch_size=size,
        train__max_steps=2)
    task = runs.make_task(config, INFO)
    labels = np.repeat([0, 1, 2], 8)
    probabilities = np.eye(3)[np.tile([0, 1, 2], 8)]
    f1.append(task.summarize({
        'label': labels, 'probabilities': probabilities,
        'loss': np.ones(24)})['macro_f1'])
  assert f1[0] != f1[1]


def result_of(tmp_path, **fields):
  """What a run reports of a test set of 990, as result.json holds it."""
  task = runs.make_task(run_helpers.make_config(**fields), INFO)
  outcome = make_outcome(tmp_path)
  test = task.summarize(outcome.outputs['test'])
  return {'test': test, **task.report(outcome)}


def test_a_mean_over_batches_has_no_interval(tmp_path):
  sound = result_of(tmp_path)['intervals']
  batched = result_of(
      tmp_path, published__switches=('batch_metrics',))['intervals']
  assert set(sound) - set(batched) == {'macro_f1'}
  assert all(sound[name] == ends for name, ends in batched.items())


def test_tables_leave_an_interval_out_that_a_run_does_not_report(tmp_path):
  config = run_helpers.make_config(
      published__switches=('batch_metrics',), train__max_steps=1)
  loop.train(config, tmp_path / 'run')
  row = tables.result_row(tmp_path / 'run')
  assert row['macro_f1'] > 0 and row['accuracy_low'] < row['accuracy_high']
  assert row['macro_f1_low'] is row['macro_f1_high'] is None
  line, = butterflies_report.summarize([row | {
      'model': 'b1', 'fraction': 0.1, 'cut': '', 'run': 'run',
      'published_accuracy': None, 'pretraining_epochs': None}])
  assert line['macro_f1 95 %'] == '' and line['accuracy 95 %'][0] == '['


@pytest.mark.parametrize('switches, n', [
    (('truncated_steps',), 500),
    (('truncated_steps', 'batch_metrics'), 500),
    # The study predicted the whole test set, in whatever order it is named.
    (('misaligned_predictions', 'truncated_steps'), 990),
    (('truncated_steps', 'misaligned_predictions'), 990)])
def test_numbers_and_intervals_are_of_the_same_examples(
    tmp_path, switches, n):
  result = result_of(tmp_path, published__switches=switches,
                     train__batch_size=20, report__guard=False)
  assert result['test']['n'] == n
  hits = round(result['test']['accuracy'] * n)
  np.testing.assert_allclose(
      result['intervals']['accuracy'], stats.wilson(hits, n))
  for name, (low, high) in result['intervals'].items():
    assert low <= result['test'][name] <= high, name
  rows = (tmp_path / 'predictions.csv').read_text().splitlines()
  assert len(rows) == 1 + n


def after(first, folder):
  """The fit that takes the stopper of `first`, and next to nothing moves."""
  return config_lib.replace(
      first, optimizer__learning_rate=1e-6,
      published__switches=('shared_callbacks',),
      published__callbacks_from=str(folder))


def test_shared_callbacks_stop_the_next_fit_at_once(tmp_path):
  # The first fit ends with a low best value; the second never beats it.
  first = run_helpers.make_config(
      callbacks__patience=2, optimizer__learning_rate=1e-2, train__epochs=6)
  loop.train(first, tmp_path / 'first')
  best = results.read(tmp_path / 'first')['callbacks']['best']
  result = loop.train(after(first, tmp_path / 'first'), tmp_path / 'second')
  alone = loop.train(
      config_lib.replace(first, optimizer__learning_rate=1e-6),
      tmp_path / 'alone')
  assert result['callbacks']['best'] == best
  assert result['epochs'] <= 2 < alone['epochs']
  # Its wait has run out, so the third gets a single epoch, as in Lightning.
  third = loop.train(after(first, tmp_path / 'second'), tmp_path / 'third')
  assert third['epochs'] == 1


def test_freezing_by_sharing_freezes_an_encoder_that_should_train():
  make = lambda switches: runs.make_task(
      run_helpers.make_config(published__switches=switches), INFO)
  count = lambda task: sum(jax.tree.leaves(task.trainable['encoder']))
  assert count(make(())) == 4
  assert count(make(('frozen_by_sharing',))) == 0


def test_the_last_batch_is_not_the_epoch(tmp_path):
  config = run_helpers.make_config(
      published__switches=('last_batch_monitor',),
      callbacks__monitor='train_last_batch_loss')
  result = loop.train(config, tmp_path / 'run')
  rows = writers.read_rows(tmp_path / 'run' / 'metrics.jsonl')
  for row in rows:
    assert row['train_last_batch_loss'] != row['train_loss']
  np.testing.assert_allclose(
      result['callbacks']['best'],
      min(row['train_last_batch_loss'] for row in rows))


def test_a_sigmoid_never_reaches_a_signed_target():
  config = run_helpers.make_config(
      task='reconstruction', model__target='signed',
      published__switches=('unchecked_range',))
  task = runs.make_task(config, INFO)
  state = task.init(jax.random.key(0))
  black = {'image': np.zeros((2, 8, 8, 3), np.float32)}
  # The target of black is -1; the output is at least 0, so the error is 1.
  assert (task.eval_step(state, black)['loss'] >= 1.0).all()


def test_an_unknown_switch_is_an_error():
  config = run_helpers.make_config(published__switches=('batch_metric',))
  with pytest.raises(config_lib.ConfigError, match="mean 'batch_metrics'"):
    runs.make_task(config, INFO)


def test_no_switch_is_on_by_default():
  assert config_lib.base().published.switches == ()


def make_outcome(tmp_path, accuracy=0.85, n=990):
  """The outputs of a classifier of three classes that is mostly right."""
  rng = np.random.default_rng(0)
  labels = np.repeat([0, 1, 2], n // 3)
  guesses = np.where(
      rng.uniform(size=n) < accuracy, labels, rng.integers(0, 3, n))
  probabilities = np.full((n, 3), 0.05)
  probabilities[np.arange(n), guesses] = 0.9
  outputs = {'id': np.arange(n), 'label': labels, 'loss': np.ones(n),
             'probabilities': probabilities}
  return task_lib.Outcome(
      tmp_path, {'test': outputs, 'validation': outputs}, {},
      tuple(str(i) for i in range(n)), None, None, None)


def test_misaligned_predictions_fall_to_chance(tmp_path):
  # Study 1: validation .836, test .336 (339 of 1,009).
  fields = dict(published__switches=('misaligned_predictions',),
                report__guard=False)
  make = lambda **changed: runs.make_task(
      run_helpers.make_config(**{**fields, **changed}), INFO)
  result = make().report(make_outcome(tmp_path))
  assert abs(result['test']['accuracy'] - 1 / 3) < 0.05
  assert abs(result['test']['cohen_kappa']) < 0.08
  with pytest.raises(metrics.MisalignedEvaluation):
    make(report__guard=True).report(make_outcome(tmp_path))
  aligned = make(published__switches=())
  outcome = make_outcome(tmp_path)
  assert aligned.summarize(outcome.outputs['test'])['accuracy'] > 0.85


def test_truncated_steps_see_a_part(tmp_path):
  task = runs.make_task(run_helpers.make_config(
      published__switches=('truncated_steps',), train__batch_size=20), INFO)
  assert task.summarize(make_outcome(tmp_path).outputs['test'])['n'] == 500


@pytest.mark.parametrize('switches, fields', [
    (('last_batch_monitor', 'unchecked_range'),
     dict(task='reconstruction', model__target='signed')),
    (('last_batch_monitor', 'clean_evaluation', 'overlapping_noise'),
     dict(task='reconstruction', noise__kind='salt_pepper')),
    (('misaligned_predictions', 'foreign_preprocessing'), {})],
    ids=['range', 'noise', 'preprocessing'])
def test_mistakes_go_together_in_any_order(switches, fields):
  for order in (switches, switches[::-1]):
    runs.make_task(run_helpers.make_config(
        published__switches=order, **fields), INFO)


@pytest.mark.parametrize('task, name', [
    ('classification', 'unchecked_range'),
    ('classification', 'overlapping_noise'),
    ('reconstruction', 'inference_mode'),
    ('reconstruction', 'labels_above_one'),
    ('reconstruction', 'batch_metrics'),
    ('contrastive', 'foreign_preprocessing')])
def test_a_mistake_that_a_task_cannot_make_is_refused(task, name):
  config = run_helpers.make_config(task=task, published__switches=(name,))
  with pytest.raises(
      config_lib.ConfigError, match=f"published.switches: '{name}'.*{task}"):
    runs.make_task(config, INFO)


def test_a_monitor_of_the_last_batch_needs_a_training_loss():
  config = run_helpers.make_config(
      task='gan', model__name='study_gan', model__output='tanh',
      model__target='signed', gan__generator_features=(4,),
      gan__discriminator_features=(4,),
      published__switches=('last_batch_monitor',))
  with pytest.raises(config_lib.ConfigError, match='generator_loss'):
    runs.make_task(config, INFO)


@pytest.mark.parametrize('folder', ['', 'nowhere'])
def test_shared_callbacks_need_a_finished_run(folder):
  config = run_helpers.make_config(
      published__switches=('shared_callbacks',),
      published__callbacks_from=folder)
  with pytest.raises(config_lib.ConfigError, match='callbacks_from'):
    runs.make_task(config, INFO)


def test_shared_callbacks_count_on_where_features_are_cached(tmp_path):
  first = run_helpers.make_config(
      model__frozen='^encoder/', callbacks__patience=9)
  loop.train(first, tmp_path / 'first')
  best = results.read(tmp_path / 'first')['callbacks']['best']
  for cached in (True, False):
    result = loop.train(
        config_lib.replace(after(first, tmp_path / 'first'),
                           train__cache_features=cached),
        tmp_path / str(cached))
    assert result['callbacks']['best'] == best, cached
