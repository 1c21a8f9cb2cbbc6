"""The filters against fixed arrays of Pillow's and OpenCV's."""

import shutil
import sys
import types

import numpy as np
from PIL import Image
import pytest

import data_helpers
import run_helpers
from vision_jax import features
from vision_jax import runs
from vision_jax.data import cache
from vision_jax.data import errors
from vision_jax.data import filters
from vision_jax.data import images
from vision_jax.data import sources


def make_pixels():
  """A fixed image of 16 x 16, all of whose channels differ."""
  y, x = np.indices((16, 16))
  return np.stack([(37 * x + 11 * y) % 256, (x * x + 53 * y) % 256,
                   (7 * x * y + 90) % 256], -1).astype(np.uint8)


def apply(name, pixels, **fields):
  return filters.make(data_helpers.make_config(filter=name, **fields))(
      'x/0.jpg', pixels)


def test_greyscale_is_the_luma_of_pillow_and_opencv():
  found = apply('greyscale', make_pixels())
  assert found[3, :8, 0].tolist() == [113, 128, 143, 159, 177, 195, 215, 160]
  assert np.all(found == found[..., :1])
  grey = make_pixels()[..., :1]
  np.testing.assert_array_equal(apply('greyscale', grey), grey)


def test_circle_has_a_radius_of_90_of_224_pixels():
  found = apply('circle', np.full((224, 224, 3), 7, np.uint8))[..., 0]
  assert set(np.unique(found)) == {0, 7}
  assert np.count_nonzero(found) == pytest.approx(np.pi * 90**2, rel=2e-3)
  np.testing.assert_array_equal(found, found[::-1, ::-1])
  assert found[112, 22] == 7 and found[112, 21] == 0
  small = apply('circle', make_pixels())
  assert np.count_nonzero(small.any(-1)[8]) == 12


def test_peripheral_blur_is_opencvs_bilateral_filter_outside_the_circle():
  pixels = make_pixels()
  found = apply('peripheral_blur', pixels)
  # cv2.bilateralFilter(pixels, 10, 100, 100) of OpenCV 5.0.
  assert found[0, :4].tolist() == [
      [58, 42, 95], [68, 51, 99], [76, 55, 101], [90, 55, 104]]
  assert found[15, 12:].tolist() == [
      [129, 154, 96], [133, 158, 163], [150, 195, 61], [158, 208, 114]]
  changed = np.argwhere((found != pixels).any(-1)) - 7.5
  assert np.hypot(*changed.T).min() > 8
  inside = np.hypot(*(np.indices((16, 16)) - 7.5)) <= 8
  np.testing.assert_array_equal(found[inside], pixels[inside])


def test_masks_of_a_user_keep_what_is_white(tmp_path):
  (tmp_path / 'x').mkdir()
  mask = np.zeros((16, 16), np.uint8)
  mask[4:8], mask[8:12] = 255, 51
  Image.fromarray(mask).save(tmp_path / 'x/0.png')
  pixels = make_pixels()
  found = apply('masks', pixels, masks=str(tmp_path))
  np.testing.assert_array_equal(found[4:8], pixels[4:8])
  np.testing.assert_array_equal(found[8:12], np.rint(pixels[8:12] / 5))
  assert not found[:4].any() and not found[12:].any()
  change = filters.make(data_helpers.make_config(
      filter='masks', masks=str(tmp_path)))
  with pytest.raises(errors.ImageError, match='no mask .*y/1.png'):
    change('y/1.jpg', pixels)


def test_a_mask_is_cut_as_its_image_is(tmp_path):
  pixels = np.full((16, 32, 3), 9, np.uint8)
  mask = np.zeros((16, 32), np.uint8)
  mask[:, 8:24] = 255
  (tmp_path / 'x').mkdir()
  Image.fromarray(mask).save(tmp_path / 'x/0.png')
  for resize, kept in (('crop', slice(0, 16)), ('squash', slice(5, 11))):
    fields = dict(size=(16, 16), channels=3, resize=resize)
    decoded = images.decode(pixels, max_pixels=10**6, **fields)
    found = apply('masks', decoded, masks=str(tmp_path), resize=resize)
    assert np.all(found[:, kept] == 9)
    if resize == 'squash':
      assert not found[:, :3].any() and not found[:, 13:].any()


def test_a_mask_of_16_bits_is_scaled(tmp_path):
  (tmp_path / 'x').mkdir()
  Image.fromarray(np.full((16, 16), 51 * 257, np.uint16)).save(
      tmp_path / 'x/0.png')
  pixels = make_pixels()
  np.testing.assert_array_equal(
      apply('masks', pixels, masks=str(tmp_path)), np.rint(pixels / 5))


@pytest.mark.parametrize('spoil, reason', [
    (lambda path: path.write_bytes(b'junk'), 'not an image'),
    (lambda path: path.write_bytes(path.read_bytes()[:50]), 'broken image'),
    (lambda path: path.write_bytes(b''), '0 bytes'),
    (lambda path: (path.unlink(), path.mkdir()), 'cannot be read')])
def test_a_broken_mask_makes_its_image_a_bad_file(tmp_path, spoil, reason):
  config = write_masked(tmp_path, {'000': 255, '001': 255})
  spoil(tmp_path / 'masks/a/001.png')
  source = sources.load(config)
  pixels, records = cache.decode(source, config)
  assert len(pixels) == 1 and not records[0]['reason']
  assert 'masks/a/001.png' in records[1]['reason']
  assert reason in records[1]['reason']


def write_masked(tmp_path, masks):
  """Writes an image of class a for each mask; returns their config."""
  data_helpers.write_folders(tmp_path, {'a': len(masks)})
  (tmp_path / 'masks/a').mkdir(parents=True)
  for name, value in masks.items():
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(
        tmp_path / f'masks/a/{name}.png')
  return data_helpers.folder_config(
      tmp_path, filter='masks', masks=str(tmp_path / 'masks'))


def test_a_renamed_image_is_cached_with_its_new_mask(tmp_path):
  config = write_masked(tmp_path, {'000': 255})
  Image.fromarray(np.zeros((8, 8), np.uint8)).save(
      tmp_path / 'masks/a/black.png')
  folder, bright = tmp_path / 'images/a', []
  for before, after in (('000', '000'), ('000', 'black'), ('black', '000')):
    (folder / f'{before}.png').rename(folder / f'{after}.png')
    pixels, _ = cache.decode(sources.load(config), config)
    bright.append(bool(pixels.any()))
  assert bright == [True, False, True]


def test_features_follow_masks_that_were_replaced(tmp_path):
  write_masked(tmp_path, {f'{i:03d}': 255 for i in range(12)})
  data_helpers.write_folders(tmp_path, {'b': 12})
  shutil.copytree(tmp_path / 'masks/a', tmp_path / 'masks/b')
  config = run_helpers.make_config(
      data__source='folders', data__root=str(tmp_path / 'images'),
      data__filter='masks', data__masks=str(tmp_path / 'masks'),
      data__cache_dir=str(tmp_path / 'cache'), data__duplicates='ignore',
      model__frozen='^encoder/')
  for value in (255, 0):
    for path in (tmp_path / 'masks').rglob('*.png'):
      Image.fromarray(np.full((8, 8), value, np.uint8)).save(path)
    run = runs.build(config)
    state = runs.init_state(run)
    store = features.make_stores(run, state).evaluation
    members = np.arange(len(run.dataset.labels))
    fresh = features._compute(run, state, members, None)
    np.testing.assert_allclose(
        store.arrays['features'][store.arrays['position'][members]], fresh,
        atol=1e-6)


def test_rembg_is_asked_for_a_mask_and_is_no_hard_dependency(monkeypatch):
  mask = np.zeros((16, 16), np.uint8)
  mask[:8] = 255
  monkeypatch.setitem(sys.modules, 'rembg', types.SimpleNamespace(
      new_session=lambda: 'session',
      remove=lambda pixels, session, only_mask: mask))
  found = apply('rembg', make_pixels())
  np.testing.assert_array_equal(found[:8], make_pixels()[:8])
  assert not found[8:].any()
  monkeypatch.setitem(sys.modules, 'rembg', None)
  with pytest.raises(errors.DataError, match=r'vision_jax\[rembg\]'):
    apply('rembg', make_pixels())


@pytest.mark.parametrize('fields, message', [
    (dict(filter='grey'), "'none', 'greyscale'"),
    (dict(filter='masks'), 'a folder of greyscale masks'),
    (dict(filter='circle', masks='x'), 'no effect'),
])
def test_wrong_settings_are_explained(fields, message):
  with pytest.raises(errors.DataError, match=message):
    filters.make(data_helpers.make_config(**fields))


def test_every_image_is_filtered_and_cached_apart(tmp_path):
  data_helpers.write_folders(tmp_path, {'a': 2})
  plain = data_helpers.folder_config(tmp_path)
  grey = data_helpers.folder_config(tmp_path, filter='greyscale')
  source = sources.load(plain)
  before, records = cache.decode(source, plain)
  after, filtered = cache.decode(source, grey)
  for i in range(2):
    np.testing.assert_array_equal(
        after[i], filters.greyscale(np.asarray(before[i])))
  # Duplicates are judged on what the file shows.
  assert [r['dhash'] for r in records] == [r['dhash'] for r in filtered]
  np.testing.assert_array_equal(cache.decode(source, plain)[0], before)
