"""oneDNN's C API, version 3, by ctypes: convolutions on arrays of float32.

oneDNN (https://uxlfoundation.github.io/oneDNN) is the library that PyTorch and
TensorFlow convolve with on a CPU. Knows nothing of JAX: it works on addresses.
Images and results lie as [B, H, W, C], kernels as [h, w, C / groups, F].
"""

import ctypes
import os
import pathlib
import threading
from typing import NamedTuple

import numpy as np

# From dnnl_types.h and dnnl_common_types.h.
_CPU, _IN_ORDER, _TRAINING, _DIRECT, _F32, _ANY = 1, 1, 64, 1, 3, 1
_SCRATCH_BY_USER = 1
_SOURCE, _TARGET, _WEIGHTS, _SCRATCH = 1, 17, 33, 80
_SOURCE_GRADIENT, _TARGET_GRADIENT, _WEIGHTS_GRADIENT = 129, 145, 161
_QUERIES = {
    _SOURCE: 129, _SOURCE_GRADIENT: 130, _WEIGHTS: 131,
    _WEIGHTS_GRADIENT: 132, _TARGET: 133, _TARGET_GRADIENT: 134, _SCRATCH: 136}
_MOST_AXES = 12
_ALIGNMENT = 64
# Of waiting in a loop, about as long as it takes to wake a thread up. A step of
# EfficientNetB0 takes 6 to 11 % longer if threads sleep at once.
_ROUNDS = '3000'


class _Argument(ctypes.Structure):
  _fields_ = [('place', ctypes.c_int), ('memory', ctypes.c_void_p)]


class Shapes(NamedTuple):
  """The arrays and the steps of a convolution.

  Attributes:
    images: [B, H, W, C].
    kernel: [h, w, C / groups, F].
    results: [B, H', W', F].
    strides: height and width of a step.
    pads: ((top, bottom), (left, right)).
    groups: groups of channels.
  """
  images: tuple[int, ...]
  kernel: tuple[int, ...]
  results: tuple[int, ...]
  strides: tuple[int, int]
  pads: tuple[tuple[int, int], tuple[int, int]]
  groups: int


class Library:
  """The loaded library, an engine, and one stream of work.

  Args:
    path: Of libdnnl.so.

  Raises:
    OSError: If the library does not load.
  """

  def __init__(self, path: pathlib.Path):
    # Else its threads wait in a loop for the next convolution, on cores that
    # XLA wants meanwhile.
    if 'OMP_WAIT_POLICY' not in os.environ:
      os.environ.setdefault('GOMP_SPINCOUNT', _ROUNDS)
    # What is short keeps Python's lock; to take it back costs more.
    self._held, self._freed = ctypes.PyDLL(str(path)), ctypes.CDLL(str(path))
    self._held.dnnl_primitive_desc_query_md.restype = ctypes.c_void_p
    self._held.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
    # One convolution at a time, on all cores.
    self.lock = threading.Lock()
    self.engine = self.make('engine_create', _CPU, ctypes.c_size_t(0))
    # The library's own scratch memory belongs to the thread that made a
    # primitive, and XLA calls from any.
    self.attributes = self.make('primitive_attr_create')
    self._call('primitive_attr_set_scratchpad_mode', self.attributes,
               _SCRATCH_BY_USER)
    self._stream = self.make('stream_create', self.engine, _IN_ORDER)
    self._scratch = np.empty(0, np.uint8)

  def make(self, name: str, *arguments) -> ctypes.c_void_p:
    """Calls the function dnnl_`name`, which makes an object."""
    made = ctypes.c_void_p()
    self._call(name, ctypes.byref(made), *arguments)
    return made

  def _call(self, name, *arguments):
    _check(getattr(self._held, f'dnnl_{name}')(*arguments), name)

  def describe(self, sizes, strides=None) -> ctypes.c_void_p:
    """Describes an array; without strides, in an order the library chooses."""
    if strides is None:
      return self.make('memory_desc_create_with_tag', len(sizes),
                       _axes(sizes), _F32, _ANY)
    return self.make('memory_desc_create_with_strides', len(sizes),
                     _axes(sizes), _F32, _axes(strides))

  def chosen(self, description, place) -> ctypes.c_void_p:
    """What the library chose for an array of a primitive's `description`."""
    return ctypes.c_void_p(self._held.dnnl_primitive_desc_query_md(
        description, _QUERIES[place], 0))

  def equal(self, one, other) -> bool:
    return bool(self._held.dnnl_memory_desc_equal(one, other))

  def size(self, description) -> int:
    """Bytes of an array, a multiple of the alignment."""
    size = self._held.dnnl_memory_desc_get_size(description)
    return -(-size // _ALIGNMENT) * _ALIGNMENT

  def scratch(self, size: int) -> int:
    """The address of `size` bytes, which the next convolution takes over."""
    if self._scratch.size < size + _ALIGNMENT:
      self._scratch = np.empty(size + _ALIGNMENT, np.uint8)
    return -(-self._scratch.ctypes.data // _ALIGNMENT) * _ALIGNMENT

  def place(self, memory, address: int) -> None:
    """Tells where the array `memory` lies."""
    self._call('memory_set_data_handle', memory, ctypes.c_void_p(address))

  def run(self, primitive, arguments) -> None:
    """Runs a primitive on its arguments, pairs of place and memory."""
    _check(self._freed.dnnl_primitive_execute(
        primitive, self._stream, len(arguments), arguments), 'run')


def _check(status, name):
  if status:
    raise RuntimeError(f'oneDNN: {name} failed with status {status}.')


def _axes(values):
  return (ctypes.c_int64 * _MOST_AXES)(*values)


class Convolution:
  """A convolution or one of its gradients, for arrays of fixed shapes.

  The library chooses the order of kernels, and for a kernel's gradient of
  images and results as well, 1.2 to 2 times as fast; where that is not the
  order of ours, they are copied before or after.

  Args:
    library: The loaded library.
    kind: A key of `PLACES`.
    shapes: Of the arrays.

  Raises:
    RuntimeError: If the library has no such convolution.
  """

  def __init__(self, library: Library, kind: str, shapes: Shapes):
    self._library = library
    sizes = _sizes(shapes)
    ours = [library.describe(*each) for each in sizes]
    description = _primitive(library, kind, shapes, sizes, ours)
    self._bytes = 0
    # Arrays of ours, in the order of `run`'s addresses, and offsets of copies.
    self._outside, self._inside = [], []
    before, after, arguments = [], [], []
    for place, which in PLACES[kind].items():
      theirs = library.chosen(description, place)
      memory = library.make(
          'memory_create', ours[which], library.engine, None)
      self._outside.append(memory)
      if not library.equal(theirs, ours[which]):
        copy = self._on_scratch(theirs)
        if place is _last(kind):
          after.append(self._copy(theirs, ours[which], copy, memory))
        else:
          before.append(self._copy(ours[which], theirs, memory, copy))
        memory = copy
      arguments.append((place, memory))
    self._steps = [*before, self._step(description, arguments), *after]

  def _on_scratch(self, description):
    memory = self._library.make(
        'memory_create', description, self._library.engine, None)
    self._inside.append((memory, self._bytes))
    self._bytes += self._library.size(description)
    return memory

  def _copy(self, source, target, *memory):
    engine = self._library.engine
    description = self._library.make(
        'reorder_primitive_desc_create', source, engine, target, engine,
        self._library.attributes)
    return self._step(description, list(zip((_SOURCE, _TARGET), memory)))

  def _step(self, description, arguments):
    scratch = self._on_scratch(self._library.chosen(description, _SCRATCH))
    arguments = [*arguments, (_SCRATCH, scratch)]
    return (self._library.make('primitive_create', description),
            (_Argument * len(arguments))(*arguments))

  def run(self, addresses: tuple[int, ...]) -> None:
    """Computes; the caller holds the library's lock.

    Args:
      addresses: Of both arguments and the result, as `PLACES` has them.
    """
    start = self._library.scratch(self._bytes)
    for memory, address in zip(self._outside, addresses, strict=True):
      self._library.place(memory, address)
    for memory, offset in self._inside:
      self._library.place(memory, start + offset)
    for step in self._steps:
      self._library.run(*step)


# What each kind reads and, last, writes, and which of images, kernel and
# results that is.
PLACES = {
    'forward': {_SOURCE: 0, _WEIGHTS: 1, _TARGET: 2},
    'input_gradient': {_TARGET_GRADIENT: 2, _WEIGHTS: 1, _SOURCE_GRADIENT: 0},
    'kernel_gradient': {_SOURCE: 0, _TARGET_GRADIENT: 2, _WEIGHTS_GRADIENT: 1}}


def _last(kind):
  return list(PLACES[kind])[-1]


def _primitive(library, kind, shapes, sizes, ours):
  """Describes the primitive of a kind."""
  images, kernel, results = ours
  kernel = library.describe(sizes[1][0])
  if kind == 'kernel_gradient' and shapes.groups == 1:
    images, results = (library.describe(sizes[i][0]) for i in (0, 2))
  (top, bottom), (left, right) = shapes.pads
  steps = [_axes(shapes.strides), _axes((0, 0)), _axes((top, left)),
           _axes((bottom, right))]
  make, attributes = library.make, library.attributes
  forward = make(
      'convolution_forward_primitive_desc_create', library.engine, _TRAINING,
      _DIRECT, images, kernel, None, results, *steps, attributes)
  if kind == 'forward':
    return forward
  if kind == 'input_gradient':
    return make(
        'convolution_backward_data_primitive_desc_create', library.engine,
        _DIRECT, images, kernel, results, *steps, forward, attributes)
  return make(
      'convolution_backward_weights_primitive_desc_create', library.engine,
      _DIRECT, images, kernel, None, results, *steps, forward, attributes)


def _sizes(shapes):
  """Sizes in the library's order, and strides, of the three arrays."""
  height, width, channels, features = shapes.kernel
  strides = (width * channels * features, channels * features)
  if shapes.groups == 1:
    kernel = (features, channels, height, width), (1, features, *strides)
  else:
    each = features // shapes.groups
    kernel = ((shapes.groups, each, channels, height, width),
              (each, 1, features, *strides))
  return _nhwc(shapes.images), kernel, _nhwc(shapes.results)


def _nhwc(shape):
  batch, height, width, channels = shape
  return ((batch, channels, height, width),
          (height * width * channels, 1, width * channels, channels))
