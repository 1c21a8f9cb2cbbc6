"""Batches are pure in (seed, step), complete, the same from either store."""

import pathlib

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

import data_helpers
from vision_jax.data import batches
from vision_jax.data import errors
from vision_jax.data import pipeline


def epoch_of(members, batch, *, seed, epoch, remainder):
  steps = batches.steps_per_epoch(len(members), batch, remainder)
  return [batches.train_indices(
      members, batch, seed, epoch * steps + i, remainder)
          for i in range(steps)]


@given(st.integers(1, 70), st.integers(1, 20), st.integers(0, 5),
       st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_an_epoch_sees_every_member_once(n, batch, seed, epoch):
  members = 3 * np.arange(n) + 7
  parts = epoch_of(members, batch, seed=seed, epoch=epoch, remainder='pad')
  real = np.concatenate([rows[mask == 1] for rows, mask in parts])
  assert sorted(real) == list(members)
  for rows, mask in parts:
    assert rows.shape == mask.shape == (batch,)
    assert rows.dtype == np.int32 and mask.dtype == np.float32
    assert set(rows) <= set(members)
  # The padding is the start of the same order, round and round if need be.
  rows, mask = parts[-1]
  padding = rows[mask == 0]
  assert list(padding) == list(np.resize(real, len(padding)))


def test_drop_leaves_the_remainder_out():
  parts = epoch_of(np.arange(10), 4, seed=0, epoch=0, remainder='drop')
  assert len(parts) == 2
  assert all(mask.all() for _, mask in parts)
  assert len(set(np.concatenate([rows for rows, _ in parts]))) == 8
  with pytest.raises(errors.DataError, match='make no batch of 16'):
    batches.train_indices(np.arange(10), 16, 0, 0, 'drop')


@pytest.mark.parametrize('remainder', ['pad', 'wrap'])
def test_no_examples_and_unknown_remainders_are_errors(remainder):
  with pytest.raises(errors.DataError):
    batches.steps_per_epoch(0, 4, remainder)


def test_a_batch_does_not_depend_on_what_was_asked_before():
  def get(step):
    return batches.train_indices(np.arange(50), 8, 3, step, 'pad')[0]
  forward = [get(step) for step in range(30)]
  batches._epoch_order.cache_clear()
  backward = [get(step) for step in reversed(range(30))]
  assert np.array_equal(forward, backward[::-1])
  orders = {tuple(np.concatenate(forward[e:e + 7])) for e in (0, 7, 14)}
  assert len(orders) == 3


def test_evaluation_batches_cover_every_member_in_order():
  members = np.array([4, 9, 2, 7, 5])
  parts = list(batches.eval_batches(members, 2))
  assert [list(mask) for _, mask in parts] == [[1, 1], [1, 1], [1, 0]]
  assert list(np.concatenate(
      [rows[mask == 1] for rows, mask in parts])) == list(members)
  assert not list(batches.eval_batches(np.arange(0), 2))


def test_streamed_and_resident_batches_are_equal(tmp_path):
  data_helpers.write_folders(tmp_path, {'a': 6, 'b': 5})
  config = data_helpers.folder_config(tmp_path)
  dataset = pipeline.load(config)
  assert isinstance(dataset.images, np.memmap)
  rows = np.array([3, 10, 0, 3], np.int32)
  found = []
  for megabytes in (100, 0):
    config.resident_megabytes = megabytes
    store = batches.make_store(dataset, config)
    assert ('image' in store.arrays) == bool(megabytes)
    found.append(jax.jit(store.gather)(store.arrays, store.feed(rows)))
  np.testing.assert_array_equal(found[0]['image'], found[1]['image'])
  for batch in found:
    # XLA divides by a constant through its reciprocal.
    np.testing.assert_array_max_ulp(
        np.asarray(batch['image']),
        dataset.images[rows].astype(np.float32) / np.float32(255), maxulp=1)
    assert batch['image'].dtype == np.float32
    np.testing.assert_array_equal(batch['label'], dataset.labels[rows])
    np.testing.assert_array_equal(batch['id'], rows)


def test_resident_arrays_lie_where_the_sharding_says(tmp_path):
  dataset = pipeline.load(data_helpers.make_config())
  mesh = jax.make_mesh((1,), ('data',))
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  store = batches.make_store(
      dataset, data_helpers.make_config(), sharding=sharding)
  assert store.arrays['image'].sharding == sharding


def test_prefetch_keeps_the_order_and_passes_errors_on():
  started = []
  def work(item):
    started.append(item)
    return 10 // item
  stream = batches.prefetch(work, [5, 2, 1])
  assert next(stream) == 2
  assert list(stream) == [5, 10]
  assert started == [5, 2, 1]
  with pytest.raises(ZeroDivisionError):
    list(batches.prefetch(work, [1, 0, 2]))


@pytest.mark.parametrize('n, times, best', [
    (76, 5, 76),  # 5 * 76 + 2 * 76 rows instead of 6 * 128.
    (500, 1, 100), (128, 3, 128), (1, 9, 65), (0, 1, 100)])
def test_evaluated_batches_pad_least(n, times, best):
  splits = {'validation': (n, times), 'test': (100, 1)}
  size = batches.least_padding(splits, largest=128, multiple=1)
  rows = {s: times * -(-n // s) * s + -(-100 // s) * s
          for s in range(65, 129)}
  assert rows[size] == min(rows.values())
  if n:
    assert size == best
  assert batches.least_padding(splits, largest=128, multiple=8) % 8 == 0
  assert batches.least_padding({'test': (5, 1)}, largest=1, multiple=1) == 1


def test_rows_of_a_mapped_file_are_those_of_the_array(tmp_path):
  images = np.random.default_rng(0).integers(
      0, 256, (9, 3, 4, 2)).astype(np.uint8)
  np.save(tmp_path / 'images.npy', images)
  mapped = np.load(tmp_path / 'images.npy', mmap_mode='r')
  rows = np.array([8, 0, 3, 3])
  for given, expected in ((mapped, images), (images, images),
                          # A part of a mapping has another beginning.
                          (mapped[2:], images[2:])):
    some = rows[1:] if given is not mapped else rows
    found = batches.reader(given)(some)
    np.testing.assert_array_equal(found, expected[some])
    assert not np.shares_memory(found, given)
  with open(tmp_path / 'images.npy', 'r+b') as file:
    file.truncate(200)
  with pytest.raises(errors.DataError, match='ends within image 3'):
    batches.reader(mapped)(rows)


def test_a_mapping_outlives_the_name_of_its_file(tmp_path):
  images = np.arange(24, dtype=np.uint8).reshape(3, 2, 4, 1)
  np.save(tmp_path / 'images.npy', images)
  read = batches.reader(np.load(tmp_path / 'images.npy', mmap_mode='r'))
  (tmp_path / 'images.npy').unlink()
  np.testing.assert_array_equal(read(np.array([2, 0])), images[[2, 0]])
  np.save(tmp_path / 'images.npy', images[:1])
  np.testing.assert_array_equal(read(np.array([2, 0])), images[[2, 0]])


def test_what_was_read_of_a_mapped_file_does_not_stay(tmp_path, monkeypatch):
  shape, megabyte = (1024, 64, 64, 4), 2**20
  path = tmp_path / 'images.npy'
  np.save(path, np.ones(shape, np.uint8))
  if not pathlib.Path('/proc/self/smaps').is_file():
    pytest.skip('this system does not say what a process holds')
  def resident():
    """Returns how much of the file the process holds."""
    lines = pathlib.Path('/proc/self/smaps').read_text().partition(
        str(path))[2].splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith('Rss')) * 1024
  most = []
  for limit in (megabyte, 2**30):
    monkeypatch.setattr(batches, '_MAPPED', limit)
    read = batches.reader(np.load(path, mmap_mode='r'))
    held = []
    for row in range(shape[0]):
      read(np.array([row]))
      # The kernel takes 20 ms to tell; the last row is one that asks.
      if row % 33 == 0:
        held.append(resident())
    most.append(max(held))
    del read
  # A touched page brings its neighbours, how many is the kernel's business.
  assert most[0] <= 4 * megabyte and most[1] >= 16 * megabyte
