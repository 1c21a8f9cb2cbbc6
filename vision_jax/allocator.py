"""Keeps freed memory in the process, for speed on a CPU.

XLA allocates its temporaries anew each step. The C library returns large
blocks to the kernel at once and the next step faults in every page again.
Does nothing where the C library is not glibc.
"""

import ctypes
import platform

# From malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
  """Lets malloc reuse what the process freed; returns whether it does.

  Call it once, before any thread starts. The process then holds the most
  memory it ever needed. Measured on two cores: writing 67 MB takes 3 ms
  instead of 33 ms, a convolution with that output 18 ms instead of 48 ms.
  """
  if platform.libc_ver()[0] != 'glibc':
    return False
  mallopt = ctypes.CDLL(None).mallopt
  settings = {
      _M_TRIM_THRESHOLD: -1,  # never give back
      _M_TOP_PAD: 64 << 20,
      _M_MMAP_MAX: 0,  # no mapping that would be unmapped when freed
      _M_ARENA_MAX: 1,  # one pool for all threads
  }
  return all([mallopt(name, value) for name, value in settings.items()])
