"""How time and memory of training grow with images, batch and data set.

The U-Net's step, one size at a time; slopes are those of straight lines
through the logarithms. Data sets are drawn, written to disk and streamed, each
in a process of its own:

    python -m experiments.benchmark_scaling 100000 FOLDER 15

Compares with nobody.
"""

import contextlib
import itertools
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

import jax
from matplotlib import ticker
import numpy as np

from experiments import benchmark_workloads as workloads
from experiments import tables
from vision_jax import config as config_lib
from vision_jax import data_config
from vision_jax import runs
from vision_jax import runtime
from vision_jax import task as task_lib
from vision_jax.analysis import figures
from vision_jax.data import batches

_SIDES = (32, 64, 96, 128, 192)
_BATCHES = (2, 4, 8, 16, 32)
_FIXED = {'side': 64, 'batch': 8}
_EXAMPLES = (1_000, 10_000, 30_000, 100_000)
_STREAMED = {'side': 32, 'batch': 16}
_STEPS = 20  # Of a turn.
# What varies, and what is measured of it: label of the axis, columns.
_PANELS = {
    'side': ('side, pixels', ('ms', 'MB')),
    'batch': ('batch size', ('ms', 'MB')),
    'examples': ('number of examples, streamed',
                 ('ms', 'MB', 'first start, s'))}


def run(args) -> dict[str, Any]:
  """Returns the rows of `--what=scaling`, by what varies."""
  config = workloads.make_config('unet')
  runtime.apply(config.runtime)
  return {'rows': {
      'side': [_measure(config, side, _FIXED['batch'], args.repeats)
               for side in _SIDES],
      'batch': [_measure(config, _FIXED['side'], size, args.repeats)
                for size in _BATCHES],
      'examples': [_apart(examples, args.repeats) for examples in _EXAMPLES]}}


def _measure(config, side: int, size: int, repeats: int) -> dict[str, float]:
  """Returns the median time and the memory of a step."""
  config = config_lib.replace(
      config, data__image_size=(side, side), train__batch_size=size)
  task = runs.make_task(config, task_lib.Info(('c',), (side, side, 3), 1000))
  state = task.init(jax.random.key(0))
  batch = jax.device_put(workloads.make_batch(
      workloads.WORKLOADS['unet'], (side, side, 3), size=size))
  key = jax.random.key(1)
  step = jax.jit(task.train_step, donate_argnums=0).lower(
      state, batch, key).compile()
  memory = step.memory_analysis()
  seconds = []
  for _ in range(repeats + 1):
    began = time.perf_counter()
    state, _ = jax.block_until_ready(step(state, batch, key))
    seconds.append(time.perf_counter() - began)
  return {
      'side': side, 'batch': size, 'ms': 1e3 * float(np.median(seconds[1:])),
      'MB': (memory.argument_size_in_bytes + memory.temp_size_in_bytes
             + memory.output_size_in_bytes - memory.alias_size_in_bytes
             ) / 2**20}


def _apart(examples: int, repeats: int) -> dict[str, float]:
  """Returns `streamed` of a process that starts with nothing on disk."""
  with tempfile.TemporaryDirectory() as folder:
    found = subprocess.run(
        [sys.executable, '-m', 'experiments.benchmark_scaling', str(examples),
         folder, str(repeats)], stdout=subprocess.PIPE, text=True, check=True)
  return json.loads(found.stdout.splitlines()[-1])


def streamed(examples: int, folder: str, repeats: int) -> dict[str, float]:
  """Trains on so many drawn images that never are in memory together.

  Returns:
    'ms' of a step, the median over `repeats` turns; 'MB', the most memory of
    the process but for the pages of files, which the system takes back when it
    likes; the seconds of the 'first start', which draws and writes them; and
    the size of their 'pixels, MB'.
  """
  config = workloads.make_config('unet')
  config.data.update(data_config.data())
  side, size = _STREAMED['side'], _STREAMED['batch']
  config = config_lib.replace(
      config, data__source='procedural', data__procedural_examples=examples,
      data__image_size=(side, side), data__channels=3, data__cache_dir=folder,
      data__resident_megabytes=0, train__batch_size=size)
  with _most_memory() as most:
    began = time.perf_counter()
    run_ = runs.build(config)
    start = time.perf_counter() - began
    rows = (batches.train_indices(
        run_.dataset.splits['train'], size, seed=0, step=step,
        remainder='drop') for step in itertools.count())
    feed = runs.stream(run_, run_.store, rows)
    step = runs.make_train_step(run_, run_.store)
    state = runs.init_state(run_)
    carry = state, runs.start_sums(run_), runs.start_guard(run_, state)
    seconds = []
    for _ in range(repeats + 1):
      began = time.perf_counter()
      for inputs, mask in itertools.islice(feed, _STEPS):
        carry = step(*carry, run_.store.arrays, inputs, mask, 0)
      carry[0].step.block_until_ready()
      seconds.append((time.perf_counter() - began) / _STEPS)
  return {'examples': examples, **_STREAMED,
          'pixels, MB': run_.dataset.images.nbytes / 2**20,
          'ms': 1e3 * float(np.median(seconds[1:])), 'MB': max(most) / 2**20,
          'first start, s': start}


@contextlib.contextmanager
def _most_memory():
  """Yields a list that gathers the bytes of memory without files' pages."""
  found, stop = [], threading.Event()
  def watch():
    while not stop.wait(0.01):
      text = pathlib.Path('/proc/self/status').read_text()
      found.append(1024 * int(re.search(r'RssAnon:\s+(\d+)', text)[1]))
  thread = threading.Thread(target=watch)
  thread.start()
  try:
    yield found
  finally:
    stop.set()
    thread.join()


def slope(rows: list[dict[str, float]], varied: str, value: str) -> float:
  """Returns the exponent of `value` as a power of `varied`."""
  x, y = (np.log([row[name] for row in rows]) for name in (varied, value))
  return float(np.polyfit(x, y, 1)[0])


def report(results: dict[str, Any], out: pathlib.Path) -> str:
  """Returns the Markdown report and draws scaling.png beside it."""
  fig, axes = figures.grid_figure(3, 3, size=(3.9, 3.4))
  text = f"""# How training grows

Command: `{results['command']}`

Machine: {results['machine']}; load average at the start
{results['load_average']:.1f}; {results['seconds']:.0f} s. The U-Net
autoencoder's training step: medians, and what its compiled program holds. Of a
data set that is streamed, the memory of the whole process, without the pages
of files that the system may take back.
"""
  for ax, (varied, rows) in zip(axes, results['rows'].items(), strict=True):
    label, columns = _PANELS[varied]
    slopes = {name: slope(rows, varied, name) for name in columns}
    for color, marker, (name, exponent) in zip(
        figures.COLORS, 'os^', slopes.items()):
      ax.loglog([row[varied] for row in rows], [row[name] for row in rows],
                marker=marker, color=color,
                label=f'{name}: slope {exponent:.2f}')
    units = [name.split(', ')[-1] for name in columns]
    ax.set(xlabel=label, ylabel=' or '.join(units))
    # Plain numbers: few of the values are powers of ten.
    ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter('{x:g}')
    ax.set_xticks([row[varied] for row in rows],
                  [f'{row[varied]:,}' for row in rows], fontsize=8)
    ax.minorticks_off()
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    powers = ', '.join(f'{name} {value:.2f}' for name, value in slopes.items())
    text += (f'\nPowers of the {label.split(",")[0]}: {powers}.\n\n'
             f'{tables.markdown(rows)}')
  figures.save(fig, out / 'scaling.png')
  first, *_, last = results['rows']['examples']
  grown = 1024 * (last['MB'] - first['MB']) / (
      last['examples'] - first['examples'])
  return text + f"""
The pixels stay on disk; what grows in memory are the names, hashes and splits,
{grown:.1f} kB an example.
{_twice(results['rows'])}
![scaling](scaling.png)
"""


def _twice(rows: dict[str, list[dict[str, float]]]) -> str:
  """Says how far two timings of one cell lie apart; '' where there is none."""
  lines = ''
  for one, other in itertools.product(rows['side'], rows['batch']):
    if (one['side'], one['batch']) == (other['side'], other['batch']):
      low, high = sorted((one['ms'], other['ms']))
      lines += (
          f'\nA side of {one["side"]} pixels in batches of {one["batch"]} was '
          f'timed twice: {low:.4g} and {high:.4g} ms,\na factor of '
          f'{high / low:.2f}. Smaller differences of times say nothing.\n')
  return lines


if __name__ == '__main__':
  print(json.dumps(streamed(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
