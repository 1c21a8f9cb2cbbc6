"""configs/imbalance.py: the study's recipe, its ladder, remedies by name."""

import numpy as np
import pytest

from configs import imbalance
from vision_jax import config as config_lib
from vision_jax import config_io
from vision_jax import modes
from vision_jax import optim


@pytest.mark.parametrize('epoch,rate', [
    (1, 1e-3), (10, 1e-3), (11, 1e-4), (21, 1e-5), (31, 1e-6), (41, 1e-7),
    (50, 1e-7)])
def test_rate_by_epoch(epoch, rate):
  config = imbalance.get_config()
  schedule = optim.make_schedule(
      config.optimizer, steps_per_epoch=22, epochs=config.train.epochs)
  for step in ((epoch - 1) * 22, epoch * 22 - 1):
    assert float(schedule(step)) == pytest.approx(rate, rel=1e-5)


def test_recipe():
  config = imbalance.get_config('data=caltech101,rung=regularized')
  assert (config.optimizer.name, config.optimizer.b1) == ('sgd', 0.9)
  assert (config.train.epochs, config.train.batch_size) == (50, 10)
  assert config.train.remainder == 'drop'
  assert config.optimizer.weight_decay == 5e-4
  assert tuple(config.data.image_size) == (227, 227)
  assert round(config.augment.translation * 227) == 3
  assert imbalance.get_config().optimizer.weight_decay == 0


def test_each_rung_is_a_delta_on_the_one_before():
  plain, regularized, normalized = (
      imbalance.get_config(f'rung={rung}') for rung in imbalance.RUNGS)
  first = set(config_io.changes(plain, regularized)) - {'name'}
  assert first == {
      'optimizer.weight_decay', 'model.head', 'augment.rotation',
      'augment.flip_horizontal', 'augment.translation'}
  second = set(config_io.changes(regularized, normalized)) - {'name'}
  assert second == {'model.variant'}


def test_ratios_on_digits_count_as_in_the_table():
  described = modes.describe(imbalance.get_config('ratio=15'))
  assert described['examples']['train'] == 225
  assert described['examples']['validation'] == 95
  assert described['examples']['test'] == 100
  assert described['steps_per_epoch'] == 22
  own = modes.describe(imbalance.get_config('ratio=15,protocol=published'))
  assert own['examples']['test'] == 95


@pytest.mark.parametrize('remedy', imbalance.REMEDIES)
def test_a_remedy_is_a_few_fields(remedy):
  plain = imbalance.get_config()
  config = imbalance.get_config(f'remedy={remedy}')
  changed = set(config_io.changes(plain, config)) - {'name'}
  head = {'model.head'} if 'ldam' in remedy else set()
  assert changed == set(imbalance.REMEDIES[remedy]) | head


def test_sampler_decides_the_steps():
  described = modes.describe(imbalance.get_config('ratio=15,remedy=over'))
  assert described['steps_per_epoch'] == 420 // 10
  under = modes.describe(imbalance.get_config('ratio=15,remedy=under'))
  assert under['steps_per_epoch'] == 3


def test_modern_decides_for_itself():
  config = imbalance.get_config('ratio=7,protocol=modern')
  assert config.model.variant == 'normalized'
  assert np.isclose(config.augment.mixup_alpha, 0.2)
  with pytest.raises(config_lib.ConfigError, match='leave both out'):
    imbalance.get_config('protocol=modern,remedy=over')
