"""Ties the data room together: config.data in, a decoded and split set out.

It holds no logic of its own. Batches and augmentation come later, from the
`Dataset` that it returns.
"""

import hashlib
import json
import pathlib
from typing import NamedTuple

import numpy as np

from vision_jax.data import audit
from vision_jax.data import cache
from vision_jax.data import joined
from vision_jax.data import screening
from vision_jax.data import sources
from vision_jax.data import splits as splits_lib
from vision_jax.data import taxonomy


class Dataset(NamedTuple):
  """A decoded dataset of n examples and its splits.

  Attributes:
    name: The kind of source, as in config.data.source.
    class_names: All class names, in the order of the labels.
    images: uint8 [n, h, w, c], in memory or memory-mapped.
    labels: int32 [n], indices into `class_names`.
    ids: n unique names; for files the path below the data folder.
    splits: Sorted int64 rows of 'train', 'validation', 'test', 'unlabelled'.
    manifest: n rows with id, split, label (class name), sha256 and bytes.
    bad_files: id and reason of each file that was left out.
    context: int32 [n, levels], what each example's row says of its ancestors
      (`taxonomy.encode`); None where the source knows of none.
  """
  name: str
  class_names: tuple[str, ...]
  images: np.ndarray
  labels: np.ndarray
  ids: tuple[str, ...]
  splits: dict[str, np.ndarray]
  manifest: list[dict]
  bad_files: list[dict]
  context: np.ndarray | None = None


def load(config_data) -> Dataset:
  """Lists, reads, decodes, checks and splits the data of config.data.

  Bad files are left out before the split, which is therefore the one that the
  good files alone would get.

  Raises:
    errors.DataError: The data is missing, broken, duplicated across splits or
      contradicts the configuration; the message says what to do.
  """
  source = sources.load(config_data)
  images, records = cache.decode(source, config_data)
  bad_files = [dict(id=name, reason=record['reason'])
               for name, record in zip(source.ids, records)
               if record['reason']]
  audit.check_bad_files(bad_files, on_bad_file=config_data.on_bad_file)
  good = [i for i, record in enumerate(records) if not record['reason']]
  source = sources.take(source, np.asarray(good, np.int64))
  records = [records[i] for i in good]
  parts, dropped = _split(source, config_data)
  bad_files += [dict(id=name, reason=f'screened: {rules}')
                for name, rules in dropped.items()]
  audit.check_duplicates(
      source, records, parts, duplicates=config_data.duplicates)
  return Dataset(
      name=source.name, class_names=source.class_names, images=images,
      labels=source.labels, ids=source.ids,
      splits={name: parts[name] for name in splits_lib.NAMES},
      manifest=audit.manifest(source, records, parts), bad_files=bad_files,
      context=(taxonomy.encode(source.context, source.class_names)
               if source.context else None))


def describe(config_data) -> dict:
  """Says what `load` would give, without opening an image.

  Returns:
    class_names, input_shape (h, w, c), examples, a count for each split, and
    labels, those of each split and, where there are any unlabelled examples,
    of `joined.SPLIT`. Files that turn out to be bad still count.
  """
  source = sources.load(config_data)
  parts, _ = _split(source, config_data)
  labels = {name: source.labels[rows] for name, rows in parts.items()}
  if len(parts['unlabelled']):
    labels[joined.SPLIT] = joined.labels_of(source.labels, parts)
  return dict(
      class_names=source.class_names,
      input_shape=(*config_data.image_size, config_data.channels),
      examples={name: len(rows) for name, rows in parts.items()},
      labels=labels)


def _split(source, config_data):
  """Returns the splits, and {id: rules} of what screening drops from them."""
  parts = splits_lib.make(source, config_data)
  if not config_data.screened:
    return parts, {}
  found = screening.read(config_data.screened)
  return screening.apply(parts, source, found), {
      name: found[name] for name in source.ids if name in found}


def write_manifest(dataset: Dataset, path) -> str:
  """Writes the manifest as JSON, with the SHA-256 of all its rows.

  Args:
    dataset: What `load` returned.
    path: The file to write, ending in .json.

  Returns:
    The SHA-256, in hexadecimal digits: equal for equal contents and splits.
  """
  rows = json.dumps(dataset.manifest, sort_keys=True)
  digest = hashlib.sha256(rows.encode()).hexdigest()
  pathlib.Path(path).write_text(json.dumps(
      dict(sha256=digest, class_names=dataset.class_names,
           files=dataset.manifest, bad_files=dataset.bad_files), indent=1))
  return digest
