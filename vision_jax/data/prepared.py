"""Reads TensorFlow Datasets that are prepared on disk, without TensorFlow.

Only datasets with an `image` and a `label` feature are read. A dataset that is
not prepared yet is prepared first where TensorFlow is installed; that is the
one place where it may be loaded, and TFDS does it, not this module.
"""

import importlib.util

from vision_jax.data import errors
from vision_jax.data import listing


def list_tfds(name: str, config_data) -> listing.Listing:
  """Lists the examples of the TFDS dataset `name`.

  Args:
    name: As TFDS has it, for instance 'cifar10' or 'cifar10:3.0.2'.
    config_data: Reads `root`, the data_dir; '' is the default of TFDS.

  Returns:
    Examples whose images are still encoded.

  Raises:
    errors.DataError: TFDS is not installed, does not know the name, or the
      dataset is not prepared and cannot be prepared here.
  """
  if importlib.util.find_spec('tensorflow_datasets') is None:
    raise errors.DataError(
        f'config.data.source tfds:{name} needs the package '
        'tensorflow_datasets: pip install "vision_jax[tfds]".')
  import tensorflow_datasets as tfds  # pylint: disable=g-import-not-at-top
  builder = _builder(tfds, name, root=config_data.root)
  features = builder.info.features
  if not {'image', 'label'} <= set(features):
    raise errors.DataError(
        f'tfds:{name} has the features {", ".join(features)}; only datasets '
        'with an image and a label can be read.')
  try:
    parts = builder.as_data_source(
        decoders={'image': tfds.decode.SkipDecoding()})
  except NotImplementedError as error:
    raise errors.DataError(
        f'tfds:{name} is stored without random access in {builder.data_path}; '
        'prepare it again with file_format="array_record".') from error
  used = {part: listing.SPLIT_NAMES[part] for part in parts
          if part in listing.SPLIT_NAMES}
  if not used:
    raise errors.DataError(
        f'tfds:{name} has the splits {", ".join(parts)}; none of them is '
        f'one of {", ".join(sorted(listing.SPLIT_NAMES))}.')
  rows = [(part, i) for part in used for i in range(len(parts[part]))]
  def read(index):
    part, i = rows[index]
    return parts[part][i]['image']
  ids = tuple(f'{part}/{i:08d}' for part, i in rows)
  return listing.Listing(
      class_names=tuple(features['label'].names), ids=ids,
      labels=tuple(int(parts[part][i]['label']) for part, i in rows),
      splits=tuple(used[part] for part, _ in rows),
      stamps=tuple(f'{builder.data_path}/{id_}' for id_ in ids), read=read,
      ignored=tuple(part for part in parts if part not in used))


def _builder(tfds, name: str, *, root: str):
  """The builder of a dataset that is ready to be read at random."""
  try:
    builder = tfds.builder(name, data_dir=root or None)
  except tfds.core.DatasetNotFoundError as error:
    raise errors.DataError(
        f'TFDS knows no dataset {name!r}, neither by code nor under '
        f'config.data.root = {root!r}. Its names are listed at '
        'https://www.tensorflow.org/datasets/catalog.') from error
  if not builder.is_prepared():
    if importlib.util.find_spec('tensorflow') is None:
      raise errors.DataError(
          f'tfds:{name} is not prepared in {builder.data_path}. Install what '
          'preparing needs with pip install "vision_jax[tfds]" tensorflow and '
          'start again with a network, or copy the prepared folder there.')
    builder.download_and_prepare(file_format='array_record')
  return builder
