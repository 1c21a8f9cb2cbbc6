"""Times our training steps and the peers' in turns, after proving them equal.

Each side is a process (benchmark_worker.py); one works while the others
sleep, so both see the same machine. Writes nothing.
"""

from collections.abc import Iterator, Sequence
from concurrent import futures
import contextlib
import functools
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

import numpy as np

from experiments import benchmark_worker

# Largest relative differences of loss and gradients, by type of computation.
# In float32 the deepest network is 1e-6 and 2e-2 away from PyTorch in float64,
# and PyTorch's own float32 2e-6 and 5e-2. In bfloat16 its gradients at random
# weights are rounding alone: there the loss is compared, and float32 elsewhere.
TOLERANCES = {
    'float32': {'loss': 1e-4, 'gradient': 5e-2},
    'bfloat16': {'loss': 3e-2},
}
_TURN_SECONDS = 0.3
_FEWEST_TURNS = 5


class WorkerError(RuntimeError):
  """A side that failed; the message is the end of what it printed."""


class Worker:
  """A side of the pair as a process that answers commands.

  Args:
    form: ours, or a key of `benchmark_worker.PEERS`.
    name: A workload.
    dtype: Of the computation.
    limit: Seconds an answer may take.
  """

  def __init__(self, form: str, name: str, dtype: str, *, limit: float):
    self.form, self.limit = form, limit
    self._log = tempfile.TemporaryFile('w+')
    self._process = subprocess.Popen(
        [sys.executable, '-m', 'experiments.benchmark_worker', form, name,
         dtype], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=self._log, text=True)

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self._process.stdin.close()
    self._process.kill()
    self._process.wait()
    self._process.stdout.close()
    self._log.close()

  def ask(self, *words) -> dict[str, Any]:
    """Sends a command and returns the answer.

    Raises:
      WorkerError: If the process failed or took longer than the limit.
    """
    timer = threading.Timer(self.limit, self._process.kill)
    timer.start()
    began = time.perf_counter()
    try:
      self._process.stdin.write(' '.join(map(str, words)) + '\n')
      self._process.stdin.flush()
      line = self._process.stdout.readline()
    except BrokenPipeError:
      line = ''
    finally:
      timer.cancel()
    if line:
      return json.loads(line)
    if time.perf_counter() - began >= self.limit:
      raise WorkerError(f'{self.form}: no answer in {self.limit:.0f} s')
    self._log.seek(0)
    raise WorkerError(f'{self.form}: {self._log.read()[-2000:].strip()}')


def compare(
    name: str, forms: tuple[str, ...], dtype: str, *, limit: float,
) -> dict[str, dict[str, float]]:
  """Returns the relative differences of one step's loss and gradients.

  The library of each of `forms` is compared once; the keys are its name.

  Raises:
    WorkerError: If they are beyond `TOLERANCES`, or a side failed.
  """
  libraries = {}
  for form in forms:
    libraries.setdefault(benchmark_worker.PEERS[form].library, form)
  found = {}
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'step.npz'
    for library, form in {'ours': 'ours', **libraries}.items():
      with Worker(form, name, dtype, limit=limit) as worker:
        found[library] = worker.ask('exact', path)
  found.pop('ours')
  for library, differences in found.items():
    for kind, tolerance in TOLERANCES[dtype].items():
      if not differences[kind] <= tolerance:
        raise WorkerError(
            f'{name}: our {kind} and that of {library} differ by '
            f'{differences[kind]:.3g}, more than {tolerance:g}; there is '
            'nothing to time.')
    found[library] = {kind: differences[kind] for kind in TOLERANCES[dtype]}
  return found


def measure(
    names: Sequence[str], forms: tuple[str, ...], dtype: str, *, repeats: int,
    budget: float, limit: float, together: int = 1,
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Times workloads, one after the other.

  Args:
    names: Keys of `benchmark_workloads.WORKLOADS`.
    forms: Of the peers: keys of `benchmark_worker.PEERS`.
    dtype: Of the computation.
    repeats: Turns of each side.
    budget: Seconds after which no further turn starts, once there are five.
    limit: Seconds that a compilation may take.
    together: Workloads that are compared and compiled at once. Timing begins
      when all of them wait, and is one at a time.

  Yields:
    A name with 'equality' by library, and 'sides': for each 'seconds' (a step,
    one entry a turn), 'compile_seconds' and 'peak_bytes'; a peer that failed
    has 'error'. Where ours failed or differs, there is 'error' instead.
  """
  for start in range(0, len(names), together):
    chunk = names[start:start + together]
    with contextlib.ExitStack() as stack:
      workers = {name: {form: stack.enter_context(
          Worker(form, name, dtype, limit=limit)) for form in ('ours', *forms)}
                 for name in chunk}
      for name, found in _prepare(
          workers, forms, dtype, limit=limit, alone=together == 1):
        if 'error' not in found:
          _time(found['sides'], workers[name], repeats=repeats, budget=budget)
        yield name, found


def _prepare(workers, forms, dtype, *, limit, alone):
  """Compares and starts all sides; returns (name, what came of it) of each."""
  def attempt(job):
    try:
      return job()
    except WorkerError as error:
      return {'error': str(error)}
  jobs = {}
  for name, sides in workers.items():
    jobs[name, ''] = functools.partial(
        compare, name, forms, dtype, limit=limit)
    jobs |= {(name, form): functools.partial(side.ask, 'start')
             for form, side in sides.items()}
  with futures.ThreadPoolExecutor(1 if alone else len(jobs)) as pool:
    done = dict(zip(jobs, pool.map(attempt, jobs.values()), strict=True))
  ready = []
  for name, sides in workers.items():
    started = {form: done[name, form] for form in sides}
    failed = [x for x in (done[name, ''], started['ours']) if 'error' in x]
    ready.append((name, failed[0] if failed else {
        'equality': done[name, ''], 'sides': started}))
  return ready


def _time(sides, workers, *, repeats: int, budget: float) -> None:
  """Adds times and memory to the entries of the sides that started."""
  workers = {form: worker for form, worker in workers.items()
             if 'error' not in sides[form]}
  seconds = _in_turns(workers, repeats=repeats, budget=budget)
  for form, worker in workers.items():
    sides[form] |= {'seconds': seconds[form], **worker.ask('finish')}
    # Its memory is free for the next.
    worker.__exit__()


def _in_turns(workers, *, repeats, budget) -> dict[str, list[float]]:
  """Returns seconds a step of each side, one entry a turn."""
  slowest = max(w.ask('turn', 1)['seconds'] for w in workers.values())
  steps = max(1, math.ceil(_TURN_SECONDS / slowest))
  seconds = {form: [] for form in workers}
  began = time.perf_counter()
  for turn in range(repeats):
    if turn >= _FEWEST_TURNS and time.perf_counter() - began > budget:
      break
    for form, worker in workers.items():
      seconds[form].append(worker.ask('turn', steps)['seconds'] / steps)
  return seconds


def machine_peak(dtype: str, *, limit: float) -> float:
  """Returns the operations a second of a large matrix product."""
  with Worker('ours', 'dense_dae', dtype, limit=limit) as worker:
    return worker.ask('peak')['flops_per_second']


def summarize(
    found: dict[str, Any], *, batch: int, peak: float) -> dict[str, Any]:
  """Returns what the report shows of `measure`'s result.

  'ratio' is the median time of the fastest peer over ours, so that above 1
  ours is faster; times are in milliseconds with their quartiles.
  """
  row = {'batch': batch, 'differences': found['equality']}
  medians = {}
  for form, side in found['sides'].items():
    if 'error' in side:
      row[f'{form}_error'] = side['error']
      continue
    low, middle, high = np.quantile(
        side['seconds'], (0.25, 0.5, 0.75)).tolist()
    medians[form] = middle
    row |= {f'{form}_ms': 1e3 * middle, f'{form}_ms_low': 1e3 * low,
            f'{form}_ms_high': 1e3 * high,
            f'{form}_compile_s': side['compile_seconds'],
            f'{form}_peak_mb': side['peak_bytes'] / 2**20}
    if 'flops' in side:
      row['gflop'] = side['flops'] / 1e9
  ours = medians.pop('ours')
  row['images_per_second'] = batch / ours
  if medians:
    best = min(medians, key=medians.get)
    row |= {'best_peer': best, 'ratio': medians[best] / ours}
  if 'gflop' in row:
    row['share_of_peak'] = 1e9 * row['gflop'] / ours / peak
  return row
