"""Labelled and unlabelled training examples as one split, labels withheld.

The split holds 'train' and 'unlabelled'. An unlabelled example has the label
`WITHHELD` from here on, so that nothing behind this room can read its class.
Test and validation keep theirs and are no part of the split.
"""

import numpy as np

from vision_jax.data import errors

SPLIT = 'all_train'
WITHHELD = -1


def join(dataset):
  """Returns the dataset with the split `SPLIT` and the labels it may show.

  Args:
    dataset: A `pipeline.Dataset`.

  Raises:
    errors.DataError: Nothing is unlabelled.
  """
  parts = dataset.splits
  return dataset._replace(
      labels=_withhold(dataset.labels, parts['unlabelled']),
      splits=parts | {SPLIT: _members(parts)})


def labels_of(labels: np.ndarray, parts: dict[str, np.ndarray]) -> np.ndarray:
  """Returns the labels [m] of the split `SPLIT` of `parts`, in its order."""
  return _withhold(labels, parts['unlabelled'])[_members(parts)]


def _members(parts) -> np.ndarray:
  if not len(parts['unlabelled']):
    raise errors.DataError(
        f'config.train.split={SPLIT!r}, but every training example is '
        'labelled; set config.data.label_fraction below 1.')
  return np.sort(np.concatenate([parts['train'], parts['unlabelled']]))


def _withhold(labels, rows) -> np.ndarray:
  labels = np.array(labels)
  labels[rows] = WITHHELD
  return labels
