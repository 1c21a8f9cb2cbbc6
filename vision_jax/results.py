"""The end of a run: metrics of each split with their n, in `result.json`."""

import json
import pathlib
import time
from typing import Any

import jax
import numpy as np

from vision_jax import config as config_lib
from vision_jax import runs
from vision_jax import runtime
from vision_jax import task as task_lib
from vision_jax import writers
from vision_jax.analysis import figures
from vision_jax.models import layers

_NAME = 'result.json'
_SHOWN = 8


def exists(folder: pathlib.Path) -> bool:
  """Whether the run in `folder` has ended."""
  return (folder / _NAME).is_file()


def read(folder: str | pathlib.Path) -> dict[str, Any]:
  """Returns the result of a finished run.

  Raises:
    ConfigError: If the run has not ended.
  """
  folder = pathlib.Path(folder)
  if not exists(folder):
    raise config_lib.ConfigError(
        f'{folder} is no finished run: it has no {_NAME}.')
  return json.loads((folder / _NAME).read_text())


def write(
    run: runs.Run,
    last: task_lib.TrainState,
    final: task_lib.TrainState,
    outputs: dict[str, dict[str, np.ndarray]],
    *,
    folder: pathlib.Path,
    began: float) -> dict[str, Any]:
  """Writes tables, figures and `result.json`, which comes last.

  Args:
    run: The run.
    last: The state after the last epoch.
    final: The state whose weights were tested.
    outputs: Per-example outputs by split.
    folder: The run folder.
    began: `time.perf_counter()` at the start of this process's part.

  Returns:
    The content of `result.json`.
  """
  (folder / 'figures').mkdir(exist_ok=True)
  metrics = {split: run.task.summarize(arrays)
             for split, arrays in outputs.items()}
  rows = run.dataset.splits['test'][:_SHOWN]
  batch = runtime.once(
      run.store.gather, run.store.arrays, run.store.feed(rows))
  members = run.dataset.splits[run.config.train.split]
  extra = run.task.report(task_lib.Outcome(
      folder, outputs, metrics, run.dataset.ids, final, batch,
      lambda: run.dataset.images[members]))
  if run.config.report.figures:
    figures.learning_curves(
        _curves(writers.read_rows(folder / 'metrics.jsonl')),
        folder / 'figures' / 'learning_curves.png')
  counters = jax.device_get(last.callbacks)
  result = {
      'name': run.config.name,
      'task': run.config.task,
      'protocol': run.config.protocol,
      'seed': run.config.seed,
      'class_names': list(run.dataset.class_names),
      'published': list(run.config.published.switches),
      'parameters': layers.count_parameters(
          final.params, final.batch_stats, run.task.trainable),
      'examples': {
          name: len(rows) for name, rows in run.dataset.splits.items()},
      'bad_files': run.dataset.bad_files,
      'epochs': -(-int(last.step) // run.info.steps_per_epoch),
      'steps': int(last.step),
      'stopped_early': bool(counters.stopped),
      'best_epoch': int(counters.best_epoch),
      'callbacks': {name: value.item() for name, value
                    in vars(counters).items()},
      'seconds': (
          writers.earlier_seconds(folder) + time.perf_counter() - began),
      **metrics,
      **extra,
  }
  writers.write_json(folder / _NAME, result)
  return result


def _curves(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Keeps the metrics that training has too, which make a pair of curves."""
  pairs = {name for row in rows for name in row if name.startswith('train_')}
  pairs |= {name.replace('train_', 'validation_', 1) for name in pairs}
  return [{name: value for name, value in row.items()
           if name in pairs | {'epoch'}} for row in rows]
