"""Measures of generated images against closed forms and explicit sums."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import linalg
from scipy import stats

from vision_jax.analysis import extractors
from vision_jax.analysis import gan_reports
from vision_jax.analysis import generative
from vision_jax.analysis import pictures


def draw(n, d, seed=0, shift=0.0):
  return np.random.default_rng(seed).normal(size=(n, d)) + shift


def test_frechet_distance_of_two_isotropic_normals():
  identity = np.eye(64)
  distance = generative.frechet_distance(
      np.zeros(64), identity, np.ones(64), 4 * identity)
  assert distance == pytest.approx(128, abs=1e-6)


def test_frechet_distance_equals_the_matrix_square_root():
  a, b = draw(50, 6), draw(60, 6, 1) @ np.diag([1, 2, 3, 0.1, 1, 1]) + 1
  root = linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
  expected = ((a.mean(0) - b.mean(0))**2).sum() + np.trace(
      np.cov(a.T) + np.cov(b.T) - 2 * root)
  assert generative.frechet(a, b) == pytest.approx(expected, rel=1e-9)
  assert generative.frechet(a, a) == pytest.approx(0, abs=1e-9)


@hypothesis.given(
    st.integers(2, 40), st.integers(1, 5), st.integers(1, 39),
    st.integers(0, 99))
@hypothesis.settings(max_examples=25)
def test_moments_do_not_depend_on_how_the_rows_come(n, d, cut, seed):
  rows, cut = draw(n, d, seed, shift=100.0), min(cut, n - 1)
  moments = generative.start_moments(d)
  for part in (rows[:cut], rows[cut:]):
    moments = generative.add_rows(moments, part)
  np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-12)
  np.testing.assert_allclose(
      moments.covariance(), np.cov(rows.T).reshape(d, d), atol=1e-9)


def explicit_mmd(a, b):
  """The unbiased estimator as a sum over pairs, in the paper's words."""
  d = a.shape[1]
  k = lambda x, y: (x @ y / d + 1)**3
  m, n = len(a), len(b)
  return (sum(k(a[i], a[j]) for i in range(m) for j in range(m) if i != j)
          / (m * (m - 1))
          + sum(k(b[i], b[j]) for i in range(n) for j in range(n) if i != j)
          / (n * (n - 1))
          - 2 * sum(k(x, y) for x in a for y in b) / (m * n))


def test_kid_equals_the_explicit_sum():
  a, b = draw(12, 5), draw(9, 5, 1, shift=0.3)
  expected = explicit_mmd(a, b)
  assert generative.squared_mmd(a, b) == pytest.approx(expected, abs=1e-10)
  kid = generative.kid(a, b, subset=6, subsets=3)
  assert kid.value == pytest.approx(expected, abs=1e-10)
  assert len(kid.values) == 3


def test_kids_error_equals_the_jackknife_over_each_set():
  a, b = draw(12, 5), draw(9, 5, 1, shift=0.3)
  def variance(left_out):
    values = np.array(left_out)
    n = len(values)
    return (n - 1) / n * ((values - values.mean())**2).sum()
  expected = np.sqrt(
      variance([explicit_mmd(np.delete(a, i, 0), b) for i in range(len(a))])
      + variance([explicit_mmd(a, np.delete(b, i, 0)) for i in range(len(b))]))
  assert generative.kid(a, b, subsets=1).error == pytest.approx(
      expected, rel=1e-9)


def test_kid_of_two_halves_is_zero_within_its_error_and_the_error_honest():
  scores = []
  for seed in range(60):
    rows = draw(200, 8, seed)
    kid = generative.kid(rows[:100], rows[100:], subsets=1)
    scores.append(kid.value / kid.error)
  assert np.mean(np.abs(scores) < 3) > 0.97
  assert 0.6 < np.std(scores) < 1.4
  assert generative.kid(
      draw(100, 8), draw(100, 8, 1, shift=0.5), subsets=1).value > 0.3


def test_precision_and_recall_of_sets_one_can_count():
  # Four reals at unit distance on a line; one fake on it, four far away.
  real = np.arange(4.0)[:, None]
  fake = np.array([[1.5], [50], [51], [52], [53]])
  measures = generative.manifold_measures(real, fake, k=1)
  assert measures['precision'] == pytest.approx(1 / 5)
  # The fake at 1.5 has the radius 48.5, which holds every real.
  assert measures['recall'] == 1.0
  # It lies within one of reals 1 and 2 alone: two balls, over k = 1 and 5.
  assert measures['density'] == pytest.approx(2 / 5)
  assert measures['coverage'] == pytest.approx(2 / 4)
  with pytest.raises(ValueError, match='too few'):
    generative.manifold_measures(real, fake, k=4)


def test_one_set_covers_itself():
  rows = draw(60, 4)
  measures = generative.manifold_measures(rows, rows, k=5)
  assert measures['precision'] == measures['recall'] == 1.0
  assert measures['coverage'] == 1.0
  # A row lies in its own ball and in those of about k others.
  assert 0.8 < measures['density'] < 1.4


def test_sliced_wasserstein_of_one_dimension_is_scipys():
  a, b = draw(40, 1), draw(40, 1, 1, shift=0.7)
  expected = stats.wasserstein_distance(a[:, 0], b[:, 0])
  assert generative.sliced_wasserstein(a, b) == pytest.approx(expected)


@pytest.mark.parametrize('n, m', [(1, 2), (10, 15), (40, 5), (50, 1000)])
def test_samples_of_uneven_size_have_scipys_distance(n, m):
  a, b = draw(n, 3), 2 * draw(m, 3, 1)
  expected = [stats.wasserstein_distance(*pair) for pair in zip(a.T, b.T)]
  assert generative.mean_wasserstein(a, b) == pytest.approx(np.mean(expected))


def test_sliced_wasserstein_of_a_shift():
  """Mean |u . v| over the circle is 2 |v| / pi."""
  a = draw(500, 2)
  distance = generative.sliced_wasserstein(a, a + [3, 4], projections=4000)
  assert distance == pytest.approx(10 / np.pi, rel=0.03)
  assert generative.sliced_wasserstein(a, a[::-1]) == pytest.approx(0)
  uneven = generative.sliced_wasserstein(a, np.repeat(a, 2, axis=0))
  assert uneven == pytest.approx(0)


def test_copies_of_the_training_set_are_found_out():
  train, held_out = draw(80, 6), draw(80, 6, 1)
  copied = generative.memorisation(train[:40] + 1e-3, train, held_out)
  honest = generative.memorisation(draw(80, 6, 2), train, held_out)
  assert copied['fakes_nearer'] > 0.99
  assert 0.3 < honest['fakes_nearer'] < 0.7
  distance, row = generative.nearest(train[:5] + 1e-3, train)
  np.testing.assert_array_equal(row, range(5))
  np.testing.assert_allclose(distance, 1e-3 * np.sqrt(6), rtol=1e-6)


def test_pixels_are_block_means():
  images = np.random.default_rng(0).uniform(size=(2, 16, 24, 3))
  expected = [images[0, 2 * i:2 * i + 2, 3 * j:3 * j + 3, c].mean()
              for i in range(8) for j in range(8) for c in range(3)]
  np.testing.assert_allclose(
      generative.pixels(images)[0], expected, rtol=1e-5)


def test_extractors_carry_their_name_and_see_each_image_alone():
  extractor = extractors.make('pixels')
  images = np.random.default_rng(0).uniform(
      size=(37, 8, 8, 3)).astype(np.float32)
  rows = extractor.rows(images)
  assert extractor.name == 'pixels, 8x8' and rows.shape == (37, 192)
  np.testing.assert_allclose(rows[35], extractor.rows(images[35:36])[0])
  with pytest.raises(ValueError, match='efficientnet_lite0'):
    extractors.make('efficientnet_lite')


def test_a_grid_holds_the_images_it_was_given(tmp_path):
  rng = np.random.default_rng(0)
  values = rng.integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
  canvas = pictures.tile(values / 255)
  np.testing.assert_array_equal(canvas[2:66, 68:132], values[1])
  pictures.write_png(tmp_path / 'a' / 'grid.png', canvas, step=7, seed=3)
  again, about = pictures.read_png(tmp_path / 'a' / 'grid.png')
  np.testing.assert_array_equal(again, canvas)
  assert about == {'step': '7', 'seed': '3'}
  with pytest.raises(ValueError, match='undo the transform'):
    pictures.tile(2 * values / 255 - 1)


def test_a_path_between_latents_keeps_the_length():
  start, end = draw(2, 100)
  path = pictures.interpolate(start, end, steps=5)
  np.testing.assert_allclose(path[[0, -1]], [start, end], rtol=1e-5)
  unit = pictures.interpolate(
      start / linalg.norm(start), end / linalg.norm(end), steps=7)
  np.testing.assert_allclose(linalg.norm(unit, axis=1), 1, rtol=1e-5)
  np.testing.assert_allclose(
      pictures.interpolate(start, start, steps=3), [start] * 3, rtol=1e-6)


@pytest.mark.parametrize('seed', range(3))
def test_the_interval_of_a_distance_lies_around_the_number_reported(seed):
  """Few images of many pixels, where each direction says another distance."""
  outputs = dict(
      real=draw(40, 192, seed), fake=2 * draw(40, 192, 9 + seed, shift=0.5),
      real_logit=np.zeros(40), fake_logit=np.zeros(40))
  value = gan_reports.summarize(outputs, real_sign=1)['sliced_wasserstein']
  low, high = gan_reports._interval(outputs)
  assert low < value < high
  assert abs((low + high) / 2 - value) < (high - low) / 4
