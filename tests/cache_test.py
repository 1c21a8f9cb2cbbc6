"""The cache opens nothing twice and never hands out what a kill left behind."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import data_helpers
from vision_jax.data import audit
from vision_jax.data import cache
from vision_jax.data import errors
from vision_jax.data import sources


def decode(config):
  return cache.decode(sources.load(config), config)


@pytest.fixture
def reads(monkeypatch):
  """The indices of all examples read."""
  found, examine = [], audit._examine
  def watch(source, index, *options):
    found.append(index)
    return examine(source, index, *options)
  monkeypatch.setattr(audit, '_examine', watch)
  return found


def test_a_warm_start_opens_no_image_and_gives_the_same(tmp_path, reads):
  data_helpers.write_folders(tmp_path, {'a': 3, 'b': 2})
  config = data_helpers.folder_config(tmp_path)
  images, records = decode(config)
  assert sorted(reads) == list(range(5))
  again, known = decode(config)
  assert len(reads) == 5
  assert isinstance(again, np.memmap) and again.shape == (5, 16, 16, 3)
  np.testing.assert_array_equal(images, again)
  assert records == known
  direct = [pixels for _, pixels in audit.inspect(
      sources.load(config), config)]
  np.testing.assert_array_equal(images, direct)


@pytest.mark.parametrize('change', [
    dict(image_size=(12, 16)), dict(channels=1), dict(resize='crop'),
    dict(max_pixels=100_001)])
def test_another_way_of_decoding_is_another_entry(tmp_path, reads, change):
  data_helpers.write_folders(tmp_path, {'a': 3})
  decode(data_helpers.folder_config(tmp_path))
  config = data_helpers.folder_config(tmp_path, **change)
  images, _ = decode(config)
  assert len(reads) == 6
  assert images.shape[1:] == (*config.image_size, config.channels)


def test_a_changed_file_is_noticed(tmp_path):
  data_helpers.write_folders(tmp_path, {'a': 3})
  config = data_helpers.folder_config(tmp_path)
  before, _ = decode(config)
  data_helpers.write_image(tmp_path / 'images/a/001.png', seed=99)
  after, _ = decode(config)
  same = [np.array_equal(x, y) for x, y in zip(before, after)]
  assert same == [True, False, True]


def test_moved_data_finds_its_pixels(tmp_path):
  data_helpers.write_folders(tmp_path, {'a': 3})
  config = data_helpers.folder_config(tmp_path)
  decode(config)
  (tmp_path / 'images').rename(tmp_path / 'moved')
  config.root = str(tmp_path / 'moved')
  decode(config)
  assert len(list((tmp_path / 'cache').glob('*.npy'))) == 1
  assert len(list((tmp_path / 'cache').glob('*.json'))) == 2


def test_bad_files_have_records_but_no_pixels(tmp_path):
  data_helpers.write_folders(tmp_path, {'a': 4})
  (tmp_path / 'images/a/001.png').write_bytes(b'')
  config = data_helpers.folder_config(tmp_path)
  for _ in range(2):
    images, records = decode(config)
    assert images.shape[0] == 3 and len(records) == 4
    assert [bool(record['reason']) for record in records] == [
        False, True, False, False]
  good = sources.take(sources.load(config), np.array([0, 2, 3]))
  np.testing.assert_array_equal(
      images, [pixels for _, pixels in audit.inspect(good, config)])


def test_a_file_that_could_not_be_read_is_tried_again(tmp_path):
  data_helpers.write_folders(tmp_path, {'a': 3})
  config = data_helpers.folder_config(tmp_path)
  source = sources.load(config)
  def fail(index):
    if index == 1:
      raise PermissionError(13, 'Permission denied')
    return source.read(index)
  _, records = cache.decode(source._replace(read=fail), config)
  assert 'Permission denied' in records[1]['reason']
  _, records = decode(config)
  assert not records[1]['reason']


def test_a_file_that_cannot_be_there_does_not_hinder_the_cache(
    tmp_path, reads):
  data_helpers.write_folders(tmp_path, {'a': 3})
  (tmp_path / 'images/a/loop.png').symlink_to('loop.png')
  config = data_helpers.folder_config(tmp_path)
  for _ in range(2):
    images, records = decode(config)
    assert len(images) == 3 and 'symbolic links' in records[3]['reason']
    assert len(reads) == 4


@pytest.mark.parametrize('pattern', ['*.npy', '*.json'])
@pytest.mark.parametrize('size', [0, 40, 300])
def test_an_entry_that_was_cut_is_made_anew(tmp_path, reads, pattern, size):
  data_helpers.write_folders(tmp_path, {'a': 3})
  config = data_helpers.folder_config(tmp_path)
  expected = np.array(decode(config)[0])
  path, = (tmp_path / 'cache').glob(pattern)
  os.truncate(path, size)
  for _ in range(2):
    np.testing.assert_array_equal(decode(config)[0], expected)
  assert len(reads) == 6


def test_a_probe_that_vanishes_is_no_fault_of_the_folder(
    tmp_path, monkeypatch):
  config = data_helpers.folder_config(tmp_path)
  found = pathlib.Path.glob
  def vanish(folder, pattern):
    return [*found(folder, pattern), folder / 'of_another_process.tmp']
  monkeypatch.setattr(pathlib.Path, 'glob', vanish)
  assert cache.folder_of(config) == tmp_path / 'cache'


def test_no_good_image_at_all_is_an_error(tmp_path):
  (tmp_path / 'images/a').mkdir(parents=True)
  for i in range(2):
    (tmp_path / f'images/a/{i}.png').write_bytes(b'')
  with pytest.raises(errors.DataError, match='Not one image.*\n.*0 bytes'):
    decode(data_helpers.folder_config(tmp_path))
  assert not list((tmp_path / 'cache').iterdir())


def test_data_made_in_memory_leaves_no_files(tmp_path):
  images, records = decode(
      data_helpers.make_config(cache_dir=str(tmp_path / 'cache')))
  assert images.shape == (1797, 8, 8, 1) and len(records) == 1797
  assert not (tmp_path / 'cache').exists()


def test_the_folder_follows_the_environment(tmp_path, monkeypatch):
  data_helpers.write_folders(tmp_path, {'a': 2})
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
  decode(data_helpers.folder_config(tmp_path, cache_dir=''))
  assert len(list((tmp_path / 'xdg/vision_jax').iterdir())) == 2


def test_an_unusable_folder_is_an_error(tmp_path):
  data_helpers.write_folders(tmp_path, {'a': 2})
  (tmp_path / 'cache').write_text('a file, not a folder')
  with pytest.raises(errors.DataError, match='config.data.cache_dir'):
    decode(data_helpers.folder_config(tmp_path))


KILLED_WRITER = '''
import os, pathlib, signal, sys
import data_helpers
from vision_jax.data import cache, sources
config = data_helpers.folder_config(pathlib.Path(sys.argv[1]))
source = sources.load(config)
original, calls = getattr(cache, sys.argv[2]), []
def kill_at_call(file, *args):
  calls.append(args)
  if len(calls) == int(sys.argv[3]):
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
  return original(file, *args)
setattr(cache, sys.argv[2], kill_at_call)
cache.decode(source, config)
'''


def test_a_killed_writer_leaves_nothing_that_is_read(tmp_path, reads):
  data_helpers.write_folders(tmp_path, {'a': 6})
  paths = [os.path.dirname(__file__),
           str(pathlib.Path(cache.__file__).parents[2])]
  environment = os.environ | dict(PYTHONPATH=os.pathsep.join(paths))
  # All pixels written; pixels complete; pixels published, listing complete.
  for where in (('_write_header', '2'), ('_publish', '1'), ('_publish', '2')):
    done = subprocess.run(
        [sys.executable, '-c', KILLED_WRITER, str(tmp_path), *where],
        env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
  folder = tmp_path / 'cache'
  left = sorted(path.suffix for path in folder.iterdir())
  assert left == ['.npy', '.tmp', '.tmp', '.tmp']
  config = data_helpers.folder_config(tmp_path)
  images, _ = decode(config)
  assert len(reads) == 6
  expected = [pixels for _, pixels in audit.inspect(
      sources.load(config), config)]
  np.testing.assert_array_equal(images, expected)
  # A day later the next start clears up.
  for path in folder.glob('*.tmp'):
    os.utime(path, (time.time() - 90000,) * 2)
  decode(config)
  assert not list(folder.glob('*.tmp'))
