"""The committed golden outputs are those that the references give today."""

import importlib.util

import golden
import numpy as np
import pytest
import weights_helpers

pytest.importorskip('keras')
pytest.importorskip('torch')


@pytest.mark.parity
@pytest.mark.parametrize('name', golden.SIZES)
def test_golden_is_current(name):
  if name.endswith('_torch') and not importlib.util.find_spec('torchvision'):
    pytest.skip('torchvision is not installed')
  stored = np.load(weights_helpers.GOLDEN / f'{name}.npz')
  fresh = golden.compute(name)
  assert stored['tensors'] == fresh['tensors']
  for key in ('output', 'preprocessed'):
    assert weights_helpers.relative(stored[key], fresh[key]) < 1e-5
