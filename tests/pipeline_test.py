"""The data room as a whole, on folders as they are found in the wild."""

import hashlib
import json
import shutil
import warnings

import numpy as np
import pytest

import data_helpers
from vision_jax.data import errors
from vision_jax.data import pipeline


def test_digits_need_nothing():
  dataset = pipeline.load(data_helpers.make_config())
  assert dataset.images.shape == (1797, 8, 8, 1)
  assert dataset.images.dtype == np.uint8
  assert dataset.class_names == tuple('0123456789')
  sizes = {name: len(rows) for name, rows in dataset.splits.items()}
  assert sizes['test'] == 360 and sum(sizes.values()) == 1797
  assert not dataset.bad_files


def test_description_equals_what_is_loaded(tmp_path):
  data_helpers.write_folders(tmp_path, {'train/a': 9, 'train/b': 7, 'test/a': 2,
                                        'test/b': 2})
  config = data_helpers.folder_config(tmp_path, label_fraction=0.5)
  described = pipeline.describe(config)
  assert not (tmp_path / 'cache').exists()
  dataset = pipeline.load(config)
  labels = described.pop('labels')
  for name, rows in dataset.splits.items():
    assert labels[name].tolist() == dataset.labels[rows].tolist()
  assert described == dict(
      class_names=dataset.class_names, input_shape=dataset.images.shape[1:],
      examples={name: len(rows) for name, rows in dataset.splits.items()})
  assert described['examples'] == dict(
      train=8, validation=0, test=4, unlabelled=8)


def test_bad_files_leave_the_split_of_the_good_ones(tmp_path):
  data_helpers.write_folders(tmp_path, {'a': 12, 'b': 12})
  config = data_helpers.folder_config(tmp_path)
  clean = pipeline.load(config)
  (tmp_path / 'images/a/0005b.png').write_bytes(b'')
  (tmp_path / 'images/b/zero.jpg').write_text('no image')
  with pytest.warns(UserWarning, match='Skipped 2 bad files'):
    dataset = pipeline.load(config)
  assert [row['id'] for row in dataset.bad_files] == [
      'a/0005b.png', 'b/zero.jpg']
  assert dataset.ids == clean.ids
  assert dataset.manifest == clean.manifest
  np.testing.assert_array_equal(dataset.images, clean.images)
  config.on_bad_file = 'refuse'
  with pytest.raises(errors.DataError, match='b/zero.jpg: not an image'):
    pipeline.load(config)


def test_rows_of_ids_labels_images_and_manifest_agree(tmp_path):
  data_helpers.write_folders(tmp_path, {'a b': 5, 'c': 5})
  dataset = pipeline.load(data_helpers.folder_config(tmp_path))
  homes = {row: name for name, rows in dataset.splits.items() for row in rows}
  for i, row in enumerate(dataset.manifest):
    content = (tmp_path / 'images' / dataset.ids[i]).read_bytes()
    assert row == dict(
        id=dataset.ids[i], split=homes[i], bytes=len(content),
        label=dataset.ids[i].split('/')[0],
        sha256=hashlib.sha256(content).hexdigest())
    assert dataset.class_names[dataset.labels[i]] == row['label']


def test_copies_across_the_own_split_are_refused(tmp_path):
  data_helpers.write_folders(tmp_path, {'train/a': 4, 'test/a': 2})
  folder = tmp_path / 'images'
  shutil.copy(folder / 'train/a/002.png', folder / 'test/a/copy.png')
  config = data_helpers.folder_config(tmp_path)
  with pytest.raises(errors.DataError, match='test/a/copy.png.*train/a/002'):
    pipeline.load(config)
  config.duplicates = 'warn'
  with pytest.warns(UserWarning, match='1 exact copy across splits'):
    pipeline.load(config)


def test_a_recompressed_copy_is_a_near_duplicate(tmp_path):
  data_helpers.write_folders(tmp_path, {'train/a': 4, 'test/a': 2})
  folder = tmp_path / 'images'
  config = data_helpers.folder_config(tmp_path)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    pipeline.load(config)
  data_helpers.write_image(folder / 'test/a/again.jpg', seed=2, quality=70)
  with pytest.warns(UserWarning, match='again.jpg.* = train/a/002.png'):
    pipeline.load(config)


def test_stored_augmentations_stay_with_their_original(tmp_path):
  for i in range(20):
    for k, prefix in enumerate(('', 'aug-3-', 'aug-14-')):
      data_helpers.write_image(
          tmp_path / f'images/a/{prefix}{i}.png', 3 * i + k)
  dataset = pipeline.load(data_helpers.folder_config(
      tmp_path, group_pattern=r'(?:aug-\d+-)?([^/]+)$', test_fraction=0.3,
      validation_fraction=0.3))
  origins = {
      name: {dataset.ids[i].split('/')[1].split('-')[-1] for i in rows}
      for name, rows in dataset.splits.items()}
  assert len(origins['train'] | origins['validation'] | origins['test']) == 20
  assert sum(map(len, origins.values())) == 20
  assert len(origins['validation']) == 4 and len(origins['test']) == 6


def test_the_manifest_file_carries_the_hash_of_its_rows(tmp_path):
  data_helpers.write_folders(tmp_path, {'a': 6})
  config = data_helpers.folder_config(tmp_path)
  path = tmp_path / 'manifest.json'
  digest = pipeline.write_manifest(pipeline.load(config), path)
  written = json.loads(path.read_text())
  assert written['sha256'] == digest
  assert len(written['files']) == 6 and written['bad_files'] == []
  rows = json.dumps(written['files'], sort_keys=True)
  assert hashlib.sha256(rows.encode()).hexdigest() == digest
  assert pipeline.write_manifest(pipeline.load(config), path) == digest
  config.split_seed = 1
  assert pipeline.write_manifest(pipeline.load(config), path) != digest
