"""The figures of a finished study."""

import optuna
from PIL import Image
import pytest

from experiments import search_report
from vision_jax.analysis import figures

_SPACE = {'x': optuna.distributions.FloatDistribution(0, 1)}


@pytest.fixture(name='study')
def _study():
  """Eight trials, of which six are complete and one failed at once."""
  optuna.logging.set_verbosity(optuna.logging.ERROR)
  study = optuna.create_study(direction='maximize')
  states = optuna.trial.TrialState
  for i, state in enumerate([states.COMPLETE] * 6
                            + [states.PRUNED, states.FAIL]):
    values = {} if state == states.FAIL else {1: 0.1, 2: 0.1 * (i + 1)}
    study.add_trial(optuna.trial.create_trial(
        state=state, value=values.get(2), params={'x': 0.1 * i},
        distributions=_SPACE, intermediate_values=values))
  return study


def test_the_best_five_are_told_apart_and_axes_named(
    study, tmp_path, monkeypatch):
  drawn = []
  monkeypatch.setattr(figures, 'save', lambda fig, path: drawn.append(fig))
  search_report.plot_reports(study, tmp_path, 'validation_accuracy')
  ax = drawn[0].axes[0]
  names = [text.get_text() for text in ax.get_legend().get_texts()]
  assert names == ['others', 'trial 5: 0.6', 'trial 4: 0.5', 'trial 3: 0.4',
                   'trial 2: 0.3', 'trial 1: 0.2']
  assert (ax.get_xlabel(), ax.get_ylabel()) == (
      'epoch', 'best validation_accuracy so far')
  assert len({(line.get_color(), line.get_marker()) for line in ax.lines}) == 6


def test_plots_carry_the_name_of_the_metric(study, tmp_path, monkeypatch):
  labels = []
  save = figures.save
  monkeypatch.setattr(figures, 'save', lambda fig, path: (
      labels.append(fig.axes[0].get_ylabel()), save(fig, path)))
  search_report.plot(study, tmp_path, 'validation_loss')
  assert labels == ['best validation_loss'] * 2
  for name in ('history', 'slices'):
    with Image.open(tmp_path / f'{name}.png') as image:
      assert min(image.size) > 80
