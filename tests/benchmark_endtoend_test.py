"""Whole trainings of the benchmark: both sides do the same work."""

import json
import pathlib

import jax
import numpy as np
import pytest

import data_helpers
from configs import gan
from configs import transfer
from experiments import benchmark_endtoend
from experiments import benchmark_workloads
from vision_jax import config as config_lib
from vision_jax import loop
from vision_jax import optim


def small(config, tmp_path):
  """Returns `config` on a few small images in two classes, two epochs."""
  for i in range(40):
    data_helpers.write_image(
        tmp_path / 'data' / 'set' / f'c{i % 2}' / f'{i}.png', size=(64, 64),
        seed=i)
  return config_lib.replace(
      config, data__source='folders', data__root=str(tmp_path / 'data'),
      data__path='set', data__cache_dir=str(tmp_path / 'cache'),
      data__classes=(), data__duplicates='warn', train__batch_size=4,
      report__progress=False, report__figures=False)


def work_of_both(config, tmp_path):
  """Trains ours, then the peer on its folder; returns what both did."""
  benchmark_endtoend_torch = pytest.importorskip(
      'experiments.benchmark_endtoend_torch')
  result = loop.train(config, tmp_path / 'ours')
  benchmark_endtoend_torch.main([
      f'--like={tmp_path}/ours', f'--root={tmp_path}/data',
      f'--out={tmp_path}/peer'])
  peer = json.loads((tmp_path / 'peer' / 'result.json').read_text())
  assert peer['work'] == {'steps': result['steps'], 'images': {
      name: result['examples'][name]
      for name in ('train', 'validation', 'test')}}
  for name in ('checkpoint.pt', 'weights.pt'):
    assert (tmp_path / 'peer' / name).stat().st_size > 1000
  return result['test'], peer['test']


def test_the_classifier_does_the_same_work(tmp_path):
  config = small(transfer.get_config('data=digits,model=b1'), tmp_path)
  config = config_lib.replace(
      config, data__image_size=(16, 16), data__channels=3, model__weights='',
      model__features=(4, 8), model__head=('flatten', 'dense:8'),
      train__epochs=2)
  ours, peer = work_of_both(config, tmp_path)
  assert np.isfinite(peer['loss']) and 0 <= peer['accuracy'] <= 1
  assert set(benchmark_endtoend._shown(ours)) == set(peer)


def test_the_gan_does_the_same_work(tmp_path):
  config = small(gan.get_config('data=jellyfish'), tmp_path)
  config = config_lib.replace(
      config, data__exclude_pattern='', data__group_pattern='',
      gan__generator_features=(4, 4, 4, 4),
      gan__discriminator_features=(4, 4, 4, 4), train__max_steps=10)
  ours, peer = work_of_both(config, tmp_path)
  assert np.isfinite([ours['sliced_wasserstein'],
                      peer['sliced_wasserstein']]).all()
  # The study's networks look at their noise as often on both sides.
  assert (tmp_path / 'peer' / 'epoch_1.png').exists()
  assert not (tmp_path / 'peer' / 'epoch_2.png').exists()


def fake_sides(monkeypatch, peer_steps):
  """Replaces processes by files; the peer without workers is the slower."""
  def seconds(command, *, cache):
    del cache
    ours = command[0] == 'vision_jax.main'
    flags = dict(flag[2:].split('=', 1) for flag in command[1:])
    folder = pathlib.Path(flags['workdir' if ours else 'out'])
    folder.mkdir(parents=True)
    images = {'train': 3, 'validation': 0, 'test': 1}
    result = {'first_step_seconds': 1.0, 'test': {'accuracy': 0.5}}
    if ours:
      result |= {'steps': 7, 'examples': {**images, 'unlabelled': 9}}
      (folder / 'start.json').write_text('{"first_step_seconds": 2.0}')
      took = 20.0 if folder.name == 'first' else 8.0
    else:
      result['work'] = {'steps': peer_steps, 'images': images}
      took = 12.0 if flags['workers'] == '0' else 10.0
    (folder / 'result.json').write_text(json.dumps(result))
    return took
  monkeypatch.setattr(benchmark_endtoend, '_seconds', seconds)


def test_the_faster_peer_counts_and_the_report_says_so(monkeypatch, tmp_path):
  fake_sides(monkeypatch, peer_steps=7)
  job = benchmark_endtoend.JOBS['gan']
  found = benchmark_endtoend.measure(
      job, str(tmp_path / 'data'), tmp_path, rounds=2,
      workers=(0, 2))
  assert found['peer_workers'] == 2
  assert [len(found[side]) for side in ('first', 'later', 'peer')] == [2] * 3
  text = benchmark_endtoend.report({
      'jobs': {'gan': found | {
          'command': 'c', 'machine': 'm', 'load_average': 0.25}}}, tmp_path)
  assert '- `c` (m; load average before: 0.2)' in text
  assert '| gan | 2 | 7 | 3/0/1 | 20 | 8 | 10 | 2 | 0.50 | 1.25 |' in text
  assert '| gan | 2 | 2 | 1 |' in text
  assert '| gan | 0.5 | 0.5 |' in text
  assert 'were tried:\ngan 0, 2; the fastest counts.' in text


def test_one_number_of_processes_is_no_choice():
  assert benchmark_endtoend._tried({
      'a': {'peer_seconds_by_workers': {'0': [1.0]}},
      'b': {'peer_seconds_by_workers': {'2': [1.0]}}}) == (
          'a 0; b 2; one a job, so that none was chosen.')


def test_unequal_work_is_refused(monkeypatch, tmp_path):
  fake_sides(monkeypatch, peer_steps=6)
  with pytest.raises(benchmark_endtoend.JobError, match="'steps': 6"):
    benchmark_endtoend.measure(
        benchmark_endtoend.JOBS['gan'], str(tmp_path / 'data'), tmp_path,
        rounds=1, workers=(0,))


def test_every_job_is_a_config_with_these_fields():
  for job in benchmark_endtoend.JOBS.values():
    module = __import__(f'configs.{job.file}', fromlist=['get_config'])
    config = module.get_config(job.argument)
    config.update_from_flattened_dict(job.fields)
    assert not config.model.weights


@pytest.mark.parametrize('workload', ['imbalance_cnn', 'classifier_a', 'gan'])
def test_the_peer_begins_with_weights_like_ours(workload, monkeypatch):
  torch = pytest.importorskip('torch')
  from experiments import benchmark_endtoend_torch, benchmark_torch
  monkeypatch.setitem(
      benchmark_workloads.WORKLOADS, 'classifier_a',
      benchmark_workloads.WORKLOADS['classifier_a']._replace(
          batch=1, fields={'data.image_size': (32, 32)}))
  step = benchmark_workloads.make(workload)
  ours = {optim.path_name(path): np.asarray(leaf) for path, leaf in
          jax.tree_util.tree_leaves_with_path(step.state.params)}
  torch.manual_seed(0)
  network = benchmark_torch.make_network(
      step.config, benchmark_workloads.CLASSES)
  benchmark_endtoend_torch.draw_weights(step.config, network)
  kernels = 0
  for path, module in network.named_modules():
    if not isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
      continue
    kernel, bias = (ours[f'{path.replace(".", "/")}/{leaf}']
                    for leaf in ('kernel', 'bias'))
    drawn = module.weight.detach().numpy()
    assert not bias.any() and not module.bias.any()
    if kernel.size > 10_000:
      kernels += 1
      quantile = lambda x: np.quantile(
          x.ravel()[:100_000], (0.0002, 0.05, 0.3, 0.9))
      np.testing.assert_allclose(
          quantile(drawn), quantile(kernel), rtol=0.1, err_msg=path)
  assert kernels > 1
