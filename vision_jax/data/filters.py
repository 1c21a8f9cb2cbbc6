"""Fixed filters of decoded images: the five that study 4 tried and dropped.

One filter acts on every image of every split, before it is cached; nothing is
random. Augmentation is something else (augment.py), and so is leaving images
out (screening.py).
"""

import functools
import pathlib
from typing import Callable

import numpy as np
from PIL import Image

from vision_jax.data import errors
from vision_jax.data import images

Filter = Callable[[str, np.ndarray], np.ndarray]

# The study's radius of 90 belongs to its 224 pixels a side.
_CIRCLE = 90 / 224
_BLUR_RADIUS = 5  # OpenCV's d = 10.
_BLUR_COLOR = 100.0
_BLUR_SPACE = 100.0


def make(config_data) -> Filter:
  """Returns the filter (id, pixels uint8 [h, w, c]) -> pixels of that shape.

  Args:
    config_data: Reads filter and, for masks, masks, resize and max_pixels.

  Raises:
    errors.DataError: There is no such filter, or it lacks what it needs. The
      filter raises `errors.ImageError` for an image whose mask is missing or
      broken.
  """
  name, masks = config_data.filter, config_data.masks
  errors.check_choice('filter', name, allowed=tuple(_MAKERS))
  if masks and name != 'masks':
    raise errors.DataError(
        f"config.data.masks has no effect with config.data.filter={name!r}; "
        "set the filter to 'masks'.")
  return _MAKERS[name](config_data)


def _plain(function: Callable[[np.ndarray], np.ndarray]):
  """Turns a function of pixels into the maker of a filter."""
  return lambda config_data: lambda name, pixels: function(pixels)


def greyscale(pixels: np.ndarray) -> np.ndarray:
  """Returns the luma (ITU-R 601) in every channel."""
  if pixels.shape[-1] == 1:
    return pixels
  grey = np.asarray(Image.fromarray(pixels).convert('L'))
  return np.repeat(grey[..., None], 3, axis=-1)


def circle(pixels: np.ndarray) -> np.ndarray:
  """Blackens what lies further from the centre than 90 of 224 pixels."""
  distance = _distance(*pixels.shape[:2])
  kept = distance <= _CIRCLE * min(pixels.shape[:2])
  return pixels * kept[..., None].astype(np.uint8)


def peripheral_blur(pixels: np.ndarray) -> np.ndarray:
  """Smooths what lies outside the inscribed circle by a bilateral filter.

  OpenCV's bilateralFilter with d=10 and both deviations 100, in pixels and
  grey levels: a disc of radius 5, the distance of colours the sum over
  channels, borders mirrored. Source: Tomasi and Manduchi, 1998, "Bilateral
  filtering for gray and color images".
  """
  height, width, _ = pixels.shape
  rows, columns = np.nonzero(
      _distance(height, width) > min(height, width) / 2)
  reach = _BLUR_RADIUS
  padded = np.pad(
      pixels.astype(np.float32), ((reach, reach), (reach, reach), (0, 0)),
      mode='reflect')
  centre = padded[rows + reach, columns + reach]
  total, weights = np.zeros_like(centre), np.zeros((len(rows), 1), np.float32)
  for i in range(-reach, reach + 1):
    for j in range(-reach, reach + 1):
      if i * i + j * j > reach * reach:
        continue
      near = padded[rows + reach + i, columns + reach + j]
      color = np.abs(near - centre).sum(axis=1, keepdims=True)
      weight = np.exp(-0.5 * ((i * i + j * j) / _BLUR_SPACE**2
                              + (color / _BLUR_COLOR) ** 2))
      total += weight * near
      weights += weight
  result = pixels.copy()
  result[rows, columns] = np.rint(total / weights)
  return result


def _masks(config_data) -> Filter:
  """Blackens what a user's mask does: <folder>/<id without suffix>.png.

  A mask is brought to size as its image was, so that the two still match.
  """
  folder = config_data.masks
  base = pathlib.Path(folder).expanduser()
  if not folder or not base.is_dir():
    raise errors.DataError(
        "config.data.filter='masks' needs config.data.masks, a folder of "
        'greyscale masks named <id without suffix>.png, white where the image '
        f'is kept; there is no folder {folder!r}.')
  def apply(name, pixels):
    path = (base / name).with_suffix('.png')
    try:
      mask = images.decode(
          path.read_bytes(), size=pixels.shape[:2], channels=1,
          resize=config_data.resize, max_pixels=config_data.max_pixels)
    except FileNotFoundError:
      raise errors.ImageError(f'no mask {path}') from None
    except OSError as error:
      raise errors.ImageError(
          f'the mask {path} cannot be read ({error.strerror})') from error
    except errors.ImageError as error:
      raise errors.ImageError(f'the mask {path}: {error}') from error
    return _keep(pixels, mask[..., 0])
  return apply


def _rembg(config_data) -> Filter:
  """Blackens what the package rembg takes for background."""
  del config_data
  try:
    import rembg  # An extra: it brings a network of 170 MB.
  except ImportError as error:
    raise errors.DataError(
        "config.data.filter='rembg' needs the package rembg: pip install "
        '"vision_jax[rembg]". Masks that you already have are used by '
        "config.data.filter='masks'.") from error
  session = rembg.new_session()
  def apply(name, pixels):
    del name
    color = np.repeat(pixels, 3, -1) if pixels.shape[-1] == 1 else pixels
    mask = rembg.remove(color, session=session, only_mask=True)
    return _keep(pixels, np.asarray(mask).reshape(pixels.shape[:2]))
  return apply


def _keep(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """Scales pixels uint8 [h, w, c] by a mask uint8 [h, w], 255 = as it is."""
  share = mask[..., None].astype(np.float32) / 255
  return np.rint(pixels * share).astype(np.uint8)


@functools.lru_cache(maxsize=4)
def _distance(height: int, width: int) -> np.ndarray:
  """Distance [h, w] of each pixel's centre from the image's, in pixels."""
  rows, columns = np.indices((height, width), np.float64)
  return np.hypot(rows - (height - 1) / 2, columns - (width - 1) / 2)


_MAKERS = {
    'none': _plain(lambda pixels: pixels),
    'greyscale': _plain(greyscale),
    'circle': _plain(circle),
    'peripheral_blur': _plain(peripheral_blur),
    'masks': _masks,
    'rembg': _rembg,
}
NAMES = tuple(_MAKERS)
