"""Finished classifiers in fewer bits: size, time, accuracy, agreement.

    python -m experiments.quantise --root=../shared/data \
        --runs=lite0=runs/lite0,b1=runs/b1

Each run is exported under every scheme of `vision_jax/quantisation.py` into
`<exports>/<name>-<scheme>`, a folder for `--mode=predict`, and that folder is
what is measured. Activations are calibrated on training images. Schemes are
timed in turn, one call each, so that other work on the machine slows all of
them alike. Writes `table.csv` and `report.md`.
"""

import argparse
import os
import pathlib
import shlex
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import origins
from experiments import tables
from vision_jax import checkpoint
from vision_jax import config as config_lib
from vision_jax import quantisation
from vision_jax import runs
from vision_jax import stats
from vision_jax import writers

_BATCHES = (1, 64)


def main(argv: list[str]) -> None:
  """Exports and measures every run, and writes the report."""
  args = _parser().parse_args(argv)
  began, rows = time.perf_counter(), []
  folders = dict(
      part.partition('=')[::2] for part in args.runs.split(','))
  for name, folder in folders.items():
    print(name, flush=True)
    rows += measure(name, pathlib.Path(folder), args)
  seconds = time.perf_counter() - began
  out = pathlib.Path(args.out)
  writers.write_csv(out / 'table.csv', rows)
  writers.write_text(
      out / 'report.md',
      report(argv, args, rows, seconds) + origins.describe(folders))
  print((out / 'report.md').read_text())


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='python -m experiments.quantise')
  parser.add_argument('--root', required=True, help='folder of the data sets')
  parser.add_argument('--runs', required=True,
                      help='name=<folder of a finished classifier>,...')
  parser.add_argument('--calibration', type=int, default=256,
                      help='training images that activations are seen on')
  parser.add_argument('--repeats', type=int, default=20,
                      help='timed calls of each scheme and batch size')
  parser.add_argument('--exports', default='runs/quantised')
  parser.add_argument('--out', default='experiments/results/quantisation')
  return parser


def measure(name: str, folder: pathlib.Path, args) -> list[dict[str, Any]]:
  """Returns a row for each scheme of the run in `folder`."""
  config = config_lib.replace(
      checkpoint.read_config(folder), data__root=args.root, model__weights='')
  run = runs.build(config)
  made = {scheme: pathlib.Path(args.exports) / f'{name}-{scheme}'
          for scheme in quantisation.SCHEMES}
  error = _export(run, folder, made, args.calibration)
  models = {scheme: quantisation.restore(
      checkpoint.read_config(target), run.info, target)
            for scheme, target in made.items()}
  found = {scheme: _predictions(run._replace(task=task), state)
           for scheme, (task, state) in models.items()}
  times = _latencies(models, run.dataset.images, args.repeats)
  labels, plain = found['float32']
  bytes_of = lambda s: (made[s] / quantisation.FILE).stat().st_size
  rows = []
  for scheme, (_, predicted) in found.items():
    correct = int((predicted == labels).sum())
    change = stats.paired_bootstrap(
        lambda y, p: float((y == p).mean()), labels, predicted, plain)
    row = {
        'model': name, 'scheme': scheme, 'megabytes': bytes_of(scheme) / 1e6,
        'size_ratio': bytes_of(scheme) / bytes_of('float32'),
        'error_in_steps': error[scheme], 'n': len(labels),
        **_rate('accuracy', correct, len(labels)),
        'change': change.estimate, 'change_low': change.low,
        'change_high': change.high,
        **_rate('agreement', int((predicted == plain).sum()), len(labels))}
    for size in _BATCHES:
      low, middle, high = np.quantile(times[scheme, size], (.25, .5, .75))
      row |= {f'ms_{size}': middle, f'ms_{size}_q1': low, f'ms_{size}_q3': high}
    rows.append(row)
  return rows


def _export(run, folder, made, count) -> dict[str, float | None]:
  """Exports all schemes; returns the largest error of each in its steps."""
  state = runs.load_state(run.task, run.config, folder)
  members = run.dataset.splits['train']
  chosen = members[np.linspace(0, len(members) - 1, count).astype(int)]
  ranges = quantisation.calibrate(
      run.task, state, np.asarray(run.dataset.images[np.unique(chosen)]))
  errors = {}
  for scheme, target in made.items():
    quantised = quantisation.quantise(
        state.variables(), scheme,
        ranges=ranges if scheme == 'int8_activations' else None)
    quantisation.export(run.config, folder, target, quantised)
    errors[scheme] = quantisation.error_in_steps(state.variables(), quantised)
  return errors


def _rate(name: str, k: int, n: int) -> dict[str, float]:
  low, high = stats.wilson(k, n)
  return {name: k / n, f'{name}_low': low, f'{name}_high': high}


def _predictions(run: runs.Run, state) -> tuple[np.ndarray, np.ndarray]:
  """Returns labels and predicted classes of the test images, both int [n]."""
  outputs = runs.evaluate(
      run, state, 'test', run.store, runs.make_eval_step(run, run.store))
  return outputs['label'], outputs['probabilities'].argmax(-1)


def _latencies(models, images, repeats: int) -> dict[tuple[str, int], list]:
  """Returns milliseconds of each call by scheme and batch size."""
  times = {(scheme, size): [] for scheme in models for size in _BATCHES}
  steps = {scheme: jax.jit(task.eval_step)
           for scheme, (task, _) in models.items()}
  batches = {size: {
      'image': jnp.asarray(np.resize(
          images[:size], (size, *images.shape[1:])), jnp.float32) / 255,
      'label': jnp.zeros(size, jnp.int32)} for size in _BATCHES}
  for i in range(repeats + 2):
    for scheme, size in times:
      began = time.perf_counter()
      jax.block_until_ready(steps[scheme](models[scheme][1], batches[size]))
      if i > 1:  # The first call compiles, the second warms up.
        times[scheme, size].append(1000 * (time.perf_counter() - began))
  return times


def report(argv, args, rows: list[dict[str, Any]], seconds: float) -> str:
  """Returns the Markdown report; every number comes from the rows."""
  def percent(row, name):
    return (f'{100 * row[name]:.1f} [{100 * row[f"{name}_low"]:.1f}, '
            f'{100 * row[f"{name}_high"]:.1f}]')
  def milliseconds(row, size):
    return (f'{row[f"ms_{size}"]:.3g} [{row[f"ms_{size}_q1"]:.3g}, '
            f'{row[f"ms_{size}_q3"]:.3g}]')
  shown = [{
      'model': row['model'], 'scheme': row['scheme'],
      'MB': row['megabytes'], 'of float32': row['size_ratio'],
      'accuracy %': percent(row, 'accuracy'),
      'change, points': percent(row, 'change'),
      'agreement %': percent(row, 'agreement'),
      **{f'ms, batch {size}': milliseconds(row, size) for size in _BATCHES},
  } for row in rows]
  worst = max(row['error_in_steps'] for row in rows
              if row['error_in_steps'] is not None)
  return f"""# Finished models in fewer bits

Command: `python -m experiments.quantise {shlex.join(argv)}`

Machine: {tables.machine()}; {seconds:.0f} s in all.

Accuracy and agreement with float32 are rates over n = {rows[0]['n']} test
images with Wilson 95 % intervals; the change of accuracy has a paired
bootstrap interval over the same images. Times are medians and quartiles of
{args.repeats} calls after two to warm up, the schemes in turn; the machine's
load average over 15 minutes was {os.getloadavg()[2]:.1f} at the end, so that
times compare schemes rather than say what an idle machine takes where it is
above the number of cores. A size is that of one `.safetensors` file.

{tables.markdown(shown)}
`bfloat16` stores and computes in 16 bits. `int8` stores kernels as integers
with one scale an output channel, everything else as bfloat16, and computes in
float32; no weight is off by more than {worst:.3f} of its step.
`int8_activations` rounds what enters a convolution or a dense layer as well,
in the range seen on {args.calibration} training images, and multiplies
integers.
"""


if __name__ == '__main__':
  main(sys.argv[1:])
