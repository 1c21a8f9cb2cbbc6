"""How the time and memory of a training step grow with images and batch.

The U-Net's step, one size at a time; slopes are those of straight lines
through the logarithms. Compares with nobody.
"""

import pathlib
import time
from typing import Any

import jax
import numpy as np

from experiments import benchmark_workloads as workloads
from experiments import tables
from vision_jax import config as config_lib
from vision_jax import runs
from vision_jax import runtime
from vision_jax import task as task_lib
from vision_jax.analysis import figures

_PIXELS = (32, 64, 96, 128, 192)
_BATCHES = (2, 4, 8, 16, 32)
_FIXED = {'pixels': 64, 'batch': 8}


def run(args) -> dict[str, Any]:
  """Returns the rows of `--what=scaling`, by what varies."""
  config = workloads.make_config('unet')
  runtime.apply(config.runtime)
  return {'rows': {
      'pixels': [_measure(config, side, _FIXED['batch'], args.repeats)
                 for side in _PIXELS],
      'batch': [_measure(config, _FIXED['pixels'], size, args.repeats)
                for size in _BATCHES]}}


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
      'pixels': side, 'batch': size, 'ms': 1e3 * float(np.median(seconds[1:])),
      'MB': (memory.argument_size_in_bytes + memory.temp_size_in_bytes
             + memory.output_size_in_bytes - memory.alias_size_in_bytes
             ) / 2**20}


def slope(rows: list[dict[str, float]], varied: str, value: str) -> float:
  """Returns the exponent of `value` as a power of `varied`."""
  x, y = (np.log([row[name] for row in rows]) for name in (varied, value))
  return float(np.polyfit(x, y, 1)[0])


def report(results: dict[str, Any], out: pathlib.Path) -> str:
  """Returns the Markdown report and draws scaling.png beside it."""
  fig, axes = figures.grid_figure(2, 2, size=(4.2, 3.4))
  text = f"""# How a step grows

Command: `{results['command']}`

Machine: {results['machine']}; load average at the start
{results['load_average']:.1f}; {results['seconds']:.0f} s. The U-Net
autoencoder's training step: medians, and what its compiled program holds.
"""
  for ax, (varied, rows) in zip(axes, results['rows'].items(), strict=True):
    slopes = {value: slope(rows, varied, value) for value in ('ms', 'MB')}
    for color, (value, exponent) in zip(figures.COLORS, slopes.items()):
      ax.loglog([row[varied] for row in rows], [row[value] for row in rows],
                marker='o', color=color, label=f'{value}, slope {exponent:.2f}')
    ax.set(xlabel='side, pixels' if varied == 'pixels' else 'batch size')
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    text += (f'\nAgainst {varied}: time grows with the power '
             f'{slopes["ms"]:.2f}, memory {slopes["MB"]:.2f}.\n\n'
             f'{tables.markdown(rows)}')
  figures.save(fig, out / 'scaling.png')
  return text
