"""The XLA flag that decides how fast convolutions are on a CPU.

XLA since 0.10 hands convolutions to a library that runs most of them on one
core; its older form uses all. Two cores, float32, 10x55x55, 5x5, 32 to 64
channels: 12 ms against 20 ms; 8x56x56, 1x1, 64 to 256: 2.9 ms against 7.6 ms.
A step of the imbalance CNN: with jax 0.11.2 290 ms against 400 ms, with
0.12.0.1 on one core 430 ms against 810 ms.
"""

import os

import jaxlib

_FLAG = '--xla_cpu_experimental_ynn_fusion_type'
# XLA ends the process at a flag that it does not know.
_VERSIONS = ('0.10.', '0.11.', '0.12.')


def set_defaults() -> None:
  """Adds the flag to XLA_FLAGS, unless it is there; before JAX computes."""
  flags = os.environ['XLA_FLAGS'] if 'XLA_FLAGS' in os.environ else ''
  if jaxlib.__version__.startswith(_VERSIONS) and _FLAG not in flags:
    os.environ['XLA_FLAGS'] = f'{flags} {_FLAG}=-individual_convolution'
