"""Settings that every test shares."""

import importlib.metadata
import os
import tempfile

import hypothesis

# Tests and their subprocesses compile the same small programs many times.
# Set before JAX is imported, and inherited by parallel workers.
os.environ.setdefault(
    'JAX_COMPILATION_CACHE_DIR', tempfile.mkdtemp(prefix='vision_jax_xla_'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')
# Most of the suite's time is compilation, and what it tests does not depend on
# XLA's optimisations; 0 in the environment tests them, too.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
# Nor on how XLA writes its loops: the older way compiles in 60 % of the time.
# Later versions have it no more, and end the process at a flag of that name.
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  os.environ.setdefault('XLA_FLAGS', '--xla_cpu_use_fusion_emitters=false')

# The first call of a jitted function compiles, which no deadline foresees.
hypothesis.settings.register_profile('default', deadline=None)
hypothesis.settings.load_profile('default')
