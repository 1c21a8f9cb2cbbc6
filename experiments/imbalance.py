"""Study 2: ratios, rungs and remedies, on one balanced test set for all.

    python -m experiments.imbalance --root=../shared/data
    python -m experiments.imbalance --root=../shared/data --full

Trains the study's four ratios on its three rungs, several seeds of a setting
as one program, then the kit's remedies at 15:1 on the plain rung; writes
`table.csv`, `per_class.csv`, `report.md` and three figures. Finished settings
are kept in the folder `--runs` and not repeated, so the script can be stopped
and started again; `--limit` ends it after so many settings, and the report
says which it holds. On a CPU a setting leaves most cores idle, so that several
train side by side, each on cores of its own (`--workers`). `--full` is the
study's budget: 227 pixels, 50 epochs, the rate of its text, every remedy. The
report's own part is imbalance_report.py.
"""

import argparse
from concurrent import futures
import importlib.util
import multiprocessing
import os
import pathlib
import sys
import time

import jax
import numpy as np

from configs import imbalance as imbalance_config
from experiments import imbalance_cells
from experiments import imbalance_report
from vision_jax import config as config_lib
from vision_jax import pretraining
from vision_jax import refine
from vision_jax import runs
from vision_jax import runtime
from vision_jax import seeds as seeds_lib
from vision_jax import writers
from vision_jax.data import imbalance

RATIOS = (1, 3, 7, 15)
# What fits into half an hour on two CPU cores; the rest needs `--full`.
_QUICK = ('class_aware', 'balanced_softmax', 'weighted', 'remix', 'ldam_drw')
_REFINED = tuple(name for name in imbalance_config.REMEDIES
                 if name in refine.NAMES and name != 'none')


def main(argv: list[str]) -> None:
  """Trains the settings that are missing and writes the report."""
  args = _parser().parse_args(argv)
  if args.full:
    args.pixels, args.epochs, args.rate, args.seeds = 227, 50, 1e-3, 5
  if not args.workers:
    args.workers = os.cpu_count() if jax.default_backend() == 'cpu' else 1
  todo = [setting for setting in settings(args.full)
          if not (_folder(args, setting) / 'rows.json').is_file()][:args.limit]
  # Half of the remedies need it, after a training.
  if todo and importlib.util.find_spec('imblearn') is None:
    raise config_lib.ConfigError(
        "The remedies need imbalanced-learn: pip install "
        "'vision_jax[imbalance]'")
  _train_all(args, todo)
  cells = [imbalance_cells.read(folder) for folder in _finished(args)]
  imbalance_report.write(cells, args, argv)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='python -m experiments.imbalance')
  parser.add_argument('--root', required=True, help='folder of the data sets')
  parser.add_argument('--full', action='store_true',
                      help="the study's budget and every remedy")
  parser.add_argument('--pixels', type=int, default=67)
  parser.add_argument('--epochs', type=int, default=24)
  parser.add_argument('--rate', type=float, default=5e-3,
                      help='first learning rate')
  parser.add_argument('--seeds', type=int, default=5)
  parser.add_argument('--workers', type=int, default=0,
                      help='settings at once; 0 = one a core on a CPU, else 1')
  parser.add_argument('--limit', type=int, default=1000,
                      help='train at most so many settings now')
  parser.add_argument('--runs', default='runs/imbalance')
  parser.add_argument('--out', default='experiments/results/imbalance')
  return parser


def settings(full: bool) -> list[tuple[int, str, str]]:
  """Lists (ratio, rung, remedy), what the main claim needs first."""
  remedies = [*_QUICK, *(
      name for name in imbalance_config.REMEDIES
      if full and name not in (*_REFINED, *_QUICK, 'none'))]
  first = [(15, 'plain', 'none'), (15, 'normalized', 'none'),
           *((ratio, 'plain', 'none') for ratio in (1, 3, 7))]
  grid = [(ratio, rung, 'none') for rung in imbalance_config.RUNGS
          for ratio in RATIOS]
  return [*first, *((15, 'plain', name) for name in remedies),
          *(setting for setting in grid if setting not in first)]


def make_config(args, ratio: int, rung: str, remedy: str):
  """Returns the config of one setting within the budget of `args`."""
  config = imbalance_config.get_config(
      f'data=caltech101,ratio={ratio},rung={rung},remedy={remedy}')
  config.data.root = args.root
  config.data.image_size = (args.pixels, args.pixels)
  config.train.epochs = args.epochs
  config.optimizer.learning_rate = args.rate
  if not args.full:
    # One fall, late: fewer pixels and steps leave none of the rate to spare.
    config.optimizer.step_epochs = max(1, args.epochs * 3 // 5)
  if config.loss.defer_epochs:
    config.loss.defer_epochs = args.epochs * 4 // 5
  return config


def _folder(args, setting) -> pathlib.Path:
  root = pathlib.Path(args.runs) / f'seeds-{args.seeds}'
  return pretraining.folder_of(make_config(args, *setting), root)


def _finished(args) -> list[pathlib.Path]:
  """Folders of this budget's finished settings, refined ones included."""
  found = []
  for setting in settings(args.full):
    folder = _folder(args, setting)
    if (folder / 'rows.json').is_file():
      found += [folder, *sorted(folder.glob('refined-*'))]
  return found


def _train_all(args, todo) -> None:
  """Trains settings, `--workers` at once."""
  if args.workers == 1:
    for setting in todo:
      _train(args, setting)
    return
  context = multiprocessing.get_context('spawn')
  places = context.Queue()
  for place in range(args.workers):
    places.put(place)
  with futures.ProcessPoolExecutor(
      args.workers, context, _take_cores, (places, args.workers)) as pool:
    for done in [pool.submit(_train, args, setting) for setting in todo]:
      done.result()


def _take_cores(places, workers: int) -> None:
  """Keeps this process to its share of the cores, where the system can."""
  place = places.get()
  if hasattr(os, 'sched_setaffinity'):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[place::workers] or cores)


def _train(args, setting) -> None:
  """Trains one setting for all seeds and writes what the report reads."""
  began, count = time.perf_counter(), args.seeds
  config, folder = make_config(args, *setting), _folder(args, setting)
  print(folder, flush=True)
  runtime.apply(config.runtime)
  batching = 'unroll' if jax.default_backend() == 'cpu' else 'vmap'
  run = runs.build(config)
  sets = imbalance.from_config(
      run.dataset.labels, config.data.imbalance, seed=config.data.split_seed)
  watched = {'own': sets.own_test, 'balanced': sets.balanced_test}
  variants = tuple(map(seeds_lib.Variant, range(count)))
  trained = seeds_lib.train(
      run, variants, watched=watched, batching=batching)
  outputs = {
      name: seeds_lib.evaluate(
          run, trained.state, members, batching=batching)
      for name, members in watched.items()}
  ratio, rung, remedy = setting
  about = {
      'ratio': ratio, 'rung': rung, 'remedy': remedy, 'seeds': count,
      'class_names': list(run.dataset.class_names),
      'train_counts': list(run.info.class_counts), 'refused': {},
      'seconds': time.perf_counter() - began}
  rows = [{name: values.tolist() for name, values in row.items()}
          for row in trained.rows]
  if setting == (15, 'plain', 'none'):
    about['refused'] = {}
    for name in _REFINED:
      try:
        _refine(run, trained, name, watched, folder, about)
      except ValueError as error:
        # Some resampling has nothing to work on in these features.
        about['refused'][name] = str(error)
  # Last: its presence says that the setting is finished.
  _save(folder, outputs, about, rows)


def _refine(run, trained, name, watched, folder, about) -> None:
  """Applies a remedy to each seed's finished classifier."""
  began = time.perf_counter()
  states = []
  for i in range(about['seeds']):
    one, state = seeds_lib.take(trained, i)
    config = config_lib.replace(one.config, train__refine=name)
    states.append(refine.apply(one._replace(config=config), state))
  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *states)
  outputs = {
      split: seeds_lib.evaluate(run, stacked, members, batching='unroll')
      for split, members in watched.items()}
  seconds = time.perf_counter() - began
  _save(folder / f'refined-{name}', outputs,
        {**about, 'remedy': name, 'seconds': seconds, 'refused': {}}, [])


def _save(folder, outputs, about, rows) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  np.savez_compressed(folder / 'outputs.npz', **{
      f'{split}_{name}': values[name] for split, values in outputs.items()
      for name in ('label', 'probabilities')})
  writers.write_json(folder / 'rows.json', {'about': about, 'rows': rows})


if __name__ == '__main__':
  main(sys.argv[1:])
