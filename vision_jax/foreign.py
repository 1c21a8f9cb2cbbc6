"""Functions outside XLA, called from a JAX program on the CPU.

XLA calls a C function with a frame that holds pointers to the arrays: its
foreign function interface, `xla/ffi/api/c_api.h` of jaxlib, whose layout is
kept stable. Here that function is made by ctypes of one in Python, so nothing
has to be compiled.
"""

import atexit
import ctypes
from typing import Callable

import jax

# The version of the interface that the structures below are of.
_VERSION = (0, 3)
_METADATA = 1  # XLA_FFI_Extension_Metadata
_INTERNAL_ERROR = 13
_pointer = ctypes.POINTER


class _Head(ctypes.Structure):
  _fields_ = [('size', ctypes.c_size_t), ('extension', ctypes.c_void_p)]


class _Buffer(_Head):
  _fields_ = [('dtype', ctypes.c_int), ('data', ctypes.c_void_p),
              ('rank', ctypes.c_int64), ('dims', ctypes.c_void_p)]


class _Buffers(_Head):
  _fields_ = [('count', ctypes.c_int64), ('types', ctypes.c_void_p),
              ('values', _pointer(_pointer(_Buffer)))]


class _Array(ctypes.Structure):
  _fields_ = [('dtype', ctypes.c_int), ('count', ctypes.c_size_t),
              ('data', ctypes.c_void_p)]


class _Attributes(_Head):
  _fields_ = [('count', ctypes.c_int64), ('types', ctypes.c_void_p),
              ('names', ctypes.c_void_p),
              ('values', _pointer(_pointer(_Array)))]


class _Frame(ctypes.Structure):
  _fields_ = [('size', ctypes.c_size_t), ('extension', ctypes.c_void_p),
              ('api', ctypes.c_void_p), ('context', ctypes.c_void_p),
              ('stage', ctypes.c_int), ('arguments', _Buffers),
              ('results', _Buffers), ('attributes', _Attributes)]


class _Version(_Head):
  _fields_ = [('major', ctypes.c_int), ('minor', ctypes.c_int)]


class _Metadata(ctypes.Structure):
  _fields_ = [('size', ctypes.c_size_t), ('version', _Version),
              ('traits', ctypes.c_uint32), ('state', ctypes.c_int64)]


class _Extension(ctypes.Structure):
  _fields_ = [('size', ctypes.c_size_t), ('type', ctypes.c_int),
              ('next', ctypes.c_void_p), ('metadata', _pointer(_Metadata))]


class _ErrorArguments(_Head):
  _fields_ = [('message', ctypes.c_char_p), ('code', ctypes.c_int)]


class _Api(_Head):
  _fields_ = [('version', _Version), ('internal', ctypes.c_void_p),
              ('make_error', ctypes.CFUNCTYPE(
                  ctypes.c_void_p, _pointer(_ErrorArguments)))]


_HANDLER = ctypes.CFUNCTYPE(ctypes.c_void_p, _pointer(_Frame))
# Python frees a handler that nothing refers to, and XLA would call it.
_kept = []


@atexit.register
def _wait() -> None:
  """Waits for what is being computed when the process ends.

  A thread of XLA that calls a handler once Python has begun to end is ended
  itself, and XLA would wait for its result for ever: a training that an
  exception ended within a step did not come to an end.
  """
  for array in jax.live_arrays() if _kept else ():
    try:
      array.block_until_ready()
    except RuntimeError:
      pass  # Donated, or its program failed, which whoever read it was told.


def register(name: str, function: Callable[..., None]) -> None:
  """Makes `function` the target `name` of `jax.ffi.ffi_call`.

  Args:
    name: Of the target; within the process it is taken once.
    function: Called with the bytes of the attribute (an array, the only one),
      a tuple of the bytes of each argument's and result's shape (int64), and a
      tuple of their addresses. What it raises ends the JAX program with that
      message.
  """
  def handle(frame):
    frame = frame.contents
    if frame.extension:
      extension = _Extension.from_address(frame.extension)
      if extension.type == _METADATA:
        version = extension.metadata.contents.version
        version.major, version.minor = _VERSION
        return None
    try:
      attribute = frame.attributes.values[0].contents
      buffers = [
          side.values[i].contents for side in (frame.arguments, frame.results)
          for i in range(side.count)]
      function(
          ctypes.string_at(attribute.data, 8 * attribute.count),
          tuple([ctypes.string_at(b.dims, 8 * b.rank) for b in buffers]),
          tuple([b.data for b in buffers]))
    except BaseException as error:  # pylint: disable=broad-except
      # No exception passes through C, not even that of Ctrl-C: ctypes would
      # print it and go on. XLA raises it again as its own.
      return _error(frame.api, f'{name}: {type(error).__name__}: {error}')
    return None

  handler = _HANDLER(handle)
  _kept.append(handler)
  jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform='cpu')


def _error(api, message):
  arguments = _ErrorArguments(
      ctypes.sizeof(_ErrorArguments), None, message.encode(), _INTERNAL_ERROR)
  return _Api.from_address(api).make_error(ctypes.byref(arguments))
