"""Keras' HDF5 weight files, without Keras.

Three layouts: the published downloads (Keras 1 and 2), the legacy layout that
Keras 3 still writes (`model.save('x.h5')`), and Keras 3's `.weights.h5`. All
come out under the names 'layer/role' of Keras 3. A model nested in another,
and the weights of an optimiser, are not read.
"""

import pathlib
import re

import h5py
import numpy as np

from vision_jax import pretrained

# Names in published files -> names in today's Keras.
_LAYERS = {'fc1000': 'predictions', 'probs': 'predictions',
           'Logits': 'predictions'}
_ROLES = {'depthwise_kernel': 'kernel', 'W_1': 'kernel', 'b_1': 'bias'}
# Order of the variables of a layer in `.weights.h5`, by class.
_BY_CLASS = {
    'conv2d': ('kernel', 'bias'),
    'depthwise_conv2d': ('kernel', 'bias'),
    'dense': ('kernel', 'bias'),
    'batch_normalization': ('gamma', 'beta', 'moving_mean', 'moving_variance'),
    'layer_normalization': ('gamma', 'beta'),
    'normalization': ('mean', 'variance', 'count'),
    'layer_scale': ('gamma',),
}


def read(path: pathlib.Path) -> pretrained.File:
  """Reads a Keras weight file of any of the three layouts.

  Raises:
    ValueError: the file is truncated, corrupt or of another layout, or its
      list of tensors and its tensors disagree.
  """
  try:
    with h5py.File(path, 'r') as root:
      if 'layers' in root and 'layer_names' not in root.attrs:
        return _read_weights_h5(root)
      group = root['model_weights'] if 'model_weights' in root else root
      return _read_legacy(path, group)
  except (OSError, RuntimeError, KeyError) as error:
    raise ValueError(
        f'{path} is truncated, corrupt or no Keras weight file: {error}'
    ) from error


def _key(layer: str, role: str) -> str:
  layer = layer.replace('/', '_')  # 'conv1/bn' in the published DenseNet
  layer = _LAYERS[layer] if layer in _LAYERS else layer
  # Keras numbers what has no name of its own as a process creates it.
  layer = re.sub(r'^((layer_)?normalization)_\d+$', r'\1', layer)
  if layer.endswith('layer_scale'):
    role = re.sub(r'^[vV]ariable(_\d+)?$', 'gamma', role)
  return f'{layer}/{_ROLES[role] if role in _ROLES else role}'


def _put(tensors, key, array):
  """Adds a tensor, depthwise kernels as [h, w, 1, C] for Keras' [h, w, C, 1].

  ConvNeXt's 'depthwise_conv' is a grouped Conv2D and has our axes already.
  """
  if re.search(r'(dwconv|depthwise)/kernel$', key) and array.ndim == 4:
    array = array.swapaxes(2, 3)
  if key in tensors:
    raise KeyError(f'two tensors are named {key}')
  tensors[key] = array


def _datasets(group) -> dict[str, h5py.Dataset]:
  """All data sets below a group, by their path in it."""
  found = {}
  group.visititems(lambda name, item: found.update(
      {name: item} if isinstance(item, h5py.Dataset) else {}))
  return found


def _attribute(group, name: str) -> list[str]:
  """Reads a list of names; Keras splits a long one into name0, name1, ..."""
  parts = [name] if name in group.attrs else sorted(
      (key for key in group.attrs if re.fullmatch(rf'{name}\d+', key)),
      key=lambda key: int(key[len(name):]))
  if not parts:
    raise KeyError(f'{group.name} has no attribute {name}')
  return [
      item.decode() if isinstance(item, bytes) else str(item)
      for part in parts for item in group.attrs[part]]


def _split(layer: str, name: str) -> tuple[str, str]:
  """Splits a tensor's name into layer and role.

  'conv1/kernel:0', 'conv1_1/kernel:0' (a name scope), 'conv1_W_1:0' and
  'Variable:0' are forms of published files; 'stem/stem_conv/kernel' names a
  layer of a Sequential.
  """
  name = name.removesuffix(':0')
  scope, _, role = name.rpartition('/')
  if not scope and role.startswith(f'{layer}_'):
    return layer, role.removeprefix(f'{layer}_')
  if not scope or re.fullmatch(rf'{re.escape(layer)}(_\d+)?', scope):
    return layer, role
  return scope.removeprefix(f'{layer}/'), role


def _read_legacy(path, group) -> pretrained.File:
  layers = _attribute(group, 'layer_names')
  tensors, missing = {}, []
  unlisted = _datasets(group)
  for layer in layers:
    if layer not in group:
      missing.append(layer)
      continue
    for name in _attribute(group[layer], 'weight_names'):
      item = unlisted.pop(f'{layer}/{name}', None)
      if item is None:
        missing.append(f'{layer}/{name}')
      else:
        _put(tensors, _key(*_split(layer, name)), np.asarray(item))
  if missing or unlisted:
    raise ValueError(
        f'{path} lists tensors that it does not hold, missing: {missing}; '
        f'extra, held and not listed: {sorted(unlisted)}')
  writer = group.attrs['keras_version'] if (
      'keras_version' in group.attrs) else ''
  writer = writer.decode() if isinstance(writer, bytes) else str(writer)
  return pretrained.File('keras', tensors, tuple(layers), writer)


def _read_weights_h5(root) -> pretrained.File:
  names = {}
  root['layers'].visititems(lambda path, item: names.update(
      {path: item.attrs['name']} if 'name' in item.attrs else {}))
  tensors = {}
  for path, item in _datasets(root['layers']).items():
    if '/seed_generator/' in path:  # of a Dropout; no weight
      continue
    key = path
    owner, _, index = path.rpartition('/')
    kind = re.sub(r'_\d+$', '', owner.removesuffix('/vars').split('/')[-1])
    if owner in names and kind in _BY_CLASS and index.isdigit():
      roles = _BY_CLASS[kind]
      if int(index) < len(roles):
        key = _key(names[owner], roles[int(index)])
    _put(tensors, key, np.asarray(item))
  # Only Keras 3 writes this layout; it does not say which version of it.
  return pretrained.File('keras', tensors, tuple(names.values()), '3')
