"""Every mode decodes to plain pixels, every breakage to a reason."""

import io
import struct
import warnings

import numpy as np
from PIL import Image
import pytest

from vision_jax.data import errors
from vision_jax.data import images

RED, BLUE = (200, 10, 20), (20, 30, 240)


def encode(image, form='PNG', **save):
  file = io.BytesIO()
  image.save(file, form, **save)
  return file.getvalue()


def decode(content, *, size=(8, 8), channels=3, resize='squash',
           max_pixels=10**6):
  return images.decode(content, size=size, channels=channels, resize=resize,
                       max_pixels=max_pixels)


def noise(height, width, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3), np.uint8)


def test_colours_come_through_unchanged():
  pixels = noise(8, 8)
  np.testing.assert_array_equal(
      decode(encode(Image.fromarray(pixels))), pixels)
  np.testing.assert_array_equal(decode(pixels), pixels)


def test_grey_is_the_luma_of_itu_r_601():
  pixels = noise(8, 8)
  luma = pixels @ np.array([0.299, 0.587, 0.114])
  found = decode(encode(Image.fromarray(pixels)), channels=1)
  assert found.shape == (8, 8, 1)
  assert np.abs(found[..., 0] - luma).max() <= 1


def test_grey_images_get_three_equal_channels():
  grey = Image.fromarray(noise(8, 8)[..., 0])
  for mode in ('L', '1', 'I;16'):
    image = grey.convert(mode) if mode != 'I;16' else Image.fromarray(
        np.asarray(grey).astype(np.uint16) * 257)
    found = decode(encode(image))
    expected = np.asarray(image.convert('L')) if mode == '1' else (
        np.asarray(grey))
    for channel in range(3):
      np.testing.assert_array_equal(found[..., channel], expected)


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'P'])
def test_transparent_pixels_are_white(mode):
  image = Image.new('RGBA', (8, 8), (*RED, 255))
  image.paste((0, 0, 0, 0), (0, 0, 4, 8))
  if mode == 'P':
    image = Image.new('P', (8, 8), 1)
    image.putpalette([0, 0, 0, *RED])
    image.paste(0, (0, 0, 4, 8))
    content = encode(image, transparency=0)
  else:
    content = encode(image.convert(mode))
  found = decode(content)
  assert np.all(found[:, :4] == 255)
  if mode != 'LA':
    assert np.all(found[:, 4:] == RED)


def test_half_transparent_pixels_are_mixed_with_white():
  found = decode(encode(Image.new('RGBA', (8, 8), (100, 0, 200, 51))))
  expected = 0.2 * np.array([100, 0, 200]) + 0.8 * 255
  assert np.abs(found - expected).max() <= 1


def test_palette_and_cmyk_keep_their_colours():
  image = Image.new('RGB', (8, 8), BLUE)
  assert np.all(decode(encode(image.quantize(4), 'GIF')) == BLUE)
  found = decode(encode(image.convert('CMYK'), 'JPEG', quality=95))
  assert np.abs(found.astype(int) - BLUE).max() <= 6


def test_exif_orientation_turns_the_image_upright():
  pixels = np.zeros((16, 32, 3), np.uint8)
  pixels[:, :16] = RED
  exif = Image.Exif()
  exif[0x0112] = 6  # Stored so that it has to be turned clockwise.
  content = encode(Image.fromarray(pixels), exif=exif)
  found = decode(content, size=(32, 16))
  np.testing.assert_array_equal(found, np.rot90(pixels, k=-1))


def test_squash_keeps_all_and_crop_keeps_the_centre():
  pixels = np.zeros((8, 32, 3), np.uint8)
  pixels[:, 12:20] = RED
  content = encode(Image.fromarray(pixels))
  assert np.all(decode(content, resize='crop') == RED)
  squashed = decode(content)
  assert np.all(squashed[:, 0] == 0) and np.all(squashed[:, 4, 0] > 100)


def test_shrinking_averages_what_it_leaves_out():
  pixels = np.zeros((64, 64, 3), np.uint8)
  pixels[::2] = 255  # Nearest-neighbour sampling would give black or white.
  inner = decode(encode(Image.fromarray(pixels)))[1:-1]
  assert np.abs(inner.astype(int) - 128).max() <= 4


def test_large_jpegs_decoded_in_part_look_the_same():
  smooth = Image.fromarray(noise(6, 6)).resize(
      (512, 384), Image.Resampling.BICUBIC)
  content = encode(smooth, 'JPEG', quality=95)
  full = Image.open(io.BytesIO(content)).resize(
      (24, 24), Image.Resampling.BILINEAR)
  found = decode(content, size=(24, 24)).astype(int)
  assert np.abs(found - np.asarray(full)).max() <= 4


JPEG = encode(Image.fromarray(noise(64, 64)), 'JPEG')
PNG = encode(Image.fromarray(noise(64, 64)))


@pytest.mark.parametrize('content, reason', [
    (b'', '0 bytes'),
    (b'<html>not found</html>', 'not an image'),
    (JPEG[:len(JPEG) // 2], 'broken'),
    (PNG[:len(PNG) // 2], 'broken'),
    (PNG[:200] + bytes(200) + PNG[400:], 'broken'),
    (encode(Image.new('L', (3000, 2000))), '3000 x 2000 pixels'),
    (encode(Image.new('F', (8, 8)), 'TIFF'), '32-bit'),
])
def test_unusable_content_is_an_error_with_its_reason(content, reason):
  with pytest.raises(errors.ImageError, match=reason):
    decode(content)


def test_max_pixels_alone_says_what_is_too_large(monkeypatch):
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    found = decode(encode(Image.new('L', (20, 20), 7)), max_pixels=500)
  assert np.all(found == 7)
  # Pillow opens what has up to twice the pixels, with a warning.
  for side in (30, 40):
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      with pytest.raises(errors.ImageError, match='config.data.max_pixels'):
        decode(encode(Image.new('L', (side, side))), max_pixels=500)


def test_an_image_inside_of_an_image_is_held_to_the_limit(monkeypatch):
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
  png = encode(Image.new('L', (40, 40)))
  # An icon that says 16 x 16 and holds a larger one.
  icon = struct.pack('<3H4B2H2I', 0, 1, 1, 16, 16, 0, 0, 1, 32, len(png), 22)
  with pytest.raises(errors.ImageError, match='config.data.max_pixels'):
    decode(icon + png, max_pixels=500)


def test_difference_hash_follows_its_definition():
  ramp = np.linspace(0, 255, 90).astype(np.uint8)
  rising = np.tile(ramp[None, :, None], (80, 1, 3))
  assert images.dhash(rising) == 2**64 - 1
  assert images.dhash(np.ascontiguousarray(rising[:, ::-1])) == 0
  cells = np.random.default_rng(0).permutation(72).reshape(8, 9) * 3
  blocks = np.kron(cells, np.ones((16, 16))).astype(np.uint8)[..., None]
  bits = ''.join('1' if row[i] < row[i + 1] else '0'
                 for row in cells for i in range(8))
  assert images.dhash(blocks) == int(bits, 2)


def test_difference_hash_survives_recompression_but_not_another_image():
  image = Image.fromarray(noise(6, 6)).resize(
      (64, 64), Image.Resampling.BICUBIC)
  again = decode(encode(image, 'JPEG', quality=60), size=(64, 64))
  first = images.dhash(np.asarray(image))
  assert (first ^ images.dhash(again)).bit_count() <= 2
  other = Image.fromarray(noise(6, 6, seed=1)).resize(
      (64, 64), Image.Resampling.BICUBIC)
  assert (first ^ images.dhash(np.asarray(other))).bit_count() > 10


def test_tiny_images_have_no_difference_hash():
  assert images.dhash(noise(8, 8)) is None
