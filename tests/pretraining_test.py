"""What a run starts from: on the same data, and blind to what is tested."""

import pathlib

from PIL import Image
import numpy as np
import pytest

import run_helpers
from configs import transfer
from vision_jax import config as config_lib
from vision_jax import loop
from vision_jax import pretraining
from vision_jax import results
from vision_jax import runs
from vision_jax.data import pipeline


def seen_and_tested(config):
  """(ids that the pre-training may see, ids that the run itself tests)."""
  made = pretraining.config_of(config)
  first, second = (pipeline.load(each.data) for each in (made, config))
  return ({first.ids[i] for name in ('train', 'validation', 'unlabelled')
           for i in first.splits[name]},
          {second.ids[i] for i in second.splits['test']})


@pytest.mark.parametrize('fields', [
    {},
    dict(data__test_fraction=0.4),
    dict(data__exclude_pattern='digits/0000'),
    dict(data__group_pattern=r'(\d{3})\d$', data__classes=('0',)),
    dict(data__classes=('0', '1', '2')),
    dict(data__label_fraction=0.1, data__validation_fraction=0.3),
    dict(data__split_seed=3),
], ids=str)
def test_no_image_of_the_test_is_pre_trained_on(fields):
  seen, tested = seen_and_tested(config_lib.replace(
      transfer.get_config('data=digits,model=b1'), **fields))
  assert len(tested) > 10 and len(seen) > 50
  assert not seen & tested


def test_pre_training_keeps_its_own_size_but_follows_to_other_images():
  config = transfer.get_config('data=butterflies,model=b1')
  config.model.weights = 'configs/contrastive.py:data=butterflies'
  config.data.image_size = (64, 64)
  made = pretraining.config_of(config)
  assert tuple(made.data.image_size) == (32, 32)
  turned = config_lib.replace(
      config, data__path='moths', data__resize='crop')
  made = pretraining.config_of(turned)
  assert (made.data.path, tuple(made.data.image_size), made.data.resize) == (
      'moths', (64, 64), 'crop')


def write_images(folder, seed):
  pixels = np.random.default_rng(seed).integers(0, 255, (24, 8, 8), np.uint8)
  for i, image in enumerate(pixels):
    path = folder / 'set' / ('ant', 'bee')[i % 2] / f'{i}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def on_folders(root, **fields):
  return run_helpers.make_config(
      data__source='folders', data__root=str(root), data__path='set',
      data__channels=1, data__image_size=(8, 8), data__test_fraction=0.25,
      data__cache_dir=str(root / 'cache'), train__epochs=1,
      train__batch_size=4, train__eval_batch_size=4, **fields)


def test_a_run_that_saw_the_test_is_refused_and_leaves_no_folder(tmp_path):
  write_images(tmp_path, seed=0)
  donor, folder = tmp_path / 'donor', tmp_path / 'run'
  loop.train(on_folders(
      tmp_path, data__split_seed=1, task='reconstruction'), donor)
  config = on_folders(tmp_path, model__weights=str(donor))
  with pytest.raises(config_lib.ConfigError, match='trained on .* image'):
    loop.train(config, folder)
  assert not folder.exists()
  loop.train(config_lib.replace(config, data__split_seed=1), folder)
  assert results.exists(folder)


def test_other_images_in_the_same_place_are_not_taken_for_the_same(
    tmp_path, monkeypatch):
  project = pathlib.Path.cwd()
  monkeypatch.chdir(tmp_path)
  folders = {}
  for seed, name in enumerate(('old', 'new')):
    write_images(tmp_path / name, seed)
    config = on_folders(
        tmp_path / name,
        model__weights=f'{project}/configs/autoencoder.py:epochs=1',
        model__features=(32, 64))
    folders[name] = pretraining.folder_of(
        pretraining.config_of(config), pathlib.Path('runs'))
    if name == 'old':
      loop.train(config, tmp_path / 'first')
      continue
    assert folders['old'] == folders['new']
    with pytest.raises(config_lib.ConfigError, match='on other images'):
      loop.train(config, tmp_path / 'second')


@pytest.mark.parametrize('split', ['test', 'validation'])
def test_nothing_trains_on_what_evaluates_it(split):
  with pytest.raises(config_lib.ConfigError, match='train.split'):
    runs.build(run_helpers.make_config(train__split=split))
