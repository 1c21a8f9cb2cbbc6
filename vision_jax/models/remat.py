"""Gradient checkpointing: what is inside a block is computed twice, not kept.

Source: Chen et al. 2016, "Training deep nets with sublinear memory cost",
arXiv:1604.06174. What `nn.remat` does, but that the second computation waits
for the gradient: XLA on a CPU drops the barriers that `nn.remat` relies on,
merges both computations, and keeps everything after all.
"""

from typing import Any, Callable

from flax.core import lift
import flax.linen as nn
import jax
from jax.extend import core as extend


def run(
    function: Callable[[nn.Module, jax.Array], Any], module: nn.Module,
    x: jax.Array) -> Any:
  """Returns `function(module, x)`, of which the gradient keeps x alone.

  Parameters, statistics and random numbers are those of a plain call.
  """
  return nn.transforms.lift_direct_transform(_lift, (function,), module, x)


def _lift(call, scopes, x):
  """Calls `call(scopes, x)` with `checkpoint` around it."""
  def inner(scope_fn, repack, variables, rngs, x):
    def pure(variables, rngs, x):
      scope = scope_fn(variables, rngs)
      return call(scope, x), repack(scope)
    return checkpoint(pure, variables, rngs, x)
  return lift.pack(
      inner, (True,), (True,), (True,), name='remat')(scopes, x)


def checkpoint(function, *args):
  """Returns `function(*args)`; its gradient needs nothing else than `args`.

  Args:
    function: Of arrays; it is traced once, so that random numbers that follow
      from a counter are the same when it is computed again.
    *args: The last one is a float array.
  """
  closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
  def call(*args):
    flat = extend.jaxpr_as_fun(closed)(*jax.tree.leaves(args))
    return jax.tree.unflatten(jax.tree.structure(shape), flat)
  def backward(args, gradients):
    *others, x = args
    # The result is x, but not before there is a gradient.
    gradient = jax.tree.leaves(gradients)[0]
    x = x + 0 * gradient.ravel()[0].astype(x.dtype)
    return jax.vjp(call, *others, x)[1](gradients)
  run_ = jax.custom_vjp(call)
  run_.defvjp(lambda *args: (call(*args), args), backward)
  return run_(*args)
