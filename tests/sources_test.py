"""What a source lists, and what it says when the data is not as expected."""

import io
import json

import numpy as np
from PIL import Image
import pytest

import data_helpers
from vision_jax.data import builtin
from vision_jax.data import errors
from vision_jax.data import pipeline
from vision_jax.data import sources


def write_csv(tmp_path, text, **fields):
  folder = tmp_path / 'images'
  folder.mkdir(exist_ok=True)
  (folder / 'metadata.csv').write_text(text)
  return data_helpers.folder_config(tmp_path, source='csv', **fields)


def test_flat_class_folders_with_their_quirks(tmp_path):
  data_helpers.write_folders(tmp_path, {'b b': 2, 'a': 2})
  folder = tmp_path / 'images'
  data_helpers.write_image(folder / 'a' / 'X Y.JPG')
  for stray in ('.DS_Store', 'a/.DS_Store', 'a/notes.txt', 'a/._000.png'):
    (folder / stray).write_text('stray')
  (folder / '.hidden').mkdir()
  source = sources.load(data_helpers.folder_config(tmp_path))
  assert source.class_names == ('a', 'b b')
  assert source.ids == (
      'a/000.png', 'a/001.png', 'a/X Y.JPG', 'b b/000.png', 'b b/001.png')
  assert list(source.labels) == [0, 0, 0, 1, 1]
  assert set(source.splits) == {''}
  assert len(set(source.groups)) == 5
  assert set(source.ignored) == {
      '.DS_Store', '.hidden', 'a/.DS_Store', 'a/notes.txt', 'a/._000.png'}
  assert source.read(3) == (folder / 'b b/000.png').read_bytes()


def test_split_folders_are_recognised(tmp_path):
  data_helpers.write_folders(
      tmp_path, {'train/a': 2, 'Valid/a': 1, 'test/a': 1, 'extra/a': 1})
  source = sources.load(data_helpers.folder_config(tmp_path))
  assert dict(zip(source.ids, source.splits)) == {
      'Valid/a/000.png': 'validation', 'test/a/000.png': 'test',
      'train/a/000.png': 'train', 'train/a/001.png': 'train'}
  assert 'extra/' in source.ignored


def test_listing_opens_no_image(tmp_path):
  for name in ('a', 'b'):
    (tmp_path / 'images' / name).mkdir(parents=True)
    for i in range(2):
      (tmp_path / 'images' / name / f'{i}.jpg').write_bytes(b'')
  assert len(sources.load(data_helpers.folder_config(tmp_path)).ids) == 4


def write_augmented(tmp_path):
  """Writes files whose numbers mean something within their folder alone."""
  for name in ('train/a/7.png', 'train/a/aug-1-7.png', 'train/a/aug-22-7.png',
               'train/a/8.png', 'train/b/7.png', 'train/b/8.png',
               'test/a/7.png', 'test/a/left-out.png'):
    data_helpers.write_image(tmp_path / 'images' / name)


def test_named_groups_of_the_pattern_count_together(tmp_path):
  write_augmented(tmp_path)
  source = sources.load(data_helpers.folder_config(
      tmp_path, exclude_pattern='left-out',
      group_pattern=r'^(?P<folder>.*)/(?:aug-\d+-)?(?P<source>[^/]+)$'))
  group = dict(zip(source.ids, source.groups))
  assert group['train/a/7.png'] == group['train/a/aug-1-7.png'] == (
      group['train/a/aug-22-7.png'])
  assert len(group) == 7 and len(set(group.values())) == 5


@pytest.mark.parametrize('fields, found', [
    (dict(exclude_pattern='/b/|left-out'),
     r'7\.png: test/a/7\.png, train/a/7\.png'),
    (dict(exclude_pattern='test/'), r'7\.png: train/a/7\.png, train/b/7\.png')])
def test_what_is_captured_in_two_classes_or_splits_is_refused(
    tmp_path, fields, found):
  write_augmented(tmp_path)
  config = data_helpers.folder_config(
      tmp_path, group_pattern=r'(?:aug-\d+-)?([^/]+)$', **fields)
  with pytest.raises(
      errors.DataError, match=f'(?s)config.data.group_pattern.*{found}'):
    sources.load(config)


def test_one_class_of_the_split_folders_can_be_grouped(tmp_path):
  write_augmented(tmp_path)
  source = sources.load(data_helpers.folder_config(
      tmp_path, group_pattern=r'(?:aug-\d+-)?([^/]+)$', classes=('a',),
      exclude_pattern='test/'))
  group = dict(zip(source.ids, source.groups))
  assert group['train/a/7.png'] == group['train/a/aug-22-7.png']
  assert len(group) == 4 and len(set(group.values())) == 2


@pytest.mark.parametrize('pattern', [r'(\d)_no_such', r'00(x)?'])
def test_ids_without_a_match_are_their_own_groups(tmp_path, pattern):
  data_helpers.write_folders(tmp_path, {'a': 3})
  source = sources.load(data_helpers.folder_config(
      tmp_path, group_pattern=pattern))
  assert len(set(source.groups)) == 3


def test_classes_are_kept_in_the_order_given(tmp_path):
  data_helpers.write_folders(tmp_path, {'a': 2, 'b': 2, 'c': 2})
  source = sources.load(
      data_helpers.folder_config(tmp_path, classes=('c', 'a')))
  assert source.class_names == ('c', 'a')
  assert [(name[0], label) for name, label in zip(source.ids, source.labels)
          ] == [('a', 1), ('a', 1), ('c', 0), ('c', 0)]
  assert source.read(2) == (tmp_path / 'images/c/000.png').read_bytes()


@pytest.mark.parametrize('fields, message', [
    (dict(classes=('a', 'bee')), "no class 'bee'"),
    (dict(classes=('beta',)), "did you mean 'bet'"),
    (dict(group_pattern='('), 'group_pattern .* is no regular expression'),
    (dict(group_pattern='abc'), 'needs a group in parentheses'),
    (dict(exclude_pattern='.'), 'leaves no example'),
    (dict(source='folder'), "'digits', 'procedural', 'line', 'cosine', 'folders'"),
    (dict(path='elsewhere'), '(?s)no folder .*elsewhere.*see the moon.*'
                             '<class>/<image>.jpg.*vision_jax.main'),
    (dict(path='a'), 'holds no class folder'),
])
def test_contradictions_are_explained(tmp_path, fields, message):
  data_helpers.write_folders(tmp_path, {'a': 2, 'bet': 2})
  with pytest.raises(errors.DataError, match=message):
    sources.load(data_helpers.folder_config(
        tmp_path, hint='see the moon', **fields))


def test_the_root_comes_from_the_environment_or_is_an_error(
    tmp_path, monkeypatch):
  data_helpers.write_folders(tmp_path, {'a': 2})
  config = data_helpers.folder_config(tmp_path, root='', hint='see the moon')
  monkeypatch.delenv('VISION_JAX_DATA', raising=False)
  with pytest.raises(errors.DataError, match='(?s)moon.*VISION_JAX_DATA'):
    sources.load(config)
  monkeypatch.setenv('VISION_JAX_DATA', str(tmp_path / 'images'))
  assert len(sources.load(config).ids) == 2


def test_csv_rows_become_examples(tmp_path):
  for i in range(3):
    data_helpers.write_image(tmp_path / f'images/x/{i}.png', i)
  config = write_csv(tmp_path, (
      'file_path,family\nx/2.png,wolf\nx/0.png,bear\nx/1.png,bear\n'
      'x/gone.png,wolf\n'))
  source = sources.load(config)
  assert source.class_names == ('bear', 'wolf')
  assert source.ids == ('x/0.png', 'x/1.png', 'x/2.png', 'x/gone.png')
  assert list(source.labels) == [0, 0, 1, 1]


@pytest.mark.parametrize('text, message', [
    ('path,family\nx,y\n', "no column 'file_path'.*: path, family"),
    ('file_path,kind\nx,y\n', 'csv_label_column.*: file_path, kind'),
    ('file_path,family\nx/0.png,a\nx/0.png,b\n', "two labels, 'a' and 'b'"),
    ('file_path,family\nx/0.png,a\n,b\n', 'data row 2'),
    ('file_path,family\n', 'a header and no row'),
])
def test_bad_tables_are_explained(tmp_path, text, message):
  data_helpers.write_image(tmp_path / 'images/x/0.png')
  with pytest.raises(errors.DataError, match=message):
    sources.load(write_csv(tmp_path, text))


def test_repeated_rows_count_once_and_lonely_classes_are_named(tmp_path):
  for i in range(3):
    data_helpers.write_image(tmp_path / f'images/x/{i}.png', i)
  config = write_csv(tmp_path, (
      'file_path,family\nx/0.png,a\nx/0.png,a\nx/1.png,a\nx/2.png,alone\n'))
  with pytest.warns(UserWarning) as caught:
    assert len(sources.load(config).ids) == 3
  messages = ' '.join(str(warning.message) for warning in caught)
  assert 'repeats 1 rows' in messages and 'x/0.png' in messages
  assert 'one example' in messages and 'alone' in messages


def test_a_missing_table_is_an_error(tmp_path):
  (tmp_path / 'images').mkdir()
  with pytest.raises(errors.DataError, match='there is no table'):
    sources.load(data_helpers.folder_config(tmp_path, source='csv'))


def test_digits_are_those_of_scikit_learn():
  datasets = pytest.importorskip('sklearn.datasets')
  digits = datasets.load_digits()
  source = sources.load(data_helpers.make_config())
  assert len(source.ids) == 1797 and source.ids[1] == 'digits/0001'
  np.testing.assert_array_equal(source.labels, digits.target)
  pixels = source.read(1234)
  assert pixels.shape == (8, 8, 1) and pixels.dtype == np.uint8
  np.testing.assert_allclose(
      pixels[..., 0] / 255, digits.images[1234] / 16, atol=0.5 / 255)


def test_gratings_are_pure_and_show_their_class():
  config = data_helpers.make_config(
      source='procedural', image_size=(32, 24), channels=3,
      procedural_examples=40, procedural_classes=2)
  source, again = sources.load(config), sources.load(config)
  assert len(source.ids) == 40 and np.bincount(source.labels).tolist() == [
      20, 20]
  for i in range(40):
    pixels = source.read(i).astype(float)
    np.testing.assert_array_equal(pixels, again.read(i))
    assert pixels.shape == (32, 24, 3)
    # Waves run along x in class 0 and along y in class 1.
    variance = [pixels.mean(axis).var() for axis in (0, 1)]
    assert np.argmax(variance) == source.labels[i]
  assert len({source.read(i).tobytes() for i in range(40)}) == 40
  with pytest.raises(errors.DataError, match='procedural_classes'):
    config.procedural_classes = 41
    builtin.list_procedural(config)


def test_many_gratings_stream_from_the_cache(tmp_path):
  config = data_helpers.make_config(
      source='procedural', image_size=(8, 8), channels=3,
      procedural_examples=40, procedural_classes=2, cache_dir=str(tmp_path))
  assert not sources.load(config).stamps
  kept = pipeline.load(config)
  config.resident_megabytes = 0
  assert len(set(sources.load(config).stamps)) == 40
  for _ in range(2):  # Drawn, then found.
    streamed = pipeline.load(config)
    assert isinstance(streamed.images, np.memmap)
    np.testing.assert_array_equal(streamed.images, kept.images)
    assert streamed.ids == kept.ids


def write_prepared(folder, parts):
  """Writes a TFDS dataset as `download_and_prepare` would, but by hand."""
  tfds = pytest.importorskip('tensorflow_datasets')
  from array_record.python import array_record_module
  from tensorflow_datasets.proto import tf_example_pb2
  folder.mkdir(parents=True)
  tfds.features.FeaturesDict({
      'image': tfds.features.Image(shape=(4, 4, 3)),
      'label': tfds.features.ClassLabel(names=['zebra', 'ape']),
  }).save_config(folder)
  infos = []
  for part, count in parts.items():
    writer = array_record_module.ArrayRecordWriter(
        str(folder / f'tiny-{part}.array_record-00000-of-00001'),
        'group_size:1')
    for i in range(count):
      file = io.BytesIO()
      Image.new('RGB', (4, 4), (i, 0, 0)).save(file, 'PNG')
      feature = tf_example_pb2.Example()
      feature.features.feature['image'].bytes_list.value.append(
          file.getvalue())
      feature.features.feature['label'].int64_list.value.append(i % 2)
      writer.write(feature.SerializeToString())
    writer.close()
    infos.append(dict(
        name=part, shardLengths=[str(count)], numBytes='1',
        filepathTemplate='{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'))
  (folder / 'dataset_info.json').write_text(json.dumps(dict(
      name='tiny', version='1.0.0', fileFormat='array_record', splits=infos)))


def test_prepared_tfds_data_is_read(tmp_path):
  write_prepared(tmp_path / 'tiny/1.0.0', dict(train=5, test=3, spare=1))
  config = data_helpers.make_config(source='tfds:tiny', root=str(tmp_path))
  source = sources.load(config)
  assert source.class_names == ('zebra', 'ape')
  assert source.splits.tolist() == ['train'] * 5 + ['test'] * 3
  assert source.labels.tolist() == [0, 1, 0, 1, 0, 0, 1, 0]
  assert source.ignored == ('spare',)
  image = Image.open(io.BytesIO(source.read(6)))
  assert image.getpixel((0, 0)) == (1, 0, 0)


def test_unknown_and_unprepared_tfds_data_are_explained(tmp_path, monkeypatch):
  pytest.importorskip('tensorflow_datasets')
  config = data_helpers.make_config(
      source='tfds:no_such_set', root=str(tmp_path))
  with pytest.raises(errors.DataError, match='knows no dataset'):
    sources.load(config)
  from vision_jax.data import prepared
  found = prepared.importlib.util.find_spec
  monkeypatch.setattr(
      prepared.importlib.util, 'find_spec',
      lambda name: None if name == 'tensorflow' else found(name))
  config.source = 'tfds:cifar10'
  with pytest.raises(errors.DataError, match='is not prepared in'):
    sources.load(config)


@pytest.mark.parametrize('curve, height', [
    ('line', lambda x: x), ('cosine', lambda x: (1 + np.cos(4 * np.pi * x)) / 2),
])
def test_points_lie_on_their_curve(curve, height):
  config = data_helpers.make_config(
      source=curve, image_size=(1, 2), channels=1, procedural_examples=200)
  found = builtin.list_points(config)
  points = np.stack([found.read(i).ravel() for i in range(200)]) / 255
  # A byte of x moves the cosine by 2 pi / 255 at most.
  np.testing.assert_allclose(points[:, 1], height(points[:, 0]), atol=0.015)
  assert points[:, 0].min() < 0.05 and points[:, 0].max() > 0.95
  with pytest.raises(errors.DataError, match='1x2 pixels'):
    config.image_size = (2, 2)
    builtin.list_points(config)
