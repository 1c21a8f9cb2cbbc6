"""What surrounds a computation: compiled programs, memory, profiles."""

import os
import pathlib
from typing import Any, Callable

import jax
import ml_collections

from vision_jax import allocator


def apply(config: ml_collections.ConfigDict) -> None:
  """Applies the node `config.runtime` to this process.

  Compiled programs are kept in the user's cache folder, unless the variable
  JAX_COMPILATION_CACHE_DIR names another.
  """
  allocator.keep_freed_memory()
  if (not config.compilation_cache
      or 'JAX_COMPILATION_CACHE_DIR' in os.environ):
    return
  root = pathlib.Path(
      os.environ['XDG_CACHE_HOME'] if 'XDG_CACHE_HOME' in os.environ
      else pathlib.Path.home() / '.cache')
  jax.config.update('jax_compilation_cache_dir', str(
      root / 'vision_jax' / 'xla'))


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
