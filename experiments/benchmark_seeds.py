"""What several seeds cost that train together, against one.

One training step over S states by `vmap`, or as S copies in one program, in
turns with the step of a single one; see `vision_jax.seeds`. Random arrays, as
in `benchmark_workloads`. Compares with nobody.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import benchmark_workloads as workloads
from experiments import tables
from vision_jax import runtime

SEEDS = 5
_STEPS = 20  # Of a turn.


def run(args) -> dict[str, Any]:
  """Returns the rows of `--what=seeds`: one a workload of `--only`."""
  return {'dtype': args.dtype, 'rows': [
      measure(name, args.dtype, args.repeats)
      for name in args.only.split(',')]}


def measure(name: str, dtype: str, repeats: int) -> dict[str, Any]:
  """Returns the median milliseconds of a step of one and of all seeds."""
  config = workloads.make_config(name, dtype=dtype)
  runtime.apply(config.runtime)
  step = workloads.make(name, dtype=dtype)
  keys = jax.random.split(step.key, SEEDS)
  states = jax.jit(jax.vmap(step.task.init))(keys)
  one = lambda state, key: step.task.train_step(state, step.batch, key)
  def unrolled(states, keys):
    outputs = [one(jax.tree.map(lambda leaf: leaf[i], states), keys[i])
               for i in range(SEEDS)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)
  forms = {'one': (one, step.state, step.key),
           'vmap': (jax.vmap(one), states, keys),
           'unroll': (unrolled, states, keys)}
  # Each with a state of its own, which its steps are given to overwrite.
  carries = {form: runtime.copy(state) for form, (_, state, _) in forms.items()}
  compiled = {
      form: jax.jit(function, donate_argnums=0).lower(state, key).compile()
      for form, (function, state, key) in forms.items()}
  seconds = {form: [] for form in forms}
  for turn in range(repeats + 1):
    for form, (_, _, key) in forms.items():
      began = time.perf_counter()
      for _ in range(_STEPS):
        carries[form], _ = compiled[form](carries[form], key)
      jax.block_until_ready(carries[form])
      if turn:  # The first warms up.
        seconds[form].append((time.perf_counter() - began) / _STEPS)
  times = {form: 1e3 * float(np.median(x)) for form, x in seconds.items()}
  return {'workload': name, 'seeds': SEEDS,
          **{f'{form}, ms': value for form, value in times.items()},
          **{f'{form} / one': times[form] / times['one']
             for form in ('vmap', 'unroll')}}


def report(results: dict[str, Any], out) -> str:
  """Returns the Markdown report."""
  del out  # There is no figure.
  return f"""# Several seeds as one program

Command: `{results['command']}`

Machine: {results['machine']}; load average at the start
{results['load_average']:.1f}; {results['seconds']:.0f} s. {results['dtype']}.
A training step of one state, and of {SEEDS} in one program: as a batch
(`vmap`) or as so many copies (`unroll`).

{tables.markdown(results['rows'])}"""
