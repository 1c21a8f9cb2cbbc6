"""Pickled weight files: both layouts, malice, views."""

import numpy as np
import pickle_helpers
import pytest
import weights_helpers

from vision_jax import pretrained
from vision_jax.pretrained import pth


@pytest.mark.parametrize('kind', ['pth', 'zip'])
def test_both_layouts_of_pytorch_load_as_safetensors_does(kind, tmp_path):
  import safetensors.numpy
  stored = weights_helpers.tensors_of('efficientnet_lite0')
  tensors = {key: value.astype(np.float32) for key, value in stored.items()}
  path = tmp_path / 'lite.pth'
  path.write_bytes(pickle_helpers.torch_bytes(tensors, kind))
  other = tmp_path / 'lite.safetensors'
  safetensors.numpy.save_file(tensors, other)
  spec, shapes = weights_helpers.shapes_of('efficientnet_lite0')
  variables = pretrained.load(spec, path, shapes)
  weights_helpers.assert_same(variables, pretrained.load(spec, other, shapes))
  np.testing.assert_array_equal(
      variables['params']['predictions']['kernel'], tensors['_fc.weight'].T)
  tensors['_fc.bios'] = tensors.pop('_fc.bias')
  path.write_bytes(pickle_helpers.torch_bytes(tensors, kind))
  with pytest.raises(ValueError, match='missing _fc.bias(.|\n)*_fc.bios'):
    pretrained.load(spec, path, shapes)


@pytest.mark.parametrize('kind', ['pth', 'zip'])
@pytest.mark.parametrize('name', [
    'os system', 'posix system', 'builtins eval', 'builtins getattr',
    'subprocess Popen', 'torch load', 'torch.serialization _load',
    'numpy.core.multiarray _reconstruct', 'collections Counter'])
def test_pickled_code_is_refused_by_name_and_not_run(kind, name, tmp_path):
  victim = tmp_path / 'victim'
  state = {'a': pickle_helpers.Named(name, f'touch {victim}')}
  path = tmp_path / 'evil.pth'
  path.write_bytes(pickle_helpers.torch_bytes({}, kind, state))
  with pytest.raises(ValueError, match=name.replace(' ', '.')):
    pretrained.read(path)
  assert not victim.exists()


@pytest.mark.parametrize('offset, shape, strides', [
    (0, (4,), (1,)), (1, (3,), (1,)), (0, (2,), (-1,)), (-1, (1,), (1,)),
    (0, (2, 2), (2, 1)), (0, (2,), (1, 1))])
def test_view_beyond_its_storage_is_an_error(offset, shape, strides, tmp_path):
  state = {'a': pickle_helpers.Named(
      'torch._utils _rebuild_tensor_v2',
      pickle_helpers.Storage('0', 3, True), offset, shape, strides, False, {})}
  path = tmp_path / 'x.pth'
  path.write_bytes(pickle_helpers.torch_bytes(
      {'a': np.zeros(3, np.float32)}, 'pth', state))
  with pytest.raises(ValueError):
    pth.read(path)


def test_the_oldest_form_of_a_tensor_is_read(tmp_path):
  array = np.arange(6, dtype=np.float32).reshape(2, 3)
  state = {'a': pickle_helpers.Named(
      'torch._utils _rebuild_tensor', pickle_helpers.Storage('0', 6, True), 0,
      (2, 3), (3, 1))}
  path = tmp_path / 'x.pth'
  path.write_bytes(pickle_helpers.torch_bytes({'a': array}, 'pth', state))
  np.testing.assert_array_equal(pth.read(path).tensors['a'], array)
