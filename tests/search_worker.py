"""A worker on a cheap objective, to be killed: FOLDER SAMPLER TRIALS SECONDS.

The objective reports three times and is a function of the values alone.
"""

import sys
import time

import optuna

from experiments import study

SPACE = {'x': {'low': -1.0, 'high': 1.0}, 'n': {'low': 1, 'high': 8},
         'kind': {'choices': ['a', 'b']}}


def main(folder, sampler, trials, seconds):
  """Works until the study is done."""
  optuna.logging.set_verbosity(optuna.logging.ERROR)
  plan = study.Plan(SPACE, sampler, 'hyperband', int(trials), 3, 3, False)
  def objective(trial):
    x, n, kind = (trial.params[name] for name in SPACE)
    for epoch in range(1, 4):
      time.sleep(float(seconds) / 3)
      if len(trial.storage.get_trial(trial._trial_id).intermediate_values
             ) < epoch:
        trial.report(x**2 + n / epoch, epoch)
      if trial.should_prune():
        raise optuna.TrialPruned
    if n == 8:
      raise study.Failed('eight is too many')
    return x**2 + n + (kind == 'a')
  study.Study(folder, plan).work(objective)


if __name__ == '__main__':
  main(*sys.argv[1:])
