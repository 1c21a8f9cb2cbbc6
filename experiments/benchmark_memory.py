"""Peak memory of a training whose images fit the device, and of larger ones.

    python -m experiments.benchmark_memory <folder of image folders>

The command trains a small classifier for one epoch, from decoding to the test,
and prints the most memory that the process held. `measure` starts it with
images that just fit the limit of config.data.resident_megabytes and with twice
and four times as many, which stream from the disk.
"""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
from PIL import Image

from vision_jax import config as config_lib

RESIDENT_MB = 32
_TIMES = (1, 2, 4)
_SIDE = 128
_CLASSES = 4


def measure(root: pathlib.Path) -> list[dict[str, float]]:
  """Returns a row for each size of the data; images are made in `root`."""
  fitting = RESIDENT_MB * 2**20 // (_SIDE * _SIDE * 3)
  _write_images(root / str(_TIMES[-1]), fitting * _TIMES[-1])
  rows = []
  for times in _TIMES:
    folder = root / str(times)
    if times != _TIMES[-1]:
      _link_images(root / str(_TIMES[-1]), folder, fitting * times)
    done = subprocess.run(
        [sys.executable, '-m', 'experiments.benchmark_memory', str(folder)],
        capture_output=True, text=True, check=False)
    if done.returncode:
      raise RuntimeError(f'{folder}: {done.stderr[-2000:]}')
    rows.append({
        'images': fitting * times, 'data, MB': RESIDENT_MB * times,
        'from': 'device' if times == 1 else 'disk',
        'peak, MB': float(done.stdout.split()[-1])})
  return rows


def _write_images(folder: pathlib.Path, count: int) -> None:
  rng = np.random.default_rng(0)
  for i in range(count):
    coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    path = _path(folder, i)
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(path)


def _link_images(source: pathlib.Path, folder: pathlib.Path, count: int):
  for i in range(count):
    path = _path(folder, i)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.link(_path(source, i), path)


def _path(folder: pathlib.Path, i: int) -> pathlib.Path:
  return folder / f'class_{i % _CLASSES}' / f'{i}.jpg'


def make_config(folder: pathlib.Path):
  """Returns the config of the training; it keeps its caches in `folder`."""
  config = config_lib.base()
  config.data.source = 'folders'
  config.data.root = str(folder.parent)
  config.data.path = folder.name
  config.data.image_size = (_SIDE, _SIDE)
  config.data.channels = 3
  config.data.cache_dir = str(folder.with_name(f'{folder.name}-cache'))
  config.data.resident_megabytes = RESIDENT_MB
  config.model.features = (4, 8, 8)
  config.model.head = ('average',)
  config.train.epochs = 1
  config.train.batch_size = 32
  config.train.eval_batch_size = 32
  config.report.progress = False
  config.report.figures = False
  return config


def peak_megabytes() -> float:
  """Returns the most memory that this process held; Linux alone says it."""
  # getrusage would count the process that started this one, too.
  text = pathlib.Path('/proc/self/status').read_text()
  return int(re.search(r'VmHWM:\s+(\d+) kB', text)[1]) / 1024


def main(argv: list[str]) -> None:
  """Trains on the images of a folder and prints the peak."""
  from vision_jax import loop  # The parent trains nothing.
  folder = pathlib.Path(argv[0]).absolute()
  loop.train(make_config(folder), folder.with_name(f'{folder.name}-run'))
  print(peak_megabytes())


if __name__ == '__main__':
  main(sys.argv[1:])
