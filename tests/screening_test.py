"""Which pictures the rules drop, and that all splits lose them alike."""

import numpy as np
from PIL import Image
from PIL import ImageDraw
import pytest

import data_helpers
from vision_jax.data import errors
from vision_jax.data import images
from vision_jax.data import pipeline
from vision_jax.data import screening


def make_photograph(seed=0):
  """Coarse colour with fine texture, as uint8 [64, 64, 3]."""
  rng = np.random.default_rng(seed)
  small = rng.integers(20, 236, (5, 5, 3), np.uint8)
  image = np.asarray(Image.fromarray(small).resize((64, 64)), float)
  return np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(
      np.uint8)


def make_page():
  """A white page full of words."""
  page = Image.new('RGB', (64, 64), 'white')
  draw = ImageDraw.Draw(page)
  for y in range(2, 60, 11):
    draw.text((2, y), 'text text', fill='black')
  return np.asarray(page)


def smooth(pixels):
  """Pixels that have been through a size of 8 x 8."""
  return np.asarray(Image.fromarray(pixels).resize((8, 8)).resize((64, 64)))


PICTURES = {
    'photograph': (make_photograph(), set()),
    'dark': ((make_photograph() / 5).astype(np.uint8), {'dark'}),
    'blurred': (smooth(make_photograph()), {'blurred'}),
    'blank': (np.full((64, 64, 3), 200, np.uint8), {'blurred', 'uniform'}),
    'page': (make_page(), {'uniform', 'text'}),
}


@pytest.mark.parametrize('name', PICTURES)
def test_rules(name):
  pixels, expected = PICTURES[name]
  rows = screening.judge([name], [screening.measure(pixels)])
  assert {row['rule'] for row in rows} == expected
  assert all(row['id'] == name for row in rows)


def test_a_network_may_say_that_there_is_no_animal():
  rows = screening.judge(['map', 'cat'], [{'animal': 0.001}, {'animal': 0.9}])
  assert [(row['id'], row['rule']) for row in rows] == [('map', 'no animal')]


def test_the_first_of_two_copies_stays():
  first, other = make_photograph(), make_photograph(1)
  copy = np.clip(first.astype(int) + 1, 0, 255).astype(np.uint8)
  hashes = [images.dhash(p) for p in (first, other, copy)] + [None]
  rows = screening.duplicates(['a', 'b', 'c', 'tiny'], hashes)
  assert [(row['id'], row['of']) for row in rows] == [('c', 'a')]


def test_every_split_loses_what_the_table_names_and_nothing_else(tmp_path):
  data_helpers.write_folders(tmp_path, {'a': 20, 'b': 20})
  config = data_helpers.folder_config(tmp_path, test_fraction=0.25)
  before = pipeline.load(config)
  named = {before.ids[before.splits[s][0]]: s
           for s in ('train', 'validation', 'test')}
  table = tmp_path / 'dropped.csv'
  table.write_text('id,rule\n' + ''.join(
      f'{name},dark\n{name},blurred\n' for name in named) + 'gone,dark\n')
  config.screened = str(table)
  after = pipeline.load(config)
  for split, rows in before.splits.items():
    expected = [i for i in rows if before.ids[i] not in named]
    assert after.splits[split].tolist() == expected
  assert {row['id']: row['reason'] for row in after.bad_files} == {
      name: 'screened: dark, blurred' for name in named}
  homes = {row['id']: row['split'] for row in after.manifest}
  assert all(homes[name] == 'screened' for name in named)
  described = pipeline.describe(config)['examples']
  assert described['test'] == len(after.splits['test'])


def test_screening_a_copy_heals_a_leak(tmp_path):
  data_helpers.write_folders(tmp_path, {'a': 12, 'b': 12})
  config = data_helpers.folder_config(tmp_path)
  found = pipeline.load(config)
  test, train = (found.ids[found.splits[s][0]] for s in ('test', 'train'))
  folder = tmp_path / 'images'
  (folder / train).write_bytes((folder / test).read_bytes())
  with pytest.raises(errors.DataError, match='exact copy across splits'):
    pipeline.load(config)
  table = tmp_path / 'dropped.csv'
  table.write_text(f'id,rule\n{train},duplicate\n')
  config.screened = str(table)
  assert train not in [found.ids[i] for i in pipeline.load(config).splits[
      'train']]


@pytest.mark.parametrize('text, message', [
    (None, 'there is no table'), ('name,rule\n', 'needs the columns'),
    ('id,rule\na/000.png,dark\na/001.png\n',
     r"\.csv, data row 2: id 'a/001.png' and rule ''"),
    ('id,rule\n,dark\n', "data row 1: id '' and rule 'dark'"),
    ('id,rule\nm\xf6we,dark\n', 'not in UTF-8 .*; save it as UTF-8'),
    ('id,rule\n' + ''.join(f'a/{i:03d}.png,dark\n' for i in range(6)),
     'no training example')])
def test_wrong_tables_are_explained(tmp_path, text, message):
  data_helpers.write_folders(tmp_path, {'a': 6, 'b': 6})
  if text:
    (tmp_path / 'dropped.csv').write_text(text, encoding='latin-1')
  with pytest.raises(errors.DataError, match=message):
    pipeline.load(data_helpers.folder_config(
        tmp_path, screened=str(tmp_path / 'dropped.csv')))
