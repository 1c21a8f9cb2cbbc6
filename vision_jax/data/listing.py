"""Finds the examples of class folders and of CSV tables on disk.

It looks at names and file sizes only: no image is opened, so that a folder of
any size is listed in a moment. Labels, splits and ids are taken as found;
choosing among them is the business of `sources` and `splits`.
"""

import os
import pathlib
from typing import Callable, NamedTuple
import warnings

import numpy as np

from vision_jax.data import errors
from vision_jax.data import tables
from vision_jax.data import taxonomy

IMAGE_SUFFIXES = frozenset(
    '.jpg .jpeg .png .bmp .gif .webp .tif .tiff'.split())
SPLIT_NAMES = {'train': 'train', 'training': 'train', 'test': 'test',
               'valid': 'validation', 'val': 'validation',
               'validation': 'validation'}
MISSING = '|missing'  # How the stamp of a file that is not there ends.
LAYOUT = ('{base}/<class>/<image>.jpg, or '
          '{base}/{{train,test,validation}}/<class>/<image>.jpg')


class Listing(NamedTuple):
  """The examples that a source offers, before any choice.

  Attributes:
    class_names: All class names, in the order of the labels.
    ids: One unique name an example; for files the relative posix path.
    labels: One index into `class_names` an example.
    splits: 'train', 'validation', 'test' or '' an example.
    stamps: One string an example that changes when its content may have
      changed; empty where the content is made in memory.
    read: Maps an example's index to encoded bytes or uint8 pixels [h, w, c].
    ignored: Names of the files that were passed over.
    context: The ancestors that each example's row names, the highest first,
      '' where one is missing; () where the source knows of none.
  """
  class_names: tuple[str, ...]
  ids: tuple[str, ...]
  labels: tuple[int, ...]
  splits: tuple[str, ...]
  stamps: tuple[str, ...]
  read: Callable[[int], bytes | np.ndarray]
  ignored: tuple[str, ...]
  context: tuple[tuple[str, ...], ...] = ()


def base_folder(config_data) -> pathlib.Path:
  """The data's folder: config.data.path below the root.

  Args:
    config_data: The data part of the configuration.

  Returns:
    An absolute path to an existing folder.

  Raises:
    errors.DataError: There is no root or no such folder; the message says
      where the data comes from and how it has to lie.
  """
  root = config_data.root or os.environ.get('VISION_JAX_DATA', '')
  if not root:
    raise errors.DataError(
        'No data folder is named. ' + _help(config_data, base='<root>'))
  base = pathlib.Path(root).expanduser().resolve() / config_data.path
  if not base.is_dir():
    raise errors.DataError(
        f'There is no folder {base}. ' + _help(config_data, base=str(base)))
  return base


def list_folders(config_data) -> Listing:
  """Lists class folders, with or without folders of splits above them."""
  base = base_folder(config_data)
  ignored = []
  tops = _subfolders(base, ignored)
  named = {top: SPLIT_NAMES[top.name.lower()]
           for top in tops if top.name.lower() in SPLIT_NAMES}
  if named:
    ignored += [f'{top.name}/' for top in tops if top not in named]
    found = [(folder, split) for top, split in named.items()
             for folder in _subfolders(top, ignored)]
  else:
    found = [(folder, '') for folder in tops]
  rows = []
  for folder, split in found:
    for path in _entries(folder):
      name = path.relative_to(base).as_posix()
      if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != '.':
        rows.append((name, path, folder.name, split))
      else:
        ignored.append(name)
  if not rows:
    raise errors.DataError(
        f'{base} holds no class folder with images in it. '
        + _help(config_data, base=str(base)))
  return _from_rows(rows, ignored=ignored)


def list_csv(config_data) -> Listing:
  """Lists the images of a table with a path and a label column.

  A named file that does not exist is listed all the same: it is a bad file
  like an unreadable one, for `audit` to report, and a table alone is enough to
  count and to split. With config.data.csv_parent_columns the class names are
  paths, see `taxonomy`.
  """
  base = base_folder(config_data)
  table = base / config_data.csv_file
  if not config_data.csv_file or not table.is_file():
    raise errors.DataError(
        f'config.data.csv_file: there is no table {table}. '
        + _help(config_data, base=str(base)))
  columns, rows = tables.read(table)
  above = tuple(config_data.csv_parent_columns)
  for field, column in (
      ('csv_path_column', config_data.csv_path_column),
      ('csv_label_column', config_data.csv_label_column),
      *(('csv_parent_columns', column) for column in above)):
    if column not in columns:
      raise errors.DataError(
          f'{table} has no column {column!r} (config.data.{field}); its '
          f'columns are: {", ".join(columns)}.')
  cells = [(row[config_data.csv_path_column],
            row[config_data.csv_label_column],
            tuple(row[column] for column in above)) for row in rows]
  if not cells:
    raise errors.DataError(f'{table} has a header and no row.')
  labels = _unique(cells, table=table)
  context = {path: ancestors for path, _, ancestors in cells}
  names = taxonomy.paths(
      [label for _, label, _ in cells], [row[2] for row in cells],
      table=str(table))
  listed = _from_rows(
      [(path, base / path, names[label], '') for path, label in labels.items()],
      ignored=[])
  return listed._replace(
      context=tuple(context[name] for name in listed.ids) if above else ())


def _unique(cells, *, table: pathlib.Path) -> dict[str, str]:
  """Maps each path to its label; a repeated row counts once."""
  labels, repeated = {}, []
  for line, (path, label, _) in enumerate(cells, start=2):
    if not path or not label:
      raise errors.DataError(
          f'{table}, data row {line - 1}: path {path!r} and label {label!r} '
          'must both be filled in; complete or delete the row.')
    if '\0' in path:
      raise errors.DataError(
          f'{table}, data row {line - 1}: the path {path!r} holds a null '
          'character, which no file name does; correct or delete the row.')
    if path in labels:
      if labels[path] != label:
        raise errors.DataError(
            f'{table} gives {path} two labels, {labels[path]!r} and {label!r}; '
            'delete the wrong row.')
      repeated.append(path)
    labels[path] = label
  if repeated:
    warnings.warn(f'{table} repeats {len(repeated)} rows; each file is used '
                  f'once:{errors.shortlist(repeated)}')
  return labels


def _subfolders(folder: pathlib.Path, ignored: list[str]):
  """The visible folders below `folder`, sorted; notes what is none."""
  folders = []
  for path in _entries(folder):
    if path.is_dir() and path.name[0] != '.' and path.name != '__MACOSX':
      folders.append(path)
    else:
      ignored.append(path.name)
  return folders


def _entries(folder: pathlib.Path) -> list[pathlib.Path]:
  """What lies in `folder`, sorted."""
  try:
    return sorted(folder.iterdir())
  except OSError as error:
    raise errors.DataError(
        f'The folder {folder} cannot be listed ({error.strerror}); make it '
        'readable, or move it elsewhere.') from error


def _from_rows(rows, *, ignored) -> Listing:
  """Builds the listing of (id, path, class name, split) rows."""
  ids, paths, names, splits = zip(*sorted(rows))
  class_names = tuple(sorted(set(names)))
  index = {name: label for label, name in enumerate(class_names)}
  return Listing(
      class_names=class_names,
      ids=ids,
      labels=tuple(index[name] for name in names),
      splits=splits,
      stamps=tuple(stamp(path) for path in paths),
      read=lambda i: paths[i].read_bytes(),
      ignored=tuple(ignored))


def stamp(path: pathlib.Path) -> str:
  """The file's path, size and time of change; of none, that it is missing."""
  try:
    stat = path.stat()
  except OSError:  # Also a name that is too long, or a link to itself.
    return f'{path}{MISSING}'
  return f'{path}|{stat.st_size}|{stat.st_mtime_ns}'


def _help(config_data, *, base: str) -> str:
  """Says how to get the data, how it has to lie and what runs without it."""
  layout = LAYOUT.format(base=base)
  if config_data.source == 'csv':
    layout = (f'{base}/{config_data.csv_file}, a table with the columns '
              f'{config_data.csv_path_column!r} and '
              f'{config_data.csv_label_column!r}, and its images below {base}')
  hint = f'{config_data.hint}\n' if config_data.hint else ''
  return (
      f'{hint}Name the folder above it by '
      '--config.data.root=<root> or the environment variable VISION_JAX_DATA. '
      f'It has to hold\n  {layout}\nWithout any data this runs: '
      'python -m vision_jax.main --config=configs/<name>.py')
