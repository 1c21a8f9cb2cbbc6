"""Every source of features, and the experiment that compares them."""

import csv
import pathlib

import numpy as np
import pytest

import run_helpers
from experiments import latent as experiment
from vision_jax import checkpoint
from vision_jax import config as config_lib
from vision_jax import encoders
from vision_jax import runs
from vision_jax import writers
from vision_jax.data import pipeline
from vision_jax.models import unet

_DATA = dict(data__test_fraction=0.3, data__validation_fraction=0.2)


@pytest.fixture(name='folders', scope='module')
def _folders(tmp_path_factory):
  root = tmp_path_factory.mktemp('runs')
  for name, fields in (
      ('classification', {}), ('frozen', {'model__frozen': '^encoder/'}),
      ('reconstruction', {'task': 'reconstruction'})):
    run = runs.build(run_helpers.make_config(
        data__label_fraction=0.5, data__cache_dir=str(root / 'cache'),
        **fields, **_DATA))
    writers.prepare(root / name, run.config)
    checkpoint.export(root / name, runs.init_state(run).variables())
  return root


def _data():
  return run_helpers.make_config(**_DATA).data


def test_pixels_are_the_images_themselves():
  found = encoders.encode('pixels', _data())
  run = runs.build(run_helpers.make_config(**_DATA))
  np.testing.assert_allclose(
      found.features, run.dataset.images.reshape(60, -1) / 255, rtol=1e-6)
  # All labels are known to the analysis, whatever the run was allowed.
  assert len(found.splits['unlabelled']) == 0
  assert sorted(np.concatenate(list(found.splits.values()))) == list(range(60))


@pytest.mark.parametrize('name', ['classification', 'frozen'])
def test_a_classifier_gives_what_its_last_layer_takes(folders, name):
  folder = folders / name
  found = encoders.encode(str(folder), config_lib.replace(
      run_helpers.make_config(**_DATA),
      data__cache_dir=str(folders / 'cache')).data)
  cached = list((folders / 'cache').glob('features-*.safetensors'))
  assert bool(cached) == (name == 'frozen')
  config = run_helpers.make_config(**_DATA)
  run = runs.build(config)
  state = runs.load_state(run.task, config, folder)
  params = state.params
  logits = found.features @ params['head']['logits']['kernel'] + (
      params['head']['logits']['bias'])
  batch = {'image': run.dataset.images / np.float32(255),
           'label': run.dataset.labels}
  wanted = np.log(run.task.eval_step(state, batch)['probabilities'])
  np.testing.assert_allclose(
      logits - logits.max(1, keepdims=True),
      wanted - wanted.max(1, keepdims=True), atol=1e-4)


def test_an_autoencoder_gives_its_deepest_level(folders):
  folder = folders / 'reconstruction'
  found = encoders.encode(str(folder), _data())
  config = run_helpers.make_config(task='reconstruction', **_DATA)
  run = runs.build(config)
  params = runs.load_state(run.task, config, folder).params
  wanted = unet.Encoder((4, 8)).apply(
      {'params': params['encoder']}, 2 * (run.dataset.images / 255.0) - 1,
      train=False)
  np.testing.assert_allclose(
      found.features, wanted.reshape(60, -1), atol=1e-5)


@pytest.mark.parametrize('fields', [
    dict(task='semi_supervised', train__split='all_train',
         train__sampler='mixed:1:3', data__label_fraction=0.5),
    dict(task='reconstruction', train__split='unlabelled',
         data__label_fraction=0.95),
    dict(model__frozen='^encoder/', data__screened='table.csv'),
], ids=['semi-supervised', 'unlabelled', 'screened'])
def test_every_image_of_a_run_is_encoded(tmp_path, monkeypatch, fields):
  monkeypatch.chdir(tmp_path)
  run = runs.build(run_helpers.make_config(**_DATA))
  dropped = run.dataset.ids[3]
  pathlib.Path('table.csv').write_text(f'id,rule\n{dropped},dark\n')
  config = run_helpers.make_config(
      **{'data__cache_dir': str(tmp_path / 'cache')} | fields, **_DATA)
  run = runs.build(config)
  writers.prepare(tmp_path / 'run', config)
  checkpoint.export(tmp_path / 'run', runs.init_state(run).variables())
  found = encoders.encode(str(tmp_path / 'run'), config.data)
  assert len(found.features) == len(found.labels) == 60
  assert len(np.unique(found.features, axis=0)) > 50


def test_a_run_is_not_tested_on_what_it_was_trained_on(tmp_path):
  config = run_helpers.make_config(data__split_seed=1, **_DATA)
  run = runs.build(config)
  writers.prepare(tmp_path / 'run', config)
  pipeline.write_manifest(run.dataset, tmp_path / 'run' / 'manifest.json')
  checkpoint.export(tmp_path / 'run', runs.init_state(run).variables())
  encoders.encode(str(tmp_path / 'run'), config.data)
  with pytest.raises(config_lib.ConfigError, match='images that would be'):
    encoders.encode(str(tmp_path / 'run'), _data())


def test_a_source_that_is_nothing_is_refused():
  with pytest.raises(config_lib.ConfigError, match='no config file'):
    encoders.encode('no/such/run', _data())


def test_a_config_gives_its_encoder_before_training():
  source = 'configs/transfer.py:data=digits,model=a_matched'
  config = config_lib.base()
  found = encoders.encode(source, config.data)
  # Two levels above 8x8 pixels, 64 channels, and no layer of the head.
  assert found.features.shape == (1797, 2 * 2 * 64)
  assert found.features.std() > 0


def test_the_experiment_writes_one_table_for_all(tmp_path, capsys):
  experiment.main([
      '--root=.', '--data=procedural', '--pixels=4', '--maps=tsne',
      '--clusters=2,4', f'--out={tmp_path}', '--encoders=pixels=pixels'])
  with (tmp_path / 'table.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert [(row['encoder'], row['features']) for row in rows] == [
      ('pixels', '48')]
  with (tmp_path / 'points.csv').open() as file:
    points = list(csv.DictReader(file))
  assert len(points) == 512
  assert {'species', 'split', 'pixels_cluster', 'pixels_tsne_x'} <= set(
      points[0])
  for name in ('pixels_tsne_species.png', 'pixels_tsne_clusters.png',
               'sweep.png', 'sweep.csv'):
    assert (tmp_path / name).stat().st_size > 100
  printed = capsys.readouterr().out
  assert '| pixels | [species](pixels_tsne_species.png), [clusters]' in printed
  assert 'linear probe' in printed and f'n = {rows[0]["n"]} test' in printed


def test_encoders_of_other_images_do_not_share_a_table():
  one = encoders.encode('pixels', _data())
  experiment.check_same(one, one, 'itself')
  other = encoders.encode('pixels', config_lib.replace(_data(), split_seed=1))
  with pytest.raises(config_lib.ConfigError, match='other has other images'):
    experiment.check_same(one, other, 'other')
