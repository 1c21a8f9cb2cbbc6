"""Searches config fields for the best validation metric, through Optuna.

    python -m experiments.search --config=configs/transfer.py:model=a_matched \
        --space='{"optimizer.learning_rate":
                  {"low": 1e-4, "high": 1e-2, "log": true},
                  "model.dropout": {"choices": [0.0, 0.3, 0.5]}}' \
        --sampler=tpe --pruner=hyperband --trials=20 --folder=runs/search/digits

--space is JSON, or a file of it: for each field choices, or low and high with
log or step. Every trial trains in a run folder of its own under the whole
schedule, reports the best value of config.callbacks.monitor after each epoch,
and can be pruned there. Start the command again to go on after a kill, or in a
second shell for a second worker (or --workers=2). Trials never see the test
split: at the end the winner's own run, and no other, is tested.

Writes into --folder: `trials.csv`, `study.json` (best values, states),
`winner.json` (its whole config), `report.md` and figures.
"""

import json
import pathlib
import shlex
import subprocess
import sys
from typing import Any

from absl import app
from absl import flags
from absl import logging
import ml_collections
from ml_collections import config_flags
import optuna

from experiments import search_report
from experiments import study as study_lib
from vision_jax import checkpoint
from vision_jax import config as config_lib
from vision_jax import config_io
from vision_jax import features
from vision_jax import guard
from vision_jax import interrupt
from vision_jax import loop
from vision_jax import pretraining
from vision_jax import runs
from vision_jax import writers
from vision_jax.data import errors
from vision_jax.data import pipeline

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'Config file, with its argument.', lock_config=True)
_SPACE = flags.DEFINE_string(
    'space', None, 'The fields to search, as JSON or the name of its file.')
_SAMPLER = flags.DEFINE_enum(
    'sampler', 'tpe', tuple(study_lib.SAMPLERS),
    'Bayesian (tpe), genetic (nsga2), random or grid.')
_PRUNER = flags.DEFINE_enum(
    'pruner', 'hyperband', ('hyperband', 'none'), 'Which trials end early.')
_TRIALS = flags.DEFINE_integer('trials', 20, 'Number of trials.', 1)
_SEED = flags.DEFINE_integer('seed', 0, 'Of the sampler.', 0)
_WORKERS = flags.DEFINE_integer('workers', 1, 'Processes at once.', 1)
_FOLDER = flags.DEFINE_string('folder', None, 'Folder of the study.')


def main(argv: list[str]) -> None:
  """Works on the study and, where it is done, writes its report."""
  if len(argv) > 1:
    sys.exit(f'Error: unexpected arguments {argv[1:]}; flags start with --.')
  logging.set_verbosity(logging.WARNING)
  optuna.logging.set_verbosity(optuna.logging.WARNING)
  try:
    _search(_CONFIG.value)
  except (config_lib.ConfigError, errors.DataError) as error:
    print(f'Error: {error}', file=sys.stderr)
    sys.exit(2)
  except interrupt.Stopped:
    print('Stopped; the same command goes on with the trial.')


def _search(config: ml_collections.ConfigDict) -> None:
  folder = pathlib.Path(_FOLDER.value)
  if _WORKERS.value > 1:
    command = [sys.executable, '-m', 'experiments.search', *sys.argv[1:],
               '--workers=1']
    workers = [subprocess.Popen(command) for _ in range(_WORKERS.value)]
    sys.exit(max(worker.wait() for worker in workers))
  study = open_study(config, read_space(_SPACE.value), folder)
  study.work(lambda trial: run_trial(trial, config, folder))
  with study.locked():
    if not study.finished():
      print(f'{folder}: other workers are still at it.')
      return
    search_report.write(
        study, lambda trial: trial_config(config, trial.params), folder,
        command=f'python -m experiments.search {shlex.join(sys.argv[1:])}',
        run_folder=run_folder)
  print((folder / 'report.md').read_text())


def read_space(text: str) -> study_lib.Space:
  """Returns the space of `--space`, JSON or the name of a file with it.

  Raises:
    ConfigError: It is neither.
  """
  path = pathlib.Path(text)
  source = text if text.lstrip().startswith('{') else None
  if source is None and path.is_file():
    source = path.read_text(encoding='utf-8')
  try:
    return json.loads(source or '')
  except json.JSONDecodeError as error:
    raise config_lib.ConfigError(
        f'--space={text!r} is neither JSON nor a file of it: {error}.'
    ) from error


def open_study(
    config: ml_collections.ConfigDict, space: study_lib.Space,
    folder: pathlib.Path) -> study_lib.Study:
  """Opens the study, whose folder keeps the config that it started with.

  Raises:
    ConfigError: A field of the space does not exist, the monitor is no
      validation metric, or the folder belongs to another study.
  """
  fields = config_io.flatten(config)
  for name in space:
    config_lib.choose(name, name, fields)
  if not config.callbacks.monitor.startswith('validation_'):
    raise config_lib.ConfigError(
        f'config.callbacks.monitor={config.callbacks.monitor!r}: a search '
        'chooses by a validation metric, such as validation_loss.')
  plan = study_lib.Plan(
      space=space, sampler=_SAMPLER.value, pruner=_PRUNER.value,
      trials=_TRIALS.value, seed=_SEED.value, epochs=config.train.epochs,
      maximize=config.callbacks.mode == 'max')
  try:
    study = study_lib.Study(folder, plan)
  except ValueError as error:
    raise config_lib.ConfigError(f'--space, --folder: {error}') from error
  with study.locked():
    writers.prepare(folder, config)
  return study


def trial_config(
    config: ml_collections.ConfigDict, values: dict[str, Any],
) -> ml_collections.ConfigDict:
  """Returns the config of the trial with these values."""
  return config_lib.replace(config, **{
      name.replace('.', '__'): value for name, value in values.items()})


def run_folder(folder: pathlib.Path, number: int) -> pathlib.Path:
  """Returns the run folder of a trial."""
  return folder / 'trials' / f'{number:04d}'


def run_trial(
    trial: optuna.Trial, config: ml_collections.ConfigDict,
    folder: pathlib.Path) -> float:
  """Trains a trial, going on where its run folder has a checkpoint.

  Returns:
    The best value of the monitor.

  Raises:
    optuna.TrialPruned: It is not worth more epochs.
    study.Failed: Its values do not go together, or training diverged.
  """
  known = set(trial.study.trials[trial.number].intermediate_values)
  def report(epoch: int, value: float) -> None:
    if epoch not in known:
      trial.report(value, epoch)
    if trial.should_prune():
      raise optuna.TrialPruned
  try:
    return train(trial_config(config, trial.params),
                 run_folder(folder, trial.number), report=report)
  except (config_lib.ConfigError, guard.NonFiniteError) as error:
    raise study_lib.Failed(str(error)) from error


def train(config: ml_collections.ConfigDict, folder: pathlib.Path, *, report):
  """Trains without a look at the test split.

  `loop.train` of the same config and folder finishes the run.

  Args:
    config: A whole config.
    folder: The run folder.
    report: (epoch, best value so far) -> None, after every epoch.

  Returns:
    The best value of the monitor.
  """
  folder = folder.absolute()
  sign = 1.0 if config.callbacks.mode == 'min' else -1.0
  asked = config.model.weights
  config = pretraining.resolve(
      config, loop.train, root=pathlib.Path('runs') / 'pretrained')
  writers.prepare(folder, config)
  run = runs.build(config)
  pretraining.check(asked, config, run.dataset)
  inner = run.task.preview
  def preview(folder, state, epoch):
    if inner is not None:
      inner(folder, state, epoch)
    report(epoch, sign * float(state.callbacks.best))
  run = run._replace(task=run.task._replace(preview=preview))
  pipeline.write_manifest(run.dataset, folder / 'manifest.json')
  state = runs.init_state(run)
  stores = features.make_stores(run, state)
  with checkpoint.open_manager(folder, config.checkpoint) as manager:
    state, _ = loop.fit(run, state, stores, manager=manager, folder=folder)
  return sign * float(state.callbacks.best)


if __name__ == '__main__':
  flags.mark_flags_as_required(['config', 'space', 'folder'])
  app.run(main)
