"""Tests that each operation equals its plain `lax` form and its gradient."""

import os
import subprocess
import sys

import flax.linen as nn
import hypothesis
from hypothesis import strategies as st
import jax
from jax import lax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

from vision_jax import allocator
from vision_jax import cpu_conv
from vision_jax import onednn
from vision_jax import ops
from vision_jax import processor
from vision_jax import winograd
from vision_jax import xla_flags
from vision_jax.models import layers

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')
_few = hypothesis.settings(
    max_examples=12, deadline=None, derandomize=True)


def _plain_conv(x, kernel, *, strides=(1, 1), padding='SAME', groups=1):
  return lax.conv_general_dilated(
      x, kernel, strides, padding, dimension_numbers=_DIMENSIONS,
      feature_group_count=groups)


def _plain_pool(x, window=(2, 2), strides=(2, 2), padding='VALID'):
  if not isinstance(padding, str):
    padding = ((0, 0), *padding, (0, 0))
  return lax.reduce_window(
      x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), padding)


def _draw(*shape, seed=0):
  return jnp.asarray(
      np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _assert_equal(function, plain, *args):
  """Compares values and the gradients of a random projection of them."""
  def run(f):
    y, back = jax.vjp(f, *args)
    return y, back(_draw(*y.shape, seed=9))
  got, expected = jax.jit(lambda: run(function))(), jax.jit(
      lambda: run(plain))()
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
      got, expected)


@pytest.fixture(autouse=True)
def _one_cpu(monkeypatch):
  # The reformulations are what is tested, whatever machine runs the tests.
  monkeypatch.setattr(ops, '_reformulate', lambda: True)
  monkeypatch.setattr(onednn, '_available', lambda: False)


@_few
@hypothesis.given(
    batch=st.integers(1, 3), height=st.integers(5, 11),
    width=st.integers(5, 11), channels=st.sampled_from([1, 3, 6]),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    strides=st.sampled_from([(1, 1), (2, 2), (1, 2), (3, 3)]),
    padding=st.sampled_from(['SAME', 'VALID', ((1, 0), (2, 1))]))
def test_conv(batch, height, width, channels, size, strides, padding):
  x, kernel = _draw(batch, height, width, channels), _draw(*size, channels, 4)
  kwargs = dict(strides=strides, padding=padding)
  _assert_equal(
      lambda x, k: ops.conv(x, k, **kwargs),
      lambda x, k: _plain_conv(x, k, **kwargs), x, kernel)


def test_a_value_made_solid_is_the_same_to_the_bit():
  x = jnp.asarray([0.0, -0.0, 1.2e-38, -3e38, jnp.inf, -jnp.inf, jnp.nan, 0.1])
  kernel = jnp.ones((3, 3, 1, 1))
  solid = lambda x: cpu_conv._solid(
      x, kernel, (1, 1), ((1, 1), (1, 1)), (1, 8, 8, 1))
  got = np.asarray(jax.jit(solid)(x))
  np.testing.assert_array_equal(got, x)
  np.testing.assert_array_equal(np.signbit(got[:2]), [False, True])
  assert jax.grad(solid)(0.1) == 1.0


@pytest.mark.parametrize('window,strides', [((3, 3), (2, 2)), ((2, 3), (1, 1))])
def test_a_window_larger_than_the_map_gives_an_empty_one(window, strides):
  x = _draw(2, 1, 3, 4)
  got = ops.max_pool(x, window=window, strides=strides)
  assert got.shape == _plain_pool(x, window, strides).shape
  assert got.shape[1] == 0


@pytest.mark.parametrize('pixels', [32, 33])
@pytest.mark.parametrize('padding', ['SAME', ((3, 3), (3, 3))])
def test_strided_stem_of_seven(pixels, padding):
  kwargs = dict(strides=(2, 2), padding=padding)
  _assert_equal(
      lambda x, k: ops.conv(x, k, **kwargs),
      lambda x, k: _plain_conv(x, k, **kwargs),
      _draw(2, pixels, pixels, 3), _draw(7, 7, 3, 4))


def test_kernel_gradient_over_several_chunks():
  x, kernel = _draw(6, 80, 80, 5), _draw(3, 3, 5, 3)
  assert cpu_conv.chunks(40 * 40, x)[0].shape == (3, 2 * 80, 80, 5)
  _assert_equal(
      lambda x, k: ops.conv(x, k, strides=(2, 2)),
      lambda x, k: _plain_conv(x, k, strides=(2, 2)), x, kernel)


@pytest.mark.parametrize('padding', ['SAME', 'VALID', ((1, 0), (2, 1))])
def test_few_outputs_of_many_channels(padding):
  _assert_equal(
      lambda x, k: ops.conv(x, k, padding=padding),
      lambda x, k: _plain_conv(x, k, padding=padding),
      _draw(2, 7, 6, 40), _draw(3, 3, 40, 4))


@_few
@hypothesis.given(
    batch=st.integers(1, 3), height=st.integers(3, 9),
    width=st.integers(3, 9), channels=st.integers(1, 4),
    padding=st.sampled_from(['SAME', 'VALID', ((2, 0), (1, 2))]),
    size=st.sampled_from([2, 3]))
def test_winograd(batch, height, width, channels, padding, size):
  x = _draw(batch, height, width, channels)
  kernel = _draw(size, size, channels, 3)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(processor, 'vectors', lambda: 'AVX2')
    for name, value in (
        ('_FEWEST', 1), ('_FEWEST_PAIRS', 1), ('_MOST_WASTE', 9.0)):
      patch.setattr(winograd, name, value)
    function = lambda x, k: ops.conv(x, k, padding=padding)
    assert 'scan' in str(jax.make_jaxpr(function)(x, kernel))
    scans = lambda: str(jax.make_jaxpr(jax.grad(
        lambda k: function(x, k).sum()))(kernel)).count('scan[')
    with_gradient = scans()
    with patch.context() as without:
      without.setattr(winograd, 'applies_to_gradient', lambda *arguments: False)
      assert with_gradient > scans()
    _assert_equal(
        function, lambda x, k: _plain_conv(x, k, padding=padding), x, kernel)


def test_winograd_is_for_many_channels_in_float32(monkeypatch):
  monkeypatch.setattr(processor, 'vectors', lambda: 'AVX-512')
  applies = lambda shape, kernel, dtype=jnp.float32: winograd.applies(
      shape, kernel, ((1, 1), (1, 1)), dtype)
  assert applies((2, 14, 14, 256), (3, 3, 256, 256))
  assert not applies((2, 14, 14, 256), (3, 3, 256, 256), jnp.bfloat16)
  assert not applies((2, 14, 14, 256), (1, 1, 256, 256))
  assert not applies((2, 56, 56, 64), (3, 3, 64, 64))
  assert not applies((2, 28, 28, 128), (3, 3, 128, 128))
  assert not applies((2, 14, 14, 256), (2, 2, 256, 256))
  # A map of 3x3 would be computed as one of 4x4.
  assert not applies((2, 3, 3, 256), (3, 3, 256, 256))
  monkeypatch.setattr(processor, 'vectors', lambda: 'AVX2')
  assert applies((2, 14, 14, 256), (2, 2, 256, 256))
  assert not applies((2, 56, 56, 64), (3, 3, 64, 128))


@pytest.mark.parametrize('text, expected', [
    ('flags : fpu avx avx2 fma', 'AVX2'),
    ('flags : fpu avx2 avx512f avx512dq', 'AVX-512'),
    ('Features : fp asimd', ''), (None, '')])
def test_vectors_of_the_processor(monkeypatch, tmp_path, text, expected):
  path = tmp_path / 'cpuinfo'
  if text is not None:
    path.write_text(text)
  monkeypatch.setattr(processor, '_CPUINFO', path)
  assert processor.vectors.__wrapped__() == expected


def test_xla_flag_is_added_once_and_never_replaced(monkeypatch):
  monkeypatch.setattr(xla_flags, '_VERSIONS', (jaxlib.__version__,))
  monkeypatch.setenv('XLA_FLAGS', '--xla_other=1')
  xla_flags.set_defaults()
  flags = os.environ['XLA_FLAGS']
  assert flags.split()[0] == '--xla_other=1' and len(flags.split()) == 2
  xla_flags.set_defaults()
  assert os.environ['XLA_FLAGS'] == flags
  monkeypatch.setenv('XLA_FLAGS', f'{xla_flags._FLAG}=')
  xla_flags.set_defaults()
  assert os.environ['XLA_FLAGS'] == f'{xla_flags._FLAG}='


def test_xla_flag_is_left_out_where_it_may_be_unknown(monkeypatch):
  monkeypatch.setattr(xla_flags, '_VERSIONS', ('0.9.',))
  monkeypatch.delenv('XLA_FLAGS', raising=False)
  xla_flags.set_defaults()
  assert 'XLA_FLAGS' not in os.environ


@_few
@hypothesis.given(
    height=st.integers(1, 11), width=st.integers(1, 11),
    size=st.sampled_from([3, 5]),
    strides=st.sampled_from([(1, 1), (2, 2), (1, 3)]),
    padding=st.sampled_from(['SAME', 'VALID', ((0, 1), (0, 1))]))
def test_depthwise(height, width, size, strides, padding):
  # Entries of a kernel larger than the image may never meet it.
  hypothesis.assume(padding == 'SAME' or min(height, width) >= size)
  kwargs = dict(strides=strides, padding=padding, groups=6)
  _assert_equal(
      lambda x, k: ops.conv(x, k, **kwargs),
      lambda x, k: _plain_conv(x, k, **kwargs),
      _draw(2, height, width, 6), _draw(size, size, 1, 6))


def test_grouped_convolution_that_is_not_depthwise():
  _assert_equal(
      lambda x, k: ops.conv(x, k, groups=2),
      lambda x, k: _plain_conv(x, k, groups=2),
      _draw(2, 6, 6, 4), _draw(3, 3, 2, 6))


@pytest.mark.parametrize('size, strides, padding', [
    ((2, 2), (2, 2), 'SAME'), ((2, 3), (2, 3), 'VALID'),
    ((3, 3), (2, 2), 'SAME'), ((4, 4), (2, 2), 'VALID'),
    ((2, 2), (2, 2), ((0, 0), (0, 0)))])
def test_conv_transpose(size, strides, padding):
  x, kernel = _draw(2, 5, 4, 3), _draw(*size, 3, 6)
  _assert_equal(
      lambda x, k: ops.conv_transpose(x, k, strides=strides, padding=padding),
      lambda x, k: lax.conv_transpose(
          x, k, strides, padding, dimension_numbers=_DIMENSIONS), x, kernel)


@pytest.mark.parametrize('rows,size,turned', [
    (1, 12, True), (32, 12, True), (33, 12, False), (32, 11, False)])
def test_dense(monkeypatch, rows, size, turned):
  monkeypatch.setattr(ops, '_LARGE_KERNEL', 12 * 5)
  x, kernel = _draw(rows, size), _draw(size, 5, seed=1)
  _assert_equal(ops.dense, jnp.matmul, x, kernel)
  # The barrier is what tells the form apart.
  text = str(jax.make_jaxpr(ops.dense)(x, kernel))
  assert ('optimization_barrier' in text) == turned


def test_gradient_of_a_gradient_through_dense(monkeypatch):
  monkeypatch.setattr(ops, '_LARGE_KERNEL', 1)
  x, kernel = _draw(3, 7), _draw(7, 5, seed=1)
  def second(function):
    norm = lambda k, x: jnp.square(jax.grad(
        lambda x: jnp.sin(function(x, k)).sum())(x)).sum()
    return jax.jit(jax.grad(norm, (0, 1)))(kernel, x)
  for got, expected in zip(second(ops.dense), second(jnp.matmul)):
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_layer_of_dense_is_linens():
  x = _draw(4, 6)
  ours, linens = layers.Dense(3), nn.Dense(3)
  variables = linens.init(jax.random.key(0), x)
  assert jax.tree.map(jnp.shape, variables) == jax.tree.map(
      jnp.shape, ours.init(jax.random.key(0), x))
  np.testing.assert_array_equal(
      ours.apply(variables, x), linens.apply(variables, x))


# Small integers tie often: the gradient must then go where `lax` sends it.
@_few
@hypothesis.given(
    height=st.integers(2, 9), width=st.integers(2, 9), ties=st.booleans())
def test_max_pool(height, width, ties):
  x = _draw(2, height, width, 3)
  _assert_equal(
      ops.max_pool, _plain_pool, jnp.round(x) if ties else x)


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('args', [
    ((3, 3), (2, 2), 'SAME'), ((3, 3), (2, 2), 'VALID'),
    ((3, 2), (1, 3), 'VALID'), ((3, 3), (2, 2), ((1, 1), (1, 1))),
    ((2, 2), (2, 2), 'SAME'), ((4, 5), (1, 2), 'VALID'),
    ((1, 2), (3, 4), 'VALID'), ((5, 3), (3, 1), 'SAME'),
    ((14, 15), (1, 2), 'SAME'), ((16, 17), (1, 2), 'SAME')])
def test_max_pool_of_other_windows(args, ties):
  x = _draw(2, 8, 7, 3)
  _assert_equal(
      lambda x: ops.max_pool(x, window=args[0], strides=args[1],
                             padding=args[2]),
      lambda x: _plain_pool(x, *args), jnp.round(x) if ties else x)


@_few
@hypothesis.given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3))
def test_upsample_conv(height, width, channels):
  def plain(x, kernel):
    return _plain_conv(x.repeat(2, axis=1).repeat(2, axis=2), kernel)
  _assert_equal(
      ops.upsample_conv, plain, _draw(2, height, width, channels),
      _draw(3, 3, channels, 4, seed=1))


def test_every_operation_with_several_devices_or_an_accelerator(monkeypatch):
  monkeypatch.setattr(ops, '_reformulate', lambda: False)
  x, kernel = _draw(2, 6, 6, 3), _draw(2, 2, 3, 4)
  _assert_equal(ops.conv, _plain_conv, x, kernel)
  _assert_equal(ops.max_pool, _plain_pool, x)
  _assert_equal(
      lambda x, k: ops.conv_transpose(x, k, strides=(2, 2)),
      lambda x, k: lax.conv_transpose(
          x, k, (2, 2), 'SAME', dimension_numbers=_DIMENSIONS), x, kernel)


@pytest.mark.parametrize('rate', [0.1, 0.3, 0.5])
def test_dropout_rate_scale_and_gradient(rate):
  x = jnp.ones((101, 99, 7))
  y, back = jax.vjp(
      lambda x: ops.dropout(x, jax.random.key(0), rate=rate), x)
  dropped = np.asarray(y == 0.0)
  # Five standard deviations of a binomial rate.
  assert abs(dropped.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / x.size)
  np.testing.assert_allclose(y[~dropped], 1 / (1 - rate), rtol=1e-4)
  np.testing.assert_array_equal(back(x)[0], y)


def test_dropout_entries_are_independent():
  draw = lambda seed: np.asarray(ops.dropout(
      jnp.ones(2**16), jax.random.key(seed), rate=0.5) == 0.0)
  mask = draw(0)
  limit = 5 / np.sqrt(mask.size)
  for other in (draw(1), *(np.roll(mask, shift) for shift in (1, 2, 4, 8))):
    assert abs(np.corrcoef(mask, other)[0, 1]) < limit
  np.testing.assert_array_equal(mask, draw(0))


def test_dropout_takes_keys_of_every_implementation():
  key = jax.random.key(0, impl='rbg')
  y = ops.dropout(jnp.ones(1000), key, rate=0.5)
  assert 400 < (y == 0.0).sum() < 600


def test_freed_memory_is_kept_where_glibc_is():
  assert allocator.keep_freed_memory() == (
      allocator.platform.libc_ver()[0] == 'glibc')


_FRAGMENTS = """
import ctypes, sys, threading
from vision_jax import allocator
if 'one pool' in sys.argv:
  assert allocator.keep_freed_memory()
thread = threading.Thread(target=lambda: None)
thread.start()  # Has a pool of its own where there may be several.
thread.join()
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
blocks = [library.malloc(20_000 + 16 * i) for i in range(2000)]
held = [library.malloc(11_000) for _ in blocks]  # Not at the end of the heap.
for block in blocks[::2]:
  library.free(ctypes.c_void_p(block))
print(allocator.retire_fragments(), allocator.retire_fragments())
again = [library.malloc(20_000 + 16 * i) for i in range(0, 2000, 2)]
print(len(set(again) & set(blocks[::2])))
"""


def _retire(*arguments):
  """Returns the bytes retired twice, and how many blocks came back."""
  done = subprocess.run(
      [sys.executable, '-c', _FRAGMENTS, *arguments], capture_output=True,
      text=True, check=True)
  return tuple(map(int, done.stdout.split()))


@pytest.mark.skipif(
    allocator.platform.libc_ver()[0] != 'glibc', reason='needs glibc')
def test_retired_pieces_are_never_handed_out_again():
  first, second, common = _retire('one pool')
  size = sum(20_000 + 16 * i for i in range(0, 2000, 2))
  assert .6 * size < first < 1.2 * size
  assert second == common == 0
  # Several pools: none is touched.
  first, second, common = _retire()
  assert first == second == 0 < common


@_few
@hypothesis.given(
    shape=st.sampled_from([(7, 5), (3, 4, 5, 2), (2, 6, 1)]),
    offset=st.sampled_from([0.0, 30.0]))
def test_batch_norm(shape, offset):
  def plain(x, scale, bias):
    axes = tuple(range(x.ndim - 1))
    return scale * (x - x.mean(axes)) / jnp.sqrt(x.var(axes) + 1e-3) + bias
  x = _draw(*shape) + offset
  size = shape[-1:]
  _assert_equal(lambda *args: ops.batch_norm(*args, 1e-3)[0], plain, x,
                _draw(*size, seed=1), _draw(*size, seed=2))
  _, mean, variance = ops.batch_norm(x, jnp.ones(size), jnp.zeros(size), 1e-3)
  axes = tuple(range(x.ndim - 1))
  np.testing.assert_allclose(mean, np.mean(x, axes), rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(variance, np.var(x, axes), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('function,plain', [
    (ops.swish, jax.nn.swish), (jax.grad(ops.swish), jax.grad(jax.nn.swish))])
def test_swish_is_jaxs_far_from_zero_too(function, plain):
  x = jnp.concatenate([jnp.linspace(-12, 12, 241), jnp.array(
      [-1e30, -200, -89, -1e-20, 1e-20, 89, 200, 1e30])])
  assert jnp.isfinite(jax.vmap(jax.grad(function))(x)).all()
  _assert_equal(jax.vmap(function), jax.vmap(plain), x)


def test_swish_of_few_bits():
  x = jnp.linspace(-8, 8, 97, dtype=jnp.bfloat16)
  for function, plain in ((ops.swish, jax.nn.swish),
                          (jax.grad(ops.swish), jax.grad(jax.nn.swish))):
    got = jax.vmap(function)(x)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.float32(got), jax.vmap(plain)(x.astype(jnp.float32)),
        rtol=.03, atol=.01)


@pytest.mark.parametrize('options', [
    {}, {'use_scale': False, 'use_bias': False}, {'dtype': jnp.bfloat16}])
def test_layer_of_batch_norm_is_linens(options):
  x = _draw(4, 3, 3, 5) + 2.0
  def outcome(layer):
    module = layer(use_running_average=False, momentum=0.8, epsilon=1e-3,
                   use_fast_variance=False, **options)
    variables = module.init(jax.random.key(0), x)
    y, updated = module.apply(variables, x, mutable=['batch_stats'])
    resting = layer(use_running_average=True, epsilon=1e-3, **options)
    return variables, y, updated, resting.apply({**variables, **updated}, x)
  got, expected = outcome(layers.BatchNorm), outcome(nn.BatchNorm)
  tolerance = 2e-2 if options.get('dtype') else 1e-5
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
      np.float32(a), np.float32(b), rtol=tolerance, atol=tolerance),
               got, expected)
  assert got[1].dtype == expected[1].dtype


def test_gradient_of_a_gradient_through_batch_norm():
  def penalty(normalise):
    def squares(x):
      slope = jax.grad(lambda x: jnp.sin(normalise(x)).sum())(x)
      return jnp.square(slope).sum()
    return jax.grad(squares)(_draw(6, 3))
  plain = lambda x: (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-3)
  ours = lambda x: ops.batch_norm(x, jnp.ones(3), jnp.zeros(3), 1e-3)[0]
  np.testing.assert_allclose(
      penalty(ours), penalty(plain), rtol=1e-3, atol=1e-3)
