"""The reports of study 4, on numbers made up where runs would take long."""

import sys
import types

import numpy as np
from PIL import Image
import pytest

from configs import rare_species as rare_species_config
from experiments import rare_species
from experiments import rare_species_filters
from experiments import rare_species_report
from experiments import rare_species_rows
from experiments import rare_species_screening
from vision_jax import config as config_lib
from vision_jax import config_io
from vision_jax import stats
from vision_jax.analysis import comparison
from vision_jax.analysis import errors

NAMES = ('k/bird/crow', 'k/bird/gull', 'k/fish/carp', 'k/fish/eel')


def make_outputs(skill, seed=0, n=80):
  """Test outputs of a model of some skill, over the same labels for all."""
  labels = np.arange(n) % 4
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=(n, 4)) + skill * np.eye(4)[labels]
  p = np.exp(logits)
  return {'label': labels, 'probabilities': p / p.sum(1, keepdims=True),
          'information': 'image'}


def test_a_row_holds_every_number_with_its_interval():
  row = rare_species_rows.number_row('sound', make_outputs(2.0), NAMES)
  for name in ('accuracy', 'macro_f1', 'balanced_accuracy', 'auc_macro_ovr',
               'auc_micro_keras', 'log_loss'):
    assert row[f'{name}_low'] < row[name] < row[f'{name}_high']
  assert row['n'] == 80
  assert row['mistakes'] == 80 - round(80 * row['accuracy'])
  assert 0 < row['cross_phylum'] <= row['mistakes']


def test_wrong_mass_is_what_other_phyla_get():
  predictions = errors.Predictions(
      NAMES, ('', ''), np.array([0, 3]),
      np.array([[0.4, 0.3, 0.2, 0.1], [0.5, 0.0, 0.25, 0.25]]))
  np.testing.assert_allclose(
      rare_species_rows.wrong_mass(predictions), [0.3, 0.5])


def test_pairs_say_what_was_removed_and_added():
  answers = {'sound': make_outputs(1.0), 'better': make_outputs(4.0)}
  row, = rare_species_rows.paired_rows(answers, NAMES)
  assert row['name'] == 'better' and row['accuracy_gained'] > 0
  assert row['removed'] > row['added']
  assert row['mass_gained_low'] < row['mass_gained'] < 0


def test_the_words_about_phyla_follow_the_numbers():
  rows = [{'name': name, 'cross_phylum': count} for name, count in (
      ('sound', 9), ('fusion', 1), ('hierarchical head', 9), ('modern', 2))]
  change = {'mass_gained': -0.02, 'mass_gained_low': -0.03,
            'mass_gained_high': 0.01}
  fusion, head = rare_species_report.taxonomy_lines(rows, [
      {'name': 'fusion', 'removed': 9, 'added': 1, 'p': 0.02, **change},
      {'name': 'modern', 'removed': 8, 'added': 1, 'p': 0.04, **change},
      {'name': 'hierarchical head', 'removed': 2, 'added': 2, 'p': 1.0,
       **change, 'mass_gained_high': -0.01}]).splitlines()
  assert ('fusion: 1 cross-phylum mistakes, `sound` 9; 9 removed, 1 added: '
          'fewer, significantly so (McNemar p = 0.02)') in fusion
  assert 'about as much probability (-0.0200 [-0.0300, +0.0100])' in fusion
  assert '2 removed, 2 added: no fewer. Other phyla get less' in head


def test_a_cold_start_is_called_so():
  say = rare_species_report.duration
  assert '90 s from a cold start' in say(90, 80, cold=True, before=0, runs=13)
  warm = say(90, 80, cold=True, before=2, runs=13)
  assert 'cold' not in warm and '2 of 13 runs' in warm and '80 s' in warm
  assert 'cold' not in say(90, 80, cold=False, before=0, runs=13)


def test_the_runs_differ_in_what_they_are_about():
  args = rare_species._parser().parse_args(['--root=x'])
  found = dict(rare_species.settings(args, 'efficientnet_lite0', first=True))
  assert found['sound'].data.source == 'csv'
  assert found['hierarchical head'].taxonomy.hierarchical
  assert found['fusion'].taxonomy.fusion
  other = found['published, preprocessing of vgg16']
  assert set(config_io.changes(found['published'], other)) == {
      'published.preprocess_of'}
  soup = config_io.changes(found['modern'], found['modern, rate / 2'])
  assert set(soup) == {'optimizer.learning_rate'}
  own = dict(rare_species.settings(args, 'vgg16', first=False))
  assert set(own) == {'sound', 'published', 'modern',
                      'published, preprocessing of vgg16'}
  folders = [rare_species._slug(name) for name in found]
  assert len(set(folders)) == len(found)


def test_filtered_runs_are_compared_on_the_same_images(monkeypatch):
  args = rare_species_filters._parser().parse_args(['--root=x', '--masks=m'])
  plain, masked = (rare_species_filters.make_config(args, name)
                   for name in ('none', 'masks'))
  assert plain.data.masks == '' and masked.data.masks == 'm'
  assert plain.augment == config_lib.base().augment
  monkeypatch.setattr(comparison, 'compare', lambda a, b, fields: (
      types.SimpleNamespace(accuracy=stats.Interval(-0.1, -0.2, 0.0),
                            test=stats.PairedTest(1, 9, 0.02))))
  monkeypatch.setattr(rare_species_filters.tables, 'result_row', lambda _: {
      'n_test': 9, **{f'{name}{end}': 0.5 for name in ('accuracy', 'macro_f1')
                      for end in ('', '_low', '_high')}})
  row = rare_species_filters.row_of('circle', {'circle': 'a', 'none': 'b'})
  assert row['against none'] == -0.1 and row['McNemar p'] == 0.02


def test_filters_are_drawn_large_and_called_by_words(monkeypatch):
  images = np.zeros((9, 8, 8, 3), np.uint8)
  monkeypatch.setattr(
      rare_species_filters.pipeline, 'load', lambda data: (
          types.SimpleNamespace(ids=[str(i) for i in range(9)], images=images,
                                splits={'test': np.arange(9)})))
  drawn = {}
  monkeypatch.setattr(
      rare_species_filters.figures, 'reconstructions',
      lambda rows, path, inches: drawn.update(rows))
  args = rare_species_filters._parser().parse_args(['--root=x'])
  rare_species_filters.draw(args, ['none', 'peripheral_blur'], 'x.png')
  assert {name: len(rows) for name, rows in drawn.items()} == {
      'none': 4, 'peripheral blur': 4}


def test_masks_that_hide_nothing_are_counted(tmp_path):
  for name, value in (('a', 255), ('b/c', 0), ('b/d', 255)):
    path = tmp_path / f'{name}.png'
    path.parent.mkdir(exist_ok=True)
    mask = np.full((4, 4), 255, np.uint8)
    mask[0, 0] = value
    Image.fromarray(mask).save(path)
  assert rare_species_filters.count_whole(tmp_path) == (2, 3)


def test_cleanvision_is_no_hard_dependency(monkeypatch):
  monkeypatch.setitem(sys.modules, 'cleanvision', None)
  with pytest.raises(config_lib.ConfigError, match=r'vision_jax\[screening\]'):
    rare_species_screening._ask_cleanvision(None)


def test_modern_replaces_the_weights_by_the_prior():
  config = rare_species_config.get_config('model=vit_s16,protocol=modern')
  assert config.loss.name == 'balanced_softmax'
  assert config.loss.weights == 'none'
  tuned = rare_species_config.get_config(
      'model=efficientnet_b3,mode=finetune,protocol=modern')
  assert tuned.augment.mixup_alpha and tuned.augment.cutout
