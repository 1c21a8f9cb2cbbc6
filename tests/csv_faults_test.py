"""One fault of a table or a folder each, and a clear message for it."""

import warnings

import pytest

import data_helpers
from vision_jax.data import errors
from vision_jax.data import pipeline

FAMILIES = {'felidae': 8, 'ursidae': 8, 'corvidae': 6}


def write(tmp_path, *, extra=()):
  """Writes 22 photographs of three families and their table."""
  rows, seed = [], 0
  for family, count in FAMILIES.items():
    for i in range(count):
      name = f'chordata_{family}/{i}_eol-full-size-copy.jpg'
      data_helpers.write_image(tmp_path / 'images' / name, seed)
      rows.append(f'id{seed},animalia,chordata,{family},{name}')
      seed += 1
  (tmp_path / 'images/metadata.csv').write_text('\n'.join([
      'rare_species_id,kingdom,phylum,family,file_path', *rows, *extra, '']))
  return data_helpers.folder_config(
      tmp_path, source='csv', csv_parent_columns=('kingdom', 'phylum'),
      test_fraction=0.1, validation_fraction=0.2, validation_rounding='total')


def load(config):
  """Returns the data set and all that was said while it was loaded."""
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    dataset = pipeline.load(config)
  return dataset, ' '.join(str(w.message) for w in caught)


VICTIM = 'chordata_felidae/3_eol-full-size-copy.jpg'


def test_a_whole_table_says_nothing(tmp_path):
  dataset, said = load(write(tmp_path))
  assert len(dataset.ids) == 22 and not said
  assert dataset.class_names[0] == 'animalia/chordata/corvidae'


@pytest.mark.parametrize('spoil, message', [
    (lambda path: path.write_bytes(path.read_bytes()[:200]), 'broken image'),
    (lambda path: path.write_text('no image'), 'not an image'),
    (lambda path: path.unlink(), 'no such file')])
def test_a_corrupt_or_missing_file_is_named_and_left_out(
    tmp_path, spoil, message):
  config = write(tmp_path)
  spoil(tmp_path / 'images' / VICTIM)
  dataset, said = load(config)
  assert f'{VICTIM}: {message}' in said
  assert len(dataset.ids) == 21 and VICTIM not in dataset.ids
  assert [row['id'] for row in dataset.bad_files] == [VICTIM]
  assert len(dataset.context) == len(dataset.images) == 21


def test_a_duplicate_row_is_named_and_counts_once(tmp_path):
  dataset, said = load(write(
      tmp_path, extra=[f'id3,animalia,chordata,felidae,{VICTIM}']))
  assert 'repeats 1 rows' in said and VICTIM in said
  assert len(dataset.ids) == 22 and not dataset.bad_files


def test_a_family_with_one_image_is_named_and_trained_on(tmp_path):
  name = 'mollusca_nautilidae/0_eol-full-size-copy.jpg'
  data_helpers.write_image(tmp_path / 'images' / name, 99)
  dataset, said = load(write(
      tmp_path, extra=[f'id99,animalia,mollusca,nautilidae,{name}']))
  assert 'one example' in said and 'nautilidae' in said
  assert len(dataset.ids) == 23
  homes = {row['id']: row['split'] for row in dataset.manifest}
  assert homes[name] == 'train'


@pytest.mark.parametrize('content, message', [
    ('id,fámily\n'.encode('latin-1'), 'not in UTF-8 .*; save it as UTF-8'),
    ('id,family\n'.encode('utf-16'), 'not in UTF-8 .*; save it as UTF-8'),
    (b'file_path,family\n' + b'x' * 140_000 + b',a\n',
     'no CSV table .*field limit.*; save it as CSV'),
    (b'kingdom,phylum,family,file_path\nanimalia,chordata,felidae\n',
     "data row 1: path '' and label 'felidae'"),
    (b'kingdom,phylum,family,file_path\n,,felidae,a\0.jpg\n',
     'data row 1: .*null character'),
])
def test_a_table_that_cannot_be_read_is_named(tmp_path, content, message):
  config = write(tmp_path)
  (tmp_path / 'images/metadata.csv').write_bytes(content)
  with pytest.raises(errors.DataError, match=r'metadata\.csv.*' + message):
    load(config)


@pytest.mark.parametrize('name, message', [
    (f'{VICTIM}/1.jpg', 'no such file'),
    ('x' * 300 + '.jpg', 'name too long')])
def test_a_path_that_cannot_be_is_a_bad_file(tmp_path, name, message):
  dataset, said = load(write(
      tmp_path, extra=[f'id3,animalia,chordata,felidae,{name}']))
  assert f'{name}: ' in said and message in said
  assert len(dataset.ids) == 22
  assert [row['id'] for row in dataset.bad_files] == [name]


def test_a_link_to_itself_is_a_bad_file(tmp_path):
  data_helpers.write_folders(tmp_path, {'a': 8, 'b': 8})
  (tmp_path / 'images/a/loop.png').symlink_to('loop.png')
  dataset, said = load(data_helpers.folder_config(tmp_path))
  assert 'a/loop.png: cannot be read' in said and len(dataset.ids) == 16
