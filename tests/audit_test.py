"""Bad files are named with their reason; copies across splits are caught."""

import hashlib
import warnings

import numpy as np
import pytest

import data_helpers
from vision_jax.data import audit
from vision_jax.data import errors
from vision_jax.data import sources


def make_source(n, own=None):
  return sources.Source(
      name='test', class_names=('a', 'b'),
      ids=tuple(f'file{i}' for i in range(n)),
      labels=np.arange(n, dtype=np.int32) % 2,
      splits=np.array(own or [''] * n, str), groups=np.arange(n),
      read=lambda i: b'')


def make_records(hashes, near=None):
  near = near or [None] * len(hashes)
  return [dict(sha256=name, bytes=1, dhash=value, reason='')
          for name, value in zip(hashes, near)]


def make_parts(train, validation=(), test=(), unlabelled=()):
  return {name: np.array(rows, np.int64) for name, rows in dict(
      train=train, validation=validation, test=test,
      unlabelled=unlabelled).items()}


def test_inspect_hashes_contents_and_names_what_is_broken(tmp_path):
  data_helpers.write_folders(tmp_path, {'a': 3, 'b': 3})
  folder = tmp_path / 'images'
  (folder / 'a/000.png').write_bytes(b'')
  (folder / 'a/001.png').write_text('no image')
  whole = (folder / 'b/000.png').read_bytes()
  (folder / 'b/000.png').write_bytes(whole[:len(whole) // 2])
  data_helpers.write_image(folder / 'b/001.png', size=(90, 90))
  config = data_helpers.folder_config(tmp_path, max_pixels=8000)
  source = sources.load(config)
  (folder / 'b/002.png').unlink()
  results = list(audit.inspect(source, config))
  reasons = {name: record['reason']
             for name, (record, _) in zip(source.ids, results)}
  assert '0 bytes' in reasons['a/000.png']
  assert 'not an image' in reasons['a/001.png']
  assert 'broken' in reasons['b/000.png']
  assert '90 x 90' in reasons['b/001.png']
  assert reasons['b/002.png'] == audit.MISSING
  record, pixels = results[2]
  content = (folder / 'a/002.png').read_bytes()
  assert record['sha256'] == hashlib.sha256(content).hexdigest()
  assert record['bytes'] == len(content) and not record['reason']
  assert pixels.shape == (16, 16, 3) and pixels.dtype == np.uint8
  assert [pixels is None for _, pixels in results] == [
      True, True, False, True, True, True]


def test_inspect_reads_the_chosen_examples_in_the_chosen_order():
  config = data_helpers.make_config()
  source = sources.load(config)
  found = [pixels for _, pixels in audit.inspect(
      source, config, indices=[5, 2])]
  np.testing.assert_array_equal(found, [source.read(5), source.read(2)])


@pytest.mark.parametrize('field, value', [
    ('resize', 'squeeze'), ('channels', 2)])
def test_wrong_options_are_refused_before_reading(field, value):
  config = data_helpers.make_config(**{field: value})
  with pytest.raises(errors.DataError, match=f'config.data.{field}'):
    list(audit.inspect(make_source(2), config))


def test_bad_files_are_skipped_loudly_or_refused():
  bad = [dict(id='a/1.jpg', reason='broken')]
  with pytest.warns(UserWarning, match='a/1.jpg: broken'):
    audit.check_bad_files(bad, on_bad_file='skip')
  with pytest.raises(errors.DataError, match='a/1.jpg: broken'):
    audit.check_bad_files(bad, on_bad_file='refuse')
  with pytest.raises(errors.DataError, match="'skip', 'refuse'"):
    audit.check_bad_files([], on_bad_file='ignore')


@pytest.mark.parametrize('parts', [
    make_parts([0, 1], test=[2, 3]), make_parts([0, 1], validation=[2, 3]),
    make_parts([1], validation=[0], test=[2, 3]),
    make_parts([1], test=[2, 3], unlabelled=[0])])
def test_exact_copies_across_splits_are_refused_by_name(parts):
  args = make_source(4), make_records(['x', 'y', 'x', 'z']), parts
  with pytest.raises(errors.DataError, match='file0.*= file2'):
    audit.check_duplicates(*args, duplicates='refuse')
  with pytest.warns(UserWarning, match='file0.*= file2'):
    audit.check_duplicates(*args, duplicates='warn')


def test_the_advice_depends_on_who_drew_the_split():
  records = make_records(['x', 'x'])
  parts = make_parts([0], test=[1])
  with pytest.raises(errors.DataError, match='group_pattern'):
    audit.check_duplicates(
        make_source(2), records, parts, duplicates='refuse')
  with pytest.raises(errors.DataError, match='source itself'):
    audit.check_duplicates(make_source(2, ['train', 'test']), records, parts,
                           duplicates='refuse')
  with pytest.raises(errors.DataError, match='group_pattern'):
    audit.check_duplicates(
        make_source(3, ['train', 'train', 'test']), make_records('xxy'),
        make_parts([0], validation=[1], test=[2]), duplicates='refuse')


def test_copies_within_training_are_a_warning_only():
  records = make_records(['x', 'x', 'x', 'y'])
  with pytest.warns(UserWarning, match='2 exact copies within a split'):
    audit.check_duplicates(
        make_source(4), records, make_parts([0, 1], test=[3], unlabelled=[2]),
        duplicates='refuse')


def test_near_duplicates_across_splits_are_a_warning():
  near = [0b0, 0b11, 0b111, None, 2**64 - 1]
  records = make_records('vwxyz', near)
  with pytest.warns(UserWarning, match='1 near duplicate across') as caught:
    audit.check_duplicates(
        make_source(5), records, make_parts([0, 3, 4], test=[1, 2]),
        duplicates='refuse')
  assert 'file1 (test, b) = file0 (train, a)' in str(caught[0].message)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    audit.check_duplicates(
        make_source(5), records, make_parts([0, 1, 2, 4], test=[3]),
        duplicates='refuse')


def test_near_pairs_equal_a_count_bit_by_bit():
  rng = np.random.default_rng(0)
  base = rng.integers(0, 2**63, 30, np.uint64)
  flips = np.array([1, 3, 7, 1 << 60], np.uint64)
  hashes = np.concatenate([base] + [base ^ flip for flip in flips])
  home = rng.choice(['train', 'validation', 'test'], len(hashes)).astype(object)
  records = make_records([str(i) for i in range(len(hashes))],
                         [int(h) for h in hashes])
  expected = {
      frozenset((i, j)) for i in range(len(hashes)) for j in range(i)
      if home[i] != home[j]
      and bin(int(hashes[i]) ^ int(hashes[j])).count('1') <= 2}
  found = [frozenset(pair) for pair in audit._near_pairs(records, home)]
  assert len(found) == len(set(found)) and set(found) == expected


def test_the_manifest_has_one_row_an_example():
  rows = audit.manifest(make_source(3), make_records('xyz'),
                        make_parts([2], test=[0], unlabelled=[1]))
  assert [row['split'] for row in rows] == ['test', 'unlabelled', 'train']
  assert rows[1] == dict(
      id='file1', split='unlabelled', label='b', sha256='y', bytes=1)
