"""Trains one head after another on the same cached features, for a search.

What differs between trials is the head and the learning rate; data, order of
batches, class weights and optimizer are those of the run whose features they
are. One epoch is one compiled program. A trial's keys follow from (seed,
trial, epoch), so training on from where it was left equals training anew. No
run folder, no early stopping: the finished search trains its winner with
loop.py.
"""

from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vision_jax import features
from vision_jax import imbalance_losses
from vision_jax import losses
from vision_jax import runs
from vision_jax.data import batches
from vision_jax.models import heads


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


class Progress(NamedTuple):
  """A trial so far.

  Attributes:
    epochs: Epochs it has been trained for.
    variables: Weights and moving statistics.
    opt_state: The optimizer's state.
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


def make(
    data: Data, specs: tuple[str, ...], *, learning_rate: float, classes: int,
    batch_size: int, seed: int,
) -> tuple[Callable[[], Progress], Callable[[Progress, int], Progress]]:
  """Returns (start, advance) of one trial.

  Args:
    data: Of `load`.
    specs: The head, see `heads.Head`.
    learning_rate: Of Adam, with Keras' epsilon.
    classes: Number of classes.
    batch_size: Examples a step; the last one repeats the first, masked.
    seed: Of the weights, the order and the dropout.

  Returns:
    `start()` gives the untrained head; `advance(progress, epochs)` trains it
    up to so many epochs in all.
  """
  model = heads.Head(classes, specs)
  optimizer = optax.adam(learning_rate, eps=1e-7)
  key = jax.random.key(seed)
  step = _make_step(model, optimizer, data.labels, classes)

  @jax.jit
  def init():
    variables = model.init(key, jnp.asarray(data.train[0, :1]), train=False)
    return variables, optimizer.init(variables['params'])

  @jax.jit
  def epoch(carry, inputs, rows, masks, epoch_key):
    keys = jax.random.split(epoch_key, len(rows))
    carry, _ = jax.lax.scan(
        lambda c, b: (step(c, b, inputs), None), carry, (rows, masks, keys))
    logits = model.apply(carry[0], data.validation, train=False)
    return carry, (logits.argmax(-1) == data.validation_labels).mean()

  def advance(progress, epochs):
    carry, best = (progress.variables, progress.opt_state), progress.best
    for e in range(progress.epochs, epochs):
      rows, masks = _epoch_rows(len(data.labels), batch_size, seed, e)
      carry, accuracy = epoch(
          carry, data.train[e % len(data.train)], rows, masks,
          jax.random.fold_in(key, e + 1))
      best = max(best, float(accuracy))
    return Progress(epochs, *carry, best)
  return lambda: Progress(0, *init(), 0.0), advance


def _make_step(model, optimizer, labels, classes):
  """Returns (carry, (rows, mask, key), features) -> carry, balanced classes."""
  weights = jnp.asarray(imbalance_losses.inverse_weights(
      np.bincount(labels, minlength=classes)), jnp.float32)
  labels = jnp.asarray(labels)

  def step(carry, batch, inputs):
    variables, opt_state = carry
    rows, mask, key = batch
    def loss_of(params):
      logits, updated = model.apply(
          {**variables, 'params': params}, inputs[rows], train=True,
          rngs={'dropout': key}, mutable=['batch_stats'])
      each = losses.cross_entropy(logits, labels[rows]) * weights[labels[rows]]
      return losses.masked_mean(each, mask), updated
    grads, updated = jax.grad(loss_of, has_aux=True)(variables['params'])
    updates, opt_state = optimizer.update(grads, opt_state)
    params = optax.apply_updates(variables['params'], updates)
    return {**variables, **updated, 'params': params}, opt_state
  return step


def _epoch_rows(n, batch_size, seed, epoch):
  """Returns the rows and masks [steps, batch] of an epoch."""
  steps = batches.steps_per_epoch(n, batch_size, 'pad')
  found = [batches.train_indices(
      np.arange(n), batch_size, seed, epoch * steps + i, 'pad')
           for i in range(steps)]
  return tuple(np.stack(each) for each in zip(*found))
