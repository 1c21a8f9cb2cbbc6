"""What a latent space is worth, as numbers, and its maps in the plane.

Arrays in, numbers out: no encoder and no file. scikit-learn does what it
can. Every function says which rows it learns from: a label or an image of the
rows that are scored is never among them, save in the maps of `embed`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vision_jax import config as config_lib
from vision_jax import stats

NEIGHBOURS = 10
_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)


class Reduced(NamedTuple):
  """Features in their main directions.

  Attributes:
    features: float32 [n, k].
    explained: Share of the variance of the fitted rows that they keep.
  """
  features: np.ndarray
  explained: float


def reduce(
    features: np.ndarray, fit_rows: np.ndarray, *,
    components: int, seed: int) -> Reduced:
  """Projects features [n, d] on the principal components of `fit_rows`.

  Distances and linear classifiers then cost the same for 1,280 features and
  for 65,536. Fewer components remain where there are fewer features or rows.
  """
  from sklearn import decomposition
  count = min(components, features.shape[1], len(fit_rows))
  pca = decomposition.PCA(count, random_state=seed).fit(features[fit_rows])
  return Reduced(pca.transform(features).astype(np.float32),
                 float(pca.explained_variance_ratio_.sum()))


def cluster(
    features: np.ndarray, fit_rows: np.ndarray, *,
    k: int, seed: int) -> np.ndarray:
  """Returns each row's K-means cluster, int [n]; centres from `fit_rows`."""
  from sklearn import cluster as clusters
  means = clusters.KMeans(k, n_init=10, random_state=seed)
  with _one_thread():
    return means.fit(features[fit_rows]).predict(features)


def agreement(labels: np.ndarray, clusters: np.ndarray) -> dict[str, float]:
  """Returns how well clusters [n] agree with labels [n].

  `nmi` is normalised by the arithmetic mean and grows with the number of
  clusters; `ami` and `ari` are 0 for a random partition. `purity` is the
  accuracy under the best assignment of clusters to classes, one to one.
  """
  from sklearn import metrics
  return {
      'nmi': float(metrics.normalized_mutual_info_score(labels, clusters)),
      'ami': float(metrics.adjusted_mutual_info_score(labels, clusters)),
      'ari': float(metrics.adjusted_rand_score(labels, clusters)),
      'purity': purity(labels, clusters),
  }


def purity(labels: np.ndarray, clusters: np.ndarray) -> float:
  """Returns the accuracy under the best one-to-one assignment.

  Source: Kuhn 1955, "The Hungarian method for the assignment problem".
  """
  from scipy import optimize
  from sklearn.metrics import cluster as measures
  table = measures.contingency_matrix(labels, clusters)
  rows, columns = optimize.linear_sum_assignment(table, maximize=True)
  return float(table[rows, columns].sum() / len(labels))


def cluster_scores(
    features: np.ndarray, labels: np.ndarray, clusters: np.ndarray, *,
    rows: np.ndarray) -> dict[str, float]:
  """Returns `agreement` and silhouettes over `rows`, with 95 % intervals.

  The intervals hold for the given clusters. `silhouette` is that of the
  clusters, `label_silhouette` of the classes; it needs no clustering and tells
  whether classes are compact.
  """
  from sklearn import metrics
  found, truth = clusters[rows], labels[rows]
  scores = agreement(truth, found)
  for name, reach in _reach(truth, found).items():
    scores |= {f'{name}_low': scores[name] - reach,
               f'{name}_high': scores[name] + reach}
  for name, groups in (('silhouette', found), ('label_silhouette', truth)):
    scores[name] = float(metrics.silhouette_score(features[rows], groups))
  return scores


def _reach(labels, clusters) -> dict[str, float]:
  """Returns half the length of each score's 95 % jackknife interval.

  A bootstrap draws examples twice, which a mutual information takes for
  agreement: its interval may lie wholly above the score. Source: Efron and
  Tibshirani 1993, "An introduction to the bootstrap", equation 11.5.
  """
  n = len(labels)
  without = [agreement(np.delete(labels, i), np.delete(clusters, i))
             for i in range(n)]
  values = {name: [scores[name] for scores in without] for name in without[0]}
  return {name: 1.96 * float(np.sqrt(n - 1) * np.std(part))
          for name, part in values.items()}


def sweep(
    features: np.ndarray, labels: np.ndarray, *, fit_rows: np.ndarray,
    rows: np.ndarray, counts: Sequence[int], seed: int,
) -> list[dict[str, float]]:
  """Returns a row of scores over `rows` for each number of clusters."""
  from sklearn import metrics
  result = []
  for k in counts:
    found = cluster(features, fit_rows, k=k, seed=seed)[rows]
    result.append({
        'k': k, **agreement(labels[rows], found),
        'silhouette': float(metrics.silhouette_score(features[rows], found))})
  return result


def probe(
    features: np.ndarray, labels: np.ndarray, splits: dict[str, np.ndarray],
) -> dict[str, float]:
  """Returns test accuracies of two simple classifiers on the features.

  `linear`: logistic regression on features standardised over the training
  rows, its penalty chosen by validation accuracy. `knn`: the vote of the 10
  nearest training rows. Both learn from `splits['train']` alone.

  Returns:
    `linear`, `knn`, each with `_low` and `_high` (Wilson, 95 %), and n.
  """
  from sklearn import linear_model, neighbors, pipeline, preprocessing
  train, test = splits['train'], splits['test']
  def right(model, rows):
    return int((model.predict(features[rows]) == labels[rows]).sum())
  linear = [
      pipeline.make_pipeline(
          preprocessing.StandardScaler(),
          linear_model.LogisticRegression(C=strength, max_iter=500),
      ).fit(features[train], labels[train]) for strength in _STRENGTHS]
  best = max(linear, key=lambda model: right(model, splits['validation']))
  nearest = neighbors.KNeighborsClassifier(NEIGHBOURS).fit(
      features[train], labels[train])
  result = {}
  for name, model in (('linear', best), ('knn', nearest)):
    correct = right(model, test)
    low, high = stats.wilson(correct, len(test))
    result |= {name: correct / len(test), f'{name}_low': low,
               f'{name}_high': high}
  return {**result, 'n': len(test)}


def embed(method: str, features: np.ndarray, *, seed: int) -> np.ndarray:
  """Returns a map of all rows in the plane, [n, 2].

  Distances between far points mean nothing in it: it is for looking. Source:
  van der Maaten and Hinton 2008, "Visualizing data using t-SNE"; McInnes et
  al. 2018, arXiv:1802.03426.

  Args:
    method: 'tsne', 'opentsne' (the same for ten thousand rows and more) or
      'umap'; the last two need their package.
    features: [n, d].
    seed: The same seed gives the same map.

  Raises:
    ConfigError: If the method is unknown or its package is missing.
  """
  return config_lib.choose('method', method, METHODS)(
      np.asarray(features, np.float32), seed)


def faithfulness(features: np.ndarray, plane: np.ndarray) -> float:
  """Returns how far neighbours in the plane are neighbours in the features.

  Trustworthiness over 10 neighbours, 1 at best. Source: Venna and Kaski 2001,
  "Neighborhood preservation in nonlinear projection methods".
  """
  from sklearn import manifold
  return float(manifold.trustworthiness(
      features, plane, n_neighbors=NEIGHBOURS))


def _tsne(features, seed):
  from sklearn import manifold
  with _one_thread():
    return manifold.TSNE(random_state=seed).fit_transform(features)


def _opentsne(features, seed):
  with _one_thread():
    return np.asarray(
        _optional('openTSNE').TSNE(random_state=seed).fit(features))


def _umap(features, seed):
  # One thread: UMAP is repeatable no other way.
  return _optional('umap').UMAP(
      random_state=seed, n_jobs=1).fit_transform(features)


def _one_thread():
  """Returns a context in which scikit-learn's loops use one thread.

  The sums of several threads differ from run to run in their last bits, and
  waiting threads slow each other down where the machine has other work: a map
  of 150 points took 64 s so, and 1 s with one thread.
  """
  import threadpoolctl
  return threadpoolctl.threadpool_limits(1)


def _optional(name: str) -> Any:
  import importlib
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise config_lib.ConfigError(
        f'This map needs the package {name}: '
        'pip install "vision_jax[latent]".') from error


METHODS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    'tsne': _tsne, 'opentsne': _opentsne, 'umap': _umap}
