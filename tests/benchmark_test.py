"""The benchmark: what it times, that both sides compute the same, its tables."""

import importlib
import json

import jax
import pytest

from experiments import benchmark_input
from experiments import benchmark_operations
from experiments import benchmark_profile
from experiments import benchmark_report
from experiments import benchmark_scaling
from experiments import benchmark_seeds
from experiments import benchmark_steps
from experiments import benchmark_workloads as workloads
from vision_jax.analysis import figures


def test_every_study_is_timed():
  assert set(workloads.WORKLOADS) == {
      'unet', 'classifier_a', 'classifier_b2', 'dense_dae', 'conv_dae',
      'vgg16_head', 'efficientnet_b0', 'imbalance_cnn', 'gan', 'resnet50'}
  for name, workload in workloads.WORKLOADS.items():
    config = workloads.make_config(name)
    assert config.train.batch_size == workload.batch
    assert not config.model.weights
  assert workloads.make_config('imbalance_cnn').data.image_size == (227, 227)
  assert workloads.make_config('gan').data.image_size == (64, 64)
  assert workloads.make_config('unet').data.image_size == (128, 128)


@pytest.mark.parametrize('library', ['torch', 'keras'])
@pytest.mark.parametrize('name', ['dense_dae', 'conv_dae'])
def test_first_steps_are_equal(name, library):
  pytest.importorskip('torch' if library == 'torch' else 'tensorflow')
  peer = importlib.import_module(f'experiments.benchmark_{library}')
  step = workloads.make(name, exact=True)
  arrays = workloads.first_step(step)
  compare = lambda: peer.difference(
      step.config, arrays, classes=workloads.CLASSES)
  found = compare()
  for kind, tolerance in benchmark_steps.TOLERANCES['float32'].items():
    assert found[kind] <= tolerance
  # One changed weight shows.
  key = next(k for k in arrays if k.endswith('decoder/Dense_0/kernel')
             or k.endswith('decoder/Doubling_0/kernel'))
  arrays[key] = 1.5 * arrays[key]
  found = compare()
  assert found['gradient'] > benchmark_steps.TOLERANCES['float32']['gradient']


@pytest.mark.parametrize('groups,transposed', [
    (1, False), (1, True), (2, False), (2, True), (8, False)])
def test_operations_of_a_convolution(groups, transposed):
  torch = pytest.importorskip('torch')
  from torch.utils import flop_counter
  from experiments import benchmark_torch
  layer = (torch.nn.ConvTranspose2d if transposed else torch.nn.Conv2d)(
      8, 16, 3, stride=2, padding=1, groups=groups)
  x = torch.zeros(3, 8, 12, 10, requires_grad=True)
  step = lambda: layer(x).sum().backward()
  # Each entry of the kernel meets each pixel of an image or, in steps of 2, of
  # a result; forwards and for both gradients.
  pixels = 12 * 10 if transposed else 6 * 5
  expected = 3 * 2 * 3 * pixels * (16 * 8 // groups) * 9
  assert benchmark_torch.count_flops(step) == expected
  if groups == 1:
    with flop_counter.FlopCounterMode(display=False) as counter:
      step()
    assert counter.get_total_flops() == expected
  x = x.detach()  # An image has no gradient.
  assert benchmark_torch.count_flops(step) == expected * 2 // 3


def test_a_side_that_fails_says_why():
  with benchmark_steps.Worker('ours', 'no_such', 'float32', limit=60) as side:
    with pytest.raises(benchmark_steps.WorkerError, match='no_such'):
      side.ask('start')


FOUND = {
    'equality': {'PyTorch': {'loss': 1e-7, 'gradient': 1e-3},
                 'Keras': {'loss': 2e-7, 'gradient': 2e-3}},
    'sides': {
        'ours': {'seconds': [0.2, 0.1, 0.3], 'compile_seconds': 3.0,
                 'peak_bytes': 2**30},
        'eager': {'seconds': [0.5, 0.4, 0.3], 'compile_seconds': 0.1,
                  'peak_bytes': 2**29, 'flops': 4e9},
        'compiled': {'error': 'a trace\nno compiler'},
        'keras': {'seconds': [0.8, 0.8, 0.8], 'compile_seconds': 1.0,
                  'peak_bytes': 2**28}}}


def test_report_from_fixed_results(tmp_path):
  row = benchmark_steps.summarize(FOUND, batch=10, peak=1e11)
  assert row['ratio'] == pytest.approx(2.0)
  assert row['best_peer'] == 'eager'
  assert row['images_per_second'] == pytest.approx(50)
  assert row['share_of_peak'] == pytest.approx(0.2)
  results = {
      'command': 'python -m experiments.benchmark', 'machine': 'm',
      'load_average': 0.1, 'dtype': 'float32', 'peak_gflops': 100.0,
      'seconds': 9.0, 'workloads': {'gan': row, 'unet': row | {'ratio': 8.0}}}
  assert benchmark_report.geometric_mean(results) == pytest.approx(4.0)
  benchmark_report.write(results, tmp_path)
  text = (tmp_path / 'report.md').read_text()
  assert 'Geometric mean:\n4.00' in text
  assert ('| gan | 200 [150, 250] | 400 [350, 450] |  | 800 [800, 800] | 2.00 '
          '|') in text
  assert '| 3 s, 1024 MB | 0.1 s, 512 MB | 1 s, 256 MB |' in text
  assert '| gan | 1.0e-07 | 1.0e-03 | 2.0e-07 | 2.0e-03 |' in text
  assert '- gan, compiled: `no compiler`' in text
  assert '| gan | 10 | 200 | 400 (eager) | 800 (keras) | 2.00 | 50 |' in (
      tmp_path / 'table.md').read_text()
  assert json.loads((tmp_path / 'results.json').read_text()) == results
  assert (tmp_path / 'ratios.png').stat().st_size > 1000
  assert '![ratios](ratios.png)' in text


def test_results_beyond_tolerance_are_refused(monkeypatch):
  class Side:
    def __init__(self, form, *args, **kwargs):
      self.form = form

    def __enter__(self):
      return self

    def __exit__(self, *unused):
      pass

    def ask(self, *unused):
      return {'loss': float(self.form == 'keras'), 'gradient': 0.0}

  monkeypatch.setattr(benchmark_steps, 'Worker', Side)
  compare = lambda *forms: benchmark_steps.compare(
      'unet', forms, 'float32', limit=1)
  assert compare('eager', 'compiled') == {
      'PyTorch': {'loss': 0.0, 'gradient': 0.0}}
  with pytest.raises(benchmark_steps.WorkerError, match='of Keras .* nothing'):
    compare('eager', 'keras', 'keras_xla')


class Sleeper:
  """A side that computes nothing; one workload and one form of it fail."""
  alive, most, fails = 0, 0, ('gan', ('unet', 'compiled'))

  def __init__(self, form, name, dtype, *, limit):
    del dtype, limit
    self.form, self.name, self.open = form, name, True
    Sleeper.alive += 1
    Sleeper.most = max(Sleeper.most, Sleeper.alive)

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    Sleeper.alive -= self.open
    self.open = False

  def ask(self, command, *unused):
    if (self.name, self.form) in self.fails or (
        self.name in self.fails and command == 'exact'):
      raise benchmark_steps.WorkerError(f'{self.form}: no')
    return {'exact': {'loss': 0.0, 'gradient': 0.0},
            'start': {'compile_seconds': 1.0}, 'turn': {'seconds': 1.0},
            'finish': {'peak_bytes': 8}}[command]


@pytest.mark.parametrize('together', [1, 3])
def test_a_workload_that_fails_leaves_the_others_their_times(
    monkeypatch, together):
  monkeypatch.setattr(benchmark_steps, 'Worker', Sleeper)
  Sleeper.most = 0
  found = dict(benchmark_steps.measure(
      ('gan', 'unet', 'dense_dae'), ('eager', 'compiled'), 'bfloat16',
      repeats=2, budget=1, limit=1, together=together))
  assert list(found) == ['gan', 'unet', 'dense_dae']
  assert found['gan'] == {'error': 'ours: no'}
  assert found['unet']['sides']['compiled'] == {'error': 'compiled: no'}
  assert found['unet']['sides']['ours']['seconds'] == [1.0, 1.0]
  assert found['dense_dae']['equality'] == {'PyTorch': {'loss': 0.0}}
  assert {form: side['peak_bytes'] for form, side in
          found['dense_dae']['sides'].items()} == {
              'ours': 8, 'eager': 8, 'compiled': 8}
  assert Sleeper.alive == 0 and Sleeper.most >= 3 * together


def test_seeds_together_cost_what_the_turns_say(tmp_path):
  row = benchmark_seeds.measure('dense_dae', 'float32', 1)
  assert row['workload'] == 'dense_dae' and row['seeds'] == 5
  for form in ('vmap', 'unroll'):
    # Five trainings are more work than one, and less than a hundred.
    assert 1 < row[f'{form} / one'] < 100
    assert row[f'{form} / one'] == pytest.approx(
        row[f'{form}, ms'] / row['one, ms'])
  text = benchmark_seeds.report(
      {'command': 'c', 'machine': 'm', 'load_average': 0.0, 'seconds': 1.0,
       'dtype': 'float32', 'rows': [row]}, tmp_path)
  assert '| dense_dae | 5 |' in text


@pytest.mark.parametrize('name', list(benchmark_operations.CASES))
def test_operations_have_the_shape_of_their_plain_forms(name):
  case = benchmark_operations.CASES[name]
  shapes = [jax.ShapeDtypeStruct(shape, 'float32') for shape in case.shapes]
  ours, plain = (jax.eval_shape(f, *shapes) for f in (case.ours, case.plain))
  assert (ours.shape, ours.dtype) == (plain.shape, plain.dtype)


def test_an_operation_is_timed_only_where_it_is_the_same(tmp_path):
  small = benchmark_operations.CASES['swish']._replace(shapes=((2, 3),))
  row = benchmark_operations.measure('swish', small, 'float32', 1)
  assert row['difference'] < 1e-5
  assert row['plain / ours'] == pytest.approx(
      row['plain, ms'] / row['ours, ms'])
  wrong = small._replace(plain=lambda x: 1.01 * small.plain(x))
  with pytest.raises(RuntimeError, match='swish: our form .* differ by'):
    benchmark_operations.measure('swish', wrong, 'float32', 1)
  same = benchmark_operations.measure(
      'swish', small._replace(plain=small.ours), 'float32', 1)
  assert same == {
      'operation': 'swish', 'input': '2x3', 'difference': 'one program'}
  text = benchmark_operations.report(
      {'command': 'c', 'machine': 'm', 'load_average': 0.0, 'seconds': 1.0,
       'dtype': 'float32', 'rows': [row, same]}, tmp_path)
  assert '| swish | 2x3 | one program |' in text


@pytest.mark.parametrize('operation,origin,kind', [
    ('conv_general_dilated.5', 'jit(f)/jvp(Net)/level_0/conv_general_dilated',
     'convolutions, forward'),
    ('conv_general_dilated', 'jit(f)/transpose(jvp(Net))/conv_general_dilated',
     'convolutions, backward'),
    ('convolution.3', '', "convolutions, kernels' gradients"),
    ('ynn_fusion.1', 'jit(f)/transpose(jvp(Net))/head/dot_general',
     'matrix products, backward'),
    ('dot', 'jit(f)/jvp(Net)/head/add', 'matrix products, forward'),
    ('transpose_copy_fusion', '', 'transposed copies'),
    ('ffi_call.2', 'jit(f)/transpose(jvp(Net))/ffi_call',
     'convolutions by oneDNN, backward'),
    ('xor_fusion', 'jit(f)/jvp()/threefry2x32', 'random numbers'),
    ('add_fusion', 'jit(f)/jvp(Net)/add',
     'element by element, and sums, forward'),
    ('add_fusion.1', 'jit(f)/add', 'optimizer, averages, the rest')])
def test_operations_are_told_apart(operation, origin, kind):
  assert benchmark_profile.kind_of(operation, origin) == kind


@pytest.mark.skipif(
    jax.default_backend() != 'cpu', reason='elsewhere the trace differs')
def test_a_profile_accounts_for_the_step(tmp_path):
  found = benchmark_profile.profile('conv_dae', 'float32')
  spent = sum(found['kinds'].values())
  # Threads may work side by side, and between operations there is time, too.
  assert 0.3 * found['ms'] < spent < 3 * found['ms']
  convolutions = sum(ms for kind, ms in found['kinds'].items()
                     if kind.startswith('convolutions'))
  assert convolutions > 0.1 * spent
  assert all(row['shape'] for row in found['longest'])
  text = benchmark_profile.report(
      {'command': 'c', 'machine': 'm', 'load_average': 0.0,
       'workloads': {'conv_dae': found}}, tmp_path)
  assert all(kind in text for kind in found['kinds'])


def test_slope_is_the_exponent():
  rows = [{'side': n, 'ms': 3.0 * n**2} for n in (8, 16, 64)]
  assert benchmark_scaling.slope(rows, 'side', 'ms') == pytest.approx(2)


def test_a_cell_that_was_timed_twice_says_what_times_are_worth():
  row = {'side': 64, 'batch': 8, 'ms': 100.0}
  text = benchmark_scaling._twice(
      {'side': [row], 'batch': [row | {'ms': 80.0}, row | {'batch': 4}]})
  assert '80 and 100 ms,\na factor of 1.25' in text
  assert benchmark_scaling._twice(
      {'side': [row], 'batch': [row | {'batch': 4}]}) == ''


def test_data_that_is_streamed_is_on_disk(tmp_path):
  found = benchmark_scaling.streamed(64, str(tmp_path), 1)
  assert found['pixels, MB'] == pytest.approx(64 * 32 * 32 * 3 / 2**20)
  assert min(found['ms'], found['first start, s']) > 0
  # More than the interpreter, less than the machine.
  assert 50 < found['MB'] < 20_000
  assert [path.stat().st_size // 2**10 for path in tmp_path.glob('*.npy')] == [
      64 * 32 * 32 * 3 // 2**10]


def test_reports_of_input_and_scaling(tmp_path):
  about = {'command': 'c', 'machine': 'm', 'load_average': 0.0, 'seconds': 1.0}
  text = benchmark_input.report(about | {
      'steps': {'gan': {'batch': 2, 'seconds': {
          'device': [0.1, 0.1], 'resident': [0.1, 0.1],
          'streamed': [0.2, 0.2]}}},
      'decoding': {'first': 300.0, 'cached': 9000.0, 'torch_epoch': 200.0},
      'memory': [{'images': 682, 'from': 'device', 'peak, MB': 500.0},
                 {'images': 2728, 'from': 'disk', 'peak, MB': 480.0}],
  }, tmp_path)
  assert '| gan | 2 | 100 | 100 | 200 | 1 | 2 |' in text
  assert '1.50 and 45 times as fast' in text
  assert '| 2728 | disk | 480 |' in text
  rows = [{'side': n, 'batch': n, 'examples': n, 'ms': n**2, 'MB': n,
           'first start, s': n} for n in (8, 16)]
  text = benchmark_scaling.report(about | {'rows': {
      'side': rows, 'batch': rows, 'examples': rows}}, tmp_path)
  assert 'Powers of the side: ms 2.00, MB 1.00.' in text
  assert 'ms 2.00, MB 1.00, first start, s 1.00.' in text
  assert (tmp_path / 'scaling.png').exists() and '(scaling.png)' in text


def test_ticks_of_ratios_are_plain_numbers_fine_on_a_short_axis():
  for end, expected in (
      (2.6, ['0.8', '1', '1.25', '1.5', '2', '2.5']),
      (30, ['1', '2', '5', '10', '20'])):
    _, (ax,) = figures.grid_figure(1, 1, size=(4, 4))
    ax.set(xscale='log', xlim=(0.8, end))
    benchmark_report._label_ratios(ax)
    assert [label.get_text() for label in ax.get_xticklabels()] == expected
    assert not len(ax.get_xticks(minor=True))
