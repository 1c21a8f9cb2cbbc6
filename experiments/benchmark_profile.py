"""Where the milliseconds of a training step go, from XLA's own clock.

Each operation of the compiled step is counted to what it does; `report` shows
the shares, and the operations that take longest. On one core of a CPU alone,
and on Linux:

    taskset -c 0 python -m experiments.benchmark --what=profile --only=unet

What an operation hands to other threads would not count as its own. Compares
with nobody.
"""

import collections
import gzip
import json
import multiprocessing
import os
import pathlib
import re
import tempfile
import time
from typing import Any

import jax

from experiments import benchmark_worker
from experiments import tables
from vision_jax import allocator

_LONGEST = 12
# In the first steps memory still grows.
_WARM = 2
# Their time is that of the operations within.
_CONTAINERS = ('while', 'call', 'conditional')


def run(args) -> dict[str, Any]:
  """Returns the operations of `--what=profile`, by workload.

  Raises:
    RuntimeError: There is more than one core, or the backend is no CPU.
  """
  if jax.default_backend() != 'cpu' or len(os.sched_getaffinity(0)) > 1:
    raise RuntimeError(
        'operations are told apart on one core of a CPU alone: start it by '
        '`taskset -c 0 python -m experiments.benchmark --what=profile`.')
  names = args.only.split(',')
  # A process each: after another's compilation a step takes up to a third more.
  with multiprocessing.get_context('spawn').Pool(
      1, allocator.keep_freed_memory, maxtasksperchild=1) as pool:
    found = pool.starmap(
        profile, [(name, args.dtype) for name in names], chunksize=1)
  return {'workloads': dict(zip(names, found, strict=True))}


def profile(name: str, dtype: str) -> dict[str, Any]:
  """Takes a step of a workload and returns what it consists of.

  Returns:
    'ms' by the wall clock; 'kinds', milliseconds by kind; 'longest',
    rows of the operations that take longest. Work that an operation hands to
    other threads counts where XLA waits for it.
  """
  side = benchmark_worker.Ours(name, dtype)
  side.start()
  side.turn(_WARM)
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      began = time.perf_counter()
      # One: a trace holds a million events, and loops have many.
      side.turn(1)
      seconds = time.perf_counter() - began
    spent = _spent(pathlib.Path(folder))
  origins = _origins(side.compiled.as_text())
  kinds, rows = collections.Counter(), []
  for operation, milliseconds in spent.most_common():
    shape, origin = origins.get(operation, ('', ''))
    kind = kind_of(operation, origin)
    kinds[kind] += milliseconds
    rows.append({'ms': milliseconds, 'operation': operation, 'shape': shape,
                 'kind': kind})
  return {'ms': 1e3 * seconds, 'kinds': dict(kinds.most_common()),
          'longest': rows[:_LONGEST]}


def _spent(folder: pathlib.Path) -> collections.Counter:
  """Milliseconds of each operation of a trace.

  Raises:
    RuntimeError: The trace has no operations.
  """
  (path,) = folder.rglob('*.trace.json.gz')
  with gzip.open(path) as file:
    events = json.load(file)['traceEvents']
  spent = collections.Counter()
  for event in events:
    if 'args' not in event or 'hlo_op' not in event['args']:
      continue
    if not event['args']['hlo_op'].startswith(_CONTAINERS):
      spent[event['args']['hlo_op']] += event['dur'] / 1e3
  if not spent:
    raise RuntimeError('the trace names no operation; profile on a CPU.')
  return spent


def _origins(text: str) -> dict[str, tuple[str, str]]:
  """Shape, and path in the program, of each operation of a compiled text."""
  found = {}
  for line in text.splitlines():
    match = re.match(r'\s*(?:ROOT )?%?([\w.\-]+) = (\w+\[[\d,]*\])', line)
    if match:
      origin = re.search(r'op_name="([^"]*)"', line)
      found[match[1]] = match[2], origin[1] if origin else ''
  return found


def kind_of(operation: str, origin: str) -> str:
  """Returns what an operation does, by XLA's name for it and its origin."""
  starts = operation.startswith
  way = 'backward' if 'transpose(' in origin else 'forward'
  if origin.endswith('/ffi_call'):
    return f'convolutions by oneDNN, {way}'
  if starts('transpose'):
    return 'transposed copies'
  if starts('convolution'):  # Renamed, for its axes were exchanged.
    return "convolutions, kernels' gradients"
  if starts('conv'):
    return f'convolutions, {way}'
  if starts('dot') or origin.endswith('/dot_general'):
    return f'matrix products, {way}'
  if re.search('threefry|random_bits|_uniform|_normal', origin):
    return 'random numbers'
  if 'jvp(' in origin:
    return f'element by element, and sums, {way}'
  return 'optimizer, averages, the rest'


def report(results: dict[str, Any], out: pathlib.Path) -> str:
  """Returns the Markdown report."""
  del out  # There is no figure.
  parts = [f"""# Where the time of a step goes

Command: `taskset -c 0 {results['command']}`

Machine: {results['machine']}, of which one works; load
average at the start {results['load_average']:.1f}. Milliseconds of one step by
XLA's clock. What was tried against them is in [notes.md](notes.md).
"""]
  for name, found in results['workloads'].items():
    total = sum(found['kinds'].values())
    parts.append(f"""
## {name}: {found['ms']:.0f} ms a step

{tables.markdown([
    {'what': kind, 'ms': ms, 'share': ms / total}
    for kind, ms in found['kinds'].items()])}
The {len(found['longest'])} operations that take longest:

{tables.markdown(found['longest'])}""")
  return ''.join(parts)
