"""Resampling of examples in feature space, by imbalanced-learn.

Nothing is rewritten here: the names of the methods, a number of neighbours
that fits the rarest class, and errors that say what to do. imbalanced-learn is
the extra `imbalance`, and imported where it is used.
"""

import importlib

import numpy as np

METHODS = {
    # Chawla et al., 2002, arXiv:1106.1813.
    'smote': ('over_sampling', 'SMOTE', 'k_neighbors'),
    # He et al., 2008, "ADASYN: adaptive synthetic sampling approach".
    'adasyn': ('over_sampling', 'ADASYN', 'n_neighbors'),
    # Tomek, 1976, "Two modifications of CNN".
    'tomek': ('under_sampling', 'TomekLinks', ''),
    # Wilson, 1972, "Asymptotic properties of nearest neighbor rules using
    # edited data".
    'enn': ('under_sampling', 'EditedNearestNeighbours', ''),
    # Lin et al., 2017, "Clustering-based undersampling in class-imbalanced
    # data".
    'cluster_centroids': ('under_sampling', 'ClusterCentroids', ''),
}
_NEIGHBOURS = 5


def resample(
    features: np.ndarray, labels: np.ndarray, method: str, *, seed: int,
    strategy='auto') -> tuple[np.ndarray, np.ndarray]:
  """Returns features [m, d] and labels [m] after resampling.

  Args:
    features: float [n, d].
    labels: int [n].
    method: A key of `METHODS`.
    seed: Of what the method draws.
    strategy: imbalanced-learn's `sampling_strategy`; its 'auto' spares the
      largest class when adding and the smallest when removing.

  Raises:
    ValueError: There is no such method, or the features do not allow it.
    ModuleNotFoundError: imbalanced-learn is not installed.
  """
  if method not in METHODS:
    raise ValueError(
        f'no resampling {method!r}; there are {", ".join(METHODS)}')
  module, name, neighbours = METHODS[method]
  try:
    module = importlib.import_module(f'imblearn.{module}')
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f'resampling by {method!r} needs imbalanced-learn: '
        "pip install 'vision_jax[imbalance]'") from error
  options = {'sampling_strategy': strategy}
  if neighbours:
    options[neighbours] = _neighbours(labels, method)
  if method not in ('tomek', 'enn'):
    options['random_state'] = seed
  try:
    return getattr(module, name)(**options).fit_resample(features, labels)
  except (ValueError, RuntimeError) as error:
    raise ValueError(
        f'{method!r} cannot resample classes of '
        f'{np.bincount(labels).tolist()} examples: {error}') from error


def _neighbours(labels: np.ndarray, method: str) -> int:
  """Five, or as many as the rarest class has beside the example itself."""
  counts = np.bincount(labels)
  rarest = int(counts[counts > 0].min())
  if rarest < 2:
    raise ValueError(
        f'{method!r} interpolates between two examples of a class, and one '
        'class has only one; lower config.data.imbalance.ratio or raise '
        'config.data.imbalance.total')
  return min(_NEIGHBOURS, rarest - 1)
