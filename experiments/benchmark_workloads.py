"""The timed training steps: one a network of the five studies.

Each is the task of a config file with its own optimizer, on random arrays: the
step that a run takes, without data and guard. Knows nothing of the peers,
which are in benchmark_torch.py, nor of clocks.
"""

import importlib
from typing import Any, NamedTuple

import jax
import numpy as np

from vision_jax import config as config_lib
from vision_jax import optim
from vision_jax import runs
from vision_jax import task as task_lib
from vision_jax.models import layers

# Modules that draw random numbers, by their paths: nothing else is random.
_DROPOUTS = r'Dropout_|drop_'


class Workload(NamedTuple):
  """A training step: what a config file says, and the batch.

  Attributes:
    file: Module of `configs`.
    argument: Of its `get_config`.
    batch: Examples of a step.
    fields: Other fields of the config, as `config.replace` takes them.
    features: Shape of what a frozen encoder gave, instead of images.
  """
  file: str
  argument: str
  batch: int
  fields: dict[str, Any] = {}
  features: tuple[int, ...] = ()


WORKLOADS = {
    'unet': Workload('autoencoder', 'data=butterflies', 16),
    'classifier_a': Workload('transfer', 'data=butterflies,model=a', 32),
    'classifier_b2': Workload('transfer', 'data=butterflies,model=b2', 32),
    'dense_dae': Workload('denoising', 'data=butterflies,model=dense', 128),
    'conv_dae': Workload('denoising', 'data=butterflies,model=conv', 32),
    'vgg16_head': Workload(
        'vgg16', 'data=characters,model=1', 20, features=(7, 7, 512)),
    'efficientnet_b0': Workload(
        'rare_species', 'data=rare_species,model=efficientnet_b0', 16),
    'imbalance_cnn': Workload('imbalance', 'data=caltech101,ratio=15', 10),
    'gan': Workload('gan', 'data=jellyfish', 16),
    'resnet50': Workload(
        'rare_species', 'data=rare_species,model=resnet50_torch,mode=finetune',
        8, {'model.head': ('average', 'dropout:0.5')}),
}
CLASSES = 10


class Step(NamedTuple):
  """Our training step, ready to be compiled.

  Attributes:
    config: The config.
    task: Its task.
    state: Of step 0.
    batch: What the step takes.
    key: What the step draws from.
  """
  config: Any
  task: task_lib.Task
  state: task_lib.TrainState
  batch: task_lib.Batch
  key: jax.Array


def make_config(name: str, *, dtype: str = 'float32', exact: bool = False):
  """Returns the config of a workload; random weights, in `dtype`.

  Args:
    name: A key of `WORKLOADS`.
    dtype: Of the computation.
    exact: For comparisons: without what the step draws outside its networks,
      at rate 0 and with at most eight examples.

  Raises:
    ConfigError: If there is no such workload.
  """
  workload = config_lib.choose('only', name, WORKLOADS)
  module = importlib.import_module(f'configs.{workload.file}')
  config = module.get_config(workload.argument)
  config.update_from_flattened_dict(workload.fields)
  config.model.weights = ''
  config.model.dtype = dtype
  config.train.batch_size = min(workload.batch, 8) if exact else workload.batch
  # A compiled program from an earlier run would hide its compilation.
  config.runtime.compilation_cache = False
  if exact:
    config.noise.kind = 'none'
    config.gan.label_noise = 0.0
    # The second player's gradient is then at equal weights, too.
    config.optimizer.learning_rate = 0.0
  return config


def make(name: str, *, dtype: str = 'float32', exact: bool = False) -> Step:
  """Returns our step of a workload; see `make_config` for the arguments."""
  workload = config_lib.choose('only', name, WORKLOADS)
  config = make_config(name, dtype=dtype, exact=exact)
  shape = (*config.data.image_size, config.data.channels)
  # Equal counts: class weights, where the config has them, are then 1.
  info = task_lib.Info(
      tuple(f'c{i}' for i in range(CLASSES)), shape, steps_per_epoch=1000,
      class_counts=(100,) * CLASSES)
  task = runs.make_task(config, info)
  state = task.init(jax.random.key(config.seed))
  batch = jax.device_put(
      make_batch(workload, shape, size=config.train.batch_size))
  return Step(config, task, state, batch, jax.random.key(1))


def make_batch(
    workload: Workload, shape: tuple[int, int, int], *, size: int,
) -> dict[str, np.ndarray]:
  """Returns `size` random images of `shape`, or features, with labels."""
  rng = np.random.default_rng(0)
  if workload.features:
    inputs = {'features': np.maximum(
        rng.normal(size=(size, *workload.features)), 0)}
  else:
    inputs = {'image': rng.uniform(size=(size, *shape))}
  return {name: x.astype(np.float32) for name, x in inputs.items()} | {
      'label': rng.integers(0, CLASSES, size).astype(np.int32),
      'id': np.arange(size, dtype=np.int32),
      'mask': np.ones(size, np.float32)}


def first_step(step: Step) -> dict[str, np.ndarray]:
  """Returns all that a peer needs to repeat one step, and what came of it.

  Dropout rests. The gradients are the optimizer's first moments, which start
  from zero; for the peer the difference in scale is a constant.

  Returns:
    'weights/<path>' before the step, 'batch/<name>', 'loss/<name>',
    'moment/<path>' and, of a GAN, 'latents/<n>'.
  """
  # An accelerator's search for fast algorithms takes longer than one step.
  options = (None if jax.default_backend() == 'cpu'
             else {'xla_gpu_autotune_level': 0})
  with layers.resting(_DROPOUTS):
    after, sums = jax.jit(step.task.train_step, compiler_options=options)(
        step.state, step.batch, step.key)
  flat = lambda tree: {
      optim.path_name(path): np.asarray(leaf)
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
  arrays = {
      'weights': flat(step.state.params) | flat(step.state.batch_stats),
      'batch': flat(step.batch),
      'loss': {name: np.asarray(value) for name, value in
               sums.compute().items() if name.endswith('loss')},
      'moment': _moments(step, after),
  }
  if step.config.task == 'gan':
    arrays['latents'] = dict(enumerate(_latents(step)))
  return {f'{kind}/{name}': value for kind, group in arrays.items()
          for name, value in group.items()}


def _moments(step: Step, after) -> dict[str, np.ndarray]:
  """Returns the first moments of the leaves that train, by path."""
  trained = [
      optim.path_name(path) for path, leaf in
      jax.tree_util.tree_leaves_with_path(step.task.trainable) if leaf]
  found = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(after.opt_state):
    parts = optim.path_name(path).split('/')
    kind = next((p for p in parts if p in ('mu', 'trace')), None)
    if kind is None:
      continue
    # Each player has a tree of its own, below its name.
    head = parts[:1] if parts[0] in after.params else []
    found['/'.join(head + parts[parts.index(kind) + 1:])] = np.asarray(leaf)
  return {name: found[name] for name in trained}


def _latents(step: Step) -> list[np.ndarray]:
  """Returns what tasks/gan.py draws for its two updates, each [B, d]."""
  shape = (step.config.train.batch_size, step.config.gan.latent_dims)
  roots = (jax.random.split(jax.random.fold_in(step.key, 0), 7)[0],
           jax.random.split(jax.random.fold_in(step.key, 1), 3)[0])
  return [np.asarray(jax.random.normal(jax.random.fold_in(root, 0), shape))
          for root in roots]
