"""Keeps decoded images on disk, so that each file is decoded once.

Pixels lie in `<key>.npy`, where the key comes from the contents, the size and
the way of resizing: moved or copied data finds them again. What was learnt
about a list of files (hashes, faults) lies in `<listing>.json`, named after
their paths, sizes and times, and points to the pixels; where it exists nothing
is opened. It is written last and both appear by renaming: a killed run leaves
at most a `.tmp` file that nobody reads. Old entries are never deleted; the
folder may be emptied at any time.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import tempfile
import time

import numpy as np
import safetensors
import safetensors.numpy

from vision_jax.data import audit
from vision_jax.data import errors
from vision_jax.data import listing

_VERSION = 1  # Raise it when decoding changes: old entries are then not found.
_DAY = 24 * 3600.0
_ARRAY, _NAMES = 'array', 'names'  # Of a `.safetensors` file.


def decode(source, config_data) -> tuple[np.ndarray, list[dict]]:
  """Returns the decoded images of a source, from disk where they are known.

  Args:
    source: A `sources.Source`.
    config_data: Reads cache_dir ('' = `vision_jax` in the user's cache
      folder), image_size, channels, resize, max_pixels, filter and masks.

  Returns:
    (images, records): uint8 [m, h, w, c] of the m good examples in order,
    memory-mapped where the source has files, and one record of
    `audit.inspect` for each of the n examples, good or bad.

  Raises:
    errors.DataError: The cache folder cannot be written, or no image is good.
  """
  if not source.stamps:
    results = list(audit.inspect(source, config_data))
    images = [pixels for _, pixels in results if pixels is not None]
    records = [record for record, _ in results]
    _check_any(len(images), records, source, config_data.hint)
    return np.stack(images), records
  settings = [_VERSION, *config_data.image_size, config_data.channels,
              config_data.resize, config_data.max_pixels]
  if config_data.filter != 'none':  # What was cached before filters is valid.
    settings += [config_data.filter, mask_stamps(config_data.masks)]
  if config_data.filter == 'masks':  # Which mask an image has, its id says.
    settings.append(source.ids)
  folder = folder_of(config_data)
  path = folder / f'{_digest([settings, source.stamps])}.json'
  known = _known(path)
  if known:
    return known
  pixels, records = _write_pixels(folder, source, config_data, settings)
  # What could not be read this time may be readable the next; only of a file
  # that is not there does the stamp tell.
  if all(record['sha256'] or stamp.endswith(listing.MISSING)
         for record, stamp in zip(records, source.stamps, strict=True)):
    entry = dict(pixels=pixels.name, records=records)
    with _temporary(folder) as file:
      file.write(json.dumps(entry).encode())
      _publish(file, path)
  return np.load(pixels, mmap_mode='r'), records


def _known(path: pathlib.Path) -> tuple[np.ndarray, list[dict]] | None:
  """Reads a listing and maps its pixels; None where either is gone or cut."""
  try:
    entry = json.loads(path.read_text())
    pixels = np.load(path.parent / entry['pixels'], mmap_mode='r')
  except (FileNotFoundError, EOFError, ValueError):
    return None
  return pixels, entry['records']


def _write_pixels(folder: pathlib.Path, source, config_data, settings):
  """Decodes all images into a file; returns its path and the records."""
  records, good = [], 0
  shape = (*config_data.image_size, config_data.channels)
  with _temporary(folder) as file:
    _write_header(file, (len(source.ids), *shape))
    start = file.tell()
    for record, pixels in audit.inspect(source, config_data):
      records.append(record)
      if pixels is not None:
        file.write(np.ascontiguousarray(pixels))
        good += 1
    _check_any(good, records, source, config_data.hint)
    # Only now is the number of good images known; NumPy pads a header so that
    # the first axis may change.
    file.seek(0)
    _write_header(file, (good, *shape))
    assert file.tell() == start
    contents = [(record['sha256'], record['reason']) for record in records]
    path = folder / f'{_digest([settings, contents])}.npy'
    _publish(file, path)
  return path, records


def mask_stamps(folder: str) -> list[str]:
  """Names, sizes and times of the masks in `folder`; [] without one."""
  if not folder:
    return []
  found = sorted(pathlib.Path(folder).expanduser().rglob('*.png'))
  return [listing.stamp(path) for path in found]


def _write_header(file, shape) -> None:
  np.lib.format.write_array_header_1_0(
      file, dict(descr='|u1', fortran_order=False, shape=shape))


def _check_any(
    good: int, records: list[dict], source, hint: str) -> None:
  """Raises where no image could be decoded."""
  if not good:
    reasons = [f'{name}: {record["reason"]}'
               for name, record in zip(source.ids, records)]
    raise errors.DataError(
        'Not one image can be used; is config.data.path right?'
        f'{errors.shortlist(reasons)}\n{hint}')


def folder_of(config_data) -> pathlib.Path:
  """The cache folder, made where it is missing and rid of old leftovers."""
  user = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  folder = pathlib.Path(
      config_data.cache_dir or f'{user}/vision_jax').expanduser()
  try:
    folder.mkdir(parents=True, exist_ok=True)
    # A younger one may belong to a run that is still writing it.
    for left in folder.glob('*.tmp'):
      # Another process may be done with its own at any moment.
      with contextlib.suppress(FileNotFoundError):
        if time.time() - left.stat().st_mtime > _DAY:
          left.unlink()
    with _temporary(folder):
      pass
  except OSError as error:
    raise errors.DataError(
        f'The cache folder {folder} cannot be written ({error.strerror}); name '
        'another by --config.data.cache_dir=<folder>.') from error
  return folder


def keep(path: pathlib.Path, names: list[str], array: np.ndarray) -> None:
  """Writes an array and its rows' names into the cache folder, atomically."""
  with _temporary(path.parent) as file:
    safetensors.numpy.save_file(
        {_ARRAY: np.ascontiguousarray(array)}, file.name,
        metadata={_NAMES: json.dumps(names)})
    _publish(file, path)


def kept(path: pathlib.Path) -> tuple[list[str], np.ndarray]:
  """Reads what `keep` wrote."""
  with safetensors.safe_open(path, framework='numpy') as file:
    return json.loads(file.metadata()[_NAMES]), file.get_tensor(_ARRAY)


@contextlib.contextmanager
def _temporary(folder: pathlib.Path):
  """Yields a new open file in `folder`, gone at the end if not published."""
  with tempfile.NamedTemporaryFile(
      dir=folder, suffix='.tmp', delete=False) as file:
    try:
      yield file
    finally:
      pathlib.Path(file.name).unlink(missing_ok=True)


def _publish(file, path: pathlib.Path) -> None:
  """Gives a file that is completely on disk its final name."""
  file.flush()
  os.fsync(file.fileno())
  os.replace(file.name, path)


def _digest(value) -> str:
  """Names a JSON value by 32 hexadecimal digits of its SHA-256."""
  return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]
