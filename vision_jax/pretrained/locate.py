"""Where a published weight file is: given, cached, in a package, or fetched.

The cache folder is `$VISION_JAX_WEIGHTS`, or `~/.cache/vision_jax/weights`.
A fetch that breaks off goes on where it stopped. Only HTTPS.
"""

import hashlib
import importlib.util
import os
import pathlib
import urllib.error
import urllib.request

from vision_jax.models import spec as spec_lib

CACHE_VARIABLE = 'VISION_JAX_WEIGHTS'
_CHUNK = 1 << 20


def cache_folder() -> pathlib.Path:
  """The folder that weight files are kept in."""
  if CACHE_VARIABLE in os.environ:
    return pathlib.Path(os.environ[CACHE_VARIABLE]).expanduser()
  return pathlib.Path.home() / '.cache' / 'vision_jax' / 'weights'


def find(
    weights: spec_lib.Weights, *, path: str | pathlib.Path = '',
) -> pathlib.Path:
  """Returns the path of a weight file, fetching it where it must.

  Args:
    weights: the published file.
    path: a file of the user's own, taken as it is; '' to look in the cache
      folder, then in the package that ships the file, then at its address.

  Raises:
    FileNotFoundError: it is nowhere; the message says which file to put where.
    ValueError: a file has another digest than the published one.
  """
  if path:
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
      raise FileNotFoundError(f'no weight file {path}')
    return path
  cached = cache_folder() / weights.file
  packaged = _packaged(weights)
  if not cached.is_file() and packaged:
    cached = packaged
  if not cached.is_file():
    _fetch(weights, cached)
  _verify(weights, cached)
  return cached


def _packaged(weights) -> pathlib.Path | None:
  """The file within an installed package, if there is one."""
  if not weights.package:
    return None
  module, inside = weights.package
  found = importlib.util.find_spec(module)
  if found is None or not found.submodule_search_locations:
    return None
  path = pathlib.Path(found.submodule_search_locations[0]) / inside
  return path if path.is_file() else None


def _verify(weights, path) -> None:
  if not weights.digest:
    return
  algorithm, _, expected = weights.digest.partition(':')
  with open(path, 'rb') as file:
    actual = hashlib.file_digest(file, algorithm).hexdigest()
  if not actual.startswith(expected):
    raise ValueError(
        f'{path}: {algorithm} {actual} is not the published {expected}; '
        'remove the file to fetch it again')


def _fetch(weights, target) -> None:
  """Fetches a file beside the target, then moves it there once it is whole."""
  remedy = f'put the file {weights.file} into {target.parent}'
  if weights.package:
    remedy += f', or install the package that has {weights.package[0]}'
  if not weights.url:
    raise FileNotFoundError(f'no {weights.file}: {remedy}')
  remedy += f' (it is published at {weights.url})'
  if not weights.url.startswith('https://'):
    raise ValueError(f'{weights.url} is not fetched over HTTPS: {remedy}')
  target.parent.mkdir(parents=True, exist_ok=True)
  part = target.with_name(target.name + '.part')
  try:
    _download(weights.url, part)
  except OSError as error:  # URLError and time-outs among them
    raise FileNotFoundError(
        f'no {weights.file}, and it could not be fetched ({error}): {remedy}'
    ) from error
  try:
    _verify(weights, part)
  except ValueError:
    part.unlink()
    raise
  part.replace(target)


def _download(url: str, part: pathlib.Path) -> None:
  """Downloads the rest of a file; raises OSError unless all of it came."""
  start = part.stat().st_size if part.exists() else 0
  request = urllib.request.Request(
      url, headers={'Range': f'bytes={start}-'} if start else {})
  try:
    response = urllib.request.urlopen(request, timeout=60)
  except urllib.error.HTTPError as error:
    if error.code == 416:  # nothing is left, or the file is another
      part.unlink()
    raise
  with response:
    # A server may ignore the range and send the whole file.
    resumed = response.status == 206
    expected = response.headers['Content-Length']
    with open(part, 'ab' if resumed else 'wb') as file:
      before = file.tell()
      while chunk := response.read(_CHUNK):
        file.write(chunk)
      received = file.tell() - before
  if expected is not None and received != int(expected):
    raise OSError(f'{received} of {expected} bytes came; run again to go on')
