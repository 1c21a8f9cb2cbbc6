"""Pictures of generated images, from the arrays just generated.

Pixel-exact PNG and GIF files; seed and step travel in the file. Nothing here
reads a picture that it did not write, or stretches a range of values. Plots
with axes are figures.py's.
"""

import math
import pathlib

import numpy as np

_GAP = 2
_SMALLEST = 64


def to_bytes(images: np.ndarray) -> np.ndarray:
  """Returns images [..., H, W, C] in [0, 1] as uint8 [..., H, W, 3].

  Raises:
    ValueError: For values outside [0, 1]: they are not stretched.
  """
  images = np.asarray(images, np.float32)
  if images.min() < 0 or images.max() > 1:
    raise ValueError(
        f'images have values in [{images.min():g}, {images.max():g}]; undo '
        'the transform of the data first')
  values = np.round(images * 255).astype(np.uint8)
  return values.repeat(3 // images.shape[-1], axis=-1)


def tile(images: np.ndarray, *, columns: int = 0) -> np.ndarray:
  """Lays images [n, H, W, C] in [0, 1] on a grid, uint8 [h, w, 3].

  Args:
    images: Float; see `to_bytes`.
    columns: Images a row; 0 = about as many as rows.
  """
  values = to_bytes(images)
  count, height, width, _ = values.shape
  columns = columns or math.ceil(math.sqrt(count))
  rows = -(-count // columns)
  canvas = np.full(
      (rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3),
      255, np.uint8)
  for i, image in enumerate(values):
    top = _GAP + i // columns * (height + _GAP)
    left = _GAP + i % columns * (width + _GAP)
    canvas[top:top + height, left:left + width] = image
  scale = -(-_SMALLEST // min(height, width))
  return canvas.repeat(scale, axis=0).repeat(scale, axis=1)


def write_png(path: pathlib.Path, canvas: np.ndarray, **about) -> None:
  """Writes uint8 [h, w, 3] as PNG with `about` (step, seed) as its text."""
  from PIL import Image
  from PIL import PngImagePlugin
  text = PngImagePlugin.PngInfo()
  for name, value in about.items():
    text.add_text(name, str(value))
  pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(canvas).save(path, pnginfo=text, optimize=True)


def read_png(path: pathlib.Path) -> tuple[np.ndarray, dict[str, str]]:
  """Returns the pixels and the text of a PNG file."""
  from PIL import Image
  with Image.open(path) as image:
    return np.asarray(image.convert('RGB')), dict(image.text)


def write_gif(
    path: pathlib.Path, frames: list[np.ndarray], *, seconds: float) -> None:
  """Writes frames, each uint8 [h, w, 3], as a GIF of `seconds` that repeats.

  The last frame stays five times as long.
  """
  from PIL import Image
  first, *others = [Image.fromarray(frame).quantize(128) for frame in frames]
  each = max(20, round(1000 * seconds / len(frames)))
  first.save(path, save_all=True, append_images=others, loop=0,
             duration=[each] * (len(frames) - 1) + [5 * each])


def interpolate(
    start: np.ndarray, end: np.ndarray, *, steps: int) -> np.ndarray:
  """Spherical path between latents [d], ends included, [steps, d].

  Normal latents of many dimensions lie near a sphere, which a straight line
  leaves (White 2016, arXiv:1609.04468).
  """
  start, end = (np.asarray(x, np.float64) for x in (start, end))
  cosine = start @ end / (np.linalg.norm(start) * np.linalg.norm(end))
  angle = np.arccos(np.clip(cosine, -1, 1))
  share = np.linspace(0, 1, steps)[:, None]
  if np.sin(angle) < 1e-6:
    return ((1 - share) * start + share * end).astype(np.float32)
  path = np.sin((1 - share) * angle) * start + np.sin(share * angle) * end
  return (path / np.sin(angle)).astype(np.float32)
