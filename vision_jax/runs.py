"""A run before it trains: data, task, devices and the two jitted steps.

Training lives in loop.py; evaluation and prediction need only this file.
"""

import functools
import importlib
import pathlib
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from vision_jax import callbacks
from vision_jax import checkpoint
from vision_jax import config as config_lib
from vision_jax import guard as guard_lib
from vision_jax import metrics
from vision_jax import published
from vision_jax import runtime
from vision_jax import task as task_lib
from vision_jax.data import augment
from vision_jax.data import batches
from vision_jax.data import joined
from vision_jax.data import pipeline
from vision_jax.data import samplers


class Run(NamedTuple):
  """What stays fixed while a run trains.

  Attributes:
    config: The whole config.
    dataset: Decoded images, labels and splits.
    info: What the task knows of the data.
    task: The task's functions.
    store: Where batches come from.
    visits: (epoch) -> places among the training examples; None = each once.
    key: Root of all random numbers.
    shardings: (replicated, by example) over the devices used.
  """
  config: ml_collections.ConfigDict
  dataset: pipeline.Dataset
  info: task_lib.Info
  task: task_lib.Task
  store: batches.Store
  visits: Callable[[int], np.ndarray] | None
  key: jax.Array
  shardings: tuple[jax.sharding.NamedSharding, jax.sharding.NamedSharding]


def make_task(
    config: ml_collections.ConfigDict, info: task_lib.Info) -> task_lib.Task:
  """Returns the task of `config.task`, with the published mistakes it names.

  Raises:
    ConfigError: If there is no such task, or a field is wrong.
    DataError: If a field that describes images is wrong.
  """
  config_lib.check(config)
  tasks = sorted(path.stem for path in
                 (pathlib.Path(__file__).parent / 'tasks').glob('[!_]*.py'))
  name = config_lib.choose('task', config.task, {t: t for t in tasks})
  make = importlib.import_module(f'vision_jax.tasks.{name}').make
  try:
    return published.apply(make, config)(config, info)
  except config_lib.ConfigError:
    raise
  except ValueError as error:  # A network's, which knows no config.
    raise config_lib.ConfigError(
        f'config.task={name!r} cannot be built: {error}') from error


def make_shardings(config: ml_collections.ConfigDict):
  """Returns the shardings (replicated, split by example) of the run's mesh.

  Raises:
    ConfigError: If there are too few devices, or a batch does not divide.
  """
  devices = jax.local_devices()
  count = config.runtime.devices or len(devices)
  if count > len(devices):
    raise config_lib.ConfigError(
        f'config.runtime.devices={count}, but this machine has '
        f'{len(devices)}.')
  for name in ('batch_size', 'eval_batch_size'):
    if config.train[name] % count:
      raise config_lib.ConfigError(
          f'config.train.{name}={config.train[name]} does not divide among '
          f'{count} devices.')
  mesh = jax.sharding.Mesh(np.array(devices[:count]), ('data',))
  spec = jax.sharding.PartitionSpec
  return (jax.sharding.NamedSharding(mesh, spec()),
          jax.sharding.NamedSharding(mesh, spec('data')))


def trained(config: ml_collections.ConfigDict, splits):
  """Returns what `splits` has of `config.train.split`, never a test's."""
  return config_lib.choose('train.split', config.train.split, {
      name: rows for name, rows in splits.items()
      if name not in ('validation', 'test')})


def make_info(
    config: ml_collections.ConfigDict, class_names, shape, labels,
) -> task_lib.Info:
  """Returns what a task knows of images [h, w, c] and training labels [n].

  Examples whose label is withheld (negative) count in no class.
  """
  steps = batches.steps_per_epoch(
      samplers.length(config.train.sampler, labels), config.train.batch_size,
      remainder=config.train.remainder)
  counts = np.bincount(labels[labels >= 0], minlength=len(class_names))
  return task_lib.Info(
      tuple(class_names), tuple(shape), steps, tuple(counts.tolist()))


def make_visits(
    config: ml_collections.ConfigDict, labels: np.ndarray,
) -> Callable[[int], np.ndarray] | None:
  """Returns (epoch) -> places of the training examples that it visits."""
  if config.train.sampler == 'shuffled':
    return None
  return functools.lru_cache(maxsize=2)(lambda epoch: samplers.order(
      config.train.sampler, labels, seed=config.seed, epoch=epoch,
      epochs=config.train.epochs))


def build(config: ml_collections.ConfigDict) -> Run:
  """Loads the data, moves it to the devices and builds the task.

  Raises:
    ConfigError: If a field is wrong; where no data is needed to tell, before
      any is read.
    DataError: If the data is missing or wrong.
  """
  config_lib.check(config)
  runtime.apply(config.runtime)
  shardings = make_shardings(config)
  dataset = pipeline.load(config.data)
  if config.train.split == joined.SPLIT:
    dataset = joined.join(dataset)
  members = trained(config, dataset.splits)
  labels = dataset.labels[members]
  info = make_info(
      config, dataset.class_names, dataset.images.shape[1:], labels)
  augment.check(config.augment, info.input_shape[-1])
  return Run(
      config=config, dataset=dataset, info=info, task=make_task(config, info),
      store=batches.make_store(dataset, config.data, sharding=shardings[0]),
      visits=make_visits(config, labels), key=jax.random.key(config.seed),
      shardings=shardings)


def replicate(run: Run, tree):
  """Returns `tree` on every device of the run."""
  return jax.device_put(tree, run.shardings[0])


def stream(run: Run, store: batches.Store, index):
  """Yields (inputs, mask) of a step for host (rows, mask), in order.

  One batch ahead, on the devices; but on one CPU device a step takes what it
  is fed from the host, for a tenth of what moving it costs (18 of 290
  microseconds). There a step returns before it is done, so that the next batch
  is read while it computes, without a thread that would take turns with it.
  """
  def feed(item):
    rows, mask = item
    return store.feed(rows), mask
  if run.shardings[1].mesh.size > 1 or jax.default_backend() != 'cpu':
    return batches.prefetch(
        lambda item: jax.device_put(feed(item), run.shardings[1]), index)
  return map(feed, index)


def init_state(run: Run) -> task_lib.TrainState:
  """Returns the state of step 0, on the devices."""
  return replicate(run, run.task.init(jax.random.fold_in(run.key, 0)))


def start_sums(run: Run):
  """Returns the sums that an epoch starts with, on the devices."""
  return replicate(run, run.task.train_sums.empty())


def start_guard(run: Run, state: task_lib.TrainState) -> guard_lib.Guard:
  """Returns the guard that an epoch starts with, on the devices."""
  names = jax.eval_shape(lambda: run.task.train_sums.empty().compute())
  return replicate(run, guard_lib.init(state.params, names))


def augment_images(run: Run, batch: task_lib.Batch, view) -> jax.Array:
  """Returns the batch's images as `view` shows them, [B, H, W, C]."""
  key = jax.random.fold_in(jax.random.fold_in(run.key, 2), view)
  return augment.apply(run.config.augment, batch['image'], batch['id'], key)


def update(run: Run, store: batches.Store, state, arrays, inputs, mask, view):
  """Returns the next state and the sums of one training batch; pure.

  The key of `run` may be traced, as it is where several seeds train together.
  """
  batch = store.gather(arrays, inputs) | {'mask': mask}
  root = jax.random.fold_in(run.key, 1)
  task_key, mix_key = jax.random.split(jax.random.fold_in(root, state.step))
  if 'image' in batch:
    batch['image'] = augment_images(run, batch, view)
    batch = augment.mix(run.config.augment, mix_key, batch,
                        len(run.dataset.class_names))
  return run.task.train_step(state, batch, task_key)


def make_train_step(run: Run, store: batches.Store):
  """Returns the jitted training step.

  It maps (state, sums, guard, arrays, inputs, mask, view) to the next (state,
  sums, guard), whose buffers it reuses. `view` numbers the augmentation.
  """
  @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
  def step(state, sums, guard, arrays, inputs, mask, view):
    state, batch_sums = update(
        run, store, state, arrays, inputs, mask, view)
    guard = guard_lib.update(
        guard, state.params, batch_sums.compute(), step=state.step)
    return state, sums.merge(batch_sums), guard
  return step


def make_eval_step(run: Run, store: batches.Store):
  """Returns the jitted (state, arrays, inputs, mask) -> outputs by example."""
  @jax.jit
  def step(state, arrays, inputs, mask):
    batch = store.gather(arrays, inputs) | {'mask': mask}
    return run.task.eval_step(state, batch) | {
        'id': batch['id'], 'mask': mask}
  return step


def eval_size(run: Run) -> int:
  """Returns the size of evaluated batches, at most `train.eval_batch_size`.

  One size for all splits, so that one program serves them.
  """
  config, splits = run.config, run.dataset.splits
  return batches.least_padding(
      {'validation': (len(splits['validation']), config.train.epochs),
       'test': (len(splits['test']), 1)},
      largest=config.train.eval_batch_size,
      multiple=run.shardings[0].mesh.size)


def evaluate(
    run: Run, state: task_lib.TrainState, split: str, store: batches.Store,
    eval_step) -> dict[str, np.ndarray]:
  """Runs the evaluation step over a whole split.

  Returns:
    The outputs of every example exactly once, sorted by id, on the host.

  Raises:
    ValueError: If an example was missed or seen twice.
  """
  members = run.dataset.splits[split]
  outputs = [
      eval_step(state, store.arrays, inputs, mask)
      for inputs, mask in stream(
          run, store, batches.eval_batches(members, eval_size(run)))]
  collector = metrics.make_collector(tuple(
      name for name in outputs[0] if name not in ('id', 'mask')))
  collected = collector.empty()
  for batch in jax.device_get(outputs):
    collected = collected.merge(collector.from_model_output(**batch))
  examples = metrics.examples(collected)
  metrics.check_complete(examples['id'], members)
  return examples


def load_state(
    task: task_lib.Task,
    config: ml_collections.ConfigDict,
    folder: str | pathlib.Path) -> task_lib.TrainState:
  """Returns a state with the exported weights of the run in `folder`.

  Raises:
    ConfigError: If the run is not finished or its weights do not fit.
  """
  state = jax.eval_shape(task.init, jax.random.key(config.seed))
  weights = checkpoint.load_weights(folder)
  matched = {}
  for name in ('params', 'batch_stats'):
    # An empty collection leaves no trace on disk.
    donor = weights[name] if name in weights else {}
    matched[name] = checkpoint.match(
        getattr(state, name), donor, source=f'{folder}/weights/{name}')
  return state.replace(
      step=jnp.zeros((), jnp.int32), opt_state=(), ema={}, best={},
      callbacks=callbacks.init(), **matched)
