"""The grid of study 0: what it claims, what it reads and what it asks for."""

import csv
import json

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from experiments import butterflies
from experiments import butterflies_artefacts
from experiments import butterflies_cells as cells_lib
from experiments import butterflies_claims as claims
from experiments import butterflies_report
from vision_jax import config as config_lib
from vision_jax import stats
from vision_jax.data import pipeline

_MEASURED = claims.Measured([], [], None)
_TEST = 40


def evidence(low, high, bound=0.0):
  return claims.Evidence(
      'x', stats.Interval((low + high) / 2, low, high), bound)


@pytest.mark.parametrize('intervals, wanted', [
    ([(0.1, 0.2)], claims.HOLDS),
    ([(-0.1, 0.2)], claims.OPEN),
    ([(-0.2, -0.1)], claims.FAILS),
    ([(0.1, 0.2), (0.0, 0.3)], claims.OPEN),
    ([(0.1, 0.2), (-0.2, -0.1)], claims.FAILS),
    ([(float('nan'), float('nan'))], claims.OPEN),
])
def test_a_claim_holds_if_every_interval_lies_on_its_side(intervals, wanted):
  assert claims.verdict([evidence(*each) for each in intervals]) == wanted


def test_a_claim_is_open_while_a_test_is_missing_unless_one_refutes_it():
  missing = claims.Evidence('y', None)
  assert claims.verdict([]) == claims.OPEN
  assert claims.verdict([evidence(0.1, 0.2), missing]) == claims.OPEN
  assert claims.verdict([evidence(-0.2, -0.1), missing]) == claims.FAILS


def test_a_bound_other_than_zero_counts():
  assert claims.judge(evidence(0.1, 0.3, bound=0.36)) == claims.FAILS
  assert claims.judge(evidence(0.4, 0.5, bound=0.36)) == claims.HOLDS


def test_the_interval_of_a_ratio_covers_as_the_bootstrap_does():
  rng = np.random.default_rng(0)
  a, b = rng.random(500) < 0.6, rng.random(500) < 0.5
  a |= b & (rng.random(500) < 0.5)
  found = claims.relative_gain(
      a.sum(), b.sum(), (a & ~b).sum(), (b & ~a).sum())
  wanted = stats.bootstrap(
      lambda x, y: x.mean() / y.mean() - 1, (a, b), strata=np.zeros(500))
  np.testing.assert_allclose(found, wanted, atol=0.02)
  assert np.isnan(claims.relative_gain(0, 3, 0, 3)).all()


def test_table_one_contradicts_the_study_where_its_numbers_do():
  found = {claim.text: claims.in_study(claim) for claim in claims.CLAIMS}
  by_start = lambda start: next(
      value for text, value in found.items() if text.startswith(start))
  # .0858 is below .1336 and .1428.
  assert by_start('B2 has the best F1 at 90/10') == '0 of 2'
  # .606 / .540 is 1.12.
  assert by_start('Transfer learning is 36 %') == '0 of 1'
  # A is ahead of both at 10 %, and of B1 at 50 %.
  assert by_start('Classifier A') == '7 of 10'


def test_several_seeds_give_the_interval_over_seeds():
  pairs = [{'A': 'b2', 'B': 'a', 'labels': 0.1, 'cut': '', 'n': 5,
            'accuracy': value, 'mcnemar_p': 0.5} for value in (.1, .2, .3)]
  claim = claims.Claim('x', (('b2', 'a'),), at=(0.1, 0.25))
  first, second = claims.gather(claim, _MEASURED._replace(pairs=pairs))
  assert first.value == pytest.approx(stats.mean_interval([.1, .2, .3]))
  assert second.value is None and second.at == '25 %'


def write_run(folder, right, **fields):
  """A finished run that gets the first `right` of the test images right."""
  folder.mkdir(parents=True)
  config = json.loads(config_lib.replace(
      config_lib.base(), **fields).to_json())
  del config['taxonomy']  # As a run of an older version.
  (folder / 'config.json').write_text(json.dumps(config))
  names = ('ant', 'bee')
  with (folder / 'predictions.csv').open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(('id', 'path', 'label', 'predicted', *names))
    for i in range(_TEST):
      guess = (i + (i >= right)) % 2
      writer.writerow(
          (i, f'{i}.png', names[i % 2], names[guess], 1 - guess, guess))
  rate = right / _TEST
  (folder / 'result.json').write_text(json.dumps({
      'examples': {'train': 9},
      'test': {name: rate for name in (
          'accuracy', 'macro_f1', 'macro_precision', 'macro_recall', 'loss')
               } | {'n': _TEST},
      'intervals': {name: [rate - .1, rate + .1]
                    for name in ('accuracy', 'macro_f1')},
      'parameters': {'trainable': 5}, 'epochs': 3, 'best_epoch': 2,
      'seconds': 7.0}))


def test_the_report_needs_finished_runs_and_names_what_is_missing(
    tmp_path, capsys):
  runs = tmp_path / 'runs' / 'sound'
  write_run(runs / 'a-0.1-seed0', 16, data__label_fraction=0.1)
  write_run(runs / 'b1-0.1-seed0', 36, data__label_fraction=0.1,
            model__frozen='^encoder/')
  out = tmp_path / 'results' / 'butterflies'
  butterflies.main([
      '--root=data', '--models=a,b1', '--fractions=0.1,1.0', '--cuts=0.1',
      f'--runs={tmp_path / "runs"}', f'--out={out}', '--report_only'])
  text = capsys.readouterr().out
  assert '| **b1** | 0.900 [0.800, 1.000] | missing | missing |' in text
  assert '| **a** | 0.400 [0.300, 0.500] | missing | 0.400 ' in text
  assert '| a, study | 0.444 | 0.540 |' in text
  assert '--models=a --fractions=1 --cuts= --seeds=0 --runs=' in text
  assert '--models=b1 --fractions=1 --cuts=0.1 --seeds=0 --runs=' in text
  with (out / 'pairs.csv').open() as file:
    pair, = csv.DictReader(file)
  assert (pair['A'], pair['B'], pair['only_a'], pair['only_b']) == (
      'b1', 'a', '20', '0')
  assert float(pair['accuracy']) == pytest.approx(0.5)
  assert float(pair['mcnemar_p']) == pytest.approx(2 * 0.5**20)
  page = (out / 'conclusions.md').read_text()
  assert 'accuracy, b1 - a at 10 %: +0.500' in page
  assert (out / 'accuracy.png').stat().st_size > 1000


def test_what_the_mistakes_do_is_told_on_the_same_predictions(
    tmp_path, capsys):
  runs, fields = tmp_path / 'runs', {'data__label_fraction': 0.1}
  write_run(runs / 'published' / 'b1-0.1-seed0', 16, protocol='published',
            published__switches=('batch_metrics',), train__epochs=25, **fields)
  write_run(runs / 'sound' / 'b1-0.1-seed0', 36, **fields)
  out = tmp_path / 'results' / 'butterflies'
  command = ['--root=data', '--models=b1', '--fractions=0.1',
             f'--runs={runs}', f'--out={out}', '--report_only']
  butterflies.main(command + ['--protocol=published'])
  assert '+0.500 [' in capsys.readouterr().out
  with (out / 'artefacts.csv').open() as file:
    row, = csv.DictReader(file)
  assert (row['accuracy, Table I'], row['accuracy, published'],
          row['accuracy, sound']) == ('0.396', '0.4', '0.9')
  labels = [i % 2 for i in range(_TEST)]
  guesses = [(i + (i >= 16)) % 2 for i in range(_TEST)]
  assert float(row['F1, same predictions, whole set']) == pytest.approx(
      sklearn_metrics.f1_score(labels, guesses, average='macro'))
  butterflies.main(command)
  assert 'What the mistakes do' not in capsys.readouterr().out


def test_runs_of_two_protocols_that_differ_in_more_are_refused(tmp_path):
  cell = cells_lib.Cell('a', 0.1, False, 0)
  write_run(tmp_path / 'p', 20, protocol='published',
            data__label_fraction=0.25)
  write_run(tmp_path / 's', 20, data__label_fraction=0.1)
  with pytest.raises(config_lib.ConfigError, match='label_fraction'):
    butterflies_artefacts.compare(
        {cell: tmp_path / 'p'}, {cell: tmp_path / 's'})


def test_runs_that_differ_in_more_than_the_model_are_not_compared(tmp_path):
  cells = [cells_lib.Cell(model, 0.1, False, 0) for model in ('b1', 'a')]
  folders = {cell: tmp_path / cell.name for cell in cells}
  for cell, rate in zip(cells, (1e-3, 1e-4)):
    write_run(folders[cell], 20, optimizer__learning_rate=rate)
  with pytest.raises(config_lib.ConfigError, match='optimizer.learning_rate'):
    butterflies_report.compare(folders)


def arguments(*flags):
  return butterflies._parser().parse_args(['--root=.', *flags])


def test_a_finished_run_of_another_budget_is_refused(tmp_path):
  args = arguments('--data=procedural')
  cell = cells_lib.Cell('a', 0.5, False, 0)
  config = butterflies.make_config(args, cell)
  folder = tmp_path / 'run'
  folder.mkdir()
  (folder / 'config.json').write_text(config.to_json())
  butterflies.check_same(folder, config)
  with pytest.raises(config_lib.ConfigError, match='train.epochs was 30'):
    butterflies.check_same(folder, config_lib.replace(config, train__epochs=2))


def test_at_a_cut_the_autoencoder_sees_unlabelled_images_only():
  args = arguments('--data=procedural', '--pretrain_epochs=3')
  donors = {}
  for model in ('b1', 'dae_b1', 'a'):
    for cut in (False, True):
      cell = cells_lib.Cell(model, 0.3, cut, 0)
      donors[model, cut] = butterflies.with_encoder(
          butterflies.make_config(args, cell), cell, train=False).model.weights
  assert len(set(donors.values())) == 5
  assert donors['a', True] == donors['a', False] == ''
  assert 'denoising' in donors['dae_b1', True]


def test_a_seed_draws_the_labels_and_one_autoencoder_serves_all_draws():
  args = arguments('--data=procedural')
  drawn, donors = {}, {}
  for seed in (0, 1):
    for cut in (False, True):
      cell = cells_lib.Cell('b1', 0.3, cut, seed)
      config = butterflies.make_config(args, cell)
      drawn[seed] = set(
          pipeline.load(config.data).splits['train'].tolist())
      donors[seed, cut] = butterflies.with_encoder(
          config, cell, train=False).model.weights
  assert drawn[0] != drawn[1]
  assert donors[0, False] == donors[1, False]
  assert len(set(donors.values())) == 3


def test_fixmatch_takes_as_many_steps_at_every_fraction():
  def passes(fraction):
    config = butterflies.make_config(
        arguments(), cells_lib.Cell('fixmatch', fraction, False, 0))
    return config.train.epochs * (1 - fraction)
  for fraction in (0.1, 0.25, 0.3, 0.5, 0.75):
    assert passes(fraction) == pytest.approx(18, rel=0.03)
  assert not cells_lib.Cell('fixmatch', 1.0, False, 0).defined


def test_a_protocol_has_its_own_models_and_cuts():
  assert not any(cell.cut for cell in butterflies.grid(
      arguments('--protocol=published')))
  with pytest.raises(config_lib.ConfigError, match='lite0'):
    butterflies.grid(arguments('--protocol=published', '--models=lite0'))
