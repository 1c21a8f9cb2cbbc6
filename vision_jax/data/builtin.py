"""Data that needs no download: scikit-learn's digits, gratings and points.

The digits are real; the gratings are for tests and timing, of any size and
number, and prove nothing about a model.
"""

import importlib.util
import math
import pathlib

import numpy as np

from vision_jax.data import errors
from vision_jax.data import listing

_PROCEDURAL_SEED = 0


def list_digits(config_data) -> listing.Listing:
  """Lists the 1,797 digits of scikit-learn, uint8 [8, 8, 1], 180 a class.

  Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten
  Digits", UCI, 1998 (the test part).
  """
  del config_data  # There is nothing to choose.
  rows = np.loadtxt(_digits_file(), delimiter=',')
  images = np.round(rows[:, :-1].reshape(-1, 8, 8, 1) * (255 / 16)).astype(
      np.uint8)
  return _in_memory(
      'digits', class_names=tuple('0123456789'),
      labels=tuple(map(int, rows[:, -1])), read=lambda i: images[i])


def _digits_file() -> pathlib.Path:
  """Returns the table that scikit-learn ships, whose import takes seconds."""
  package = importlib.util.find_spec('sklearn')
  return pathlib.Path(package.origin).parent / 'datasets/data/digits.csv.gz'


def list_procedural(config_data) -> listing.Listing:
  """Lists noisy gratings whose direction is their class.

  Args:
    config_data: Reads procedural_examples, procedural_classes, image_size,
      channels and resident_megabytes.

  Returns:
    Examples whose classes take turns; each is drawn when it is read and
    depends on its index, the number of classes, the size and the channels.
    Where they are too many to stay in memory they have stamps, so that they
    stream from the disk cache as files do.
  """
  n, classes = config_data.procedural_examples, config_data.procedural_classes
  if not 1 <= classes <= n:
    raise errors.DataError(
        f'config.data.procedural_classes is {classes}; it must be between 1 '
        f'and config.data.procedural_examples = {n}.')
  def read(index):
    return draw_grating(
        index, angle=np.pi * (index % classes) / classes,
        size=tuple(config_data.image_size), channels=config_data.channels)
  size = n * math.prod(config_data.image_size) * config_data.channels
  found = _in_memory(
      'procedural', class_names=tuple(f'{c:03d}' for c in range(classes)),
      labels=tuple(i % classes for i in range(n)), read=read)
  if size <= config_data.resident_megabytes * 2**20:
    return found
  return found._replace(stamps=tuple(
      f'{_PROCEDURAL_SEED}/{classes}/{name}' for name in found.ids))


def list_points(config_data) -> listing.Listing:
  """Lists points of a curve, each an image of two pixels, x and y.

  x is uniform in [0, 1]; y is x on the curve `line` and (1 + cos 4 pi x) / 2
  on the curve `cosine`. Bytes hold both to 1/510 of the side.

  Args:
    config_data: Reads source, procedural_examples and image_size.
  """
  if (*config_data.image_size, config_data.channels) != (1, 2, 1):
    raise errors.DataError(
        f'config.data.source={config_data.source!r} has images of 1x2 pixels '
        'with one channel: set config.data.image_size=(1, 2) and channels=1.')
  curve = {'line': lambda x: x,
           'cosine': lambda x: (1 + np.cos(4 * np.pi * x)) / 2}
  def read(index):
    x = np.random.default_rng((_PROCEDURAL_SEED, index)).uniform()
    point = np.array([x, curve[config_data.source](x)])
    return np.round(255 * point).astype(np.uint8).reshape(1, 2, 1)
  n = config_data.procedural_examples
  return _in_memory(config_data.source, class_names=('point',),
                    labels=(0,) * n, read=read)


def draw_grating(index: int, *, angle: float, size, channels: int):
  """Draws uint8 [h, w, channels]: waves along `angle` (radians), and noise."""
  rng = np.random.default_rng((_PROCEDURAL_SEED, index))
  height, width = size
  y, x = np.mgrid[:height, :width] / max(size)
  waves = rng.uniform(2, 4)
  along = x * np.cos(angle) + y * np.sin(angle)
  pattern = np.sin(2 * np.pi * (waves * along + rng.uniform()))
  colour = rng.uniform(0.3, 1.0, channels)
  noise = rng.normal(0, 0.3, (height, width, channels))
  image = 0.5 + 0.3 * pattern[..., None] * colour + 0.3 * noise
  return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)


def _in_memory(name, *, class_names, labels, read) -> listing.Listing:
  n = len(labels)
  return listing.Listing(
      class_names=class_names,
      ids=tuple(f'{name}/{i:0{len(str(n - 1))}d}' for i in range(n)),
      labels=labels, splits=('',) * n, stamps=(), read=read, ignored=())
