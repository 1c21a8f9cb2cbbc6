"""What a function costs, read from its trace: operations and memory.

Nothing is compiled or run. XLA's own analysis counts the body of a loop once,
however often it runs, so it would miss most of the reformulations of
cpu_conv.py.
"""

import math
from typing import Any, Callable, NamedTuple

import jax
from jax.extend import core
from jax.interpreters import partial_eval

from vision_jax import onednn
from vision_jax import onednn_api


class Costs(NamedTuple):
  """Costs of one call.

  Attributes:
    flops: Operations of matrix products and convolutions, a multiplication
      and an addition being two; all else is small beside them.
    peak_bytes: Most bytes alive at once, arguments and results included, if
      operations ran one by one. A compiler that fuses needs less, one that
      reorders or copies more.
  """
  flops: float
  peak_bytes: int


def estimate(function: Callable[..., Any], *arguments) -> Costs:
  """Returns the costs of `function(*arguments)`.

  Args:
    function: A function of arrays.
    *arguments: Trees of arrays or of `jax.ShapeDtypeStruct`s.
  """
  jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
  # A trace of gradients holds what no result needs; no compiler runs that.
  jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return Costs(_flops(jaxpr), _peak_bytes(jaxpr))


def _inner(equation) -> list[core.Jaxpr]:
  """Returns the programs that an equation runs."""
  found = []
  for value in equation.params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(item, core.ClosedJaxpr):
        found.append(item.jaxpr)
      elif isinstance(item, core.Jaxpr):
        found.append(item)
  return found


def _flops(jaxpr: core.Jaxpr) -> float:
  total = 0.0
  for equation in jaxpr.eqns:
    name, inner = equation.primitive.name, list(map(_flops, _inner(equation)))
    if name == 'dot_general':
      total += _dot_flops(equation)
    elif name == 'conv_general_dilated':
      total += _conv_flops(equation)
    elif name == 'ffi_call' and equation.params['target_name'].startswith(
        onednn.PREFIX):
      total += _library_flops(equation)
    elif name == 'scan':
      total += equation.params['length'] * sum(inner)
    elif name == 'cond':
      total += max(inner)
    else:
      total += sum(inner)
  return total


def _dot_flops(equation) -> float:
  (contracted, _), _ = equation.params['dimension_numbers']
  shape = equation.invars[0].aval.shape
  return 2.0 * equation.outvars[0].aval.size * math.prod(
      shape[axis] for axis in contracted)


def _conv_flops(equation) -> float:
  """Counts padding as products, but no zeros between dilated pixels."""
  kernel = equation.invars[1].aval
  features = kernel.shape[equation.params['dimension_numbers'].rhs_spec[0]]
  return (2.0 * equation.outvars[0].aval.size * kernel.size / features
          / math.prod(equation.params['lhs_dilation']))


def _library_flops(equation) -> float:
  """Counts a convolution of `onednn`, or one of its gradients."""
  arrays = [v.aval for v in (*equation.invars, *equation.outvars)]
  kind = equation.params['target_name'].removeprefix(onednn.PREFIX)
  # Images, kernel and results.
  found = dict(zip(onednn_api.PLACES[kind].values(), arrays, strict=True))
  return 2.0 * found[2].size * found[1].size / found[1].shape[-1]


def _bytes(variables) -> int:
  return sum(v.aval.size * v.aval.dtype.itemsize for v in variables)


def _peak_bytes(jaxpr: core.Jaxpr) -> int:
  """Walks the equations; a value lives until it is last used."""
  last = {}
  for place, equation in enumerate(jaxpr.eqns):
    last |= {v: place for v in equation.invars if isinstance(v, core.Var)}
  last |= {v: len(jaxpr.eqns) for v in jaxpr.outvars
           if isinstance(v, core.Var)}
  living = _bytes((*jaxpr.invars, *jaxpr.constvars))
  peak = living
  for place, equation in enumerate(jaxpr.eqns):
    inside = max((_peak_bytes(inner) - _bytes(inner.invars)
                  for inner in _inner(equation)), default=0)
    results = _bytes(equation.outvars)
    peak = max(peak, living + max(inside, results))
    living += results
    used = {v for v in (*equation.invars, *equation.outvars)
            if isinstance(v, core.Var)}
    # What is never used dies at once.
    living -= _bytes(v for v in used if last.get(v, place) == place)
  return peak
