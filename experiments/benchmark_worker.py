"""One side of a timed pair, in a process of its own.

    python -m experiments.benchmark_worker ours unet float32

Reads a command a line on standard input and answers each with a line of JSON:
`start` builds and compiles, `turn N` takes N steps, `finish` counts. `exact
FILE` makes (ours) or repeats (a peer) one step without randomness. While it
waits its threads sleep, so that sides can take turns on the same cores.
"""

import importlib
import json
import os
import resource
import sys
import time
from typing import NamedTuple

import numpy as np

from vision_jax import allocator

# Steps before the first turn: by then a process has the memory that it reuses.
_WARM_UP = 3
# Rows of the product that measures a machine: an accelerator is done with few
# before the host has asked for the next.
_CPU_PEAK_SIZE = 4096
_PEAK_SIZE = 16384
_PEAK_REPEATS = 8


class Form(NamedTuple):
  """How a peer takes its step.

  Attributes:
    library: Its name.
    module: Of `experiments`.
    compiled: Whether the step is compiled, by Inductor or XLA.
  """
  library: str
  module: str
  compiled: bool


PEERS = {
    'eager': Form('PyTorch', 'benchmark_torch', False),
    'compiled': Form('PyTorch', 'benchmark_torch', True),
    'keras': Form('Keras', 'benchmark_keras', False),
    'keras_xla': Form('Keras', 'benchmark_keras', True),
}


class Ours:
  """This codebase: the task's step under jit, its state donated."""

  def __init__(self, name: str, dtype: str):
    # Only the process of this side imports JAX.
    import jax
    from experiments import benchmark_workloads as workloads
    self.jax, self.workloads = jax, workloads
    self.name, self.dtype = name, dtype

  def exact(self, path: str):
    """Writes one step without randomness for the peer."""
    step = self.workloads.make(self.name, dtype=self.dtype, exact=True)
    # On an accelerator products of float32 have fewer bits unless one asks.
    with self.jax.default_matmul_precision('float32'):
      np.savez(path, **self.workloads.first_step(step))
    return {}

  def start(self):
    """Builds and compiles."""
    step = self.workloads.make(self.name, dtype=self.dtype)
    self.state, self.inputs = step.state, (step.batch, step.key)
    began = time.perf_counter()
    self.compiled = self.jax.jit(
        step.task.train_step, donate_argnums=0).lower(
            self.state, *self.inputs).compile()
    seconds = time.perf_counter() - began
    allocator.retire_fragments()
    self.turn(_WARM_UP)
    return {'compile_seconds': seconds}

  def turn(self, steps: int):
    """Takes steps."""
    for _ in range(steps):
      self.state, sums = self.compiled(self.state, *self.inputs)
    self.jax.block_until_ready((self.state, sums))
    return {}

  def finish(self):
    """Returns the peak of memory."""
    stats = self.jax.local_devices()[0].memory_stats()
    return {'peak_bytes': stats['peak_bytes_in_use'] if stats else None}

  def peak(self):
    """Measures the operations a second of a large matrix product."""
    size = (_CPU_PEAK_SIZE if self.jax.default_backend() == 'cpu'
            else _PEAK_SIZE)
    # Of ones a processor that slows down with its load would do more.
    x = self.jax.random.normal(
        self.jax.random.key(0), (size, size), self.dtype)
    product = self.jax.jit(lambda a: a @ a)
    product(x).block_until_ready()
    seconds = []
    for _ in range(_PEAK_REPEATS):
      began = time.perf_counter()
      product(x).block_until_ready()
      seconds.append(time.perf_counter() - began)
    return {'flops_per_second': 2 * size**3 / min(seconds)}


class Peer:
  """Another library: PyTorch or Keras, its step as it is or compiled."""

  def __init__(self, form: str, name: str, dtype: str):
    # The config and the batch are ours; the peer's numbers come without JAX
    # computing anything.
    from experiments import benchmark_workloads as workloads
    self.library = importlib.import_module(
        f'experiments.{PEERS[form].module}')
    self.workloads, self.compiled = workloads, PEERS[form].compiled
    self.form, self.name, self.dtype = form, name, dtype

  def exact(self, path: str):
    """Returns how far the peer's step is from that in the file."""
    with np.load(path) as file:
      arrays = dict(file)
    config = self.workloads.make_config(
        self.name, dtype=self.dtype, exact=True)
    return self.library.difference(
        config, arrays, classes=self.workloads.CLASSES)

  def start(self):
    """Builds; the first step compiles."""
    config = self.workloads.make_config(self.name, dtype=self.dtype)
    batch = self.workloads.make_batch(
        self.workloads.WORKLOADS[self.name],
        (*config.data.image_size, config.data.channels),
        size=config.train.batch_size)
    self.peer = self.library.Peer(
        config, {name: np.asarray(x) for name, x in batch.items()},
        classes=self.workloads.CLASSES, compiled=self.compiled)
    first = self._seconds()
    allocator.retire_fragments()
    again, *_ = (self._seconds() for _ in range(1, _WARM_UP))
    return {'compile_seconds': max(first - again, 0.0)}

  def _seconds(self):
    began = time.perf_counter()
    self.turn(1)
    return time.perf_counter() - began

  def turn(self, steps: int):
    """Takes steps."""
    for _ in range(steps):
      self.peer.step()
    self.library.wait()
    return {}

  def finish(self):
    """Returns the peak of memory and, where it can be counted, operations."""
    found = {'peak_bytes': self.library.device_peak()}
    if self.form == 'eager':
      found['flops'] = self.library.count_flops(self.peer.step)
    return found


def serve(side, lines, answer) -> None:
  """Answers commands until there are no more."""
  imported = _most_memory()
  for line in lines:
    command, *arguments = line.split()
    if command == 'turn':
      began = time.perf_counter()
      side.turn(int(arguments[0]))
      answer({'seconds': time.perf_counter() - began})
      continue
    # Before the command: counting operations takes memory itself.
    most = _most_memory()
    found = getattr(side, command)(*arguments)
    if 'peak_bytes' in found and found['peak_bytes'] is None:
      # On a CPU: what the process took beyond its imports.
      found['peak_bytes'] = most - imported
    answer(found)


def _most_memory() -> int:
  return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(argv: list[str]) -> None:
  """Runs the side that the arguments name: form, workload, dtype."""
  form, name, dtype = argv
  # Answers have the standard output to themselves.
  out = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)
  # Both sides keep freed memory, and retire what compilation leaves: it is no
  # difference of arithmetic.
  allocator.keep_freed_memory()
  side = Ours(name, dtype) if form == 'ours' else Peer(form, name, dtype)
  serve(side, sys.stdin, lambda value: print(
      json.dumps(value), file=out, flush=True))


if __name__ == '__main__':
  main(sys.argv[1:])
