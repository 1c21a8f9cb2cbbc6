"""The search of study 4: its space, its trials, and going on after a stop."""

import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import rare_species_search
from vision_jax import head_trials
from vision_jax import hyperband
from vision_jax import ops
from vision_jax.data import batches
from vision_jax.models import heads
from vision_jax.models import layers


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


def train(data, setting, *rungs, classes=3, batch_size=16):
  """Returns the progress of a trial that is trained rung after rung."""
  start, advance = head_trials.make(
      data, classes=classes, batch_size=batch_size)
  progress = start(setting)
  for epochs in rungs:
    progress = advance(setting, progress, epochs)
  return progress


def test_training_on_equals_training_anew_and_learns():
  setting = head_trials.Setting(
      ('average', 'batch_norm', 'dense:8', 'dropout:0.3'), 1e-2, 1)
  once = train(make_data(), setting, 40)
  twice = train(make_data(), setting, 3, 40)
  assert once.best == twice.best and once.epochs == 40
  jax.tree.map(np.testing.assert_array_equal, once.variables, twice.variables)
  assert once.best > 0.7
  assert once.variables['batch_stats']['BatchNorm_0']['mean'].any()


def train_plainly(data, setting, epochs, wide, classes=3, batch_size=16):
  """The same trial a step at a time: its own head, fixed rates, optax' Adam.

  Dropout draws for a layer of `wide` units and keeps the first, which is all
  that a wider program could change.
  """
  def narrow_dropout(call, args, kwargs, context):
    module = context.module
    if not isinstance(module, layers.Dropout):
      return call(*args, **kwargs)
    x = jnp.pad(args[0], ((0, 0), (0, wide - args[0].shape[1])))
    return ops.dropout(
        x, module.make_rng('dropout'), rate=module.rate)[:, :args[0].shape[1]]
  model = heads.Head(classes, setting.specs)
  key = jax.random.key(setting.seed)
  variables = model.init(key, data.train[0, :1], train=False)
  optimizer = optax.adam(setting.learning_rate, eps=1e-7)
  opt_state, steps = optimizer.init(variables['params']), -(-len(
      data.labels) // batch_size)
  count = np.bincount(data.labels, minlength=classes)
  def loss_of(params, stats, x, y, mask, key):
    with nn.intercept_methods(narrow_dropout):
      logits, stats = model.apply(
          {'params': params, **stats}, x, train=True, rngs={'dropout': key},
          mutable=['batch_stats'])
    each = -jax.nn.log_softmax(logits)[np.arange(len(y)), y]
    each *= jnp.asarray(count.sum() / (count * classes))[y]
    return (each * mask).sum() / mask.sum(), stats
  gradient = jax.jit(jax.grad(loss_of, has_aux=True))
  for epoch in range(epochs):
    keys = jax.random.split(jax.random.fold_in(key, epoch + 1), steps)
    for i in range(steps):
      rows, mask = batches.train_indices(
          np.arange(len(data.labels)), batch_size, setting.seed,
          epoch * steps + i, 'pad')
      params, stats = variables['params'], {
          'batch_stats': variables['batch_stats']}
      grads, stats = gradient(
          params, stats, data.train[epoch % 2][rows], data.labels[rows], mask,
          keys[i])
      updates, opt_state = optimizer.update(grads, opt_state)
      variables = {'params': optax.apply_updates(params, updates), **stats}
  return variables


def test_one_program_gives_all_widths_and_rates_their_own_numbers(monkeypatch):
  data, traced, epoch = make_data(), [], head_trials._epoch
  def counted(*args):
    traced.append(1)
    return epoch(*args)
  monkeypatch.setattr(head_trials, '_epoch', counted)
  start, advance = head_trials.make(data, classes=3, batch_size=16)
  for first, rate, second, learning_rate in (
      (24, 0.3, 8, 1e-2), (256, 0.6, 200, 1e-3)):
    setting = head_trials.Setting(
        ('average', 'batch_norm', f'dense:{first}', f'dropout:{rate}',
         f'dense:{second}', 'dropout:0.2'), learning_rate, 5)
    found = advance(setting, start(setting), 2).variables
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-4),
        found, dict(train_plainly(data, setting, 2, wide=256)))
  assert len(traced) == 1


def test_a_stopped_search_goes_on_to_the_same_trials(tmp_path, monkeypatch):
  trained = []
  def make(data, **_):
    start = lambda setting: head_trials.Progress(0, {}, (), 0.0)
    def advance(setting, progress, epochs):
      score = float(np.random.default_rng(setting.seed).uniform())
      trained.append((setting.seed, epochs))
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
