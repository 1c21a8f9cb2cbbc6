"""Each operation of `vision_jax.ops` against its plain form.

Both are compared in value and gradient and then timed in turns, at the shapes
of the studies' networks. Where the choice for this machine is the plain form,
both are one program and there is nothing to time.
"""

from collections.abc import Callable
import time
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from experiments import tables
from vision_jax import cpu_conv
from vision_jax import ops

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')
_EPSILON = 1e-3
_KEEP = 0.7
_TURN_SECONDS = 0.1
# Of the largest difference over the largest entry, value and gradients.
_TOLERANCES = {'float32': 1e-3, 'bfloat16': 4e-2}


class Case(NamedTuple):
  """An operation at one shape.

  Attributes:
    ours: Of arrays of `shapes`, returns an array.
    plain: The same as `lax` or flax has it.
    shapes: Of the arrays; the first is the input, others are weights.
    random: Whether both draw, so that they are timed and not compared.
  """
  ours: Callable[..., jax.Array]
  plain: Callable[..., jax.Array]
  shapes: tuple[tuple[int, ...], ...]
  random: bool = False


def _conv_case(x, kernel, strides=(1, 1), groups=1):
  return Case(
      lambda x, k: ops.conv(x, k, strides=strides, groups=groups),
      lambda x, k: cpu_conv.plain(x, k, strides, 'SAME', groups), (x, kernel))


def _transpose_case(x, kernel, padding):
  return Case(
      lambda x, k: ops.conv_transpose(x, k, strides=(2, 2), padding=padding),
      lambda x, k: lax.conv_transpose(
          x, k, (2, 2), padding, dimension_numbers=_DIMENSIONS), (x, kernel))


def _pool_case(x, window):
  return Case(
      lambda x: ops.max_pool(x, window=(window, window), strides=(2, 2)),
      lambda x: nn.max_pool(x, (window, window), (2, 2)), (x,))


def _plain_upsample(x, kernel):
  x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
  return cpu_conv.plain(x, kernel, (1, 1), 'SAME')


def _plain_norm(x, scale, bias):
  """BatchNorm as flax computes it, with centred values."""
  variables = {'params': {'scale': scale, 'bias': bias}, 'batch_stats': {
      'mean': jnp.zeros_like(scale), 'var': jnp.ones_like(scale)}}
  layer = nn.BatchNorm(use_running_average=False, epsilon=_EPSILON,
                       use_fast_variance=False, dtype=x.dtype)
  return layer.apply(variables, x, mutable=['batch_stats'])[0]


def _plain_dropout(x):
  keep = jax.random.bernoulli(jax.random.key(0), _KEEP, x.shape)
  return jnp.where(keep, x / _KEEP, 0)


CASES = {
    'conv 7x7/2 of 3 channels': _conv_case(
        (10, 227, 227, 3), (7, 7, 3, 32), (2, 2)),
    'conv 3x3': _conv_case((32, 32, 32, 128), (3, 3, 128, 256)),
    'conv 1x1': _conv_case((8, 56, 56, 64), (1, 1, 64, 256)),
    'conv 3x3, depthwise': _conv_case(
        (16, 56, 56, 144), (3, 3, 1, 144), groups=144),
    'conv 3x3/2, depthwise': _conv_case(
        (16, 112, 112, 96), (3, 3, 1, 96), (2, 2), groups=96),
    'conv_transpose 2x2/2': _transpose_case(
        (16, 16, 16, 256), (2, 2, 256, 128), 'SAME'),
    'conv_transpose 3x3/2': _transpose_case(
        (32, 32, 32, 128), (3, 3, 128, 64), ops.DOUBLING),
    'conv_transpose 3x3/2 to 3 channels': _transpose_case(
        (32, 64, 64, 64), (3, 3, 64, 3), ops.DOUBLING),
    'upsample_conv': Case(
        ops.upsample_conv, _plain_upsample,
        ((16, 16, 16, 256), (3, 3, 256, 256))),
    'dense, few rows': Case(
        ops.dense, lambda x, k: x @ k, ((20, 25088), (25088, 256))),
    'max_pool 2x2/2': _pool_case((16, 128, 128, 64), 2),
    'max_pool 3x3/2': _pool_case((10, 111, 111, 32), 3),
    'batch_norm': Case(
        lambda *arrays: ops.batch_norm(*arrays, _EPSILON)[0], _plain_norm,
        ((16, 112, 112, 96), (96,), (96,))),
    'swish': Case(ops.swish, jax.nn.swish, ((16, 112, 112, 96),)),
    'dropout': Case(
        lambda x: ops.dropout(x, jax.random.key(0), rate=1 - _KEEP),
        _plain_dropout, ((32, 64, 64, 32),), random=True),
}


def run(args) -> dict[str, Any]:
  """Returns the rows of `--what=operations`."""
  return {'dtype': args.dtype, 'rows': [
      measure(name, CASES[name], args.dtype, args.repeats) for name in CASES]}


def measure(
    name: str, case: Case, dtype: str, repeats: int) -> dict[str, Any]:
  """Returns one row: median milliseconds of both forms, and how far apart.

  Raises:
    RuntimeError: If they differ by more than rounding.
  """
  rng = np.random.default_rng(0)
  x, *weights = (rng.normal(size=shape).astype(np.float32)
                 for shape in case.shapes)
  # As in a network: kernels keep the scale and have the type of the input,
  # what BatchNorm learns is float32.
  arrays = [jnp.asarray(x, dtype), *(
      jnp.asarray(w / np.sqrt(np.prod(w.shape[:-1])),
                  'float32' if w.ndim == 1 else dtype) for w in weights)]
  shape = jax.eval_shape(case.ours, *arrays).shape
  arrays.append(jnp.asarray(rng.normal(size=shape), dtype))
  lowered = {form: jax.jit(_with_gradient(function)).lower(*arrays)
             for form, function in (('ours', case.ours), ('plain', case.plain))}
  row = {'operation': name, 'input': 'x'.join(map(str, case.shapes[0]))}
  if lowered['ours'].as_text() == lowered['plain'].as_text():
    return row | {'difference': 'one program'}
  programs = {form: each.compile() for form, each in lowered.items()}
  if not case.random:
    row['difference'] = _difference(
        *(programs[form](*arrays) for form in ('ours', 'plain')))
    if not row['difference'] <= _TOLERANCES[dtype]:
      raise RuntimeError(
          f'{name}: our form and the plain one differ by '
          f'{row["difference"]:.3g}, more than {_TOLERANCES[dtype]:g}; there '
          'is nothing to time.')
  times = _in_turns(programs, arrays, repeats)
  return row | {f'{form}, ms': 1e3 * value for form, value in times.items()} | {
      'plain / ours': times['plain'] / times['ours']}


def _with_gradient(function):
  """Returns a function of (arrays, g) -> value and gradients along g."""
  def both(*arrays):
    y, back = jax.vjp(function, *arrays[:-1])
    return y, back(arrays[-1].astype(y.dtype))
  return both


def _difference(ours, plain) -> float:
  return max(
      float(jnp.abs(a.astype('float32') - b.astype('float32')).max()
            / jnp.abs(b.astype('float32')).max())
      for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain),
                      strict=True))


def _in_turns(programs, arrays, repeats) -> dict[str, float]:
  """Returns the median seconds of each program."""
  def turn(program, times):
    began = time.perf_counter()
    for _ in range(times):
      out = program(*arrays)
    jax.block_until_ready(out)
    return (time.perf_counter() - began) / times
  for program in programs.values():
    turn(program, 2)
  slowest = max(turn(program, 2) for program in programs.values())
  times = max(1, round(_TURN_SECONDS / slowest))
  seconds = {form: [] for form in programs}
  for _ in range(repeats):
    for form, program in programs.items():
      seconds[form].append(turn(program, times))
  return {form: float(np.median(x)) for form, x in seconds.items()}


def report(results: dict[str, Any], out) -> str:
  """Returns the Markdown report."""
  del out  # There is no figure.
  return f"""# Operations against their plain forms

Command: `{results['command']}`

Machine: {results['machine']}; load average at the start
{results['load_average']:.1f}; {results['seconds']:.0f} s. {results['dtype']}.
Medians of the value and all gradients of one operation, in turns; above 1 ours
is faster. The difference is the largest over the largest entry, of value and
gradients. "One program": on this machine the plain form is the one chosen.

{tables.markdown(results['rows'])}"""
