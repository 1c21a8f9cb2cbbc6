"""What a report says of the runs that it starts from."""

import run_helpers
from experiments import origins
from vision_jax import writers


def test_a_run_is_named_with_what_it_changes(tmp_path):
  writers.prepare(tmp_path, run_helpers.make_config(
      name='small', model__features=(4, 8), report__progress=False))
  text = origins.describe({'b1': tmp_path})
  assert text.startswith('\n## The runs\n\n- `b1`: config `small` with `')
  assert 'model.features=(4, 8)' in text
  # It does not matter to the network.
  assert 'report.' not in text


def test_without_runs_there_is_no_part():
  assert origins.describe({}) == ''
