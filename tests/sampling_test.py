"""Images drawn from a finished run, through the entry point and directly."""

import json

import numpy as np
import pytest

import configs_test
import run_helpers
from vision_jax import config as config_lib
from vision_jax import loop
from vision_jax import results
from vision_jax import sampling
from vision_jax.analysis import pictures

POINTS = next(p for p in configs_test.FILES if p.stem == 'toy_gan')
GAN = next(p for p in configs_test.FILES if p.stem == 'gan')


@pytest.fixture(scope='module', name='run')
def run_fixture(tmp_path_factory):
  """A few steps of a small conditional GAN with an average of its weights."""
  folder = tmp_path_factory.mktemp('gan')
  config = configs_test.load(GAN).get_config('data=procedural,protocol=modern')
  config = config_lib.replace(
      config, data__image_size=(8, 8), data__procedural_examples=40,
      gan__generator_features=(6,), gan__discriminator_features=(4, 6),
      gan__preview_count=4, gan__preview_epochs=1, train__epochs=2,
      train__batch_size=16, report__progress=False, gan__r1=0.0)
  loop.train(config, folder)
  return config, folder


def test_a_run_leaves_its_pictures(run):
  config, folder = run
  for name in ('samples', 'interpolation', 'real_and_generated', 'nearest'):
    canvas, about = pictures.read_png(folder / 'figures' / f'{name}.png')
    assert canvas.std() > 0
    assert about['step'] == str(results.read(folder)['steps'])
    assert about['seed'] == str(config.seed)
  first, _ = pictures.read_png(folder / 'samples' / 'epoch_0001.png')
  second, _ = pictures.read_png(folder / 'samples' / 'epoch_0002.png')
  assert first.shape == second.shape and (first != second).any()
  assert (folder / 'figures' / 'training.gif').is_file()
  assert (folder / 'figures' / 'learning_curves.png').is_file()


def test_the_same_seed_draws_the_same_images(run, tmp_path):
  config, folder = run
  draw = lambda name, **options: sampling.sample(
      config, folder, output=str(tmp_path / name), **(dict(
          count=6, seed=3, layout='grid', weights='average') | options))
  one, again, other, raw = (pictures.read_png(path)[0] for path in (
      draw('a.png'), draw('b.png'), draw('c.png', seed=4),
      draw('d.png', weights='raw')))
  np.testing.assert_array_equal(one, again)
  assert (one != other).any()
  assert (one != raw).any()
  images = draw('files', layout='images')
  assert len(list(images.glob('*.png'))) == 6
  # The grid is the images, drawn eight times as large, and two pixels between.
  image = pictures.read_png(images / '000000.png')[0]
  scale = one.shape[0] // (2 * (8 + 2) + 2)
  np.testing.assert_array_equal(
      one[2 * scale:10 * scale:scale, 2 * scale:10 * scale:scale], image)


def test_the_entry_point_draws_a_path(run, tmp_path):
  _, folder = run
  done = run_helpers.main(
      tmp_path, '--mode=sample', f'--workdir={folder}',
      '--layout=interpolation', '--weights=raw', '--seed=5')
  assert done.returncode == 0, done.stderr
  canvas, about = pictures.read_png(folder / 'interpolation_raw_5.png')
  assert about['weights'] == 'raw' and about['seed'] == '5'
  assert canvas.shape[1] > canvas.shape[0]


@pytest.mark.parametrize('layout', ['grid', 'interpolation'])
def test_a_picture_is_written_as_png_alone(layout, tmp_path):
  with pytest.raises(config_lib.ConfigError, match='path.jpg does not end in'):
    sampling.sample(
        config_lib.base(), tmp_path, output=str(tmp_path / 'path.jpg'),
        count=1, seed=0, layout=layout, weights='average')


def test_runs_that_draw_nothing_say_so(tmp_path):
  (tmp_path / 'result.json').write_text(json.dumps({'class_names': ['a', 'b']}))
  with pytest.raises(config_lib.ConfigError, match='draws no images'):
    sampling.load(config_lib.base(), tmp_path)
  with pytest.raises(config_lib.ConfigError, match='no finished run'):
    sampling.load(config_lib.base(), tmp_path / 'none')


def test_points_are_drawn_as_points_and_lie_on_their_curve(tmp_path):
  config = configs_test.load(POINTS).get_config('data=cosine')
  config = config_lib.replace(
      config, data__procedural_examples=400, train__epochs=1,
      report__progress=False)
  result = loop.train(config, tmp_path)
  assert (tmp_path / 'figures' / 'points.png').is_file()
  low, high = result['intervals']['sliced_wasserstein']
  assert low <= result['test']['sliced_wasserstein'] <= high
