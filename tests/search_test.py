"""The search: killed workers, equal seeds, several workers, its spaces."""

import json
import signal
import subprocess
import sys
import time

import optuna
import pytest

import run_helpers
import search_worker
from experiments import search
from experiments import study
from vision_jax import loop

optuna.logging.set_verbosity(optuna.logging.ERROR)


def spawn(folder, *, sampler='tpe', trials=12, seconds=0.0):
  return subprocess.Popen(
      [sys.executable, str(run_helpers.ROOT / 'tests' / 'search_worker.py'),
       str(folder), sampler, str(trials), str(seconds)],
      cwd=run_helpers.ROOT, env=run_helpers.environment(folder.parent))


def trials_of(folder):
  storage = optuna.storages.JournalStorage(
      optuna.storages.journal.JournalFileBackend(str(folder / 'journal.log')))
  return optuna.load_study(study_name='search', storage=storage).trials


def essence(trials):
  return [(t.number, t.state, t.params, t.value, t.intermediate_values)
          for t in trials]


def test_a_killed_worker_loses_no_trial_and_the_rest_is_the_same(tmp_path):
  search_worker.main(tmp_path / 'straight', 'tpe', 12, 0.0)
  killed = tmp_path / 'killed'
  process = spawn(killed, seconds=0.4)
  while True:
    time.sleep(0.05)
    if process.poll() is not None:
      pytest.fail('the worker ended before it was killed')
    journal = killed / 'journal.log'
    if journal.is_file() and journal.read_text().count('\n') > 30:
      before = trials_of(killed)
      if sum(t.state.is_finished() for t in before) >= 2 and (
          not before[-1].state.is_finished()):
        break
  process.send_signal(signal.SIGKILL)
  process.wait()
  before = trials_of(killed)
  search_worker.main(killed, 'tpe', 12, 0.0)
  after = trials_of(killed)
  assert before[-1].state == optuna.trial.TrialState.RUNNING
  assert essence(after)[:len(before) - 1] == essence(before)[:-1]
  # It may have been killed between two of its values.
  assert (after[len(before) - 1].params.items()
          >= before[-1].params.items())
  assert essence(after) == essence(trials_of(tmp_path / 'straight'))


def test_two_workers_share_the_trials_of_one_study(tmp_path):
  processes = [spawn(tmp_path / 's', sampler='random', seconds=0.2)
               for _ in range(2)]
  assert [process.wait() for process in processes] == [0, 0]
  trials = trials_of(tmp_path / 's')
  assert [t.number for t in trials] == list(range(12))
  assert all(t.state.is_finished() for t in trials)
  assert len({t.user_attrs['worker'] for t in trials}) == 2
  # Which worker draws a random trial makes no difference.
  search_worker.main(tmp_path / 'alone', 'random', 12, 0.0)
  assert [t.params for t in trials] == [
      t.params for t in trials_of(tmp_path / 'alone')]


@pytest.mark.parametrize('sampler', ['tpe', 'nsga2'])
def test_a_worker_killed_between_two_values_draws_the_rest_the_same(
    tmp_path, monkeypatch, sampler):
  search_worker.main(tmp_path / 'straight', sampler, 14, 0.0)
  suggest = study._suggest
  def dying(trial, name, spec):
    if trial.number == 12 and name == 'n':
      raise KeyboardInterrupt
    return suggest(trial, name, spec)
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(study, '_suggest', dying)
    search_worker.main(tmp_path / 'killed', sampler, 14, 0.0)
  assert set(trials_of(tmp_path / 'killed')[-1].params) == {'x'}
  search_worker.main(tmp_path / 'killed', sampler, 14, 0.0)
  assert essence(trials_of(tmp_path / 'killed')) == essence(
      trials_of(tmp_path / 'straight'))


@pytest.mark.parametrize('sampler', ['tpe', 'nsga2', 'random'])
def test_the_seed_decides_the_trials_and_they_differ(tmp_path, sampler):
  for name in ('a', 'b'):
    search_worker.main(tmp_path / name, sampler, 14, 0.0)
  trials = trials_of(tmp_path / 'a')
  assert essence(trials) == essence(trials_of(tmp_path / 'b'))
  assert len({t.params['x'] for t in trials}) > 7
  failed = [t for t in trials if t.state == optuna.trial.TrialState.FAIL]
  assert all(t.user_attrs['reason'] == 'eight is too many' for t in failed)
  assert any(t.state == optuna.trial.TrialState.PRUNED for t in trials)


def test_more_trials_go_on_where_the_study_ended(tmp_path):
  search_worker.main(tmp_path / 's', 'tpe', 5, 0.0)
  first = essence(trials_of(tmp_path / 's'))
  search_worker.main(tmp_path / 's', 'tpe', 8, 0.0)
  assert essence(trials_of(tmp_path / 's'))[:5] == first
  assert len(trials_of(tmp_path / 's')) == 8


def test_a_grid_visits_every_point_once(tmp_path):
  space = {'a': {'low': 1, 'high': 3, 'step': 1},
           'b': {'low': 0.1, 'high': 0.3, 'step': 0.1},
           'c': {'choices': ['u', 'v']}}
  plan = study.Plan(space, 'grid', 'none', 1000, 0, 1, True)
  opened = study.Study(tmp_path, plan)
  opened.work(lambda trial: trial.params['a'])
  points = {tuple(t.params.values()) for t in trials_of(tmp_path)}
  assert len(points) == len(trials_of(tmp_path)) == 18
  assert opened.finished() and opened.optuna.best_value == 3


def test_another_plan_in_the_same_folder_is_refused(tmp_path):
  plan = study.Plan(search_worker.SPACE, 'random', 'none', 1, 0, 1, True)
  study.Study(tmp_path, plan)
  with pytest.raises(ValueError, match='another seed'):
    study.Study(tmp_path, plan._replace(seed=1))
  assert json.loads((tmp_path / 'plan.json').read_text())['seed'] == 0


@pytest.mark.parametrize('space,match', [
    ({}, 'empty'), ({'x': {'low': 1}}, "'x'"),
    ({'x': {'low': 2, 'high': 1}}, "'x'"), ({'x': {'choices': []}}, "'x'"),
    ({'x': {'low': 0, 'high': 1, 'steps': 2}}, "'x'")])
def test_a_wrong_space_is_named(space, match):
  with pytest.raises(ValueError, match=match):
    study.check_space(space)


def test_a_grid_needs_steps():
  with pytest.raises(ValueError, match='a grid needs'):
    study.grid({'x': {'low': 0.0, 'high': 1.0}})


def test_a_trial_goes_on_after_a_kill_and_its_run_can_be_finished(tmp_path):
  config = run_helpers.make_config(
      train__epochs=3, model__features=(4,), data__validation_fraction=0.3)
  straight, cut = [], []
  best = search.train(
      config, tmp_path / 'straight',
      report=lambda epoch, value: straight.append((epoch, value)))
  def dies(epoch, value):
    cut.append((epoch, value))
    if len(cut) == 2:
      raise KeyboardInterrupt
  with pytest.raises(KeyboardInterrupt):
    search.train(config, tmp_path / 'cut', report=dies)
  assert search.train(config, tmp_path / 'cut', report=dies) == best
  # The second epoch's checkpoint was not written yet: it comes again.
  assert cut == [*straight[:2], *straight[1:]]
  assert best == min(value for _, value in straight)
  assert not list((tmp_path / 'cut').glob('predictions*'))
  result = loop.train(config, tmp_path / 'cut')
  assert result['epochs'] == 3 and result['test']['n'] == 12


def test_values_of_a_trial_become_a_config():
  config = search.trial_config(
      run_helpers.make_config(), {'optimizer.learning_rate': 0.5,
                                  'model.dropout': 0.1})
  assert config.optimizer.learning_rate == 0.5
  assert config.model.dropout == 0.1


def test_a_space_is_json_or_a_file_of_it(tmp_path):
  text = '{"train.epochs": {"choices": [1, 2]}}'
  (tmp_path / 'space.json').write_text(text)
  assert search.read_space(text) == search.read_space(
      str(tmp_path / 'space.json')) == json.loads(text)
  with pytest.raises(search.config_lib.ConfigError, match='neither JSON'):
    search.read_space('no-such-file')
