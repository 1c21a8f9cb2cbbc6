"""Trains several seeds and label fractions of one config as one program.

Every variant gets the numbers that a run of its own gives (tested): its own
weights, examples, order and random changes. Only the images are shared. In an
epoch all wait for the one with the most examples. Where a run may stop early
or keeps its best weights, variants would part ways; that is an error here and
the loop's business, and so is an evaluation that draws random numbers from the
seed, as a GAN's does. Writes no run folder.
"""

from collections.abc import Mapping, Sequence
import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vision_jax import config as config_lib
from vision_jax import runs
from vision_jax import task as task_lib
from vision_jax.data import batches
from vision_jax.data import pipeline


class Variant(NamedTuple):
  """What tells one of the runs from the others.

  Attributes:
    seed: Takes the place of `config.seed`.
    fraction: Of `config.data.label_fraction`; None leaves it.
  """
  seed: int
  fraction: float | None = None


class Trained(NamedTuple):
  """The outcome for S variants.

  Attributes:
    state: The last state; every leaf has a leading axis of S.
    rows: For each epoch the metrics by name, each [S].
    runs: For each variant the run whose state `state` holds in its place. They
      share equal tasks: what `task.report` draws follows from the first seed.
  """
  state: task_lib.TrainState
  rows: list[dict[str, np.ndarray]]
  runs: tuple[runs.Run, ...]


def train(
    run: runs.Run,
    variants: Sequence[Variant],
    *,
    watched: Mapping[str, np.ndarray],
    batching: str = 'vmap') -> Trained:
  """Trains `run` once for each variant.

  Args:
    run: A built run; its own seed is not used.
    variants: S of them.
    watched: Rows of the data set by name; after every epoch their metrics join
      the epoch's as `<name>_<metric>`.
    batching: How the one program treats its variants: 'vmap', as a batch, or
      'unroll', as so many copies. A CPU has no good kernel for the
      convolutions of several networks at once, and copies are faster there;
      a copy that waits computes nothing.

  Raises:
    ConfigError: If the config lets variants end differently, their evaluation
      depends on the seed, or their steps are too different for 'vmap'.
  """
  _check(run.config, variants)
  every = _with_variants(run, variants)
  keys = jnp.stack([each.key for each in every])
  over = functools.partial(_over, batching, every)
  state = jax.jit(over(lambda each, key: each.task.init(
      jax.random.fold_in(key, 0))))(keys)
  first = jax.tree.map(lambda leaf: leaf[0], state)
  _check_evaluation(run, first)
  if batching == 'vmap':
    _check_equal_steps(every, first)
  step = jax.jit(_make_step(run, over, waits=len(
      {each.info.steps_per_epoch for each in every}) > 1),
                 donate_argnums=(1, 2))
  look = jax.jit(_make_look(run, over))
  rows = []
  for epoch in range(run.config.train.epochs):
    views = run.config.augment.views
    view = epoch % views if views else epoch
    sums = jax.vmap(lambda _: run.task.train_sums.empty())(keys)
    for inputs, masks, active in _epoch_inputs(every, epoch):
      state, sums = step(
          keys, state, sums, run.store.arrays, inputs, masks, active, view)
    row = {f'train_{k}': np.asarray(v)
           for k, v in jax.vmap(lambda s: s.compute())(sums).items()}
    for name, members in watched.items():
      outputs = evaluate(run, state, members, look=look)
      each = [run.task.summarize({k: v[i] for k, v in outputs.items()})
              for i in range(len(every))]
      row |= {f'{name}_{k}': np.array([m[k] for m in each]) for k in each[0]}
    rows.append(row)
  return Trained(state, rows, every)


def evaluate(
    run: runs.Run, state: task_lib.TrainState, members: np.ndarray, *,
    look=None, batching: str = 'vmap') -> dict[str, np.ndarray]:
  """Returns outputs on the rows `members`, [S, n, ...] by name."""
  size = len(state.step)
  look = look or jax.jit(_make_look(
      run, functools.partial(_over, batching, (run,) * size)))
  chunks = []
  for rows, mask in batches.eval_batches(
      members, run.config.train.eval_batch_size):
    outputs = jax.device_get(look(state, run.store.arrays,
                                  run.store.feed(rows)))
    chunks.append({k: v[:, mask > 0] for k, v in outputs.items()})
  return {name: np.concatenate([chunk[name] for chunk in chunks], 1)
          for name in chunks[0]}


def take(trained: Trained, index: int) -> tuple[runs.Run, Any]:
  """Returns the run and the state of one variant."""
  return trained.runs[index], jax.tree.map(
      lambda leaf: leaf[index], trained.state)


def _over(batching, every, function):
  """Maps a function of (run, tree) over leading axes S, in one program."""
  def unrolled(tree):
    results = [function(run, jax.tree.map(lambda leaf: leaf[i], tree))
               for i, run in enumerate(every)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)
  return config_lib.choose('batching', batching, {
      'vmap': jax.vmap(functools.partial(function, every[0])),
      'unroll': unrolled})


def _make_step(run, over, *, waits: bool):
  """Returns a function of what `train` passes it -> next (state, sums).

  Args:
    run: Whose store has the images.
    over: See `_over`.
    waits: Whether some variants are not active in some steps.
  """
  def step(keys, state, sums, arrays, inputs, masks, active, view):
    def one(each, tree):
      key, state, sums, inputs, mask, active = tree
      def move():
        moved, more = runs.update(
            each._replace(key=key), run.store, state, arrays, inputs, mask,
            view)
        return moved, sums.merge(more)
      if not waits:
        return move()
      return jax.lax.cond(active, move, lambda: (state, sums))
    return over(one)((keys, state, sums, inputs, masks, active))
  return step


def _make_look(run, over):
  """Returns (state, arrays, inputs) -> outputs [S, B, ...] by name."""
  def look(state, arrays, inputs):
    batch = run.store.gather(arrays, inputs)
    return over(lambda each, state: each.task.eval_step(state, batch))(state)
  return look


def _epoch_inputs(every, epoch):
  """Yields what each step of an epoch feeds: inputs, masks, active, [S, ...].

  A variant whose epoch is over is fed its last batch, and is not active.
  """
  store, split = every[0].store, every[0].config.train.split
  for step in range(max(each.info.steps_per_epoch for each in every)):
    fed = []
    for each in every:
      length = each.info.steps_per_epoch
      rows, mask = batches.train_indices(
          each.dataset.splits[split], each.config.train.batch_size,
          seed=each.config.seed, step=epoch * length + min(step, length - 1),
          remainder=each.config.train.remainder, visits=each.visits)
      fed.append((store.feed(rows), mask, np.bool_(step < length)))
    yield jax.tree.map(lambda *leaves: np.stack(leaves), *fed)


def _with_variants(run, variants) -> tuple[runs.Run, ...]:
  """Returns a run for each variant; they share images and equal tasks."""
  by_fraction = {None: run}
  for fraction in dict.fromkeys(variant.fraction for variant in variants):
    if fraction is None:
      continue
    config = config_lib.replace(run.config, data__label_fraction=fraction)
    dataset = run.dataset._replace(splits=pipeline.load(config.data).splits)
    info = runs.make_info(
        config, dataset.class_names, dataset.images.shape[1:],
        dataset.labels[dataset.splits[config.train.split]])
    by_fraction[fraction] = run._replace(
        config=config, dataset=dataset, info=info,
        task=runs.make_task(config, info))
  return tuple(_with_seed(by_fraction[variant.fraction], variant.seed)
               for variant in variants)


def _with_seed(run, seed):
  config = config_lib.replace(run.config, seed=int(seed))
  labels = run.dataset.labels[run.dataset.splits[config.train.split]]
  return run._replace(
      config=config, key=jax.random.key(config.seed),
      visits=runs.make_visits(config, labels))


def _check(config, variants):
  off = {'restore_best': False, 'patience': 0, 'plateau_patience': 0}
  wrong = [f'config.callbacks.{name}={value}' for name, value in off.items()
           if config.callbacks[name] != value]
  if config.train.max_steps:
    wrong.append('config.train.max_steps=0')
  if wrong:
    raise config_lib.ConfigError(
        'Runs that train together all end at the last epoch; set '
        f'{", ".join(wrong)}, or train each in a run of its own.')
  if all(variant.fraction is None for variant in variants):
    return
  if config.data.imbalance.kind != 'none' or config.train.split != 'train':
    raise config_lib.ConfigError(
        "Label fractions train together where config.train.split='train' and "
        "config.data.imbalance.kind='none', not "
        f'{config.train.split!r} and {config.data.imbalance.kind!r}.')


def _check_equal_steps(every, state):
  """Raises ConfigError unless all variants have the same program of a step.

  Schedules and class weights follow from the number of examples.
  """
  store = every[0].store
  rows = np.zeros(every[0].config.train.batch_size, np.int32)
  def program(run):
    def step(state, key, arrays, inputs):
      return runs.update(run._replace(key=key), store, state, arrays, inputs,
                         jnp.ones(len(rows)), 0)
    return _program(step, state, run.key, store.arrays, store.feed(rows))
  firsts = {id(each.task): each for each in every}.values()
  programs = [program(each) for each in firsts]
  for each, other in zip(firsts, programs):
    if not _equal(programs[0], other):
      raise config_lib.ConfigError(
          'The step with config.data.label_fraction='
          f'{each.config.data.label_fraction} is another than that with '
          f'{every[0].config.data.label_fraction}, as where a schedule or '
          "class weights depend on the number of examples: use batching="
          "'unroll'.")


def _check_evaluation(run, state):
  """Raises ConfigError unless tasks of two seeds evaluate alike."""
  rows = np.zeros(run.config.train.eval_batch_size, np.int32)
  def program(seed):
    task = runs.make_task(config_lib.replace(run.config, seed=seed), run.info)
    def look(state, arrays, inputs):
      return task.eval_step(state, run.store.gather(arrays, inputs))
    return _program(look, state, run.store.arrays, run.store.feed(rows))
  if not _equal(program(0), program(1)):
    raise config_lib.ConfigError(
        f'Evaluation with config.task={run.config.task!r} draws random numbers '
        'from config.seed, and runs that train together share it: train each '
        'in a run of its own.')


def _program(function, *inputs):
  """Returns the text and the constants of what `function` computes."""
  found = jax.make_jaxpr(function)(*inputs)
  # Addresses of functions differ between equal tasks.
  return re.sub(r' at 0x\w+', '', str(found)), found.consts


def _equal(one, other) -> bool:
  """Whether two results of `_program` are the same."""
  (text, values), (other_text, others) = one, other
  return text == other_text and len(values) == len(others) and all(
      map(np.array_equal, values, others))
