"""The only training loop. It knows tasks, not what they do.

A run is a pure function of its config: batches follow from (seed, step),
random numbers from `fold_in(key, step)`, and the checkpoint holds all that
changes. A run killed anywhere and started again ends with the same bits.
"""

import functools
import pathlib
import time
from typing import Any

import jax
import ml_collections
import orbax.checkpoint as ocp
import tqdm

from vision_jax import allocator
from vision_jax import callbacks
from vision_jax import checkpoint
from vision_jax import config as config_lib
from vision_jax import features
from vision_jax import guard as guard_lib
from vision_jax import interrupt
from vision_jax import optim
from vision_jax import pretraining
from vision_jax import refine
from vision_jax import results
from vision_jax import runs
from vision_jax import runtime
from vision_jax import task as task_lib
from vision_jax import writers
from vision_jax.data import batches
from vision_jax.data import errors
from vision_jax.data import pipeline

# Between two reads of the guard's verdict the device runs ahead of the host.
_CHECK_STEPS = 20


def train(
    config: ml_collections.ConfigDict,
    workdir: str | pathlib.Path) -> dict[str, Any]:
  """Trains, tests the best weights and writes the run folder.

  Args:
    config: A whole config; nothing outside it decides a number.
    workdir: The run folder. A run that was stopped there goes on; one that
      has ended is not repeated.

  Returns:
    The content of `result.json`.

  Raises:
    ConfigError: For a config that does not fit itself, the data or the folder.
    DataError: If the data is missing or wrong.
    NonFiniteError: If a metric or weight is not finite.
    Stopped: After SIGTERM or Ctrl-C, with a checkpoint written.
  """
  folder = pathlib.Path(workdir).absolute()
  asked = config.model.weights
  config = pretraining.resolve(
      config, train, root=pathlib.Path('runs') / 'pretrained')
  began = time.perf_counter()
  writers.check(folder, config)
  if results.exists(folder):
    return results.read(folder)
  run = runs.build(config)
  # What could not end is not begun, and leaves no folder.
  pretraining.check(asked, config, run.dataset)
  state = runs.init_state(run)
  _check(run, state)
  writers.prepare(folder, config)
  pipeline.write_manifest(run.dataset, folder / 'manifest.json')
  stores = features.make_stores(run, state)
  with checkpoint.open_manager(folder, config.checkpoint) as manager:
    state, seen = fit(run, state, stores, manager=manager, folder=folder)
  final = refine.apply(run, best_state(state, config))
  # Where an average was kept, the raw weights of the last epoch stay at hand.
  raw = {'raw': state.params} if state.ema else {}
  checkpoint.export(folder, final.variables() | raw)
  eval_step = runs.make_eval_step(run, stores.evaluation)
  # A remedy has changed the weights since.
  outputs = seen if config.train.refine == 'none' else {}
  outputs |= {
      split: runs.evaluate(run, final, split, stores.evaluation, eval_step)
      for split in ('validation', 'test')
      if len(run.dataset.splits[split]) and split not in outputs}
  return results.write(
      run, state, final, outputs, folder=folder, began=began)


def _check(run: runs.Run, state: task_lib.TrainState) -> None:
  """Raises for what would be found out only when a run has been trained."""
  splits, monitor = run.dataset.splits, run.config.callbacks.monitor
  if not len(splits['test']):
    raise errors.DataError(
        'There is nothing to test: the data has no test split of its own, and '
        f'config.data.test_fraction is {run.config.data.test_fraction}.')
  if monitor.startswith('validation_') and not len(splits['validation']):
    raise config_lib.ConfigError(
        f'config.callbacks.monitor={monitor!r}, but there are no validation '
        'examples: set config.data.validation_fraction, or another monitor '
        'such as train_loss.')
  callbacks.sign(run.config.callbacks)
  refine.check(run, state)


def best_state(
    state: task_lib.TrainState,
    config: ml_collections.ConfigDict) -> task_lib.TrainState:
  """Returns the state with the weights that are tested and exported."""
  if not best_epoch(state, config):
    return state
  return state.replace(ema={}, **state.best)


def best_epoch(
    state: task_lib.TrainState, config: ml_collections.ConfigDict) -> int:
  """Returns the epoch whose weights are tested; 0 = the last."""
  if not config.callbacks.restore_best:
    return 0
  return int(state.callbacks.best_epoch)


def fit(
    run: runs.Run,
    state: task_lib.TrainState,
    stores: features.Stores,
    *,
    manager: ocp.CheckpointManager,
    folder: pathlib.Path) -> tuple[task_lib.TrainState, dict[str, Any]]:
  """Runs the epochs that are left.

  Args:
    run: The run.
    state: The state of step 0; a checkpoint takes its place where there is
      one.
    stores: Where batches come from.
    manager: Of the run folder's checkpoints.
    folder: The run folder.

  Returns:
    The last state, and the outputs by split that the weights to be tested
    have given already, as far as this process saw them.
  """
  config, length = run.config, run.info.steps_per_epoch
  seen = {}
  whole, state = state, features.detach(run, state, stores)
  tree = {'state': state, 'sums': runs.start_sums(run)}
  tree = checkpoint.restore(manager, tree) or tree
  writer = writers.make_writer(folder, config, step=int(tree['state'].step))
  eval_step = runs.make_eval_step(run, stores.evaluation)
  train_step = runs.make_train_step(run, stores.training[0])
  count = jax.jit(functools.partial(
      callbacks.update, config=config.callbacks))
  total = config.train.epochs * length
  if config.train.max_steps:
    total = min(total, config.train.max_steps)
  bar = tqdm.tqdm(
      total=total, initial=int(tree['state'].step), unit='step',
      disable=not config.report.progress, dynamic_ncols=True)
  with bar, interrupt.watch() as request:
    while int(tree['state'].step) < total:
      if bool(tree['state'].callbacks.stopped):
        break
      began, epoch = time.perf_counter(), int(tree['state'].step) // length
      tree = _run_epoch(
          run, train_step, tree, stores, epoch, last=total, bar=bar,
          manager=manager, request=request, writer=writer)
      row, outputs = _aggregates(run, tree, stores.evaluation, eval_step)
      value = callbacks.monitored(row, config.callbacks)
      state = _after_epoch(tree['state'], value, epoch + 1, count)
      if best_epoch(state, config) in (0, epoch + 1):
        seen = outputs
      tree = {'state': state, 'sums': runs.start_sums(run)}
      if run.task.preview is not None:
        run.task.preview(folder, state, epoch + 1)
      writer.write({
          'epoch': epoch + 1, 'step': int(state.step), **row,
          'rate_scale': float(state.callbacks.rate_scale)})
      bar.set_postfix_str(
          f'epoch {epoch + 1}, {config.callbacks.monitor} {value:.4f}, '
          f'{time.perf_counter() - began:.1f} s')
      ends = int(state.step) >= total or bool(state.callbacks.stopped)
      if (ends or request.stop
          or _is_due(epoch + 1, config.checkpoint.every_epochs)
          or _is_due(int(state.step), config.checkpoint.every_steps)):
        checkpoint.save(
            manager, int(state.step), tree,
            monitor=callbacks.sign(config.callbacks) * value)
      if request.stop:
        interrupt.leave(request, manager, folder)
  writer.close()
  return features.attach(tree['state'], whole), seen


def _run_epoch(
    run, train_step, tree, stores, epoch, *, last, bar, manager, request,
    writer):
  """Runs what is left of one epoch; returns its state and sums."""
  config, length = run.config, run.info.steps_per_epoch
  members = run.dataset.splits[config.train.split]
  view = epoch % config.augment.views if config.augment.views else epoch
  store = stores.training[view % len(stores.training)]
  state, sums = tree['state'], tree['sums']
  guard = runs.start_guard(run, state)
  good = manager.latest_step()
  good = ('No checkpoint was written before.' if good is None else
          f'The checkpoint of step {good} is the last good one.')
  first = int(state.step)
  end = min((epoch + 1) * length, last)
  index = (batches.train_indices(
      members, config.train.batch_size, seed=config.seed, step=step,
      remainder=config.train.remainder, visits=run.visits)
           for step in range(first, end))
  for step, (inputs, mask) in enumerate(
      runs.stream(run, store, index), start=first):
    before = runtime.copy(state.params) if step == 0 else None
    state, sums, guard = runtime.profiled(
        train_step, _profile_folder(run, manager, step + 1), state, sums,
        guard, store.arrays, inputs, mask, view)
    bar.update()
    save = _is_due(step + 1, config.checkpoint.every_steps)
    if step == first or save or _is_due(step + 1, _CHECK_STEPS):
      guard_lib.check(guard, last_good=good)
      writer.started()
    if step == first:  # The step or the last evaluation was compiled.
      allocator.retire_fragments()
    if before is not None and config.optimizer.accumulate == 1:
      guard_lib.check_moved(
          before, state.params, optim.among(run.task.trainable, state.params),
          resting='^encoder/' if config.optimizer.unfreeze_epochs else '')
    # The last step of an epoch is saved after its evaluation, not before.
    if (save or request.stop) and step + 1 < end:
      checkpoint.save(manager, step + 1, {'state': state, 'sums': sums})
      if request.stop:
        interrupt.leave(request, manager, manager.directory.parent)
  guard_lib.check(guard, last_good=good)
  return {'state': state, 'sums': sums}


def _profile_folder(run, manager, step: int) -> pathlib.Path | None:
  """Returns where the trace of `step` goes; None where it has none."""
  if step not in run.config.runtime.profile_steps:
    return None
  return pathlib.Path(manager.directory).parent / 'profile' / f'step_{step}'


def _is_due(step: int, every: int) -> bool:
  return every > 0 and step % every == 0


def _aggregates(run, tree, store, eval_step):
  """Returns the epoch's metrics, and outputs of the splits it evaluated."""
  row = {f'train_{k}': float(v) for k, v in tree['sums'].compute().items()}
  if not len(run.dataset.splits['validation']):
    return row, {}
  outputs = runs.evaluate(run, tree['state'], 'validation', store, eval_step)
  metrics = run.task.summarize(outputs)
  return (row | {f'validation_{k}': v for k, v in metrics.items()},
          {'validation': outputs})


def _after_epoch(state, value, epoch, count) -> task_lib.TrainState:
  """Counts the epoch and keeps the weights if they are the best so far."""
  counters, improved = count(state.callbacks, value, epoch)
  counters = jax.device_put(counters, state.step.sharding)
  if state.best and bool(improved):
    state = state.replace(best=runtime.copy(state.variables()))
  return state.replace(callbacks=counters)
