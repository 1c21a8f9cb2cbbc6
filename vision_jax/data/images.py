"""Decodes one stored image to uint8 pixels of a fixed size and shape.

Whatever a stored image may be (greyscale, palette, transparent, CMYK, 16 bits,
rotated by EXIF, broken) is settled here, so that no other module has to know.
It opens no file, and knows neither splits nor labels.
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image
from PIL import ImageOps

from vision_jax.data import errors

RESIZES = ('squash', 'crop')

# What Pillow raises on broken content depends on the format and the breakage.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error,
           zlib.error)
# Below this side a perceptual hash says nothing: all digits look alike.
_SMALLEST_HASHED_SIDE = 16


def decode(content, *, size, channels: int, resize: str, max_pixels: int):
  """Decodes an image and brings it to `size`.

  Args:
    content: The bytes of an encoded image, or uint8 pixels [h, w, c].
    size: The height and width to return, in pixels.
    channels: 1 (grey, ITU-R 601 luma) or 3 (RGB).
    resize: 'squash' ignores the aspect ratio; 'crop' fits the short side and
      cuts the centre out of the long one.
    max_pixels: The largest height * width that is decoded.

  Returns:
    uint8 [height, width, channels]; transparent pixels are white.

  Raises:
    errors.ImageError: The content is no usable image; the message says why.
  """
  if isinstance(content, np.ndarray):
    image = Image.fromarray(content.squeeze(-1) if content.shape[-1] == 1
                            else content)
  else:
    image = _read(content, size=size, max_pixels=max_pixels)
  image = _flatten(image)
  mode = 'L' if channels == 1 else 'RGB'
  if image.mode != mode:  # Converting to the same mode is a copy.
    image = image.convert(mode)
  height, width = size
  if image.size != (width, height):
    if resize == 'crop':
      image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    else:
      image = image.resize((width, height), Image.Resampling.BILINEAR)
  return np.asarray(image).reshape(height, width, channels)


def dhash(pixels: np.ndarray) -> int | None:
  """Difference hash: of 8 x 9 mean cells, which is darker than its right one.

  Args:
    pixels: uint8 [h, w, c] with 1 or 3 channels.

  Returns:
    64 bits as an int, the top left cell first; None for images too small to
    tell one from another. Source: N. Krawetz, "Kind of like that", 2013.
  """
  if min(pixels.shape[:2]) < _SMALLEST_HASHED_SIDE:
    return None
  image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1
                          else pixels)
  cells = np.asarray(
      image.convert('L').resize((9, 8), Image.Resampling.BOX))
  bits = cells[:, :-1] < cells[:, 1:]
  return int.from_bytes(np.packbits(bits).tobytes(), 'big')


def _read(content: bytes, *, size, max_pixels: int) -> Image.Image:
  """Decodes bytes fully and turns the image upright."""
  if not content:
    raise errors.ImageError('empty file (0 bytes)')
  try:
    # Pillow's own limit, which also holds for images inside of images, may be
    # the lower one.
    if (Image.MAX_IMAGE_PIXELS or max_pixels) < max_pixels:
      Image.MAX_IMAGE_PIXELS = max_pixels
    image = Image.open(io.BytesIO(content))
    if image.width * image.height > max_pixels:
      raise errors.ImageError(
          f'{image.width} x {image.height} pixels, more than '
          f'config.data.max_pixels = {max_pixels}')
    # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size; twice the wanted
    # size leaves the resampling filter enough to work with. The longer side
    # stands for both because EXIF may still turn the image.
    side = 2 * max(size)
    image.draft(None, (side, side))
    image.load()
    # In place: without an orientation it would be a copy.
    ImageOps.exif_transpose(image, in_place=True)
    return image
  except Image.UnidentifiedImageError:
    raise errors.ImageError('not an image') from None
  except Image.DecompressionBombError:  # Over twice its limit.
    raise errors.ImageError(
        f'more pixels than config.data.max_pixels = {max_pixels}') from None
  except _BROKEN as error:
    raise errors.ImageError(
        f'broken image ({type(error).__name__}: {error})') from error


def _flatten(image: Image.Image) -> Image.Image:
  """Puts transparent images on white and scales 16 bits down to 8."""
  if image.mode.startswith('I;16'):
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
  if image.mode in ('I', 'F'):
    raise errors.ImageError(f'32-bit pixels (mode {image.mode})')
  if image.has_transparency_data:
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, 'white')
    return Image.alpha_composite(white, image)
  return image
