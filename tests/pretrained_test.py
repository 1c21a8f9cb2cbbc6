"""Weight files: Keras' layouts, strictness, corruption, addresses."""

import collections
import hashlib
import pathlib

import h5py
import numpy as np
import pickle_helpers
import pytest
import weights_helpers

from vision_jax import pretrained
from vision_jax.models import backbones


def by_layer(tensors):
  layers = collections.defaultdict(dict)
  for key, value in tensors.items():
    layers[key.split('/')[0]][key] = value
  return dict(layers)


@pytest.fixture(name='mobilenet')
def _mobilenet(tmp_path):
  path = tmp_path / 'mobilenet.h5'
  weights_helpers.write_legacy(
      path, by_layer(weights_helpers.tensors_of('mobilenet_v2')))
  return path


def published(name, layers):
  """The layers under the names that the published files give them."""
  renamed = {}
  for layer, tensors in layers.items():
    outer = {'mobilenet_v2': 'Logits', 'densenet121': 'fc1000'}[name] if (
        layer == 'predictions') else layer
    if name == 'densenet121' and layer in ('conv1_conv', 'conv1_bn'):
      outer = layer.replace('_', '/')
    renamed[outer] = {}
    for key, value in tensors.items():
      role = key.split('/')[-1]
      if layer.endswith('depthwise'):
        role = 'depthwise_kernel'
      renamed[outer][f'{outer}/{role}:0'] = value
  return renamed


@pytest.mark.parametrize('name', ['mobilenet_v2', 'densenet121'])
def test_published_names_load_as_those_of_keras_3(name, tmp_path):
  layers = by_layer(weights_helpers.tensors_of(name))
  weights_helpers.write_legacy(tmp_path / 'new.h5', layers)
  weights_helpers.write_legacy(
      tmp_path / 'old.h5', published(name, layers), version='2.1.6')
  spec, shapes = weights_helpers.shapes_of(name)
  weights_helpers.assert_same(
      pretrained.load(spec, tmp_path / 'old.h5', shapes),
      pretrained.load(spec, tmp_path / 'new.h5', shapes))


def test_published_names_of_vgg(tmp_path):
  layers = {}
  for key, value in weights_helpers.tensors_of('vgg16').items():
    layer, role = key.split('/')
    mark = {'kernel': 'W', 'bias': 'b'}[role]
    layers.setdefault(layer, {})[f'{layer}_{mark}_1:0'] = value
  weights_helpers.write_legacy(tmp_path / 'vgg.h5', layers, version='1.2.0')
  spec, shapes = weights_helpers.shapes_of('vgg16', 0)
  variables = pretrained.load(spec, tmp_path / 'vgg.h5', shapes)
  np.testing.assert_array_equal(
      variables['params']['block1_conv1']['kernel'],
      weights_helpers.tensors_of('vgg16')['block1_conv1/kernel'])


def test_top_level_group_of_a_saved_model_is_found(tmp_path, mobilenet):
  wrapped = tmp_path / 'model.h5'
  with h5py.File(mobilenet) as source, h5py.File(wrapped, 'w') as target:
    group = target.create_group('model_weights')
    for key, value in source.attrs.items():
      group.attrs[key] = value
    for key in source:
      source.copy(key, group)
    target['optimizer_weights/iteration'] = 3
  spec, shapes = weights_helpers.shapes_of('mobilenet_v2')
  weights_helpers.assert_same(
      pretrained.load(spec, wrapped, shapes),
      pretrained.load(spec, mobilenet, shapes))


def test_classifier_is_left_out_where_there_is_none(mobilenet):
  spec, shapes = weights_helpers.shapes_of('mobilenet_v2', 0)
  variables = pretrained.load(spec, mobilenet, shapes)
  assert 'predictions' not in variables['params']
  tensors = weights_helpers.tensors_of('mobilenet_v2')
  depthwise = tensors['block_1_depthwise/kernel']
  np.testing.assert_array_equal(
      variables['params']['block_1']['depthwise']['kernel'][:, :, 0],
      depthwise[..., 0])


def test_extra_rescaling_is_folded_into_the_variance(tmp_path):
  layers = by_layer(weights_helpers.tensors_of('efficientnet_b0'))
  mean, stddev = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
  layers['normalization'].update({
      'normalization/mean': mean.astype(np.float32),
      'normalization/variance': np.square(stddev).astype(np.float32)})
  spec, shapes = weights_helpers.shapes_of('efficientnet_b0')
  graphs = {
      'plain': ('3.15.1', ['rescaling']),
      'extra': ('3.15.1', ['rescaling', 'rescaling_1']),
      'published': ('2.4.0', ['rescaling'])}
  x = weights_helpers.images(8) * 255
  for graph, (version, unweighted) in graphs.items():
    path = tmp_path / f'{graph}.h5'
    weights_helpers.write_legacy(
        path, layers, version=version, unweighted=unweighted)
    stats = pretrained.load(spec, path, shapes)['batch_stats']['normalization']
    actual = (x - 255 * stats['mean']) / 255 / np.sqrt(stats['variance'])
    expected = (x / 255 - mean) / stddev
    if graph != 'plain':
      expected = expected / np.sqrt(stddev)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def _rename(file):
  group = file['block_3_expand/block_3_expand']
  group.move('kernel', 'colonel')


def _rename_listed(file):
  _rename(file)
  file['block_3_expand'].attrs['weight_names'] = [b'block_3_expand/colonel']


def _drop(file):
  del file['block_3_expand/block_3_expand/kernel']
  file['block_3_expand'].attrs['weight_names'] = np.array([], 'S1')


def _reshape(file):
  del file['block_3_expand/block_3_expand/kernel']
  file['block_3_expand/block_3_expand/kernel'] = np.zeros((1, 1, 3, 144))


def _poison(file):
  file['block_3_expand/block_3_expand/kernel'][0, 0, 0, 0] = np.nan


@pytest.mark.parametrize('change, words', [
    (_rename, ('missing', 'block_3_expand/kernel', 'colonel')),
    (_rename_listed, ('missing block_3_expand/kernel', 'extra', 'colonel')),
    (_drop, ('missing block_3_expand/kernel',)),
    (_reshape, ('misshapen block_3_expand/kernel', '(1, 1, 3, 144)')),
    (_poison, ('not finite block_3_expand/kernel',))])
def test_changed_keras_file_is_an_error_that_names_the_tensor(
    mobilenet, change, words):
  with h5py.File(mobilenet, 'a') as file:
    change(file)
  spec, shapes = weights_helpers.shapes_of('mobilenet_v2')
  with pytest.raises(ValueError) as error:
    pretrained.load(spec, mobilenet, shapes)
  assert all(word in str(error.value) for word in words), error.value


def test_one_error_lists_all_tensors(tmp_path):
  layers = by_layer(weights_helpers.tensors_of('mobilenet_v2'))
  del layers['Conv1'], layers['block_7_project_BN']
  layers['stowaway'] = {'stowaway/kernel': np.zeros(3)}
  weights_helpers.write_legacy(tmp_path / 'x.h5', layers)
  spec, shapes = weights_helpers.shapes_of('mobilenet_v2')
  with pytest.raises(ValueError, match='6 tensors') as error:
    pretrained.load(spec, tmp_path / 'x.h5', shapes)
  for name in ('Conv1/kernel', 'block_7_project_BN/gamma', 'stowaway/kernel'):
    assert name in str(error.value)


@pytest.mark.parametrize('classes', [0, 10])
def test_renamed_tensor_of_a_classifier_is_an_error(mobilenet, classes):
  with h5py.File(mobilenet, 'a') as file:
    file['predictions/predictions'].move('bias', 'bios')
    file['predictions'].attrs['weight_names'] = [
        b'predictions/kernel', b'predictions/bios']
  spec, shapes = weights_helpers.shapes_of('mobilenet_v2', classes)
  with pytest.raises(ValueError, match='extra predictions/bios'):
    pretrained.load(spec, mobilenet, shapes)


@pytest.mark.parametrize('keep', [0, 10, 3000, 0.5, 0.999])
@pytest.mark.parametrize('kind', ['h5', 'pth', 'zip', 'safetensors'])
def test_truncated_file_is_an_error(kind, keep, tmp_path, mobilenet):
  if kind == 'h5':
    path = mobilenet
  elif kind == 'safetensors':
    import safetensors.numpy
    path = tmp_path / 'x.safetensors'
    safetensors.numpy.save_file({'a': np.ones(9000, np.float32)}, path)
  else:
    path = tmp_path / 'x.pth'
    path.write_bytes(pickle_helpers.torch_bytes(
        {'a': np.ones((90, 100), np.float32)}, kind))
  data = path.read_bytes()
  path.write_bytes(data[:int(keep * len(data)) if keep < 1 else keep])
  with pytest.raises(ValueError, match=path.name):
    pretrained.read(path)


def test_file_of_another_layout_or_ending_is_an_error(tmp_path, mobilenet):
  spec, shapes = weights_helpers.shapes_of('efficientnet_lite0')
  with pytest.raises(ValueError, match='keras.*published in that of torch'):
    pretrained.load(spec, mobilenet, shapes)
  (tmp_path / 'x.npz').write_bytes(b'')
  with pytest.raises(ValueError, match='ends in .h5'):
    pretrained.read(tmp_path / 'x.npz')
  with pytest.raises(FileNotFoundError, match='nowhere.h5'):
    pretrained.read(tmp_path / 'nowhere.h5')


def test_every_weight_file_has_an_address_or_a_package():
  for name in backbones.NAMES:
    for weights in backbones.build(name).weights.values():
      assert weights.url.startswith('https://') or weights.package
      assert pathlib.PurePath(weights.file).suffix in (
          '.h5', '.pth', '.safetensors')
      algorithm, _, digest = weights.digest.partition(':')
      # torchvision publishes the first eight digits.
      whole = 2 * hashlib.new(algorithm).digest_size if digest else 0
      assert len(digest) == (
          8 if 'download.pytorch.org' in weights.url else whole)


