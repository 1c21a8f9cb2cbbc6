"""Measures of generated images, on features of any extractor.

Real and generated images become rows of features once, in batches; everything
here works on those rows. A distance means nothing without the name of its
features: see `extractors.py`. Only FD on Inception's pooled features may be
called FID. scipy and scikit-learn are imported where they are used: they take
a second and a half.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_SIDE = 8
_CHUNK = 1024
_DIRECTIONS = 128


class Moments(NamedTuple):
  """Sufficient statistics of features seen so far.

  Attributes:
    count: Number of rows.
    mean: float64 [d].
    scatter: Sum of outer products around the mean, float64 [d, d].
  """
  count: int
  mean: np.ndarray
  scatter: np.ndarray

  def covariance(self) -> np.ndarray:
    """Returns the unbiased covariance [d, d]."""
    return self.scatter / (self.count - 1)


def start_moments(dims: int) -> Moments:
  """Returns the statistics of no rows of `dims` features."""
  return Moments(0, np.zeros(dims), np.zeros((dims, dims)))


def add_rows(moments: Moments, rows: np.ndarray) -> Moments:
  """Returns the statistics with rows [n, d] added (Chan et al. 1979)."""
  rows = np.asarray(rows, np.float64)
  mean = rows.mean(0)
  centred, gap = rows - mean, mean - moments.mean
  count = moments.count + len(rows)
  share = len(rows) / count
  return Moments(
      count, moments.mean + gap * share,
      moments.scatter + centred.T @ centred
      + np.outer(gap, gap) * moments.count * share)


def moments_of(rows: np.ndarray) -> Moments:
  """Returns the statistics of rows [n, d], in chunks."""
  moments = start_moments(rows.shape[1])
  for start in range(0, len(rows), _CHUNK):
    moments = add_rows(moments, rows[start:start + _CHUNK])
  return moments


def frechet_distance(
    mean_a: np.ndarray, cov_a: np.ndarray,
    mean_b: np.ndarray, cov_b: np.ndarray) -> float:
  """Squared 2-Wasserstein distance of two normal distributions.

  |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)); the trace of the root is
  the sum of the roots of C_a^(1/2) C_b C_a^(1/2)'s eigenvalues, which is
  symmetric and so needs no complex numbers. Source: Dowson & Landau 1982;
  Heusel et al. 2017, arXiv:1706.08500.
  """
  from scipy import linalg
  values, vectors = linalg.eigh(cov_a)
  root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
  roots = np.sqrt(linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
  gap = np.asarray(mean_a) - np.asarray(mean_b)
  return float(
      gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2 * roots)


def frechet(real: np.ndarray, fake: np.ndarray) -> float:
  """`frechet_distance` of the rows' moments; biased upwards for few rows."""
  a, b = moments_of(real), moments_of(fake)
  return frechet_distance(a.mean, a.covariance(), b.mean, b.covariance())


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  return (a @ b.T / a.shape[1] + 1.0) ** 3


def squared_mmd(real: np.ndarray, fake: np.ndarray) -> float:
  """Unbiased squared MMD of rows [m, d] and [n, d], kernel (x.y / d + 1)^3."""
  real, fake = (np.asarray(x, np.float64) for x in (real, fake))
  def within(x):
    gram = _kernel(x, x)
    return (gram.sum() - np.trace(gram)) / (len(x) * (len(x) - 1))
  return float(
      within(real) + within(fake) - 2 * _kernel(real, fake).mean())


class Estimate(NamedTuple):
  """A mean over subsets, its standard error, and the subsets' values."""
  value: float
  error: float
  values: tuple[float, ...]


def kid(
    real: np.ndarray, fake: np.ndarray, *,
    subset: int = 100, subsets: int = 100, seed: int = 0) -> Estimate:
  """Kernel distance of all rows, with a jackknife standard error.

  The value uses every row; unbiased, so it may be negative. The error is the
  square root of the jackknife variances over real and over generated rows,
  and needs no subsets; `values` are those of random subsets, as the paper's
  histogram has them. Source: Binkowski et al. 2018, arXiv:1801.01401.

  Args:
    real: [m, d].
    fake: [n, d].
    subset: Rows of a subset, at most m and n.
    subsets: Number of subsets.
    seed: Of their choice.
  """
  real, fake = (np.asarray(x, np.float64) for x in (real, fake))
  size = min(subset, len(real), len(fake))
  rng = np.random.default_rng(seed)
  pick = lambda x: x[rng.choice(len(x), size, replace=False)]
  values = tuple(squared_mmd(pick(real), pick(fake)) for _ in range(subsets))
  cross = _kernel(real, fake)
  error = np.sqrt(_jackknife(_kernel(real, real), cross)
                  + _jackknife(_kernel(fake, fake), cross.T))
  return Estimate(squared_mmd(real, fake), float(error), values)


def _jackknife(own: np.ndarray, cross: np.ndarray) -> float:
  """Jackknife variance of the squared MMD over the rows of `own` [n, n]."""
  count = len(own)
  rows = own.sum(1) - np.diag(own)
  total = rows.sum()
  within = (total - 2 * rows) / ((count - 1) * (count - 2))
  means = cross.mean(1)
  between = (means.sum() - means) / (count - 1)
  left_out = within - 2 * between
  return float((count - 1) / count * ((left_out - left_out.mean())**2).sum())


def _radii(rows: np.ndarray, k: int) -> np.ndarray:
  """Distance of each row to its k-th nearest other row."""
  from sklearn import neighbors
  search = neighbors.NearestNeighbors(n_neighbors=k + 1).fit(rows)
  return search.kneighbors(rows)[0][:, k]


def manifold_measures(
    real: np.ndarray, fake: np.ndarray, *, k: int = 5) -> dict[str, float]:
  """Fidelity and diversity from balls around the k nearest neighbours.

  precision: share of fakes inside some real ball; recall: of reals inside some
  fake ball (Kynkaanniemi et al. 2019, arXiv:1904.06991). density: mean number
  of real balls around a fake, over k; coverage: share of real balls with a
  fake inside (Naeem et al. 2020, arXiv:2002.09797).

  Args:
    real: [m, d], m > k.
    fake: [n, d], n > k.
    k: Neighbour that sets a ball's radius.

  Raises:
    ValueError: If there are too few rows.
  """
  if min(len(real), len(fake)) <= k:
    raise ValueError(
        f'{len(real)} real and {len(fake)} generated rows are too few for '
        f'k = {k}')
  from scipy import spatial
  real, fake = (np.asarray(x, np.float64) for x in (real, fake))
  distances = spatial.distance.cdist(real, fake)
  in_real = distances <= _radii(real, k)[:, None]
  in_fake = distances <= _radii(fake, k)[None]
  return {
      'precision': float(in_real.any(0).mean()),
      'recall': float(in_fake.any(1).mean()),
      'density': float(in_real.sum(0).mean() / k),
      'coverage': float(in_real.any(1).mean()),
  }


def sliced_wasserstein(
    real: np.ndarray, fake: np.ndarray, *,
    projections: int = _DIRECTIONS) -> float:
  """Mean 1-Wasserstein distance over random directions on the sphere.

  In the units of a coordinate of the rows. Source: Bonneel et al. 2015, with the
  first power.
  """
  return mean_wasserstein(
      slices(real, projections), slices(fake, projections))


def slices(rows: np.ndarray, projections: int = _DIRECTIONS) -> np.ndarray:
  """Returns rows [n, d] along fixed random directions, [n, projections]."""
  directions = np.random.default_rng(0).normal(
      size=(rows.shape[1], projections))
  directions /= np.linalg.norm(directions, axis=0)
  return np.asarray(rows, np.float64) @ directions


def mean_wasserstein(a: np.ndarray, b: np.ndarray) -> float:
  """Mean 1-Wasserstein distance between the columns of [n, k] and [m, k].

  Of a column it is the area between the two quantile functions, steps of width
  1/n and 1/m.
  """
  n, m = len(a), len(b)
  # Where a step of either ends, in whole units of 1/(nm).
  ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
  widths = np.diff(ends, prepend=0) / (n * m)
  a, b = np.sort(a, axis=0), np.sort(b, axis=0)
  gaps = np.abs(a[(ends - 1) // m] - b[(ends - 1) // n])
  return float((widths @ gaps).mean())


def nearest(
    fake: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns (distance, row) of each fake's nearest training row, each [n]."""
  rows, squares = [], np.einsum('ij,ij->i', train, train)
  for start in range(0, len(fake), _CHUNK):
    # |a - b|^2 less |a|^2, which is the same for all b.
    rows.append((squares - 2 * fake[start:start + _CHUNK] @ train.T).argmin(1))
  rows = np.concatenate(rows)
  gap = np.asarray(fake, np.float64) - train[rows]
  return np.sqrt(np.einsum('ij,ij->i', gap, gap)), rows


def memorisation(
    fake: np.ndarray, train: np.ndarray, held_out: np.ndarray,
) -> dict[str, float]:
  """Compares distances to the training set: of fakes and of held-out images.

  A generator that copies lies nearer to its training images than new real
  images do: `fakes_nearer` is the share of (fake, held-out) pairs in which
  the fake is nearer, one half for an honest one (Meehan et al. 2020,
  arXiv:2004.05675). `median_fake` and `median_held_out` are the medians.
  """
  own, other = nearest(fake, train)[0], nearest(held_out, train)[0]
  nearer = (own[:, None] < other[None]) + 0.5 * (own[:, None] == other[None])
  return {'fakes_nearer': float(nearer.mean()),
          'median_fake': float(np.median(own)),
          'median_held_out': float(np.median(other))}


def pixels(images: jax.Array) -> jax.Array:
  """Flattens images [B, H, W, C], averaged to at most 8x8 pixels, to [B, d]."""
  batch, height, width, channels = images.shape
  down = lambda n: n // _SIDE if n > _SIDE and n % _SIDE == 0 else 1
  rows, columns = down(height), down(width)
  blocks = images.reshape(
      batch, height // rows, rows, width // columns, columns, channels)
  return jnp.mean(blocks, axis=(2, 4)).reshape(batch, -1)
