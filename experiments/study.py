"""An Optuna study in a folder, which workers share, leave and come back to.

Nothing is kept in memory: the journal file has every trial, and the sampler of
trial k is made anew from (seed, k). A worker that dies leaves its trial
running; the next to look finds the dead worker's lock free and takes the trial
over as it is, with its number and values. With one worker at a time, equal
seeds give equal trials whatever was killed; with several, the order in which
they finish has its say in tpe and nsga2. Knows nothing of training.
"""

import contextlib
import fcntl
import itertools
import json
import os
import pathlib
from typing import Any, Callable, Iterator, NamedTuple
import uuid
import warnings

import numpy as np
import optuna

STATES = ('COMPLETE', 'PRUNED', 'FAIL', 'RUNNING')
Space = dict[str, dict[str, Any]]


class Failed(Exception):
  """A setting that cannot be trained; its message is the reason."""


class Plan(NamedTuple):
  """What decides the trials of a study.

  Attributes:
    space: {name: {'choices': [...]} or {'low', 'high'[, 'log'][, 'step']}};
      whole numbers give whole numbers.
    sampler: A key of `SAMPLERS`.
    pruner: 'none' or 'hyperband'.
    trials: Number of trials; a grid has no more than its points.
    seed: Of the samplers.
    epochs: Most reports that a trial makes.
    maximize: Whether a higher value is better.
  """
  space: Space
  sampler: str
  pruner: str
  trials: int
  seed: int
  epochs: int
  maximize: bool


SAMPLERS = {
    'tpe': lambda plan, seed, number: optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=min(10, max(1, plan.trials // 3))),
    'nsga2': lambda plan, seed, number: optuna.samplers.NSGAIISampler(
        seed=seed, population_size=max(2, round(plan.trials**0.5))),
    'random': lambda plan, seed, number: optuna.samplers.RandomSampler(
        seed=seed),
    # Optuna's own grid stops its own loop, which there is none of here.
    'grid': lambda plan, seed, number: optuna.samplers.PartialFixedSampler(
        grid(plan.space)[number], optuna.samplers.RandomSampler(seed=seed)),
}


class Study:
  """A study in a folder; each process opens its own.

  Attributes:
    folder: Where the journal, the plan and the locks lie.
    plan: The plan.
    optuna: The `optuna.Study`, for reading.
  """

  def __init__(self, folder: str | pathlib.Path, plan: Plan):
    """Opens the study of `folder`, or begins it.

    Raises:
      ValueError: The folder has a study with another plan, or the space is
        wrong; the message names what.
    """
    check_space(plan.space)
    if plan.sampler == 'grid':
      plan = plan._replace(trials=min(plan.trials, len(grid(plan.space))))
    self.folder, self.plan = pathlib.Path(folder), plan
    (self.folder / 'workers').mkdir(parents=True, exist_ok=True)
    self._name = uuid.uuid4().hex
    # Held until the process ends, however it ends.
    self._alive = open(self._worker(self._name), 'w', encoding='utf-8')
    fcntl.flock(self._alive, fcntl.LOCK_EX)
    with self.locked():
      self._check_plan()
      storage = optuna.storages.JournalStorage(
          optuna.storages.journal.JournalFileBackend(
              str(self.folder / 'journal.log')))
      self.optuna = optuna.create_study(
          study_name='search', storage=storage, load_if_exists=True,
          pruner=_pruner(plan),
          direction='maximize' if plan.maximize else 'minimize')

  @contextlib.contextmanager
  def locked(self) -> Iterator[None]:
    """Keeps the other workers from choosing trials."""
    with open(self.folder / 'lock', 'w', encoding='utf-8') as file:
      fcntl.flock(file, fcntl.LOCK_EX)
      yield

  def work(self, objective: Callable[[optuna.Trial], float]) -> None:
    """Runs trials until none is left to start or to take over.

    Args:
      objective: (trial) -> value; may report and raise optuna.TrialPruned, or
        Failed. Any other error ends the worker and leaves the trial running.
    """
    while (trial := self._next()) is not None:
      try:
        value = objective(trial)
      except optuna.TrialPruned:
        self.optuna.tell(trial, state=optuna.trial.TrialState.PRUNED)
      except Failed as reason:
        trial.set_user_attr('reason', str(reason))
        self.optuna.tell(trial, state=optuna.trial.TrialState.FAIL)
      else:
        self.optuna.tell(trial, value)

  def finished(self) -> bool:
    """Whether every trial of the plan has ended."""
    trials = self.optuna.get_trials(deepcopy=False)
    return len(trials) >= self.plan.trials and all(
        trial.state.is_finished() for trial in trials)

  def _next(self) -> optuna.Trial | None:
    """Returns a trial of this worker's own, its values drawn."""
    with self.locked():
      trials = self.optuna.get_trials(deepcopy=False)
      left = [trial for trial in trials if not trial.state.is_finished()
              and not self._is_alive(trial.user_attrs)]
      if not left and len(trials) >= self.plan.trials:
        return None
      number = left[0].number if left else len(trials)
      self._seed(number, 0)
      if left:
        # Optuna has no public way back to a trial that is still running.
        key = left[0]._trial_id  # pylint: disable=protected-access
        trial = optuna.Trial(self.optuna, key)
      else:
        trial = self.optuna.ask()
      # Lazy: drawn here, while the sampler is this one.
      trial.relative_params  # pylint: disable=pointless-statement
      for place, (name, spec) in enumerate(self.plan.space.items(), 1):
        # So that a worker killed between two values changes none of them.
        self._seed(number, place)
        _suggest(trial, name, spec)
      trial.set_user_attr('worker', self._name)
      return trial

  def _seed(self, number: int, place: int) -> None:
    """Makes the sampler of the trial `number`, for its value at `place`."""
    entropy = np.random.SeedSequence((self.plan.seed, number, place))
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', optuna.exceptions.ExperimentalWarning)
      self.optuna.sampler = SAMPLERS[self.plan.sampler](
          self.plan, int(entropy.generate_state(1)[0]), number)

  def _worker(self, name: str) -> pathlib.Path:
    return self.folder / 'workers' / name

  def _is_alive(self, attributes: dict[str, Any]) -> bool:
    """Whether the worker of a trial still holds its lock."""
    if 'worker' not in attributes:
      return False  # Killed while it drew the values.
    if attributes['worker'] == self._name:
      return True
    with open(self._worker(attributes['worker']), 'w',
              encoding='utf-8') as file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        return True
    return False

  def _check_plan(self) -> None:
    path = self.folder / 'plan.json'
    plan = json.loads(json.dumps(self.plan._asdict()))
    if not path.is_file():
      temporary = path.with_name(f'.{path.name}.{os.getpid()}')
      temporary.write_text(json.dumps(plan, indent=2) + '\n', encoding='utf-8')
      os.replace(temporary, path)
      return
    old = json.loads(path.read_text(encoding='utf-8'))
    # More trials may follow; anything else would mix two studies.
    changed = [name for name in plan
               if plan[name] != old[name] and name != 'trials']
    if changed:
      raise ValueError(
          f'{self.folder} has a study with another '
          f'{", ".join(f"{n} ({old[n]!r})" for n in changed)}: use another '
          'folder.')


def check_space(space: Space) -> None:
  """Raises ValueError for an empty space or a wrong entry, naming it."""
  if not space:
    raise ValueError('the space is empty: name at least one field')
  for name, spec in space.items():
    if set(spec) == {'choices'} and spec['choices']:
      continue
    if ({'low', 'high'} <= set(spec) <= {'low', 'high', 'log', 'step'}
        and spec['low'] < spec['high']):
      continue
    raise ValueError(
        f'space of {name!r}: {spec!r} is neither {{"choices": [...]}} nor '
        '{"low": ..., "high": ...} with "log" or "step"')


def grid(space: Space) -> list[dict[str, Any]]:
  """Returns the points of a grid, the last name's values changing fastest.

  Raises:
    ValueError: A range has no step.
  """
  values = []
  for name, spec in space.items():
    if 'choices' in spec:
      values.append(spec['choices'])
    elif 'step' in spec:
      low, high, step = spec['low'], spec['high'], spec['step']
      count = int((high - low) / step + 1e-9) + 1
      values.append([min(low + i * step, high) for i in range(count)])
    else:
      raise ValueError(f'space of {name!r}: a grid needs choices or a step')
  return [dict(zip(space, point, strict=True))
          for point in itertools.product(*values)]


def _suggest(trial: optuna.Trial, name: str, spec: dict[str, Any]) -> None:
  """Draws a value, or finds the one that the trial has already."""
  if 'choices' in spec:
    trial.suggest_categorical(name, spec['choices'])
    return
  whole = all(isinstance(spec[end], int) for end in ('low', 'high'))
  draw = trial.suggest_int if whole else trial.suggest_float
  draw(name, **spec)


def _pruner(plan: Plan) -> optuna.pruners.BasePruner:
  if plan.pruner == 'none':
    return optuna.pruners.NopPruner()
  return optuna.pruners.HyperbandPruner(
      min_resource=1, max_resource=plan.epochs, reduction_factor=3)
