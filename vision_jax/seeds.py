"""Trains several seeds of one config together, as one program.

Every seed gets the numbers that a run of its own gives (tested): its own
weights, order of examples and random changes. Only the data is shared. Where
a run may stop early or keeps its best weights, seeds would part ways; that is
an error here and the loop's business. Writes no run folder.
"""

from collections.abc import Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vision_jax import config as config_lib
from vision_jax import runs
from vision_jax import task as task_lib
from vision_jax.data import batches


class Trained(NamedTuple):
  """The outcome for S seeds.

  Attributes:
    state: The last state; every leaf has a leading axis of S.
    rows: For each epoch the metrics by name, each [S].
    runs: For each seed the run whose state `state` holds in its place.
  """
  state: task_lib.TrainState
  rows: list[dict[str, np.ndarray]]
  runs: tuple[runs.Run, ...]


def train(
    run: runs.Run,
    seeds: Sequence[int],
    *,
    watched: Mapping[str, np.ndarray],
    batching: str = 'vmap') -> Trained:
  """Trains `run` once for each seed.

  Args:
    run: A built run; its own seed is not used.
    seeds: S seeds.
    watched: Rows of the data set by name; after every epoch their metrics join
      the epoch's as `<name>_<metric>`.
    batching: How the one program treats its seeds: 'vmap', as a batch, or
      'unroll', as so many copies. A CPU has no good kernel for the
      convolutions of several networks at once, and copies are faster there.

  Raises:
    ConfigError: If the config lets seeds end differently.
  """
  _check(run.config)
  every = tuple(_with_seed(run, seed) for seed in seeds)
  keys = jnp.stack([each.key for each in every])
  over = functools.partial(_over, batching)
  state = jax.jit(over(lambda key: run.task.init(
      jax.random.fold_in(key, 0))))(keys)
  step = jax.jit(_make_step(run, over), donate_argnums=(1, 2))
  look = jax.jit(_make_look(run, over))
  rows = []
  for epoch in range(run.config.train.epochs):
    views = run.config.augment.views
    view = epoch % views if views else epoch
    sums = jax.vmap(lambda _: run.task.train_sums.empty())(keys)
    for inputs, masks in _epoch_inputs(every, epoch):
      state, sums = step(
          keys, state, sums, run.store.arrays, inputs, masks, view)
    row = {f'train_{k}': np.asarray(v)
           for k, v in jax.vmap(lambda s: s.compute())(sums).items()}
    for name, members in watched.items():
      outputs = evaluate(run, state, members, look=look)
      each = [run.task.summarize({k: v[i] for k, v in outputs.items()})
              for i in range(len(seeds))]
      row |= {f'{name}_{k}': np.array([m[k] for m in each]) for k in each[0]}
    rows.append(row)
  return Trained(state, rows, every)


def evaluate(
    run: runs.Run, state: task_lib.TrainState, members: np.ndarray, *,
    look=None, batching: str = 'vmap') -> dict[str, np.ndarray]:
  """Returns each seed's outputs on the rows `members`, [S, n, ...] by name."""
  look = look or jax.jit(_make_look(run, functools.partial(_over, batching)))
  chunks = []
  for rows, mask in batches.eval_batches(
      members, run.config.train.eval_batch_size):
    outputs = jax.device_get(look(state, run.store.arrays,
                                  run.store.feed(rows)))
    chunks.append({k: v[:, mask > 0] for k, v in outputs.items()})
  return {name: np.concatenate([chunk[name] for chunk in chunks], 1)
          for name in chunks[0]}


def take(trained: Trained, index: int) -> tuple[runs.Run, Any]:
  """Returns the run and the state of one seed."""
  return trained.runs[index], jax.tree.map(
      lambda leaf: leaf[index], trained.state)


def _over(batching, function):
  """Maps a function of a tree with leading axes S, in one program."""
  def unrolled(tree):
    size = len(jax.tree.leaves(tree)[0])
    results = [function(jax.tree.map(lambda leaf: leaf[i], tree))
               for i in range(size)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)
  return config_lib.choose('batching', batching, {
      'vmap': jax.vmap(function), 'unroll': unrolled})


def _make_step(run, over):
  """Returns (keys, state, sums, arrays, inputs, masks, view) -> next two."""
  def step(keys, state, sums, arrays, inputs, masks, view):
    def one_seed(tree):
      key, state, sums, inputs, mask = tree
      state, more = runs.update(
          run._replace(key=key), run.store, state, arrays, inputs, mask, view)
      return state, sums.merge(more)
    return over(one_seed)((keys, state, sums, inputs, masks))
  return step


def _make_look(run, over):
  """Returns (state, arrays, inputs) -> outputs [S, B, ...] by name."""
  def look(state, arrays, inputs):
    batch = run.store.gather(arrays, inputs)
    return over(lambda state: run.task.eval_step(state, batch))(state)
  return look


def _epoch_inputs(every, epoch):
  """Yields what each step of an epoch feeds: inputs and masks, [S, ...]."""
  run = every[0]
  members = run.dataset.splits[run.config.train.split]
  length = run.info.steps_per_epoch
  for step in range(epoch * length, (epoch + 1) * length):
    chosen = [batches.train_indices(
        members, run.config.train.batch_size, seed=each.config.seed,
        step=step, remainder=run.config.train.remainder, visits=each.visits)
              for each in every]
    fed = [(run.store.feed(rows), mask) for rows, mask in chosen]
    yield jax.tree.map(lambda *leaves: np.stack(leaves), *fed)


def _with_seed(run, seed):
  config = config_lib.replace(run.config, seed=int(seed))
  labels = run.dataset.labels[run.dataset.splits[config.train.split]]
  return run._replace(
      config=config, key=jax.random.key(config.seed),
      visits=runs.make_visits(config, labels))


def _check(config):
  off = {'restore_best': False, 'patience': 0, 'plateau_patience': 0}
  wrong = [f'config.callbacks.{name}={value}' for name, value in off.items()
           if config.callbacks[name] != value]
  if wrong:
    raise config_lib.ConfigError(
        'Seeds that train together all end at the last epoch; set '
        f'{", ".join(wrong)}, or train each seed in a run of its own.')
