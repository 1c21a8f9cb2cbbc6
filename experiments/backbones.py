"""A published backbone on the butterflies: frozen, run once, its head trained.

    python -m experiments.backbones --root=../shared/data

For each model and fraction of labels: test accuracy and macro F1 with their
95 % intervals over the test images, the time of the whole run, and how much
faster an epoch is from cached features than through the backbone. Writes
`table.csv` and `report.md`.
"""

import argparse
import pathlib
import shlex
import sys
import time
from typing import Any

from configs import backbone
from experiments import tables
from vision_jax import config as config_lib
from vision_jax import features
from vision_jax import loop
from vision_jax import runs
from vision_jax import task as task_lib
from vision_jax import writers
from vision_jax.data import batches


def main(argv: list[str]) -> None:
  """Runs the grid and writes the report."""
  args = _parser().parse_args(argv)
  out = pathlib.Path(args.out)
  began, rows = time.perf_counter(), []
  for model in args.models.split(','):
    for fraction in args.fractions.split(','):
      config = backbone.get_config(
          f'data={args.data},model={model},fraction={fraction}')
      config.data.root = args.root
      folder = pathlib.Path(args.runs) / f'{model}-{fraction}'
      print(folder, flush=True)
      loop.train(config, folder)
      rows.append({'model': model, 'labels': float(fraction),
                   **tables.result_row(folder)})
  seconds = time.perf_counter() - began
  speed = None
  if not args.no_timing:
    speed = epoch_times(config_lib.replace(config, data__label_fraction=1.0))
  writers.write_csv(out / 'table.csv', rows)
  writers.write_text(out / 'report.md', report(argv, args, rows, seconds, speed))
  print((out / 'report.md').read_text())


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='python -m experiments.backbones')
  parser.add_argument('--root', required=True, help='folder of the data sets')
  parser.add_argument('--data', default='butterflies')
  parser.add_argument('--models', default='efficientnet_lite0')
  parser.add_argument('--fractions', default='1.0,0.1')
  parser.add_argument('--no_timing', action='store_true',
                      help='leave out the comparison of epoch times')
  parser.add_argument('--runs', default='runs/backbones')
  parser.add_argument('--out', default='experiments/results/backbones')
  return parser


def epoch_times(config) -> dict[str, float]:
  """Returns seconds a training step from features and through the backbone.

  Both steps are timed after their compilation, on the same batches.
  """
  seconds = {}
  for name, cached, steps in (('cached', True, 200), ('straight', False, 3)):
    run = runs.build(config_lib.replace(config, train__cache_features=cached))
    state = runs.init_state(run)
    store = features.make_stores(run, state).training[0]
    seconds[name] = _time_steps(run, state, store, steps)
  return seconds


def _time_steps(run: runs.Run, state: task_lib.TrainState, store, steps):
  """Returns the mean seconds of `steps` steps after two to warm up."""
  step = runs.make_train_step(run, store)
  sums, guard = runs.start_sums(run), runs.start_guard(run, state)
  members = run.dataset.splits['train']
  index = (batches.train_indices(
      members, run.config.train.batch_size, 0, i, 'pad')
           for i in range(steps + 2))
  for i, (inputs, mask) in enumerate(runs.stream(run, store, index)):
    if i == 2:
      began = time.perf_counter()
    state, sums, guard = step(
        state, sums, guard, store.arrays, inputs, mask, 0)
    guard.step.block_until_ready()
  return (time.perf_counter() - began) / steps


def report(argv, args, rows: list[dict[str, Any]], seconds: float, speed) -> str:
  """Returns the Markdown report; every number comes from the runs."""
  text = f"""# Published backbones on `{args.data}`

Command: `python -m experiments.backbones {shlex.join(argv)}`

Machine: {tables.machine()}. All runs took {seconds:.0f} s, decoding and
compilation included where nothing was cached before.

{tables.markdown(rows)}"""
  if speed:
    text += f"""
A training step took {1000 * speed['cached']:.2f} ms from cached features and
{1000 * speed['straight']:.0f} ms through the frozen backbone:
{speed['straight'] / speed['cached']:.0f} times faster an epoch.
"""
  return text


if __name__ == '__main__':
  main(sys.argv[1:])
