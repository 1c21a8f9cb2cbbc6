"""The search of study 4: its space, its trials, and going on after a stop."""

import types

import numpy as np

from experiments import rare_species_search
from vision_jax import head_trials
from vision_jax import hyperband


def make_data(n=40, classes=3, dims=6):
  """Features in which the class is easy to see, in two views."""
  rng = np.random.default_rng(0)
  labels = rng.integers(0, classes, n + 20)
  x = (3 * np.eye(classes, dims)[labels]
       + rng.normal(size=(2, n + 20, dims))).astype(np.float32)
  x = x[:, :, None, None, :]
  return head_trials.Data(x[:, :n], labels[:n], x[0, n:], labels[n:])


def test_the_space_and_the_trials_are_the_studys():
  points = rare_species_search.points()
  assert len(points) == 7680 == len({tuple(p.values()) for p in points})
  assert sum(count for rungs in hyperband.brackets(40, 3)
             for count, _ in rungs) == 90
  assert rare_species_search.head(points[0]) == (
      'average', 'batch_norm', 'dense:128', 'dropout:0.3', 'dense:64',
      'dropout:0.2')


def test_training_on_equals_training_anew_and_learns():
  start, advance = head_trials.make(
      make_data(), ('average', 'batch_norm', 'dense:8', 'dropout:0.3'),
      learning_rate=1e-2, classes=3, batch_size=16, seed=1)
  once = advance(start(), 40)
  twice = advance(advance(start(), 3), 40)
  assert once.best == twice.best and once.epochs == 40
  for a, b in zip(np.asarray(once.variables['params']['logits']['kernel']),
                  np.asarray(twice.variables['params']['logits']['kernel'])):
    np.testing.assert_array_equal(a, b)
  assert once.best > 0.7
  assert once.variables['batch_stats']['BatchNorm_0']['mean'].any()


def test_a_stopped_search_goes_on_to_the_same_trials(tmp_path, monkeypatch):
  trained = []
  def make(data, specs, *, learning_rate, seed, **_):
    score = float(np.random.default_rng(seed).uniform())
    start = lambda: head_trials.Progress(0, {}, (), 0.0)
    def advance(progress, epochs):
      trained.append((seed, epochs))
      return progress._replace(epochs=epochs, best=score + epochs / 100)
    return start, advance
  monkeypatch.setattr(head_trials, 'make', make)
  monkeypatch.setattr(head_trials, 'load', lambda run: None)
  run = types.SimpleNamespace(
      config=types.SimpleNamespace(train=types.SimpleNamespace(batch_size=4)),
      dataset=types.SimpleNamespace(class_names=('a', 'b')))
  args = types.SimpleNamespace(
      seed=0, data='d', model='m', size=8, max_epochs=40)
  search = lambda name, limit: rare_species_search.search(
      run, tmp_path / name, args, limit=limit)
  whole = search('whole', 1000)
  assert len(whole) == 90 and len({row['setting'] for row in whole}) == 62
  trained.clear()
  assert len(search('parts', 37)) == 37
  assert len(search('parts', 40)) == 77
  parts = search('parts', 1000)
  key = lambda row: (row['setting'], row['epochs'], row['score'])
  assert list(map(key, parts)) == list(map(key, whole))
  assert len(trained) == len(set(trained)) == 90
