"""Predictions for a folder of images that no split knows.

Images are decoded as the run's own were. What cannot be decoded is reported
by name and left out; nothing is cached.
"""

import pathlib
from typing import Any
import warnings

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from vision_jax import config as config_lib
from vision_jax import quantisation
from vision_jax import results
from vision_jax import runs
from vision_jax import task as task_lib
from vision_jax.data import errors
from vision_jax.data import filters
from vision_jax.data import images as images_lib
from vision_jax.data import listing


def predict(
    config: ml_collections.ConfigDict,
    folder: str | pathlib.Path,
    images: str | pathlib.Path) -> list[dict[str, Any]]:
  """Returns a row per image: its path and the task's prediction.

  Args:
    config: The config of the run.
    folder: The folder of a finished run, or of its quantised export.
    images: A folder; images are found below it at any depth.

  Raises:
    ConfigError: If the run is not finished.
    DataError: If the folder holds no readable image.
  """
  config = config_lib.replace(config, model__weights='')
  names = results.read(folder)['class_names']
  paths, pixels = _read(pathlib.Path(images), config.data)
  info = task_lib.Info(tuple(names), tuple(pixels.shape[1:]), steps_per_epoch=1)
  if quantisation.exists(folder):
    task, state = quantisation.restore(config, info, folder)
  else:
    task = runs.make_task(config, info)
    state = runs.load_state(task, config, folder)
  size = config.train.eval_batch_size
  step = jax.jit(task.eval_step)
  rows = []
  for start in range(0, len(pixels), size):
    chunk = pixels[start:start + size]
    # The last batch is filled up, so that one program serves all.
    filled = np.resize(chunk, (size, *chunk.shape[1:]))
    outputs = jax.device_get(step(state, {
        'image': jnp.asarray(filled, jnp.float32) / 255,
        'label': jnp.zeros(size, jnp.int32)}))
    columns = task.table({k: v[:len(chunk)] for k, v in outputs.items()})
    columns = {'path': paths[start:start + size], **columns}
    rows += [dict(zip(columns, row, strict=True))
             for row in zip(*columns.values(), strict=True)]
  return rows


def _read(
    folder: pathlib.Path,
    config: ml_collections.ConfigDict) -> tuple[list[str], np.ndarray]:
  """Returns the paths and pixels uint8 [n, H, W, C] of the good images."""
  paths, pixels = [], []
  change = filters.make(config)
  for path in sorted(folder.rglob('*')):
    if path.suffix.lower() not in listing.IMAGE_SUFFIXES:
      continue
    try:
      decoded = images_lib.decode(
          path.read_bytes(), size=tuple(config.image_size),
          channels=config.channels, resize=config.resize,
          max_pixels=config.max_pixels)
      pixels.append(change(path.relative_to(folder).as_posix(), decoded))
      paths.append(str(path))
    except errors.ImageError as error:
      warnings.warn(f'{path} is left out: {error}', stacklevel=2)
  if not pixels:
    raise errors.DataError(f'{folder} holds no readable image.')
  return paths, np.stack(pixels)
