"""What the processor can do, where that decides which form is faster."""

import functools
import pathlib

_CPUINFO = pathlib.Path('/proc/cpuinfo')


@functools.cache
def vectors() -> str:
  """Returns the widest vectors: AVX-512, AVX2, or '' where Linux is silent."""
  known = set(_CPUINFO.read_text().split()) if _CPUINFO.exists() else set()
  for flag, name in (('avx512f', 'AVX-512'), ('avx2', 'AVX2')):
    if flag in known:
      return name
  return ''
