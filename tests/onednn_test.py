"""oneDNN's convolutions against XLA's, and calls of functions outside XLA."""

from concurrent import futures
import importlib.metadata
import pathlib
import subprocess
import sys

import hypothesis
from hypothesis import strategies as st
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

import run_helpers
from vision_jax import costs
from vision_jax import cpu_conv
from vision_jax import foreign
from vision_jax import onednn
from vision_jax import onednn_api
from vision_jax import ops
from vision_jax.models import autoencoders

_SAME = ((1, 1), (1, 1))
_there = pytest.mark.skipif(
    not onednn.applies((1, 3, 3, 1), (3, 3, 1, 1), _SAME, jnp.float32),
    reason='oneDNN is not installed')
_few = hypothesis.settings(
    max_examples=12, deadline=None, derandomize=True)


@pytest.fixture(autouse=True)
def _one_cpu(monkeypatch):
  monkeypatch.setattr(ops, '_reformulate', lambda: True)


def _draw(*shape, seed=0):
  return jnp.asarray(
      np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _assert_equal(function, plain, *arguments):
  """Compares values, gradients, and gradients of a function of those."""
  def everything(f):
    first = jax.grad(lambda *a: jnp.sin(f(*a)).sum(), (0, 1))
    second = jax.grad(
        lambda *a: sum(jnp.sin(x).sum() for x in first(*a)), (0, 1))
    return f(*arguments), first(*arguments), second(*arguments)
  got, expected = (jax.jit(lambda f=f: everything(f))()
                   for f in (function, plain))
  for a, b in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * abs(b).max())


def _uses_library(function, *arguments):
  return onednn.PREFIX in str(jax.make_jaxpr(function)(*arguments))


@_there
@_few
@hypothesis.given(
    batch=st.integers(1, 3), height=st.integers(5, 11),
    width=st.integers(5, 11), channels=st.integers(1, 9),
    size=st.tuples(st.integers(1, 5), st.integers(2, 5)),
    strides=st.sampled_from([(1, 1), (2, 2), (1, 2), (3, 3)]),
    padding=st.sampled_from(['SAME', 'VALID', ((1, 0), (2, 1))]))
def test_conv(batch, height, width, channels, size, strides, padding):
  x, kernel = _draw(batch, height, width, channels), _draw(*size, channels, 4)
  function = lambda x, k: ops.conv(x, k, strides=strides, padding=padding)
  assert _uses_library(function, x, kernel)
  _assert_equal(function, lambda x, k: cpu_conv.plain(
      x, k, strides, padding), x, kernel)


@_there
@pytest.mark.parametrize('strides', [(1, 1), (2, 2)])
@pytest.mark.parametrize('channels,features,groups', [
    (6, 6, 6), (6, 9, 3), (4, 8, 4)])
def test_groups(channels, features, groups, strides):
  x, kernel = _draw(2, 9, 7, channels), _draw(
      3, 3, channels // groups, features)
  function = lambda x, k: ops.conv(x, k, strides=strides, groups=groups)
  assert _uses_library(function, x, kernel)
  _assert_equal(function, lambda x, k: cpu_conv.plain(
      x, k, strides, 'SAME', groups), x, kernel)


@_there
@pytest.mark.parametrize('channels,features', [(3, 4), (64, 5)])
@pytest.mark.parametrize('size,strides,padding', [
    ((3, 3), (2, 2), ops.DOUBLING), ((3, 3), (2, 2), ((1, 1), (2, 2))),
    ((4, 2), (2, 1), ((3, 2), (1, 0)))])
def test_transposed(size, strides, padding, channels, features):
  x = _draw(2, 5, 6, channels)
  kernel = _draw(*size, channels, features) / channels
  function = lambda x, k: ops.conv_transpose(
      x, k, strides=strides, padding=padding)
  assert _uses_library(function, x, kernel)
  # A kernel's gradient of many channels is one of gathered windows.
  program = str(jax.make_jaxpr(jax.grad(
      lambda k: function(x, k).sum()))(kernel))
  assert (onednn.PREFIX + 'kernel_gradient' in program) == (channels < 64)
  _assert_equal(function, lambda x, k: lax.conv_transpose(
      x, k, strides, padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')),
      x, kernel)


@pytest.mark.parametrize('padding', [((1, 1), (2, 2)), ops.DOUBLING])
def test_transposed_without_the_library(monkeypatch, padding):
  monkeypatch.setattr(onednn, '_available', lambda: False)
  x, kernel = _draw(2, 5, 6, 3), _draw(3, 3, 3, 4)
  function = lambda x, k: ops.conv_transpose(
      x, k, strides=(2, 2), padding=padding)
  assert not _uses_library(function, x, kernel)
  _assert_equal(function, lambda x, k: lax.conv_transpose(
      x, k, (2, 2), padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')),
      x, kernel)


@_there
def test_many_convolutions_in_one_vmap():
  x, kernel = _draw(3, 2, 6, 6, 4), _draw(3, 3, 3, 4, 5, seed=1)
  convolve = lambda f: jax.jit(jax.vmap(jax.value_and_grad(
      lambda k, x: jnp.square(f(x, k)).sum())))(kernel, x)
  got = convolve(lambda x, k: ops.conv(x, k))
  expected = convolve(lambda x, k: cpu_conv.plain(x, k, (1, 1), 'SAME'))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-4, atol=1e-3), got, expected)


@_there
def test_calls_from_several_threads_and_again_are_equal_to_the_bit():
  # XLA calls from any of its threads, on memory that they share.
  def work(size):
    x, kernel = _draw(4, size, size, 24), _draw(3, 3, 24, 24)
    step = jax.jit(jax.grad(
        lambda k: jnp.square(ops.conv(x, k, strides=(2, 2))).sum()))
    return np.stack([step(kernel) for _ in range(10)])
  sizes = [31, 32, 33, 34, 64]
  with futures.ThreadPoolExecutor(len(sizes)) as pool:
    together = list(pool.map(work, sizes))
  for size, found in zip(sizes, together):
    np.testing.assert_array_equal(found, np.repeat(work(size)[:1], 10, 0))


def test_what_the_library_does_not_take():
  assert not onednn.applies((1, 8, 8, 3), (3, 3, 3, 4), _SAME, jnp.bfloat16)
  assert not onednn.applies((0, 8, 8, 3), (3, 3, 3, 4), _SAME, jnp.float32)
  cropped = ((-1, 0), (0, 0))
  assert not onednn.applies((1, 8, 8, 3), (3, 3, 3, 4), cropped, jnp.float32)
  assert not onednn.applies(
      (1, 2, 2, 3), (5, 5, 3, 4), _SAME, jnp.float32)  # An empty result.


@_there
@pytest.mark.parametrize('kind', ['forward', 'both gradients'])
def test_operations_are_counted(kind):
  x, kernel = _draw(2, 8, 8, 3), _draw(3, 3, 3, 5)
  function = lambda x, k: ops.conv(x, k, strides=(2, 2)).sum()
  one = 2 * (2 * 4 * 4 * 5) * 3 * 3 * 3
  if kind == 'forward':
    assert costs.estimate(function, x, kernel).flops == one
  else:
    both = jax.grad(function, (0, 1))
    # The sum's gradient does not read the result, so it is not computed.
    assert costs.estimate(both, x, kernel).flops == 2 * one


def test_it_is_optional(monkeypatch):
  monkeypatch.setattr(onednn, '_PACKAGE', 'no-such-package')
  assert not onednn._available.__wrapped__()


@_there
def test_a_library_that_does_not_load_is_told(monkeypatch):
  def refuse(path):
    raise OSError('libgomp.so.1: cannot open shared object file')
  monkeypatch.setattr(onednn_api, 'Library', refuse)
  with pytest.warns(UserWarning, match='libgomp1'):
    assert not onednn._available.__wrapped__()


@_there
def test_an_error_of_the_library_names_its_function():
  library = onednn_api.Library(next(
      pathlib.Path(file.locate()) for file in importlib.metadata.files(
          onednn._PACKAGE) if file.name == 'libdnnl.so'))
  wrong = onednn_api.Shapes(
      (1, 8, 8, 3), (3, 3, 3, 4), (1, 9, 9, 4), (1, 1), _SAME, 1)
  with pytest.raises(RuntimeError, match='forward_primitive_desc_create'):
    onednn_api.Convolution(library, 'forward', wrong)


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_a_function_outside_xla_sees_shapes_and_its_error_is_raised(error):
  seen = []
  def function(attribute, shapes, addresses):
    seen.append((np.frombuffer(attribute, np.int64).tolist(), [
        np.frombuffer(shape, np.int64).tolist() for shape in shapes]))
    assert len(set(addresses)) == 2
    raise error('no further')
  name = f'vision_jax_test_{error.__name__}'
  foreign.register(name, function)
  call = lambda x: jax.ffi.ffi_call(
      name, jax.ShapeDtypeStruct((2, 3), jnp.float32))(
          x, numbers=np.array([7, 8], np.int64))
  with pytest.raises(Exception, match=f'{name}: {error.__name__}: no further'):
    jax.block_until_ready(jax.jit(call)(jnp.ones((4, 5, 6))))
  assert seen == [([7, 8], [[4, 5, 6], [2, 3]])]


@_there
def test_a_program_from_the_compilation_cache_finds_the_library(tmp_path):
  # The name alone is in the program; the library is loaded when it is traced.
  code = '''
import jax, jax.numpy as jnp, numpy as np, sys
jax.config.update('jax_compilation_cache_dir', sys.argv[1])
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
from vision_jax import ops
x = jnp.ones((2, 8, 8, 3))
print(float(jax.jit(lambda k: ops.conv(x, k, strides=(2, 2)).sum())(
    jnp.ones((3, 3, 3, 4)))))
'''
  outputs = [subprocess.run(
      [sys.executable, '-c', code, str(tmp_path / 'programs')],
      cwd=run_helpers.ROOT, env=run_helpers.environment(tmp_path),
      capture_output=True, text=True, timeout=300, check=True).stdout
      for _ in range(2)]
  assert outputs[0] == outputs[1]
  assert float(outputs[0]) > 0
  assert list((tmp_path / 'programs').iterdir())


@_there
def test_an_exception_within_a_step_ends_the_process(tmp_path):
  # Two branches, so that threads of XLA's own call the library.
  code = """
import jax, jax.numpy as jnp
from vision_jax import onednn
x, k = jnp.ones((8, 64, 64, 16)), jnp.ones((3, 3, 16, 16)) / 144
geometry = (1, 1), ((1, 1), (1, 1)), 1
@jax.jit
def step(x):
  a = b = x
  for _ in range(30):
    a, b = (onednn.forward(y, k, geometry) for y in (a, b))
    a, b = jnp.sin(a).sum() * a, jnp.cos(b).sum() * b
  return a + b
onednn.applies(x.shape, k.shape, geometry[1], x.dtype)
step(x).block_until_ready()
y = step(x)
raise ValueError('within a step')
"""
  done = subprocess.run(
      [sys.executable, '-c', code], cwd=run_helpers.ROOT,
      env=run_helpers.environment(tmp_path), capture_output=True, text=True,
      timeout=100, check=False)
  assert done.returncode == 1
  assert done.stderr.rstrip().endswith('ValueError: within a step')


@_there
def test_the_decoder_doubles_with_the_weights_it_had():
  double = autoencoders.Doubling(6)
  x = _draw(2, 4, 5, 3)
  variables = double.init(jax.random.key(0), x)
  assert jax.tree.map(jnp.shape, variables) == {
      'params': {'kernel': (3, 3, 3, 6), 'bias': (6,)}}
  assert _uses_library(lambda x: double.apply(variables, x), x)
