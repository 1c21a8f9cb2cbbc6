"""What surrounds a computation: compiled programs, memory, time, profiles."""

import os
import pathlib
import time
from typing import Any, Callable

import jax
import jax.numpy as jnp
import jaxlib
import ml_collections

from vision_jax import allocator

_IMPORTED = time.perf_counter()
# Also what compiles in a moment: a run has dozens of such programs.
_CACHED = {'jax_persistent_cache_min_compile_time_secs': 0.0,
           'jax_persistent_cache_min_entry_size_bytes': -1}
# What compiles fast on a CPU, to the same bits. XLA's older way of writing
# loops saves networks that start from random weights .2 to 1.3 s (ResNet50,
# which seldom does, loses 2); later versions do not have it.
_CHEAP = {'xla_backend_optimization_level': 1}
if jaxlib.__version__.startswith('0.10.'):
  _CHEAP['xla_cpu_use_fusion_emitters'] = False


def apply(config: ml_collections.ConfigDict) -> None:
  """Applies the node `config.runtime` to this process.

  Compiled programs are kept in the user's cache folder, unless the variable
  JAX_COMPILATION_CACHE_DIR names another; JAX's variables come first.
  """
  allocator.keep_freed_memory()
  allocator.give_back()  # What a run before it in this process has left.
  if not config.compilation_cache:
    return
  for name, value in _CACHED.items():
    if name.upper() not in os.environ:
      jax.config.update(name, value)
  if 'JAX_COMPILATION_CACHE_DIR' in os.environ:
    return
  root = pathlib.Path(
      os.environ['XDG_CACHE_HOME'] if 'XDG_CACHE_HOME' in os.environ
      else pathlib.Path.home() / '.cache')
  jax.config.update('jax_compilation_cache_dir', str(
      root / 'vision_jax' / 'xla'))


def once(function: Callable[..., Any], *arguments) -> Any:
  """Returns `function(*arguments)`, computed as one program.

  For what a run computes once and cheaply, such as random weights: XLA's usual
  optimisations would take several times longer than they save. Each operation
  on its own would be a program, too, with a compilation of its own.
  """
  if any(isinstance(leaf, jax.core.Tracer)
         for leaf in jax.tree.leaves(arguments)):
    return function(*arguments)
  lower = (jax.default_backend() == 'cpu'
           and not jax.config.read('jax_disable_most_optimizations'))
  options = _CHEAP if lower else None
  return jax.jit(function, compiler_options=options)(*arguments)


def copy(tree: Any) -> Any:
  """Returns a copy of a tree of arrays, no two leaves of which share a buffer.

  The training state is donated to each step, which needs that.
  """
  return once(_copy, tree)


def _copy(tree):
  return jax.tree.map(jnp.copy, tree)


def process_seconds() -> float:
  """Returns how long ago this process began.

  Where the kernel does not say so, since this module was imported.
  """
  try:
    fields = pathlib.Path('/proc/self/stat').read_text().rpartition(')')[2]
    uptime = float(pathlib.Path('/proc/uptime').read_text().split()[0])
  except OSError:
    return time.perf_counter() - _IMPORTED
  # The 22nd field, in ticks since the machine started.
  return uptime - int(fields.split()[19]) / os.sysconf('SC_CLK_TCK')


def profiled(
    step: Callable[..., Any], folder: pathlib.Path | None, *arguments) -> Any:
  """Returns `step(*arguments)`, whose profiler trace goes to `folder`.

  Args:
    step: A jitted function.
    folder: Where TensorBoard and Perfetto find the trace; None = no trace.
    *arguments: Of the step.
  """
  if folder is None:
    return step(*arguments)
  with jax.profiler.trace(folder):
    return jax.block_until_ready(step(*arguments))
