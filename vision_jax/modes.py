"""What the entry point can do with a config: one function a mode."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from vision_jax import config as config_lib
from vision_jax import costs
from vision_jax import interrupt
from vision_jax import loop
from vision_jax import prediction
from vision_jax import runs
from vision_jax import sampling
from vision_jax import writers
from vision_jax.data import pipeline
from vision_jax.models import layers


def train(config: ml_collections.ConfigDict, folder: pathlib.Path) -> None:
  """Trains in `folder`, then prints the test metrics and the folder."""
  try:
    result = loop.train(config, folder)
  except interrupt.Stopped as stopped:
    # Also where that was a pre-training, which has a folder of its own.
    print(f'{stopped} The same command with --workdir={folder} goes on from '
          'there.')
    return
  show(result['test'], result['intervals'], title='test')
  print(f'Run folder: {folder}')


def evaluate(
    config: ml_collections.ConfigDict, folder: pathlib.Path, *,
    split: str) -> dict[str, Any]:
  """Evaluates a finished run on one split and prints the metrics.

  Raises:
    ConfigError: If the run is not finished or the split is empty.
  """
  # The run's own weights take the place of the pre-trained ones.
  config = config_lib.replace(config, model__weights='')
  run = runs.build(config)
  names = [name for name, rows in run.dataset.splits.items() if len(rows)]
  config_lib.choose('split', split, {name: name for name in names})
  state = runs.replicate(run, runs.load_state(run.task, config, folder))
  outputs = runs.evaluate(
      run, state, split, run.store, runs.make_eval_step(run, run.store))
  metrics = run.task.summarize(outputs)
  writers.write_json(folder / f'evaluation_{split}.json', metrics)
  show(metrics, {}, title=split)
  return metrics


def predict(
    config: ml_collections.ConfigDict,
    folder: pathlib.Path,
    *,
    images: str | None,
    output: str | None) -> None:
  """Writes a CSV of predictions for a folder of images.

  Raises:
    ConfigError: If no folder of images is named.
  """
  if not images:
    raise config_lib.ConfigError(
        '--mode=predict needs --input, a folder of images.')
  path = pathlib.Path(output) if output else folder / 'predicted.csv'
  rows = prediction.predict(config, folder, images)
  writers.write_csv(path, rows)
  print(f'{len(rows)} predictions: {path}')


def sample(
    config: ml_collections.ConfigDict, folder: pathlib.Path, *,
    output: str | None, **options) -> None:
  """Draws images from a finished run; `options` are `sampling.sample`'s."""
  path = sampling.sample(config, folder, output=output, **options)
  print(f'Samples: {path}')


def describe(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns counts of parameters and examples; opens no image.

  `step` is what one training step from images costs (costs.py); a frozen
  encoder that runs once costs less.
  """
  config = config_lib.replace(config, model__weights='')
  config_lib.check(config)
  data = pipeline.describe(config.data)
  labels = runs.trained(config, data['labels'])
  info = runs.make_info(
      config, data['class_names'], data['input_shape'], labels)
  task = runs.make_task(config, info)
  state = jax.eval_shape(task.init, jax.random.key(0))
  counts = layers.count_parameters(
      state.params, state.batch_stats, task.trainable)
  return {
      'task': config.task,
      'model': json.loads(config.model.to_json()),
      'modules': counts.pop('modules'),
      'trainable_modules': counts.pop('trainable_modules'),
      'parameters': counts,
      'input_shape': list(data['input_shape']),
      'classes': len(data['class_names']),
      'examples': data['examples'],
      'steps_per_epoch': info.steps_per_epoch,
      'step': _step_costs(config, info, task, state),
  }


def _step_costs(config, info, task, state) -> dict[str, float]:
  """Estimates operations and memory of a training step from its shapes."""
  size, shape = config.train.batch_size, jax.ShapeDtypeStruct
  batch = {
      'image': shape((size, *info.input_shape), jnp.float32),
      'label': shape((size,), jnp.int32), 'id': shape((size,), jnp.int32),
      'mask': shape((size,), jnp.float32)}
  found = costs.estimate(task.train_step, state, batch, jax.random.key(0))
  return {'flops': found.flops, 'peak_bytes': found.peak_bytes}


def show(
    metrics: dict[str, float], intervals: dict[str, Any], *,
    title: str) -> None:
  """Prints metrics, one a line, with their 95 % intervals."""
  print(f'{title}:')
  for name, value in metrics.items():
    text = f'  {name:28s} {value:.6g}'
    if name in intervals:
      low, high = intervals[name]
      text += f'  [{low:.4f}, {high:.4f}]'
    print(text)
