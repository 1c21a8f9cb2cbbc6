"""The images whose memory is measured, and the measurement."""

import numpy as np

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
  before = benchmark_memory.peak_megabytes()
  block = np.ones(60 * 2**17)  # 60 MB
  grown = benchmark_memory.peak_megabytes()
  del block
  assert benchmark_memory.peak_megabytes() >= grown > before - 1
  assert 20 < grown < 100_000
