"""Semi-supervised training: what is learnt from, and what never is."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import data_helpers
import run_helpers
from vision_jax import config as config_lib
from vision_jax import features
from vision_jax import loop
from vision_jax import modes
from vision_jax import runs
from vision_jax.data import errors
from vision_jax.data import joined
from vision_jax.data import pipeline
from vision_jax.data import samplers
from vision_jax.tasks import semi_supervised


def make_config(**fields):
  """FixMatch on 60 procedural images, 14 of them labelled training images."""
  return run_helpers.make_config(**dict(
      task='semi_supervised', data__label_fraction=0.3,
      train__split='all_train', train__sampler='mixed:4:8',
      train__batch_size=12, model__dropout=0.0, model__features=(4,),
      optimizer__ema_decay=0.9, semi__threshold=0.34,
      semi__weak__translation=0.1, semi__strong__cutout=0.5,
      callbacks__monitor='train_loss', callbacks__restore_best=False) | fields)


@pytest.fixture(name='run', scope='module')
def fixture_run():
  return runs.build(make_config())


def a_batch(run, step=0):
  rows = run.dataset.splits['all_train'][run.visits(0)][12 * step:][:12]
  return run.store.gather(run.store.arrays, run.store.feed(rows)) | {
      'mask': jnp.ones(12)}


def test_every_batch_is_labelled_then_unlabelled(run):
  parts = run.dataset.splits
  places = run.visits(0).reshape(-1, 12)
  assert len(places) == run.info.steps_per_epoch
  rows = parts['all_train'][places]
  assert set(rows[:, :4].flat) == set(parts['train'])
  seen, counts = np.unique(rows[:, 4:], return_counts=True)
  assert seen.tolist() == parts['unlabelled'].tolist()
  assert counts.max() <= 2  # The last batch is filled up.
  evaluated = [*parts['test'], *parts['validation']]
  assert not set(rows.flat) & set(evaluated)
  assert sum(run.info.class_counts) == len(parts['train'])


def test_epochs_differ_and_follow_from_the_seed():
  labels = np.r_[np.zeros(5, int), np.full(17, joined.WITHHELD)]
  one, other, again = (
      samplers.order('mixed:2:4', labels, seed=seed, epoch=epoch, epochs=3)
      for seed, epoch in ((0, 0), (0, 1), (0, 0)))
  assert one.tolist() == again.tolist() != other.tolist()
  assert len(one) == samplers.length('mixed:2:4', labels) == 5 * 6
  # A labelled example comes again only when all others have come.
  shown = one.reshape(-1, 6)[:, :2].ravel()
  assert sorted(shown[:5]) == sorted(shown[5:]) == list(range(5))


@pytest.mark.parametrize('name', ['mixed', 'mixed:4', 'mixed:0:3', 'mixed:a:2'])
def test_a_wrong_layout_is_refused(name):
  with pytest.raises(errors.DataError, match='mixed:1:3'):
    samplers.length(name, np.array([0, -1]))


def test_withheld_labels_are_refused_by_other_samplers():
  with pytest.raises(errors.DataError, match='needs every label'):
    samplers.length('shuffled', np.array([0, 1, -1]))
  with pytest.raises(errors.DataError, match='all_train'):
    samplers.length('mixed:2:2', np.array([0, 1]))


def test_labels_of_unlabelled_images_reach_nothing(monkeypatch, tmp_path):
  load, results = pipeline.load, []
  def scrambled(config_data):
    dataset = load(config_data)
    labels = np.array(dataset.labels)
    rows = dataset.splits['unlabelled']
    labels[rows] = (labels[rows] + 1) % 3
    return dataset._replace(labels=labels)
  for name, loader in (('true', load), ('scrambled', scrambled)):
    monkeypatch.setattr(pipeline, 'load', loader)
    config = make_config(train__epochs=1)
    run = runs.build(config)
    folder = tmp_path / name
    folder.mkdir()
    with loop.checkpoint.open_manager(folder, config.checkpoint) as manager:
      state = runs.init_state(run)
      results.append(loop.fit(
          run, state, features.make_stores(run, state), manager=manager,
          folder=folder)[0])
  assert int(results[0].step) == 5
  jax.tree.map(np.testing.assert_array_equal, *results)
  lines = [(tmp_path / name / 'metrics.jsonl').read_text()
           for name in ('true', 'scrambled')]
  assert lines[0] == lines[1]
  assert json.loads(lines[0])['train_confident'] > 0


@pytest.mark.parametrize('method', ['fixmatch', 'mean_teacher'])
def test_the_step_descends_the_papers_loss(run, method):
  fields = {'semi__method': method, 'optimizer__name': 'sgd',
            'optimizer__b1': 0.0, 'optimizer__learning_rate': 1.0,
            'semi__weight': 0.7}
  if method == 'mean_teacher':
    fields |= {'semi__teacher': 'ema'}
  config = make_config(**fields)
  task = runs.make_task(config, run.info)
  state = task.init(jax.random.key(0))
  state = state.replace(ema=jax.tree.map(lambda x: 0.9 * x, state.ema))
  batch, key = a_batch(run), jax.random.key(3)
  after, sums = jax.jit(task.train_step)(state, batch, key)
  labelled, unlabelled = semi_supervised.split(batch, (4, 8))
  views = semi_supervised.make_views(
      config.semi, labelled, unlabelled, jax.random.split(key)[0])
  predict = jax.jit(lambda params, x: task.eval_step(
      state.replace(params=params, ema={}),
      {'image': x, 'label': jnp.zeros(len(x), int)})['probabilities'])
  probabilities = lambda *args: np.asarray(predict(*args), np.float64)
  teacher = probabilities(
      state.ema if method == 'mean_teacher' else state.params, views[1])
  def objective(params):
    p, u = (probabilities(params, x) for x in (views[0], views[2]))
    supervised = -np.log(p[np.arange(4), batch['label'][:4]])
    if method == 'mean_teacher':
      each = ((u - teacher)**2).mean(-1)
    else:
      each = -np.log(u[np.arange(8), teacher.argmax(-1)])
      each *= teacher.max(-1) >= 0.34
    return supervised.mean(), each.mean()
  found, expected = sums.compute(), objective(state.params)
  np.testing.assert_allclose(found['loss'], expected[0], rtol=1e-6)
  np.testing.assert_allclose(
      found['unlabelled_loss'], expected[1], rtol=2e-6, atol=1e-7)
  # A step of plain SGD with rate 1 is the gradient, which predicts the change
  # of the whole objective along itself.
  gradient = jax.tree.map(jnp.subtract, state.params, after.params)
  size = sum(float(jnp.square(leaf).sum())
             for leaf in jax.tree.leaves(gradient))
  values = []
  for epsilon in (1e-2, -1e-2):
    parts = objective(jax.tree.map(
        lambda p, g, e=epsilon: p + e * g, state.params, gradient))
    values.append(parts[0] + 0.7 * parts[1])
  assert (values[0] - values[1]) / 2e-2 == pytest.approx(size, rel=0.05)


def test_supervised_is_classification_of_the_labelled_rows(run):
  config = make_config(semi__method='supervised', semi__weak__translation=0.0)
  semi = runs.make_task(config, run.info)
  plain = runs.make_task(
      config_lib.replace(config, task='classification'), run.info)
  state, batch = semi.init(jax.random.key(0)), a_batch(run)
  labelled = {name: rows[:4] for name, rows in batch.items()}
  one, _ = jax.jit(semi.train_step)(state, batch, jax.random.key(1))
  other, _ = jax.jit(plain.train_step)(state, labelled, jax.random.key(1))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
               one.params, other.params)


def test_l2_shrinks_the_kernels_that_train_and_nothing_else(run):
  fields = dict(semi__method='supervised', optimizer__name='sgd',
                optimizer__b1=0.0, optimizer__learning_rate=1.0)
  batch, key = a_batch(run), jax.random.key(1)
  def step(**more):
    task = runs.make_task(make_config(**fields, **more), run.info)
    state = task.init(jax.random.key(0))
    return state.params, jax.jit(task.train_step)(state, batch, key)[0].params
  start, plain = step()
  _, decayed = step(loss__l2=0.25)
  def check(path, before, one, other):
    # The gradient of l2 times a square is twice l2 times its root.
    pull = 0.5 * before if path[-1].key == 'kernel' else 0.0
    np.testing.assert_allclose(other, one - pull, atol=1e-6)
  jax.tree_util.tree_map_with_path(check, start, plain, decayed)


def test_groups_of_any_size_hold_the_same_examples():
  labels = np.r_[np.zeros(7, int), np.full(24, joined.WITHHELD)]
  rows = {}
  for sizes in ((1, 3), (2, 6)):
    places = samplers.order(
        f'mixed:{sizes[0]}:{sizes[1]}', labels, seed=0, epoch=1, epochs=3)
    assert len(places) == 32
    parts = semi_supervised.split(
        {'label': labels[places][:16], 'id': places[:16]}, sizes)
    assert (parts[0]['label'] == 0).all() and len(parts[1]['id']) == 12
    rows[sizes] = [part['id'].tolist() for part in parts]
  assert rows[1, 3] == rows[2, 6]


def test_a_padded_group_changes_nothing(run):
  config = make_config(train__batch_size=24)
  task = runs.make_task(config, run.info)
  state, batch = task.init(jax.random.key(0)), a_batch(run)
  step = jax.jit(task.train_step)
  real, other = a_batch(run, 1), a_batch(run, 2)
  results = [step(state, jax.tree.map(
      lambda a, b: jnp.concatenate([a, b]), batch,
      padding | {'mask': jnp.zeros(12)}), jax.random.key(1))
             for padding in (real, other)]
  jax.tree.map(np.testing.assert_array_equal, *results)


def test_views_differ_and_follow_from_the_key(run):
  semi = make_config(semi__weak__translation=0.3).semi
  labelled, unlabelled = semi_supervised.split(a_batch(run), (4, 8))
  assert 'label' not in unlabelled
  make = lambda seed: semi_supervised.make_views(
      semi, labelled, unlabelled, jax.random.key(seed))
  weak, teacher, student = make(0)
  assert weak.shape[0] == 4 and teacher.shape == student.shape
  assert float(jnp.abs(teacher - student).max()) > 0
  np.testing.assert_array_equal(student, make(0)[2])
  assert float(jnp.abs(student - make(1)[2]).max()) > 0
  semi.method = 'pseudo_label'
  np.testing.assert_array_equal(*make(0)[1:])
  semi.method = 'supervised'
  np.testing.assert_array_equal(make(0)[0], weak)
  assert make(0)[1:] == (None, None)


@pytest.mark.parametrize('fields,match', [
    ({'train__batch_size': 16}, 'no multiple of 12'),
    ({'semi__method': 'fixmach'}, "did you mean 'fixmatch'"),
    ({'semi__method': 'mean_teacher'}, "teacher='ema'"),
    ({'semi__teacher': 'ema', 'optimizer__ema_decay': 0.0}, 'ema_decay'),
    ({'augment__cutout': 0.5}, 'config.augment.cutout has no use'),
    ({'semi__strong__mixup_alpha': 0.5}, 'semi.strong.mixup_alpha')])
def test_contradictions_are_refused(run, fields, match):
  with pytest.raises(config_lib.ConfigError, match=match):
    runs.make_task(make_config(**fields), run.info)


def test_nothing_unlabelled_is_an_error_with_its_remedy():
  with pytest.raises(errors.DataError, match='label_fraction below 1'):
    runs.build(make_config(data__label_fraction=1.0))


def test_a_run_on_folders_never_sees_a_test_image(tmp_path):
  data_helpers.write_folders(tmp_path, {
      'train/a': 20, 'train/b': 20, 'test/a': 4, 'test/b': 4})
  data = data_helpers.folder_config(tmp_path, label_fraction=0.3)
  config = make_config(train__max_steps=2)
  config.data.update(data)
  config.data.channels, config.data.image_size = 3, (8, 8)
  described = modes.describe(config)
  result = loop.train(config, tmp_path / 'run')
  assert result['examples']['all_train'] == 12 + 28 - result['examples'][
      'validation']
  manifest = json.loads((tmp_path / 'run' / 'manifest.json').read_text())
  row_of = {row['id']: row['split'] for row in manifest['files']}
  run = runs.build(config)
  visited = {run.dataset.ids[row]
             for row in run.dataset.splits['all_train'][run.visits(0)]}
  assert {row_of[name] for name in visited} == {'train', 'unlabelled'}
  assert all(name.startswith('train/') for name in visited)
  assert described['steps_per_epoch'] == run.info.steps_per_epoch
  with pytest.raises(config_lib.ConfigError, match='withheld'):
    modes.evaluate(config, tmp_path / 'run', split='unlabelled')
