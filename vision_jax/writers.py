"""Files of a run folder: config, environment, metrics by epoch, results.

Every file is written whole to a temporary name and then renamed, so a killed
run leaves no half-written file. TensorBoard and Weights & Biases are optional
mirrors of the same rows.
"""

import csv
import functools
import importlib.metadata
import io
import json
import math
import os
import pathlib
import platform
import subprocess
import time
from typing import Any, Callable, NamedTuple

import jax
import ml_collections

from vision_jax import config as config_lib
from vision_jax import config_io
from vision_jax import keras_log
from vision_jax import runtime

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy',
             'scikit-learn', 'ml-collections', 'clu', 'dm-pix',
             'onednn-cpu-gomp')
_SECONDS = 'seconds.json'


def write_text(path: str | pathlib.Path, text: str) -> None:
  """Writes a file atomically; its folder is made where there is none."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'.{path.name}.{os.getpid()}')
  temporary.write_text(text, encoding='utf-8')
  os.replace(temporary, path)


def write_json(path: str | pathlib.Path, value: Any) -> None:
  """Writes `value` as indented JSON, atomically; what is not finite is null."""
  write_text(path, json.dumps(_finite(value), indent=2) + '\n')


def _finite(value: Any) -> Any:
  """Replaces NaN and infinities, for which JSON has no word, by None."""
  if isinstance(value, dict):
    return {key: _finite(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [_finite(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def write_csv(path: str | pathlib.Path, rows: list[dict[str, Any]]) -> None:
  """Writes rows with a header, atomically; columns in order of appearance."""
  columns = list(dict.fromkeys(key for row in rows for key in row))
  text = io.StringIO()
  writer = csv.DictWriter(text, columns, lineterminator='\n')
  writer.writeheader()
  writer.writerows(rows)
  write_text(path, text.getvalue())


def read_rows(path: str | pathlib.Path) -> list[dict[str, Any]]:
  """Reads the rows of a JSON-lines file; [] where there is none."""
  path = pathlib.Path(path)
  if not path.is_file():
    return []
  return [json.loads(line) for line in path.read_text().splitlines()]


def earlier_seconds(folder: pathlib.Path) -> float:
  """Seconds that earlier processes of a resumed run spent on its epochs."""
  path = folder / _SECONDS
  # The last entry is this process's own.
  return sum(json.loads(path.read_text())[:-1]) if path.is_file() else 0.0


def environment() -> dict[str, Any]:
  """Returns versions, devices and git state, to lie beside every result."""
  root = pathlib.Path(__file__).parent
  git = lambda *args: subprocess.run(
      ['git', *args], cwd=root, capture_output=True, text=True, check=False
  ).stdout.strip()
  versions = {}
  for name in _PACKAGES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      versions[name] = None
  return {
      'python': platform.python_version(),
      'platform': platform.platform(),
      'cpu_count': os.cpu_count(),
      'devices': [device.device_kind for device in jax.local_devices()],
      'packages': versions,
      'git': {'commit': git('rev-parse', 'HEAD') or None,
              'changed': git('status', '--porcelain').splitlines()},
  }


def check(
    folder: pathlib.Path, config: ml_collections.ConfigDict) -> None:
  """Checks that a run folder, where there is one, was made with `config`.

  Raises:
    ConfigError: If the folder belongs to another config; it names the fields.
  """
  path = folder / 'config.json'
  if path.is_file():
    old = config_io.from_dict(json.loads(path.read_text()))
    changed = config_io.changes(old, config)
    if changed:
      raise config_lib.ConfigError(
          f'{folder} was made with another config: '
          + ', '.join(f'{key} was {old!r}, now {new!r}'
                      for key, (old, new) in changed.items())
          + '. Use another --workdir, or delete the folder.')


def prepare(
    folder: pathlib.Path, config: ml_collections.ConfigDict) -> None:
  """Makes a run folder, or goes on in one that `check` lets pass."""
  check(folder, config)
  write_json(folder / 'config.json', json.loads(config.to_json()))
  write_json(folder / 'environment.json', environment())


class Writer(NamedTuple):
  """Takes one row an epoch.

  Attributes:
    started: () -> None, after a training step. The first call writes
      `start.json`: how long this process took until then.
    write: (row) -> None; the row has an integer `step`.
    close: () -> None.
  """
  started: Callable[[], None]
  write: Callable[[dict[str, Any]], None]
  close: Callable[[], None]


def make_writer(
    folder: pathlib.Path,
    config: ml_collections.ConfigDict,
    *,
    step: int) -> Writer:
  """Returns the writer of `metrics.jsonl`, `metrics.csv` and the mirrors.

  It also keeps `seconds.json`: what each process of a run that was stopped and
  resumed spent, up to the end of its last epoch.

  Args:
    folder: The run folder.
    config: The whole config.
    step: The step training starts from; rows of later steps were written by
      a run that was killed before its checkpoint, and are dropped.
  """
  path = folder / 'metrics.jsonl'
  rows = [row for row in read_rows(path) if row['step'] <= step]
  began, clock = time.perf_counter(), folder / _SECONDS
  spent = json.loads(clock.read_text()) if clock.is_file() else []
  write_json(clock, [*spent, 0.0])
  mirrors = []
  if config.report.tensorboard:
    mirrors.append(_tensorboard(folder))
  if config.report.wandb:
    mirrors.append(_wandb(folder, config))

  @functools.cache
  def started():
    write_json(folder / 'start.json', {
        'first_step_seconds': runtime.process_seconds()})

  def write(row):
    rows.append(row)
    write_text(path, ''.join(json.dumps(_finite(row)) + '\n' for row in rows))
    write_csv(folder / 'metrics.csv', rows)
    if config.report.keras_log:
      write_csv(folder / 'keras_log.csv', keras_log.rows(
          rows, learning_rate=config.optimizer.learning_rate))
    write_json(clock, [*spent, time.perf_counter() - began])
    for mirror in mirrors:
      mirror.write(row)

  def close():
    for mirror in mirrors:
      mirror.close()
  return Writer(started, write, close)


def _scalars(row) -> dict[str, float]:
  return {key: value for key, value in row.items() if key != 'step'}


def _tensorboard(folder: pathlib.Path) -> Writer:
  import tensorboardX  # Optional: off by default, and slow to import.
  events = tensorboardX.SummaryWriter(str(folder / 'tensorboard'))
  def write(row):
    for key, value in _scalars(row).items():
      events.add_scalar(key, value, row['step'])
  return Writer(lambda: None, write, events.close)


def _wandb(folder: pathlib.Path, config) -> Writer:
  try:
    import wandb  # An extra of the project.
  except ImportError as error:
    raise config_lib.ConfigError(
        'config.report.wandb needs the package wandb: '
        'pip install "vision_jax[wandb]".') from error
  mode = os.environ['WANDB_MODE'] if 'WANDB_MODE' in os.environ else 'offline'
  run = wandb.init(project='vision_jax', name=folder.name, dir=str(folder),
                   config=json.loads(config.to_json()), mode=mode)
  return Writer(
      lambda: None, lambda row: run.log(_scalars(row), step=row['step']),
      run.finish)
