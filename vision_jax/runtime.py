"""What a process sets up before it computes: compiled programs, memory."""

import os
import pathlib

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
