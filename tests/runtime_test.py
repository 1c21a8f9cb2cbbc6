"""Programs that run once, copies, the cache of programs, a process's age."""

import os
import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import run_helpers
from vision_jax import allocator
from vision_jax import config as config_lib
from vision_jax import runtime


def test_once_is_the_plain_function_inside_and_outside_of_jit():
  def draw(key):
    return {'w': jax.random.normal(key, (3, 4)), 'b': jnp.zeros(4)}
  key = jax.random.key(3)
  found = runtime.once(draw, key)
  assert jax.tree.all(jax.tree.map(np.array_equal, found, draw(key)))
  # XLA's options are for whole programs: inside one nothing is compiled.
  inside = jax.jit(lambda key: runtime.once(draw, key))(key)
  np.testing.assert_allclose(inside['w'], found['w'], rtol=1e-6)


def test_copies_share_no_buffer():
  leaf = jnp.arange(5.0)
  tree = runtime.copy({'a': leaf, 'b': leaf, 'c': [leaf]})
  places = [x.unsafe_buffer_pointer() for x in jax.tree.leaves([tree, leaf])]
  assert len(set(places)) == 4
  assert all((x == leaf).all() for x in jax.tree.leaves(tree))


def test_a_run_begins_without_the_memory_of_the_one_before():
  if not allocator.keep_freed_memory():
    pytest.skip('the C library is not glibc')
  def resident():
    pages = pathlib.Path('/proc/self/statm').read_text().split()[1]
    return int(pages) * os.sysconf('SC_PAGE_SIZE')
  held = [np.ones(1 << 20) for _ in range(25)]
  before = resident()
  del held
  assert resident() > before - 50e6
  runtime.apply(config_lib.base().runtime)
  assert resident() < before - 150e6


def test_the_smallest_program_is_kept_for_the_next_start(tmp_path):
  code = '''
from vision_jax import config
from vision_jax import runtime
runtime.apply(config.base().runtime)
import jax
jax.jit(lambda x: x + 1)(1.0)
'''
  names = {name: value for name, value in run_helpers.environment(
      tmp_path).items() if not name.startswith('JAX_')}
  subprocess.run([sys.executable, '-c', code], cwd=run_helpers.ROOT, env=names,
                 check=True)
  assert list((tmp_path / 'cache' / 'vision_jax' / 'xla').iterdir())


def test_the_age_of_a_process_is_the_clock_of_the_one_that_started_it():
  code = ('import time; from vision_jax import runtime; '
          'print(time.time() - runtime.process_seconds())')
  began = time.time()
  done = subprocess.run(
      [sys.executable, '-c', code], cwd=run_helpers.ROOT, check=True,
      capture_output=True, text=True)
  # The kernel counts hundredths of a second.
  assert abs(float(done.stdout) - began) < 0.2
