"""Trains one head after another on the same cached features, for a search.

What differs between trials is the head and the learning rate; data, order of
batches, class weights and optimizer are those of the run whose features they
are. One epoch is one compiled program, and one program serves many trials:
rates are its arguments, and a layer is widened to a multiple of `_BLOCK` units
by weights of zero, whose gradient is zero, so that the numbers are those of the
narrow layer. A trial's keys follow from (seed, trial, epoch), so training on
from where it was left equals training anew. No run folder, no early stopping:
the finished search trains its winner with loop.py.
"""

import functools
from typing import Any, Callable, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from vision_jax import features
from vision_jax import imbalance_losses
from vision_jax import losses
from vision_jax import ops
from vision_jax import runs
from vision_jax import runtime
from vision_jax.data import batches
from vision_jax.models import heads
from vision_jax.models import layers

# Multiples of 256 make 8 programs of the 120 pairs of widths of study 4.
_BLOCK = 256


class Data(NamedTuple):
  """Cached features and labels.

  Attributes:
    train: float [views, n, ...]: epochs go through the views in turn.
    labels: int [n].
    validation: float [m, ...].
    validation_labels: int [m].
  """
  train: np.ndarray
  labels: np.ndarray
  validation: np.ndarray
  validation_labels: np.ndarray


class Setting(NamedTuple):
  """What a trial tries.

  Attributes:
    specs: The head, see `heads.Head`.
    learning_rate: Of Adam, with Keras' epsilon.
    seed: Of the weights, the order and the dropout.
  """
  specs: tuple[str, ...]
  learning_rate: float
  seed: int


class Progress(NamedTuple):
  """A trial so far.

  Attributes:
    epochs: Epochs it has been trained for.
    variables: Weights and moving statistics, on the host.
    opt_state: The optimizer's state, on the host.
    best: Highest validation accuracy after any epoch.
  """
  epochs: int
  variables: dict[str, Any]
  opt_state: Any
  best: float


def load(run: runs.Run) -> Data:
  """Returns the features of a run whose encoder is frozen and cached."""
  stores = features.make_stores(run, runs.init_state(run))
  def take(store, split):
    rows = run.dataset.splits[split]
    return np.asarray(store.arrays['features'])[
        np.asarray(store.arrays['position'])[rows]]
  labels = run.dataset.labels
  return Data(
      np.stack([take(store, 'train') for store in stores.training]),
      labels[run.dataset.splits['train']],
      take(stores.evaluation, 'validation'),
      labels[run.dataset.splits['validation']])


def make(data: Data, *, classes: int, batch_size: int) -> tuple[
    Callable[[Setting], Progress],
    Callable[[Setting, Progress, int], Progress]]:
  """Returns (start, advance) for all trials on `data`.

  Args:
    data: Of `load`.
    classes: Number of classes.
    batch_size: Examples a step; the last one repeats the first, masked.

  Returns:
    `start(setting)` gives the untrained head; `advance(setting, progress,
    epochs)` trains it up to so many epochs in all.
  """
  data = jax.device_put(data)
  optimizer = optax.scale_by_adam(eps=1e-7)
  labels = np.asarray(data.labels)
  weights = jnp.asarray(imbalance_losses.inverse_weights(
      np.bincount(labels, minlength=classes)), jnp.float32)

  def init(specs, key):
    variables = heads.Head(classes, specs).init(
        key, data.train[0, :1], train=False)
    return variables, optimizer.init(variables['params'])

  @functools.lru_cache(maxsize=None)
  def program(specs):
    shapes = jax.eval_shape(
        functools.partial(init, specs), jax.random.key(0))
    return shapes, jax.jit(functools.partial(
        _epoch, heads.Head(classes, specs), optimizer, weights))

  def start(setting):
    carry = runtime.once(
        functools.partial(init, setting.specs), jax.random.key(setting.seed))
    return Progress(0, *jax.device_get(carry), 0.0)

  def advance(setting, progress, epochs):
    shapes, epoch = program(_widened(setting.specs))
    narrow = progress.variables, progress.opt_state
    carry, best = jax.tree.map(_pad, narrow, shapes), progress.best
    rates = jnp.array(_rates(setting.specs), jnp.float32)
    for e in range(progress.epochs, epochs):
      rows = _epoch_rows(len(labels), batch_size, setting.seed, e)
      carry, accuracy = epoch(
          data, carry, rows, jax.random.fold_in(
              jax.random.key(setting.seed), e + 1),
          e % len(data.train), rates, setting.learning_rate)
      best = max(best, float(accuracy))
    carry = jax.tree.map(_crop, jax.device_get(carry), narrow)
    return Progress(epochs, *carry, best)
  return start, advance


def _epoch(
    model, optimizer, weights, data, carry, rows, key, view, rates,
    learning_rate):
  """Trains for one epoch; returns the carry and the validation accuracy."""
  inputs = data.train[view]
  def step(carry, batch):
    variables, opt_state = carry
    places, mask, key = batch
    labels = data.labels[places]
    def loss_of(params):
      with _dropping(rates):
        logits, updated = model.apply(
            {**variables, 'params': params}, inputs[places], train=True,
            rngs={'dropout': key}, mutable=['batch_stats'])
      each = losses.cross_entropy(logits, labels) * weights[labels]
      return losses.masked_mean(each, mask), updated
    grads, updated = jax.grad(loss_of, has_aux=True)(variables['params'])
    updates, opt_state = optimizer.update(grads, opt_state)
    params = jax.tree.map(
        lambda p, u: p - learning_rate * u, variables['params'], updates)
    return ({**variables, **updated, 'params': params}, opt_state), None
  keys = jax.random.split(key, len(rows[0]))
  carry, _ = jax.lax.scan(step, carry, (*rows, keys))
  logits = model.apply(carry[0], data.validation, train=False)
  return carry, (logits.argmax(-1) == data.validation_labels).mean()


def _dropping(rates):
  """Gives each dropout of a head, in order, its traced rate."""
  def intercept(call, args, kwargs, context):
    module = context.module
    if not isinstance(module, layers.Dropout):
      return call(*args, **kwargs)
    place = int(module.name.rpartition('_')[2])
    return ops.dropout(
        *args, module.make_rng('dropout'), rate=rates[place])
  return nn.intercept_methods(intercept)


def _widened(specs: tuple[str, ...]) -> tuple[str, ...]:
  """Returns the head whose program trains that of `specs`."""
  def widen(spec):
    name, argument = heads.parse_spec(spec)
    if name == 'dense':
      return f'dense:{-(-argument // _BLOCK) * _BLOCK}'
    # Its rate is an argument of the program.
    return 'dropout:0.5' if name == 'dropout' else spec
  return tuple(widen(spec) for spec in specs)


def _rates(specs: tuple[str, ...]) -> list[float]:
  """Returns the rates of the dropouts, in order."""
  parsed = heads.parse_specs(specs)
  return [argument for name, argument in parsed if name == 'dropout']


def _pad(narrow, wide):
  """Returns an array in the shape of `wide`, zeros behind its entries."""
  padded = np.zeros(wide.shape, wide.dtype)
  padded[tuple(slice(n) for n in narrow.shape)] = narrow
  return padded


def _crop(wide, narrow):
  """Undoes `_pad`."""
  return wide[tuple(slice(n) for n in narrow.shape)]


def _epoch_rows(n, batch_size, seed, epoch):
  """Returns the rows and masks [steps, batch] of an epoch."""
  steps = batches.steps_per_epoch(n, batch_size, 'pad')
  found = [batches.train_indices(
      np.arange(n), batch_size, seed, epoch * steps + i, 'pad')
           for i in range(steps)]
  return tuple(np.stack(each) for each in zip(*found))
