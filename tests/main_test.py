"""The entry point, as a user starts it."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time

import pytest

import configs_test
import data_helpers
import run_helpers
from vision_jax import config as config_lib
from vision_jax import modes

SMALL = ('--config.train.epochs=2', '--config.report.progress=False')


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """The digits, trained for two epochs by the README's command."""
  folder = tmp_path_factory.mktemp('main')
  process = run_helpers.main(
      folder, '--config=configs/transfer.py:model=a_matched',
      f'--workdir={folder}/run', *SMALL)
  assert process.returncode == 0, process.stderr
  return folder, process


def test_training_prints_test_metrics_and_the_run_folder(workdir):
  folder, process = workdir
  assert f'Run folder: {folder}/run' in process.stdout
  assert 'balanced_accuracy' in process.stdout
  for name in ('config.json', 'environment.json', 'metrics.jsonl',
               'metrics.csv', 'predictions.csv', 'manifest.json',
               'result.json', 'figures/learning_curves.png',
               'figures/confusion_matrix.png'):
    assert (folder / 'run' / name).stat().st_size > 0, name
  result = json.loads((folder / 'run' / 'result.json').read_text())
  with (folder / 'run' / 'predictions.csv').open() as file:
    rows = list(csv.DictReader(file))
  right = sum(row['label'] == row['predicted'] for row in rows)
  assert len(rows) == result['test']['n'] == 360
  assert result['test']['accuracy'] == pytest.approx(right / 360, abs=1e-12)
  probabilities = [float(rows[0][str(digit)]) for digit in range(10)]
  assert sum(probabilities) == pytest.approx(1, abs=1e-5)


def test_evaluate_needs_only_the_run_folder_and_finds_the_same(workdir):
  folder, _ = workdir
  process = run_helpers.main(
      folder, '--mode=evaluate', f'--workdir={folder}/run')
  assert process.returncode == 0, process.stderr
  found = json.loads(
      (folder / 'run' / 'evaluation_test.json').read_text())
  result = json.loads((folder / 'run' / 'result.json').read_text())['test']
  assert found['accuracy'] == result['accuracy']
  assert found['log_loss'] == pytest.approx(result['log_loss'], rel=1e-5)


def test_predict_takes_a_folder_and_names_what_it_left_out(workdir):
  folder, _ = workdir
  images = folder / 'images'
  for i in range(3):
    data_helpers.write_image(images / 'some where' / f'{i}.png', seed=i)
  (images / 'broken.jpg').write_bytes(b'\xff\xd8\xff')
  process = run_helpers.main(
      folder, '--mode=predict', f'--workdir={folder}/run',
      f'--input={images}', f'--output={folder}/out.csv')
  assert process.returncode == 0, process.stderr
  assert 'broken.jpg is left out' in process.stderr
  with (folder / 'out.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert [row['path'][-5:] for row in rows] == ['0.png', '1.png', '2.png']
  assert {'predicted', '0', '9'} <= rows[0].keys()


def test_describe_prints_one_json_object_and_opens_no_image(tmp_path):
  # The images are broken on purpose: describe has to count them all the same.
  root = tmp_path / 'data' / 'butterflies'
  for split, count in (('train', 20), ('test', 3), ('valid', 2)):
    for species in range(20):
      for i in range(count):
        path = root / split / f'SPECIES {species}' / f'{i}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'no image')
  counts = {'a': (67195284, 67195284), 'a_matched': (33936020, 33936020),
            'b1': (33936020, 33565204), 'b2': (33936020, 33936020)}
  for model, (total, trainable) in counts.items():
    arg = f'data=butterflies,model={model}'
    if model == 'b1':
      process = run_helpers.main(
          tmp_path, f'--config=configs/transfer.py:{arg}',
          f'--config.data.root={tmp_path}/data', '--mode=describe')
      assert process.returncode == 0, process.stderr
      found = json.loads(process.stdout)
    else:
      config = configs_test.load(
          run_helpers.ROOT / 'configs' / 'transfer.py').get_config(arg)
      found = modes.describe(config_lib.replace(
          config, data__root=f'{tmp_path}/data'))
    assert found['parameters'] == {
        'total': total, 'trainable': trainable, 'frozen': total - trainable}
    assert found['input_shape'] == [128, 128, 3]
    assert found['examples']['test'] == 60
    assert found['examples']['train'] + found['examples']['validation'] == 440


def test_describe_counts_the_autoencoder(tmp_path):
  process = run_helpers.main(
      tmp_path, '--config=configs/autoencoder.py', '--mode=describe',
      '--config.model.features=(64,128,256)', '--config.data.channels=3',
      '--config.data.image_size=(32,32)')
  found = json.loads(process.stdout)
  assert found['parameters']['total'] == 535619
  assert found['modules'] == {
      'encoder': 370816, 'up_0': 131200, 'up_1': 32832, 'up_2': 771}


@pytest.mark.parametrize('args, message', [
    (['--config=configs/transfer.py:modle=b1'], "did you mean 'model'"),
    (['--config=configs/transfer.py', '--config.trian.epochs=2'], '"train"'),
    (['--config=configs/transfer.py', '--config.data.rot=x'],
     '''--config.data.rot names no field: 'rot' Did you mean "root"'''),
    (['--config=configs/transfer.py', '--config.augment.flip=1'],
     "--config.augment.flip names no field: 'flip' (vision_jax/config.py"),
    (['--config=configs/transfer.py', '--config.optimizer.name=adm'],
     "did you mean 'adam'"),
    (['--config=configs/transfer.py:data=butterflies'], 'VISION_JAX_DATA'),
    (['--config=configs/transfer.py', '--config.train.epochs=few'],
     "'few'"),
    (['--conifg=configs/transfer.py'], "Unknown command line flag 'conifg'"),
    (['--config=configs/transfr.py'], "did you mean 'configs/transfer.py'"),
    (['--config=configs/transfr.py', '--config.seed=1'],
     "No such file or directory: 'configs/transfr.py'"),
    ([], 'configs/transfer.py'),
    (['--mode=predict', '--workdir=nowhere', '--input=x'], 'no run folder'),
])
def test_a_mistake_ends_with_its_remedy_and_without_a_traceback(
    tmp_path, args, message):
  process = run_helpers.main(tmp_path, *args, VISION_JAX_DATA='')
  assert process.returncode == 2
  assert message in process.stderr
  assert 'Traceback' not in process.stderr


def test_a_fault_of_a_config_file_is_not_taken_for_an_override(tmp_path):
  path = tmp_path / 'faulty.py'
  path.write_text('def get_config(arg=None):\n  return {}["x"]\n')
  process = run_helpers.main(tmp_path, f'--config={path}')
  assert process.returncode == 1
  assert "KeyError: 'x'" in process.stderr and str(path) in process.stderr
  assert 'names no field' not in process.stderr


def test_ctrl_c_ends_by_the_signal_without_a_traceback(tmp_path):
  # A shell's `&` and the workers of pytest-xdist leave the signal ignored.
  script = """
import signal
from vision_jax import main
signal.signal(signal.SIGINT, signal.default_int_handler)
main._run = lambda config: signal.raise_signal(signal.SIGINT)
main.run()
"""
  process = subprocess.run(
      [sys.executable, '-c', script, '--config=configs/transfer.py'],
      cwd=run_helpers.ROOT, env=run_helpers.environment(tmp_path),
      capture_output=True, text=True, check=False)
  assert process.returncode == -signal.SIGINT
  assert process.stderr.startswith('\nStopped at once.')
  assert 'Traceback' not in process.stderr


def test_a_training_that_diverges_says_so_without_a_traceback(tmp_path):
  process = run_helpers.main(
      tmp_path, '--config=configs/transfer.py:model=a_matched',
      f'--workdir={tmp_path}/run', '--config.optimizer.learning_rate=1e30')
  assert process.returncode == 1
  assert 'Error: Not finite at step' in process.stderr
  assert 'Lower config.optimizer.learning_rate' in process.stderr
  assert 'Traceback' not in process.stderr


def test_import_and_help_take_less_than_two_seconds(tmp_path):
  def seconds(*command):
    began = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=run_helpers.ROOT,
                   env=run_helpers.environment(tmp_path), check=False,
                   capture_output=True)
    return time.perf_counter() - began
  assert min(seconds('-c', 'import vision_jax.main') for _ in range(3)) < 2
  assert min(seconds('-m', 'vision_jax.main', '--help')
             for _ in range(3)) < 2


def test_nothing_in_the_core_imports_tensorflow_or_torch(tmp_path):
  code = '''
import importlib, pkgutil, sys
class Block:
  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in ('tensorflow', 'torch', 'keras'):
      raise ImportError(f'{name} is blocked')
sys.meta_path.insert(0, Block())
import vision_jax
count = 0
for module in pkgutil.walk_packages(vision_jax.__path__, 'vision_jax.'):
  importlib.import_module(module.name)
  count += 1
print(count)
'''
  process = subprocess.run(
      [sys.executable, '-c', code], cwd=run_helpers.ROOT, check=False,
      env=run_helpers.environment(tmp_path), capture_output=True, text=True)
  assert process.returncode == 0, process.stderr
  assert int(process.stdout) > 20


def test_the_pretrained_encoder_is_made_once_and_found_again(tmp_path):
  project = tmp_path / 'project'
  project.mkdir()
  for name in ('configs', 'vision_jax'):
    (project / name).symlink_to(run_helpers.ROOT / name)
  def run(name):
    return subprocess.run(
        [sys.executable, '-m', 'vision_jax.main',
         '--config=configs/transfer.py:model=b1', f'--workdir={name}', *SMALL,
         '--config.model.weights=configs/autoencoder.py:epochs=2'],
        cwd=project, check=False, env=run_helpers.environment(tmp_path),
        capture_output=True, text=True)
  first, second = run('one'), run('two')
  assert first.returncode == second.returncode == 0, first.stderr
  assert 'Pre-training configs/autoencoder.py' in first.stdout
  assert 'Pre-training' not in second.stdout
  (folder,) = (project / 'runs' / 'pretrained').iterdir()
  weights = json.loads((project / 'two' / 'config.json').read_text())
  assert weights['model']['weights'] == f'runs/pretrained/{folder.name}'
  shutil.rmtree(project / 'runs')


def test_tensorboard_events_are_written(tmp_path):
  process = run_helpers.main(
      tmp_path, '--config=configs/transfer.py:model=a_matched',
      f'--workdir={tmp_path}/run', *SMALL, '--config.report.tensorboard=True',
      '--config.train.max_steps=2')
  assert process.returncode == 0, process.stderr
  (event,) = (tmp_path / 'run' / 'tensorboard').iterdir()
  assert b'validation_accuracy' in event.read_bytes()
