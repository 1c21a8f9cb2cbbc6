"""Estimated costs against formulas and against XLA's own analysis."""

import jax
import jax.numpy as jnp
import pytest
import run_helpers

from vision_jax import costs
from vision_jax import loop
from vision_jax import modes
from vision_jax import onednn
from vision_jax import ops


def _shape(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_products_count_two_each():
  found = costs.estimate(lambda a, b: a @ b, _shape(3, 5), _shape(5, 7))
  assert found.flops == 2 * 3 * 5 * 7
  assert found.peak_bytes == 4 * (15 + 35 + 21)


def test_a_loop_counts_each_time_and_a_branch_once():
  def loop(x, w):
    return jax.lax.scan(lambda c, _: (c @ w, None), x, None, length=10)[0]
  arguments = _shape(8, 8), _shape(8, 8)
  assert costs.estimate(loop, *arguments).flops == 10 * 2 * 8**3
  def branch(x, w):
    return jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w)
  assert costs.estimate(branch, *arguments).flops == 2 * 2 * 8**3


@pytest.mark.parametrize('groups', [1, 4])
def test_convolution_and_gradients_are_those_of_the_formula(groups):
  x, k = _shape(2, 9, 9, 8), _shape(3, 3, 8 // groups, 12)
  def loss(x, k):
    return jax.lax.conv_general_dilated(
        x, k, (1, 1), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=groups).sum()
  forward = 2 * (2 * 7 * 7 * 12) * 3 * 3 * (8 // groups)
  assert costs.estimate(loss, x, k).flops == forward
  # The gradient of the input is a full convolution of the padded map.
  both = costs.estimate(jax.grad(loss, (0, 1)), x, k).flops
  assert both == pytest.approx(forward * (1 + 81 / 49))


def test_reformulations_count_what_the_plain_form_does(monkeypatch):
  def loss(x, k):
    return jnp.square(ops.conv(x, k, padding='VALID')).sum()
  monkeypatch.setattr(onednn, '_available', lambda: False)
  found = []
  for chosen in (True, False):
    monkeypatch.setattr(ops, '_reformulate', lambda chosen=chosen: chosen)
    found.append(costs.estimate(
        jax.grad(loss, (0, 1)), _shape(4, 64, 64, 8), _shape(3, 3, 8, 16),
    ).flops)
  forward = 2 * (4 * 62 * 62 * 16) * 3 * 3 * 8
  assert found[0] == found[1]
  assert found[0] == pytest.approx(forward * (2 + 64**2 / 62**2))


def test_memory_is_near_that_of_the_compiled_program():
  def loss(params, x):
    for w in params:
      x = jnp.tanh(x @ w)
    return jnp.square(x).sum()
  arguments = [_shape(256, 256)] * 6, _shape(1024, 256)
  found = costs.estimate(jax.grad(loss), *arguments).peak_bytes
  memory = jax.jit(jax.grad(loss)).lower(
      *arguments).compile().memory_analysis()
  compiled = (memory.argument_size_in_bytes + memory.output_size_in_bytes
              + memory.temp_size_in_bytes)
  assert 0.5 * compiled <= found <= 2 * compiled


def test_describe_counts_a_step():
  costs_of = lambda size: modes.describe(run_helpers.make_config(
      train__batch_size=size))['step']
  small, large = costs_of(8), costs_of(16)
  assert large['flops'] == 2 * small['flops'] > 0
  assert small['peak_bytes'] < large['peak_bytes'] < 2 * small['peak_bytes']


def test_chosen_steps_are_profiled(tmp_path):
  config = run_helpers.make_config(
      runtime__profile_steps=(2,), train__max_steps=3)
  loop.train(config, tmp_path / 'run')
  profile = tmp_path / 'run' / 'profile'
  assert [path.name for path in profile.iterdir()] == ['step_2']
  assert list(profile.rglob('*.xplane.pb'))
