"""Counts of mistakes on predictions small enough to check by hand."""

import numpy as np
import pytest

from experiments import rare_species_errors
from vision_jax import config as config_lib
from vision_jax.analysis import error_figures
from vision_jax.analysis import errors
from vision_jax.data import taxonomy

NAMES = ('k/bird/crow', 'k/bird/gull', 'k/fish/carp', 'k/fish/eel')


def make_predictions():
  """Eight examples: five right, two within a phylum, one across."""
  labels = np.array([0, 0, 0, 1, 1, 2, 2, 3])
  guess = np.array([0, 0, 1, 1, 0, 2, 3, 1])
  confidence = np.array([0.9, 0.5, 0.8, 0.6, 0.7, 1.0, 0.4, 0.95])
  p = np.full((8, 4), 0.0)
  p[:] = ((1 - confidence) / 3)[:, None]
  p[np.arange(8), guess] = confidence
  p[6] = [0.2, 0.15, 0.25, 0.4]
  return errors.Predictions(
      NAMES, tuple(f'{i}.jpg' for i in range(8)), labels, p)


def test_distances_go_up_to_the_common_ancestor():
  found = make_predictions()
  assert errors.distances(NAMES, found.labels, found.predicted).tolist() == [
      0, 0, 1, 0, 1, 0, 1, 2]
  assert errors.distances(('a', 'b'), np.array([0, 0]), np.array([0, 1])
                          ).tolist() == [0, 1]
  assert errors.across_parents(found).tolist() == [False] * 7 + [True]
  rows = errors.distance_rows(found)
  assert [(row['distance'], row['hits'], row['n']) for row in rows] == [
      (0, 4, 8), (1, 3, 8), (2, 1, 8), (3, 0, 8)]


def test_pairs_count_both_directions_and_the_rarest_come_last():
  rows = errors.confused_pairs(make_predictions(), 10)
  assert [(row['a'], row['b'], row['mistakes']) for row in rows] == [
      ('k/bird/crow', 'k/bird/gull', 2), ('k/bird/gull', 'k/fish/eel', 1),
      ('k/fish/carp', 'k/fish/eel', 1)]
  assert (rows[0]['a as b'], rows[0]['b as a'], rows[0]['n_a']) == (1, 1, 3)
  assert [row['distance'] for row in rows] == [1, 2, 1]
  assert len(errors.confused_pairs(make_predictions(), 1)) == 1


def test_confident_mistakes_come_first():
  assert errors.confident_mistakes(make_predictions(), 3).tolist() == [7, 2, 4]


def test_rates_by_phylum_size_and_confidence():
  found = make_predictions()
  rows = errors.by_parent(found)
  assert [(row['parent'], row['hits'], row['n']) for row in rows] == [
      ('k/bird', 3, 5), ('k/fish', 1, 3)]
  rows = errors.by_class_size(found, np.array([10, 5, 7, 1]), bins=2)
  assert [(row['training images'], row['hits'], row['n']) for row in rows] == [
      ('1 to 5', 1, 3), ('7 to 10', 3, 5)]
  rows = errors.calibration(found, bins=2)
  assert [(row['above'], row['hits'], row['n']) for row in rows] == [
      (0.0, 1, 2), (0.5, 3, 6)]
  np.testing.assert_allclose(rows[0]['confidence'], 0.45)


def test_fewer_classes_than_bins_have_a_row_each():
  rows = errors.by_class_size(make_predictions(), np.array([10, 5, 7, 1]), 9)
  assert [(row['training images'], row['classes']) for row in rows] == [
      ('1 to 1', 1), ('5 to 5', 1), ('7 to 7', 1), ('10 to 10', 1)]


def test_the_largest_classes_keep_the_whole_matrix():
  found = make_predictions()
  matrix, names = errors.largest(found, np.array([10, 5, 7, 1]), count=2)
  assert names == ('k/bird/crow', 'k/fish/carp', 'smaller')
  assert matrix.tolist() == [[2, 0, 1], [0, 1, 1], [1, 0, 2]]
  whole, names = errors.largest(found, np.array([10, 5, 7, 1]))
  assert whole.shape == (4, 4) and 'smaller' not in names


def test_predictions_are_read_as_a_run_writes_them(tmp_path):
  (tmp_path / 'predictions.csv').write_text(
      'id,path,label,predicted,b,a\n7,x.jpg,a,b,0.75,0.25\n')
  found = errors.read(tmp_path)
  assert found.class_names == ('b', 'a') and found.paths == ('x.jpg',)
  assert found.labels.tolist() == [1] and found.predicted.tolist() == [0]
  with pytest.raises(config_lib.ConfigError, match='no finished run'):
    errors.read(tmp_path / 'elsewhere')
  (tmp_path / 'predictions.csv').write_text('id,path,mse\n1,x.jpg,0.5\n')
  with pytest.raises(config_lib.ConfigError, match='no predicted classes'):
    errors.read(tmp_path)


def test_every_figure_is_drawn(tmp_path):
  found = make_predictions()
  images = np.random.default_rng(0).uniform(size=(4, 8, 8, 3))
  error_figures.gallery(images, NAMES, NAMES[::-1], [0.5] * 4,
                        tmp_path / 'gallery.png')
  error_figures.pairs([(images[:2], ['a', 'b']), (images, NAMES)],
                      tmp_path / 'pairs.png')
  error_figures.calibration(errors.calibration(found), tmp_path / 'c.png')
  counts = np.array([10, 5, 7, 1])
  error_figures.class_size(
      counts, np.array([0.5, np.nan, 1.0, 0.0]),
      errors.by_class_size(found, counts), tmp_path / 'size.png')
  error_figures.rates(errors.by_parent(found), ['bird', 'fish'],
                      tmp_path / 'rates.png', xlabel='accuracy')
  for path in tmp_path.glob('*.png'):
    assert 1000 < path.stat().st_size < 300_000
  assert len(list(tmp_path.glob('*.png'))) == 5


def test_the_page_states_its_counts(tmp_path):
  found = make_predictions()
  page = rare_species_errors.page(found, {
      'distance': errors.distance_rows(found), 'pairs': [], 'class_size': [],
      'phylum': [], 'calibration': []}, 'command', 'sound')
  assert '4 of 8 test images' in page and '1 of them' in page
  assert taxonomy.leaf(NAMES[0]) == 'crow'
