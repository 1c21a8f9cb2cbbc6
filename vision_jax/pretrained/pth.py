"""PyTorch's state dictionaries, without PyTorch and without running code.

A `.pth` is a pickle, and a pickle is a program. `_Unpickler` knows the few
names that a state dictionary needs and refuses every other by name. Two
layouts: the zip archive of PyTorch 1.6 and later, and the older row of pickles
followed by raw storages. The tar archives of before 2017 are not read.
"""

import collections
import io
import pathlib
import pickle
import struct
from typing import Any, NamedTuple
import zipfile

import ml_dtypes
import numpy as np

from vision_jax import pretrained

_MAGIC = 0x1950a86a20f9469cfc6c
_PROTOCOL = 1001
_STORAGES = {
    'DoubleStorage': np.float64, 'FloatStorage': np.float32,
    'HalfStorage': np.float16, 'BFloat16Storage': ml_dtypes.bfloat16,
    'LongStorage': np.int64, 'IntStorage': np.int32, 'ShortStorage': np.int16,
    'CharStorage': np.int8, 'ByteStorage': np.uint8, 'BoolStorage': np.bool_,
}


class _Storage(NamedTuple):
  """A flat array that tensors are views of: by key, read later."""
  key: str
  dtype: Any
  size: int


class _Tensor(NamedTuple):
  """A view of a storage, in elements of it."""
  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


def _rebuild_tensor(storage, offset, shape, strides, *unused):
  return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor, *unused):
  return tensor


_ALLOWED = {
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('torch._utils', '_rebuild_tensor'): _rebuild_tensor,
    ('torch._utils', '_rebuild_tensor_v2'): _rebuild_tensor,
    ('torch._utils', '_rebuild_parameter'): _rebuild_parameter,
    # Types stand for themselves as strings, so that none can be called.
    **{('torch', name): name for name in _STORAGES},
}


class _Unpickler(pickle.Unpickler):
  """Unpickles a state dictionary; refuses what is not in `_ALLOWED`."""

  def find_class(self, module, name):
    if (module, name) not in _ALLOWED:
      raise pickle.UnpicklingError(
          f'refused {module}.{name}, which no state dictionary needs')
    return _ALLOWED[module, name]

  def persistent_load(self, pid):
    kind, dtype, key, _, size, *view = pid
    if kind != 'storage' or dtype not in _STORAGES or any(
        part is not None for part in view):
      raise pickle.UnpicklingError(f'refused a reference to {kind} {dtype}')
    return _Storage(str(key), np.dtype(_STORAGES[dtype]), int(size))


def read(path: pathlib.Path) -> pretrained.File:
  """Reads a state dictionary.

  Raises:
    ValueError: the file is truncated, corrupt, of another layout, holds
      anything but tensors, or names something that is not allowed.
  """
  try:
    if zipfile.is_zipfile(path):
      state, data = _read_zip(path)
    else:
      state, data = _read_legacy(path)
    tensors = {name: _view(name, item, data) for name, item in state.items()}
  # A damaged pickle can fail in any of these ways.
  except (
      pickle.UnpicklingError, zipfile.BadZipFile, EOFError, OSError, KeyError,
      AttributeError, TypeError, ValueError, IndexError, struct.error,
      UnicodeDecodeError, OverflowError, MemoryError) as error:
    raise ValueError(
        f'{path} is truncated, corrupt or no state dictionary: {error}'
    ) from error
  return pretrained.File('torch', tensors)


def _view(name, item, data) -> np.ndarray:
  """The array of a tensor, with every bound checked."""
  if not isinstance(name, str) or not isinstance(item, _Tensor):
    raise ValueError(f'{name!r} is no tensor but {type(item).__name__}')
  storage, offset, shape, strides = item
  array = data[storage.key]
  if array.dtype != storage.dtype or array.size != storage.size:
    raise ValueError(f'{name}: its storage has another type or size')
  last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
  if min((offset, *shape, *strides)) < 0 or (
      0 not in shape and last >= array.size):
    raise ValueError(f'{name} reaches beyond its storage')
  return np.lib.stride_tricks.as_strided(
      array[offset:], shape, [s * array.itemsize for s in strides],
      writeable=False)


def _storages(state) -> dict[str, _Storage]:
  return {
      item.storage.key: item.storage for item in state.values()
      if isinstance(item, _Tensor)}


def _read_zip(path):
  with zipfile.ZipFile(path) as archive:
    names = archive.namelist()
    prefix = next(
        name for name in names if name.endswith('data.pkl')
    ).removesuffix('data.pkl')
    order = f'{prefix}byteorder'
    if order in names and archive.read(order) != b'little':
      raise ValueError('big-endian storages are not read')
    state = _Unpickler(io.BytesIO(archive.read(f'{prefix}data.pkl'))).load()
    data = {
        key: np.frombuffer(archive.read(f'{prefix}data/{key}'), storage.dtype)
        for key, storage in _storages(state).items()}
  return state, data


def _read_legacy(path):
  with open(path, 'rb') as file:
    load = lambda: _Unpickler(file, encoding='utf-8').load()
    if load() != _MAGIC or load() != _PROTOCOL:
      raise ValueError('it does not begin as a state dictionary does')
    if not load()['little_endian']:
      raise ValueError('big-endian storages are not read')
    state, keys = load(), load()
    storages = _storages(state)
    data = {}
    for key in keys:
      size, = struct.unpack('<q', file.read(8))
      storage = storages[key]
      if size != storage.size:
        raise ValueError(f'storage {key} has {size} of {storage.size} values')
      data[key] = np.frombuffer(
          file.read(size * storage.dtype.itemsize), storage.dtype)
    if file.read(1):
      raise ValueError('bytes are left over')
  return state, data
