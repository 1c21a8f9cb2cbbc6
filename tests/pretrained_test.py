"""Weight files: every layout, strictness, corruption, malice, location."""

import collections
import functools
import hashlib
import http.server
import io
import json
import pathlib
import pickle
import struct
import threading
import zipfile

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights_helpers

from vision_jax import pretrained
from vision_jax.models import backbones
from vision_jax.models import spec as spec_lib
from vision_jax.pretrained import locate
from vision_jax.pretrained import pth


@functools.cache
def shapes_of(name, classes=10):
  spec = backbones.build(name, num_classes=classes)
  return spec, jax.eval_shape(
      lambda: spec.module.init(
          jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))


@functools.cache
def tensors_of(name):
  """{name in the reference's file: array}, from the golden list."""
  golden = np.load(weights_helpers.GOLDEN / f'{name}.npz')
  return {
      key: weights_helpers.tensor(key, tuple(shape))
      for key, shape in json.loads(str(golden['tensors'])).items()}


def by_layer(tensors):
  layers = collections.defaultdict(dict)
  for key, value in tensors.items():
    layers[key.split('/')[0]][key] = value
  return dict(layers)


def assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(name='mobilenet')
def _mobilenet(tmp_path):
  path = tmp_path / 'mobilenet.h5'
  weights_helpers.write_legacy(path, by_layer(tensors_of('mobilenet_v2')))
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
  layers = by_layer(tensors_of(name))
  weights_helpers.write_legacy(tmp_path / 'new.h5', layers)
  weights_helpers.write_legacy(
      tmp_path / 'old.h5', published(name, layers), version='2.1.6')
  spec, shapes = shapes_of(name)
  assert_same(
      pretrained.load(spec, tmp_path / 'old.h5', shapes),
      pretrained.load(spec, tmp_path / 'new.h5', shapes))


def test_published_names_of_vgg(tmp_path):
  layers = {}
  for key, value in tensors_of('vgg16').items():
    layer, role = key.split('/')
    mark = {'kernel': 'W', 'bias': 'b'}[role]
    layers.setdefault(layer, {})[f'{layer}_{mark}_1:0'] = value
  weights_helpers.write_legacy(tmp_path / 'vgg.h5', layers, version='1.2.0')
  spec, shapes = shapes_of('vgg16', 0)
  variables = pretrained.load(spec, tmp_path / 'vgg.h5', shapes)
  np.testing.assert_array_equal(
      variables['params']['block1_conv1']['kernel'],
      tensors_of('vgg16')['block1_conv1/kernel'])


def test_top_level_group_of_a_saved_model_is_found(tmp_path, mobilenet):
  wrapped = tmp_path / 'model.h5'
  with h5py.File(mobilenet) as source, h5py.File(wrapped, 'w') as target:
    group = target.create_group('model_weights')
    for key, value in source.attrs.items():
      group.attrs[key] = value
    for key in source:
      source.copy(key, group)
    target['optimizer_weights/iteration'] = 3
  spec, shapes = shapes_of('mobilenet_v2')
  assert_same(
      pretrained.load(spec, wrapped, shapes),
      pretrained.load(spec, mobilenet, shapes))


def test_classifier_is_left_out_where_there_is_none(mobilenet):
  spec, shapes = shapes_of('mobilenet_v2', 0)
  variables = pretrained.load(spec, mobilenet, shapes)
  assert 'predictions' not in variables['params']
  depthwise = tensors_of('mobilenet_v2')['block_1_depthwise/kernel']
  np.testing.assert_array_equal(
      variables['params']['block_1']['depthwise']['kernel'][:, :, 0],
      depthwise[..., 0])


def test_extra_rescaling_is_folded_into_the_variance(tmp_path):
  layers = by_layer(tensors_of('efficientnet_b0'))
  mean, stddev = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
  layers['normalization'].update({
      'normalization/mean': mean.astype(np.float32),
      'normalization/variance': np.square(stddev).astype(np.float32)})
  spec, shapes = shapes_of('efficientnet_b0')
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
  spec, shapes = shapes_of('mobilenet_v2')
  with pytest.raises(ValueError) as error:
    pretrained.load(spec, mobilenet, shapes)
  assert all(word in str(error.value) for word in words), error.value


def test_one_error_lists_all_tensors(tmp_path):
  layers = by_layer(tensors_of('mobilenet_v2'))
  del layers['Conv1'], layers['block_7_project_BN']
  layers['stowaway'] = {'stowaway/kernel': np.zeros(3)}
  weights_helpers.write_legacy(tmp_path / 'x.h5', layers)
  spec, shapes = shapes_of('mobilenet_v2')
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
  spec, shapes = shapes_of('mobilenet_v2', classes)
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
    path.write_bytes(torch_bytes({'a': np.ones((90, 100), np.float32)}, kind))
  data = path.read_bytes()
  path.write_bytes(data[:int(keep * len(data)) if keep < 1 else keep])
  with pytest.raises(ValueError, match=path.name):
    pretrained.read(path)


# PyTorch's two layouts, written out by hand from their description.


class _Named:
  """Pickles as a call of a named object of another module."""

  def __init__(self, name, *args):
    self.name, self.args = name, args


class _Storage:

  def __init__(self, key, size, view):
    self.id = ('storage', _Global('torch FloatStorage'), key, 'cpu', size)
    self.id += (None,) if view else ()


class _Global:

  def __init__(self, name):
    self.name = name


class _Pickler(pickle._Pickler):  # pylint: disable=protected-access
  """Writes names of modules that are not installed."""
  dispatch = dict(pickle._Pickler.dispatch)

  def persistent_id(self, obj):
    return obj.id if isinstance(obj, _Storage) else None

  def save_global(self, obj, name=None):
    if not isinstance(obj, (_Global, _Named)):
      return super().save_global(obj, name)
    self.write(b'c' + obj.name.replace(' ', '\n').encode() + b'\n')

  def save_named(self, obj):
    self.save_global(obj)
    self.save(obj.args)
    self.write(pickle.REDUCE)

  dispatch[_Global] = save_global
  dispatch[_Named] = save_named


def pickled(obj):
  stream = io.BytesIO()
  _Pickler(stream, 2).dump(obj)
  return stream.getvalue()


def torch_bytes(arrays, kind, state=None):
  """A file of PyTorch's zip or older layout that holds float32 arrays."""
  if state is None:
    state = collections.OrderedDict()
    for key, (name, array) in enumerate(arrays.items()):
      state[name] = _Named(
          'torch._utils _rebuild_tensor_v2',
          _Storage(str(key), array.size, kind == 'pth'), 0, array.shape,
          tuple(s // 4 for s in array.strides), False,
          collections.OrderedDict())
  if kind == 'zip':
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w') as archive:
      archive.writestr('archive/data.pkl', pickled(state))
      archive.writestr('archive/version', '3\n')
      for key, array in enumerate(arrays.values()):
        archive.writestr(f'archive/data/{key}', array.tobytes())
    return stream.getvalue()
  header = (0x1950a86a20f9469cfc6c, 1001, {'little_endian': True})
  return b''.join([
      *map(pickled, header), pickled(state),
      pickled([str(key) for key in range(len(arrays))]),
      *(struct.pack('<q', array.size) + array.tobytes()
        for array in arrays.values())])


@pytest.mark.parametrize('kind', ['pth', 'zip'])
def test_both_layouts_of_pytorch_load_as_safetensors_does(kind, tmp_path):
  import safetensors.numpy
  tensors = {
      key: value.astype(np.float32)
      for key, value in tensors_of('efficientnet_lite0').items()}
  path = tmp_path / 'lite.pth'
  path.write_bytes(torch_bytes(tensors, kind))
  other = tmp_path / 'lite.safetensors'
  safetensors.numpy.save_file(tensors, other)
  spec, shapes = shapes_of('efficientnet_lite0')
  variables = pretrained.load(spec, path, shapes)
  assert_same(variables, pretrained.load(spec, other, shapes))
  np.testing.assert_array_equal(
      variables['params']['predictions']['kernel'], tensors['_fc.weight'].T)
  tensors['_fc.bios'] = tensors.pop('_fc.bias')
  path.write_bytes(torch_bytes(tensors, kind))
  with pytest.raises(ValueError, match='missing _fc.bias(.|\n)*_fc.bios'):
    pretrained.load(spec, path, shapes)


@pytest.mark.parametrize('kind', ['pth', 'zip'])
@pytest.mark.parametrize('name', [
    'os system', 'posix system', 'builtins eval', 'builtins getattr',
    'subprocess Popen', 'torch load', 'torch.serialization _load',
    'numpy.core.multiarray _reconstruct', 'collections Counter'])
def test_pickled_code_is_refused_by_name_and_not_run(kind, name, tmp_path):
  victim = tmp_path / 'victim'
  state = {'a': _Named(name, f'touch {victim}')}
  path = tmp_path / 'evil.pth'
  path.write_bytes(torch_bytes({}, kind, state))
  with pytest.raises(ValueError, match=name.replace(' ', '.')):
    pretrained.read(path)
  assert not victim.exists()


@pytest.mark.parametrize('offset, shape, strides', [
    (0, (4,), (1,)), (1, (3,), (1,)), (0, (2,), (-1,)), (-1, (1,), (1,)),
    (0, (2, 2), (2, 1)), (0, (2,), (1, 1))])
def test_view_beyond_its_storage_is_an_error(offset, shape, strides, tmp_path):
  state = {'a': _Named(
      'torch._utils _rebuild_tensor_v2', _Storage('0', 3, True), offset,
      shape, strides, False, {})}
  path = tmp_path / 'x.pth'
  path.write_bytes(torch_bytes({'a': np.zeros(3, np.float32)}, 'pth', state))
  with pytest.raises(ValueError):
    pth.read(path)


def test_file_of_another_layout_or_ending_is_an_error(tmp_path, mobilenet):
  spec, shapes = shapes_of('efficientnet_lite0')
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


@pytest.fixture(name='cache')
def _cache(tmp_path, monkeypatch):
  folder = tmp_path / 'cache'
  monkeypatch.setenv(locate.CACHE_VARIABLE, str(folder))
  return folder


def test_file_is_found_by_path_then_in_the_cache(cache):
  cache.mkdir()
  data = b'weights'
  digest = f'sha256:{hashlib.sha256(data).hexdigest()}'
  weights = spec_lib.Weights('w.h5', 'https://localhost:1/w.h5', digest)
  own = cache / 'own.h5'
  own.write_bytes(b'mine')
  assert locate.find(weights, path=own) == own
  (cache / 'w.h5').write_bytes(data)
  assert locate.find(weights) == cache / 'w.h5'
  (cache / 'w.h5').write_bytes(b'other')
  with pytest.raises(ValueError, match='w.h5.*published'):
    locate.find(weights)


def test_without_file_and_network_the_error_says_what_to_put_where(cache):
  weights = spec_lib.Weights('w.h5', 'https://localhost:1/w.h5')
  with pytest.raises(FileNotFoundError) as error:
    locate.find(weights)
  for words in ('put the file w.h5 into', str(cache), weights.url):
    assert words in str(error.value)
  weights = spec_lib.Weights('w.pth', '', package=('no_such_package', 'w.pth'))
  with pytest.raises(FileNotFoundError, match='install .* no_such_package'):
    locate.find(weights)
  with pytest.raises(FileNotFoundError, match='no weight file'):
    locate.find(weights, path=cache / 'none.h5')


class _Server(http.server.BaseHTTPRequestHandler):
  """Serves 1,000 bytes, with ranges; breaks off the first request half-way."""
  data = bytes(range(250)) * 4
  ranges = []

  def do_GET(self):
    start = self.headers['Range']
    type(self).ranges.append(start)
    begin = int(start[6:-1]) if start else 0
    self.send_response(206 if start else 200)
    self.send_header('Content-Length', str(len(self.data) - begin))
    self.end_headers()
    end = 500 if len(self.ranges) == 1 else len(self.data)
    self.wfile.write(self.data[begin:end])

  def log_message(self, *args):
    pass


def test_fetch_goes_on_where_it_broke_off(cache, monkeypatch):
  server = http.server.HTTPServer(('127.0.0.1', 0), _Server)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  real = locate.urllib.request.urlopen

  def to_local(request, timeout):
    request.full_url = f'http://127.0.0.1:{server.server_port}/w.h5'
    return real(request, timeout=timeout)

  monkeypatch.setattr(locate.urllib.request, 'urlopen', to_local)
  digest = f'sha256:{hashlib.sha256(_Server.data).hexdigest()}'
  weights = spec_lib.Weights('w.h5', 'https://example.org/w.h5', digest)
  with pytest.raises(FileNotFoundError, match='w.h5'):
    locate.find(weights)
  assert not (cache / 'w.h5').exists()
  assert locate.find(weights).read_bytes() == _Server.data
  server.shutdown()
  assert _Server.ranges == [None, 'bytes=500-']
