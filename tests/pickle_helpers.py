"""PyTorch's two layouts of a file, written by hand from their description."""

import collections
import io
import pickle
import struct
import zipfile


class Named:
  """Pickles as a call of a named object of another module."""

  def __init__(self, name, *args):
    self.name, self.args = name, args


class Storage:
  """A flat array that tensors are views of."""

  def __init__(self, key, size, view):
    self.id = ('storage', Global('torch FloatStorage'), key, 'cpu', size)
    self.id += (None,) if view else ()


class Global:
  """Pickles as the name of an object of another module."""

  def __init__(self, name):
    self.name = name


class Pickler(pickle._Pickler):  # pylint: disable=protected-access
  """Writes names of modules that are not installed."""
  dispatch = dict(pickle._Pickler.dispatch)

  def persistent_id(self, obj):
    return obj.id if isinstance(obj, Storage) else None

  def save_global(self, obj, name=None):
    if not isinstance(obj, (Global, Named)):
      return super().save_global(obj, name)
    self.write(b'c' + obj.name.replace(' ', '\n').encode() + b'\n')

  def save_named(self, obj):
    self.save_global(obj)
    self.save(obj.args)
    self.write(pickle.REDUCE)

  dispatch[Global] = save_global
  dispatch[Named] = save_named


def pickled(obj):
  """The bytes of an object."""
  stream = io.BytesIO()
  Pickler(stream, 2).dump(obj)
  return stream.getvalue()


def torch_bytes(arrays, kind, state=None):
  """A file of PyTorch's zip or older layout that holds float32 arrays."""
  if state is None:
    state = collections.OrderedDict()
    for key, (name, array) in enumerate(arrays.items()):
      state[name] = Named(
          'torch._utils _rebuild_tensor_v2',
          Storage(str(key), array.size, kind == 'pth'), 0, array.shape,
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
