"""Small image folders and configurations for the tests of the data room."""

import numpy as np
from PIL import Image

from vision_jax import config


def make_config(**fields):
  """The default config.data with some fields changed."""
  data = config.base().data
  data.update(fields)
  return data


def folder_config(tmp_path, **fields):
  """A configuration whose class folders and cache lie below `tmp_path`."""
  defaults = dict(
      source='folders', root=str(tmp_path / 'images'),
      cache_dir=str(tmp_path / 'cache'), image_size=(16, 16), channels=3)
  return make_config(**(defaults | fields))


def write_image(path, seed=0, size=(24, 20), **save):
  """Writes a blurred random picture of `size` (height, width)."""
  path.parent.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(seed)
  small = rng.integers(0, 256, (6, 6, 3), np.uint8)
  image = Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC)
  image.save(path, **save)
  return path


def write_folders(tmp_path, counts):
  """Writes counts[folder] pictures below tmp_path/images; all differ."""
  seed = 0
  for folder, count in counts.items():
    for i in range(count):
      write_image(tmp_path / 'images' / folder / f'{i:03d}.png', seed)
      seed += 1
