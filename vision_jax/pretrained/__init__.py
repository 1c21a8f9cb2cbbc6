"""Published weights into variables: strictly, or not at all.

`load` fills a backbone's variables from a weight file. A tensor that is
missing, left over, of another shape or not finite is an error that lists all
of them; nothing is ever loaded in part. Nothing here needs TensorFlow, Keras
or PyTorch, and nothing in a file is ever executed.
"""

from collections.abc import Mapping
import pathlib
from typing import Any, NamedTuple

from flax import traverse_util
import jax.numpy as jnp
import numpy as np


class File(NamedTuple):
  """The contents of a weight file.

  Attributes:
    layout: 'keras' or 'torch'.
    tensors: name -> array. Keras: 'layer/role', every layout's names brought
      to those of Keras 3. Torch: the names of the state dictionary.
    layers: names of the layers of the graph, where the file lists them.
    writer: version of the software that wrote it, where the file says so.
  """
  layout: str
  tensors: dict[str, np.ndarray]
  layers: tuple[str, ...] = ()
  writer: str = ''


_NORM_ROLES = {
    'keras': {
        'scale': 'gamma', 'bias': 'beta', 'mean': 'moving_mean',
        'var': 'moving_variance'},
    'torch': {
        'scale': 'weight', 'mean': 'running_mean', 'var': 'running_var'},
}
_ROLES = {'keras': {}, 'torch': {'kernel': 'weight'}}
_JOINERS = {'keras': '/', 'torch': '.'}


def read(path: str | pathlib.Path) -> File:
  """Reads a weight file: `.h5`, `.safetensors`, `.pth` or `.pt`.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: its name ends otherwise, or it is truncated or corrupt.
  """
  # Each reader loads its own library, and only when a file asks for it.
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f'no weight file {path}')
  if path.suffix in ('.h5', '.hdf5'):
    from vision_jax.pretrained import keras_h5
    return keras_h5.read(path)
  if path.suffix == '.safetensors':
    from vision_jax.pretrained import safetensors_file
    return safetensors_file.read(path)
  if path.suffix in ('.pth', '.pt'):
    from vision_jax.pretrained import pth
    return pth.read(path)
  raise ValueError(
      f'{path}: a weight file ends in .h5, .safetensors, .pth or .pt')


def _name(layout, layer_name, path, paths):
  """Name in the file of the leaf at `path`, a tuple without collection."""
  *module, leaf = path
  norm = any((*module, 'scale') == other for other in paths)
  roles = (_NORM_ROLES if norm else _ROLES)[layout]
  layer = layer_name(tuple(module)) if module else ''
  role = roles[leaf] if leaf in roles else leaf
  return f'{layer}{_JOINERS[layout]}{role}' if layer else role


def _arrange(layout, array, leaf):
  """Brings an array to the axes that the leaf of that name has here."""
  if layout == 'torch' and leaf == 'kernel':
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
  return array


def _ignored(spec, layout, names):
  """Names that a file may hold besides `names`, the wanted ones.

  The classifier's, where the backbone has none, and PyTorch's step counts.
  """
  joiner, roles = _JOINERS[layout], _ROLES[layout]
  layers = {name.rpartition(joiner)[0] for name in names}
  weight = roles['kernel'] if 'kernel' in roles else 'kernel'
  heads = () if layers & set(spec.head) else spec.head
  return {f'{layer}{joiner}{role}' for layer in heads
          for role in (weight, 'bias')} | {
              f'{layer}.num_batches_tracked' for layer in layers
              if f'{layer}.running_mean' in names}


def load(
    spec, path: str | pathlib.Path, variables: Mapping[str, Any],
) -> dict[str, Any]:
  """Fills a backbone's variables from a weight file.

  A classifier in the file is left out where the backbone has none.

  Args:
    spec: `vision_jax.models.spec.Spec` that the variables belong to.
    path: weight file in a layout that `spec.layer_names` knows.
    variables: variables of the module or their shapes (`jax.eval_shape`).

  Returns:
    Variables of the same structure, shapes and types.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is corrupt, of another layout, or does not hold
      exactly these variables; the message lists every tensor at fault.
  """
  file = read(path)
  if file.layout not in spec.layer_names:
    remedy = (": torchvision's files belong to the names that end in _torch"
              if file.layout == 'torch' else '')
    raise ValueError(
        f'{path} has the layout of {file.layout}; {spec.name} is published in '
        f'that of {" and ".join(spec.layer_names)}{remedy}')
  tensors = spec.adapt(file)
  wanted = traverse_util.flatten_dict(dict(variables))
  paths = {key[1:] for key in wanted}
  names = {
      key: _name(file.layout, spec.layer_names[file.layout], key[1:], paths)
      for key in wanted}
  found, problems = {}, []
  for key, leaf in wanted.items():
    name = names[key]
    if name not in tensors:
      problems.append(f'missing {name} for {"/".join(key)}')
      continue
    array = _arrange(file.layout, tensors[name], key[-1])
    if name in spec.fit:
      array = spec.fit[name](array, leaf.shape)
    if array.shape != leaf.shape:
      problems.append(
          f'misshapen {name}: {array.shape}, where {"/".join(key)} is '
          f'{leaf.shape}')
    elif not np.all(np.isfinite(array)):
      problems.append(f'not finite {name}')
    else:
      found[key] = jnp.asarray(array, leaf.dtype)
  names = set(names.values())
  known = names | _ignored(spec, file.layout, names)
  problems += [
      f'extra {name} {array.shape}' for name, array in tensors.items()
      if name not in known]
  if problems:
    raise ValueError(
        f'{path} does not hold the weights of {spec.name} '
        f'({len(problems)} tensors):\n  ' + '\n  '.join(problems))
  return traverse_util.unflatten_dict(found)
