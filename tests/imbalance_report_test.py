"""The report of study 2 on made-up outcomes: words follow the numbers."""

import os
import queue
import types

import numpy as np
import pytest
from sklearn import metrics as sk_metrics

from experiments import imbalance
from experiments import imbalance_cells
from experiments import imbalance_report
from vision_jax import stats

_LARGE = 10


def _cell(folder, ratio, rung, remedy, minority_hits, *, seeds=3, epochs=4):
  """Saves a setting: the majority is right, of each minority class some."""
  sizes = {1: 10, 3: 5, 7: 2, 15: 1}
  labels = {'balanced': np.repeat(np.arange(10), _LARGE),
            'own': np.repeat(np.arange(10), [18] * 5 + [sizes[ratio]] * 5)}
  outputs = {}
  for test, y in labels.items():
    place = np.concatenate([np.arange(n) for n in np.bincount(y)])
    guess = np.where((y < 5) | (place < minority_hits), y, 0)
    p = np.full((len(y), 10), 0.01) + 0.9 * np.eye(10)[guess]
    outputs[test] = {'label': np.stack([y] * seeds),
                     'probabilities': np.stack([p] * seeds)}
  names = ('train_accuracy', 'train_loss', 'own_accuracy', 'own_loss',
           'balanced_accuracy', 'balanced_loss', 'balanced_balanced_accuracy')
  rows = [{name: [1.0 - 0.1 * epoch if epoch < 3 else 1.5] * seeds
           for name in names} for epoch in range(epochs)]
  about = {'ratio': ratio, 'rung': rung, 'remedy': remedy, 'seeds': seeds,
           'class_names': [f'class {i}' for i in range(10)],
           'train_counts': [22] * 10, 'seconds': 1.0,
           'refused': {'adasyn': 'no neighbours'} if remedy == 'none' else {}}
  imbalance._save(folder, outputs, about, rows)
  return imbalance_cells.read(folder)


def test_table_3_of_the_study():
  rows = imbalance_report.published()
  assert [round(row['accuracy'], 4) for row in rows] == [
      .69, .7263, .7684, .8526]
  assert [round(row['balanced_accuracy'], 4) for row in rows] == [
      .69, .6471, .5176, .7333]


def test_words_and_tables(tmp_path):
  cells = [
      _cell(tmp_path / '1', 1, 'plain', 'none', 8),
      _cell(tmp_path / '15', 15, 'plain', 'none', 2),
      _cell(tmp_path / 'n', 15, 'normalized', 'none', 7),
      _cell(tmp_path / 'o', 15, 'plain', 'over', 6),
      _cell(tmp_path / 'w', 15, 'plain', 'weighted', 2),
      _cell(tmp_path / 'f', 15, 'plain', 'refit', 3),
      _cell(tmp_path / 'c', 15, 'plain', 'crt', 5),
      _cell(tmp_path / 's', 15, 'plain', 'smote', 3)]
  args = types.SimpleNamespace(
      out=tmp_path / 'out', pixels=67, epochs=4, rate=5e-3, seeds=3,
      workers=2)
  imbalance_report.write(cells, args, ['--root=data'])
  text = (tmp_path / 'out' / 'report.md').read_text()
  assert 'balanced accuracy falls: holds' in text
  assert 'at 15:1: the normalised rung differs from plain by +0.250' in text
  assert 'both intervals: over, refit, crt, smote (of 5)' in text
  # The error is smallest after the third epoch and larger after the fourth.
  assert 'at 3/3/3 of 4' in text
  assert '(refit) differs from plain by +0.050' in text
  assert 'beat it by more than both intervals: crt (of 2)' in text
  assert 'on the one image' in text
  assert 'adasyn could not be used: no neighbours' in text
  header = (tmp_path / 'out' / 'table.csv').read_text().splitlines()
  assert len(header) == 9
  for i in (1, 2, 3):
    assert (tmp_path / 'out' / f'figure{i}.png').stat().st_size < 300_000


def test_balanced_accuracy_is_scikit_learns():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 4, 50) * 3
  predicted = np.where(rng.random((50, 3)) < .6, labels[:, None], 3)
  each = [sk_metrics.balanced_accuracy_score(labels, column)
          for column in predicted.T]
  assert imbalance_cells.mean_balanced(labels, predicted) == pytest.approx(
      np.mean(each))
  assert imbalance_cells.balanced(labels, predicted[:, 1]) == pytest.approx(
      each[1])


def test_a_setting_is_better_only_above_both_intervals(tmp_path):
  plain = _cell(tmp_path / 'p', 15, 'plain', 'none', 2)
  better = _cell(tmp_path / 'b', 15, 'plain', 'over', 5)
  assert imbalance_cells.compare(better, plain)['better'] == 'yes'
  assert imbalance_cells.compare(plain, better)['better'] == 'no'
  assert imbalance_cells.compare(plain, plain)['better'] == 'no'
  assert imbalance_cells.compare(better, plain)['difference'] == (
      pytest.approx(0.15))


@pytest.mark.parametrize('images,seeds,words', [
    ((.10, .22), (.14, .18), 'ten points or more'),
    ((.10, .20), (.07, .23), 'ten points within its intervals'),
    ((.03, .12), (.02, .09), 'ten points within its intervals'),
    ((.03, .08), (.02, .09), 'less than ten points')])
def test_ten_points_are_said_as_the_intervals_say_them(images, seeds, words):
  intervals = [stats.Interval(np.mean(ends), *ends) for ends in (images, seeds)]
  assert imbalance_report._ten_points(intervals) == words


def test_settings_cover_the_grid_once():
  for full in (False, True):
    found = imbalance.settings(full)
    assert len(found) == len(set(found))
    assert {(r, g) for r, g, remedy in found if remedy == 'none'} == {
        (r, g) for r in (1, 3, 7, 15)
        for g in ('plain', 'regularized', 'normalized')}
  remedies = {remedy for *_, remedy in imbalance.settings(True)}
  assert remedies | set(imbalance._REFINED) == set(
      imbalance.imbalance_config.REMEDIES)


@pytest.mark.skipif(
    not hasattr(os, 'sched_getaffinity'), reason='the system cannot pin')
def test_workers_share_the_cores(monkeypatch):
  available, given = os.sched_getaffinity(0), []
  monkeypatch.setattr(os, 'sched_setaffinity', lambda _, cores: given.append(
      set(cores)))
  places = queue.Queue()
  for place in range(2):
    places.put(place)
    imbalance._take_cores(places, 2)
  assert given[0] | given[1] == available
  assert len(available) == 1 or not given[0] & given[1]
