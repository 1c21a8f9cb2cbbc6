"""Resampling in feature space: imbalanced-learn's own counts and points."""

import numpy as np
import pytest

from vision_jax import resampling

pytest.importorskip('imblearn')
_LABELS = np.repeat(np.arange(4), (42, 30, 8, 4))
_FEATURES = np.random.default_rng(0).normal(0, 1, (84, 3)) + 1.5 * np.eye(
    4)[_LABELS][:, :3]


def _direct(method):
  from imblearn import over_sampling
  from imblearn import under_sampling
  return {
      'smote': lambda: over_sampling.SMOTE(k_neighbors=3, random_state=5),
      'adasyn': lambda: over_sampling.ADASYN(n_neighbors=3, random_state=5),
      'tomek': under_sampling.TomekLinks,
      'enn': under_sampling.EditedNearestNeighbours,
      'cluster_centroids': lambda: under_sampling.ClusterCentroids(
          random_state=5),
  }[method]().fit_resample(_FEATURES, _LABELS)


@pytest.mark.parametrize('method', resampling.METHODS)
def test_equals_imbalanced_learn(method):
  features, labels = resampling.resample(_FEATURES, _LABELS, method, seed=5)
  expected_features, expected_labels = _direct(method)
  np.testing.assert_array_equal(labels, expected_labels)
  np.testing.assert_allclose(features, expected_features, rtol=1e-6)


def test_neighbours_fit_the_rarest_class():
  labels = np.repeat([0, 1], (20, 2))
  features = np.random.default_rng(1).normal(size=(22, 2))
  _, after = resampling.resample(features, labels, 'smote', seed=0)
  assert np.bincount(after).tolist() == [20, 20]
  with pytest.raises(ValueError, match='config.data.imbalance.ratio'):
    resampling.resample(features[:21], labels[:21], 'smote', seed=0)


def test_errors_say_what_was_asked():
  with pytest.raises(ValueError, match='cluster_centroids'):
    resampling.resample(_FEATURES, _LABELS, 'centroids', seed=0)
  # Two classes far apart: no neighbour is of another class.
  labels = np.repeat([0, 1], (20, 5))
  with pytest.raises(ValueError, match=r'adasyn.*\[20, 5\]'):
    resampling.resample(
        np.arange(25.0)[:, None] + 1000 * labels[:, None], labels, 'adasyn',
        seed=0)
