"""The images whose memory is measured, and the measurement."""

import subprocess
import sys

import pytest

from experiments import benchmark_memory
from vision_jax.data import sources


def test_more_images_are_the_fewer_and_others(tmp_path):
  benchmark_memory._write_images(tmp_path / '4', 12)
  benchmark_memory._link_images(tmp_path / '4', tmp_path / '1', 8)
  few, many = (sources.load(benchmark_memory.make_config(
      tmp_path / name).data) for name in ('1', '4'))
  assert len(few.ids) == 8 and len(many.ids) == 12
  assert set(few.ids) < set(many.ids)
  assert len({many.read(i) for i in range(12)}) == 12


def test_the_peak_is_of_this_process_and_stays():
  # A process of its own: an earlier peak of this one would hide the block.
  program = """if True:
    import numpy as np
    from experiments import benchmark_memory
    print(benchmark_memory.peak_megabytes())
    block = np.ones(60 * 2**17)  # 60 MB
    print(benchmark_memory.peak_megabytes())
    del block
    print(benchmark_memory.peak_megabytes())
  """
  done = subprocess.run(
      [sys.executable, '-c', program], capture_output=True, text=True,
      check=True)
  before, grown, after = (float(line) for line in done.stdout.split())
  # Linux counts pages per core and sums them up late: a few may be missing.
  assert grown - before == pytest.approx(60, abs=3)
  assert after == pytest.approx(grown, abs=1)
