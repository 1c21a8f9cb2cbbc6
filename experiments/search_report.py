"""What a finished study leaves: its trials, its winner, figures, a report.

Reads the study, tests the winner's run and no other.
"""

import pathlib
from typing import Any, Callable
import warnings

import optuna

from experiments import study as study_lib
from experiments import tables
from vision_jax import loop
from vision_jax import writers
from vision_jax.analysis import figures

_PLOTS = {
    'history': optuna.visualization.matplotlib.plot_optimization_history,
    'slices': optuna.visualization.matplotlib.plot_slice,
}
_NAMED = 5  # Trials that the figure of all reports tells apart.


def write(
    study: study_lib.Study, config_of: Callable[..., Any],
    folder: pathlib.Path, *, command: str,
    run_folder: Callable[[pathlib.Path, int], pathlib.Path]) -> None:
  """Writes everything about a study in which nothing is left to do.

  Args:
    study: The study.
    config_of: (trial) -> its whole config.
    folder: Where to write.
    command: The command line, for the report.
    run_folder: (folder, number of a trial) -> its run folder.
  """
  trials = study.optuna.trials
  rows = [row_of(trial) for trial in trials]
  writers.write_csv(folder / 'trials.csv', rows)
  states = {state: sum(row['state'] == state for row in rows)
            for state in study_lib.STATES}
  summary = {'plan': study.plan._asdict(), 'states': states}
  best = None
  if states['COMPLETE']:
    best = study.optuna.best_trial
    config = config_of(best)
    writers.write_text(folder / 'winner.json', config.to_json(indent=2) + '\n')
    result = loop.train(config, run_folder(folder, best.number))
    summary |= {'winner': best.number, 'value': best.value,
                'values': best.params, 'test': result['test'],
                'intervals': result['intervals']}
    plot(study.optuna, folder, config.callbacks.monitor)
    plot_reports(study.optuna, folder, config.callbacks.monitor)
  writers.write_json(folder / 'study.json', summary)
  writers.write_text(
      folder / 'report.md', report(summary, rows, command, study.plan))


def row_of(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
  """Returns a trial as a row: state, value, epochs, values, reason."""
  reason = trial.user_attrs['reason'] if 'reason' in trial.user_attrs else ''
  return {
      'trial': trial.number, 'state': trial.state.name, 'value': trial.value,
      'epochs': max(trial.intermediate_values, default=0),
      **trial.params, 'seconds': trial.duration.total_seconds(),
      'reason': reason}


def report(summary, rows, command: str, plan: study_lib.Plan) -> str:
  """Returns the Markdown report."""
  states = ', '.join(
      f'{count} {name}' for name, count in summary['states'].items() if count)
  text = f"""# Search with {plan.sampler} and pruner {plan.pruner}

Command: `{command}`

Machine: {tables.machine()}. {len(rows)} trials: {states}. Trials were compared
on the validation split; only the winner's run was tested.
"""
  if 'winner' in summary:
    test, intervals = summary['test'], summary['intervals']
    shown = [{'test metric': name, 'value': test[name], 'low': low,
              'high': high} for name, (low, high) in intervals.items()]
    text += f"""
![history](history.png)

![reports](reports.png)

![slices](slices.png)

Winner: trial {summary['winner']}, {summary['value']:.4g} with \
{', '.join(f'{k} = {v}' for k, v in summary['values'].items())}. On the test
split, 95 %:

{tables.markdown(shown)}"""
  return text + '\n' + tables.markdown(rows)


def plot(study: optuna.Study, folder: pathlib.Path, monitor: str) -> None:
  """Draws Optuna's own plots; `monitor` names what was optimised."""
  from matplotlib import pyplot  # Optuna draws with it.
  from matplotlib import ticker
  for name, draw in _PLOTS.items():
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', optuna.exceptions.ExperimentalWarning)
      draw(study, target_name=f'best {monitor}')
    figure = pyplot.gcf()
    # Side by side, the names of fields need room.
    figure.set_size_inches(max(8.0, 3.5 * len(figure.axes)), 4.5)
    for ax in figure.axes:
      if ax.get_xscale() == 'log':
        # Within a decade or two the labels between powers overlap.
        ax.xaxis.set_minor_formatter(ticker.NullFormatter())
    figures.save(figure, folder / f'{name}.png')
    pyplot.close(figure)


def plot_reports(
    study: optuna.Study, folder: pathlib.Path, monitor: str) -> None:
  """Draws what trials reported after each epoch, all but the best in grey."""
  upwards = study.direction == optuna.study.StudyDirection.MAXIMIZE
  done = [trial for trial in study.trials
          if trial.state == optuna.trial.TrialState.COMPLETE]
  best = sorted(done, key=lambda trial: trial.value, reverse=upwards)[:_NAMED]
  others = [trial for trial in study.trials
            if trial not in best and trial.intermediate_values]
  fig, (ax,) = figures.grid_figure(1, 1, size=(8.0, 4.5))
  for i, trial in enumerate(others):
    _line(ax, trial, '.', color='0.75', markersize=4,
          label=None if i else 'others')
  for trial, color, marker in zip(best, figures.COLORS, 'os^Dv'):
    _line(ax, trial, marker, color=color, markersize=3.5,
          label=f'trial {trial.number}: {trial.value:.4g}')
  ax.set(xlabel='epoch', ylabel=f'best {monitor} so far')
  ax.grid(alpha=0.3)
  ax.legend(fontsize=8)
  figures.save(fig, folder / 'reports.png')


def _line(ax, trial: optuna.trial.FrozenTrial, marker: str, **style) -> None:
  # A trial that was pruned at once is a point.
  ax.plot(*zip(*sorted(trial.intermediate_values.items())), marker=marker,
          linewidth=1.2, **style)
