"""Latent spaces: scikit-learn's scores, no leak, figures that can be read."""

from matplotlib import figure
import numpy as np
from PIL import Image
import pytest
from sklearn import cluster as sk_cluster
from sklearn import datasets as sk_datasets
from sklearn import linear_model
from sklearn import metrics as sk_metrics
from sklearn import preprocessing

from vision_jax import config as config_lib
from vision_jax.analysis import figures
from vision_jax.analysis import latent
from vision_jax.analysis import latent_figures


@pytest.fixture(name='blobs', scope='module')
def _blobs():
  features, labels = sk_datasets.make_blobs(
      300, 12, centers=5, cluster_std=7.0, random_state=0)
  rows = np.random.default_rng(0).permutation(300)
  return features.astype(np.float32), labels, {
      'train': np.sort(rows[:180]), 'validation': np.sort(rows[180:230]),
      'test': np.sort(rows[230:])}


def test_cluster_scores_are_scikit_learns(blobs):
  features, labels, splits = blobs
  train, test = splits['train'], splits['test']
  clusters = latent.cluster(features, train, k=5, seed=3)
  expected = sk_cluster.KMeans(5, n_init=10, random_state=3).fit(
      features[train]).predict(features)
  np.testing.assert_array_equal(clusters, expected)
  scores = latent.cluster_scores(features, labels, clusters, rows=test)
  pair = labels[test], expected[test]
  wanted = {
      'nmi': sk_metrics.normalized_mutual_info_score(*pair),
      'ami': sk_metrics.adjusted_mutual_info_score(*pair),
      'ari': sk_metrics.adjusted_rand_score(*pair),
      'silhouette': sk_metrics.silhouette_score(features[test], pair[1]),
      'label_silhouette': sk_metrics.silhouette_score(features[test], pair[0]),
  }
  for name, value in wanted.items():
    assert scores[name] == pytest.approx(value, abs=1e-12), name
  for name in ('nmi', 'ami', 'ari', 'purity'):
    assert scores[f'{name}_low'] < scores[name] < scores[f'{name}_high']


def test_purity_is_the_best_renaming_of_clusters():
  labels = np.array([0, 0, 0, 1, 1, 2])
  assert latent.purity(labels, (labels + 1) % 3) == 1.0
  # Both halves of class 0 want to be class 0; only the larger one may.
  assert latent.purity(labels, np.array([5, 5, 7, 1, 1, 2])) == 5 / 6
  # One cluster for all: it can name one class.
  assert latent.purity(labels, np.zeros(6, int)) == 3 / 6


def test_the_intervals_hold_the_score_of_further_examples():
  # Clusters that are right seven times in ten, in ten test sets of 80.
  rng = np.random.default_rng(0)
  labels = np.tile(np.arange(5), 4000)
  clusters = np.where(rng.uniform(size=20_000) < 0.7, labels,
                      rng.integers(5, size=20_000))
  truth = latent.agreement(labels, clusters)['ari']
  features = rng.normal(size=(20_000, 2))
  held = []
  for i in range(10):
    scores = latent.cluster_scores(
        features, labels, clusters, rows=np.arange(80 * i, 80 * (i + 1)))
    held.append(scores['ari_low'] < truth < scores['ari_high'])
  assert sum(held) >= 8


def test_a_random_partition_is_worth_nothing():
  rng = np.random.default_rng(0)
  labels = np.repeat(np.arange(20), 25)
  scores = latent.agreement(labels, rng.integers(20, size=500))
  assert abs(scores['ami']) < 0.03 and abs(scores['ari']) < 0.01
  assert scores['nmi'] > 0.1  # Which is why the others are reported too.


def test_the_probe_is_a_logistic_regression_on_training_rows(blobs):
  features, labels, splits = blobs
  found = latent.probe(features, labels, splits)
  train, test = splits['train'], splits['test']
  scaler = preprocessing.StandardScaler().fit(features[train])
  candidates = []
  for strength in (1e-3, 1e-2, 1e-1, 1.0):
    model = linear_model.LogisticRegression(C=strength, max_iter=500).fit(
        scaler.transform(features[train]), labels[train])
    score = lambda rows, m=model: m.score(
        scaler.transform(features[rows]), labels[rows])
    candidates.append((score(splits['validation']), score(test)))
  best = max(candidates, key=lambda pair: pair[0])
  assert found['linear'] == pytest.approx(best[1])
  distance = np.linalg.norm(
      features[test][:, None] - features[train][None], axis=-1)
  nearest = labels[train][np.argsort(distance, axis=1)[:, :10]]
  votes = np.array([np.bincount(row, minlength=5).argmax() for row in nearest])
  assert found['knn'] == pytest.approx((votes == labels[test]).mean())
  assert found['linear_low'] < found['linear'] < found['linear_high']


@pytest.mark.parametrize('hidden', ['validation', 'test'])
def test_nothing_is_learnt_from_the_rows_that_are_scored(blobs, hidden):
  features, labels, splits = blobs
  spoilt = features.copy()
  spoilt[splits[hidden]] += 1e3
  train = splits['train']
  one, two = (latent.reduce(x, train, components=4, seed=0).features[train]
              for x in (features, spoilt))
  np.testing.assert_array_equal(one, two)
  one, two = (latent.cluster(x, train, k=5, seed=0)[train]
              for x in (features, spoilt))
  np.testing.assert_array_equal(one, two)


def test_the_projection_keeps_what_it_says(blobs):
  features, _, splits = blobs
  train = splits['train']
  whole = latent.reduce(features, train, components=99, seed=0)
  assert whole.features.shape[1] == 12
  assert whole.explained == pytest.approx(1.0)
  distances = lambda x: np.linalg.norm(x[:20, None] - x[None, :20], axis=-1)
  np.testing.assert_allclose(
      distances(whole.features), distances(features), atol=1e-3)
  part = latent.reduce(features, train, components=3, seed=0)
  variance = np.linalg.eigvalsh(np.cov(features[train].T))[::-1]
  assert part.explained == pytest.approx(
      variance[:3].sum() / variance.sum(), rel=1e-3)


@pytest.mark.parametrize('method', [
    'tsne', pytest.param('opentsne', marks=pytest.mark.parity),
    pytest.param('umap', marks=pytest.mark.parity)])
def test_maps_keep_neighbours_and_repeat(blobs, method):
  if method != 'tsne':
    pytest.importorskip('umap' if method == 'umap' else 'openTSNE')
  features = blobs[0][:100]
  plane = latent.embed(method, features, seed=1)
  assert plane.shape == (100, 2)
  np.testing.assert_array_equal(
      plane, latent.embed(method, features, seed=1))
  shuffled = np.random.default_rng(0).permutation(plane)
  good, bad = (latent.faithfulness(features, p) for p in (plane, shuffled))
  assert good > 0.85 > 0.6 > bad


def test_an_unknown_map_is_refused(blobs):
  with pytest.raises(config_lib.ConfigError, match="did you mean 'tsne'"):
    latent.embed('tsn', blobs[0], seed=0)


def test_twenty_species_stay_apart_and_in_the_picture(tmp_path, monkeypatch):
  drawn = []
  original = figure.Figure.savefig
  monkeypatch.setattr(figure.Figure, 'savefig', lambda self, *args, **kw: (
      drawn.append(self), original(self, *args, **kw))[1])
  rng = np.random.default_rng(0)
  groups = np.repeat(np.arange(20), 20)
  names = [f'WHITE LINED SPHINX MOTH {i}' for i in range(20)]
  path = tmp_path / 'x.png'
  latent_figures.scatter(
      rng.normal(size=(400, 2)) + groups[:, None], groups, names, path,
      title='t-SNE')
  assert len({latent_figures.style(i) for i in range(20)}) == 20
  assert path.stat().st_size <= figures.MAX_BYTES
  with Image.open(path) as image:
    assert image.format == 'PNG'
  ax = drawn[0].axes[0]
  texts = [text.get_text() for text in ax.get_legend().get_texts()]
  assert texts == [f'{i + 1:2d}  {name}' for i, name in enumerate(names)]
  assert len(ax.texts) == 20
  box = ax.get_legend().get_window_extent()
  assert box.x0 >= ax.get_window_extent().x1
  assert box.x1 <= drawn[0].bbox.x1 and box.y0 >= 0


def test_the_number_stands_in_the_larger_island(tmp_path, monkeypatch):
  rng = np.random.default_rng(0)
  plane = np.concatenate([rng.normal(size=(30, 2)),
                          rng.normal(size=(20, 2)) + 100])
  drawn = []
  monkeypatch.setattr(figures, 'save', lambda fig, path: drawn.append(fig))
  latent_figures.scatter(
      plane, np.zeros(50, int), ['one'], tmp_path / 'x.png', title='')
  place = drawn[0].axes[0].texts[0].xy
  assert min(np.linalg.norm(np.subtract(place, c)) for c in (0, 100)) < 3


def test_numbers_stand_beside_the_points_and_each_other():
  points = np.random.default_rng(0).normal(size=(200, 2))
  numbers = np.zeros((0, 2))
  for place in points[:3]:
    found = latent_figures._free(place, points, numbers)
    taken = np.concatenate([points, numbers])
    gaps = np.linalg.norm((found - taken) / np.ptp(points, axis=0), axis=1)
    assert gaps.min() > 0.02
    numbers = np.concatenate([numbers, found[None]])
