"""Hyperband: many settings for a few epochs, the best of them for more.

Brackets and promotions as pure functions, sized as Keras Tuner sizes them, of
which a study's log reports its trials. Trains nothing and draws nothing: the
caller's functions do. A search with a memory is experiments/search.py.

Source: Li et al., 2018, arXiv:1603.06560, algorithm 1; the sizes are those of
keras_tuner.Hyperband, which spends about the same on every bracket.
"""

import math
from typing import Any, Callable, NamedTuple, Sequence


class Trial(NamedTuple):
  """One setting trained to one number of epochs.

  Attributes:
    bracket: Index in `brackets`.
    rung: Index in the bracket.
    setting: Number of the drawn setting, from 0 over all brackets.
    values: What was drawn.
    epochs: Epochs it has been trained for, over all its rungs.
    score: Its score after them; higher is better.
  """
  bracket: int
  rung: int
  setting: int
  values: Any
  epochs: int
  score: float


def brackets(max_epochs: int, factor: int) -> list[list[tuple[int, int]]]:
  """Returns, bracket by bracket, the rungs (number of trials, epochs).

  The first bracket starts with the most settings and the fewest epochs, the
  last one trains each of its settings to the end. For 40 epochs and factor 3:
  34, 12, 4, 2 trials for 2, 5, 14, 40 epochs; 15, 5, 2 for 5, 14, 40; 8, 3 for
  14, 40; 5 for 40. A trial that is promoted counts on every rung.

  Args:
    max_epochs: Epochs of the last rung of every bracket, at least 1.
    factor: About one trial in so many is promoted, at least 2.

  Raises:
    ValueError: An argument is too small.
  """
  if max_epochs < 1 or factor < 2:
    raise ValueError(
        f'max_epochs={max_epochs} and factor={factor}: at least 1 epoch and a '
        'factor of at least 2 are needed')
  # Powers of integers: logarithms in floats err at exact powers.
  count = 1
  while factor**count <= max_epochs:
    count += 1
  ends = 1
  while factor**(ends - 1) < max_epochs:
    ends += 1
  return [[(math.ceil(ends * factor**left / (bracket + 1)),
            math.ceil(max_epochs / factor**left))
           for left in range(bracket, -1, -1)]
          for bracket in range(count - 1, -1, -1)]


def survivors(scores: Sequence[float], count: int) -> list[int]:
  """Returns the places of the `count` highest scores, in ascending order.

  Of equal scores the earlier wins; NaN loses against every number.
  """
  rank = sorted(range(len(scores)), key=lambda i: (
      math.isnan(scores[i]), -scores[i] if scores[i] == scores[i] else 0.0, i))
  return sorted(rank[:count])


def run(
    draw: Callable[[int], Any],
    train: Callable[[int, Any, int], float],
    *,
    max_epochs: int,
    factor: int) -> list[Trial]:
  """Runs every bracket and returns all trials in the order they ran.

  Args:
    draw: (setting) -> values; called once a setting, settings counted from 0.
    train: (setting, values, epochs) -> score after so many epochs in all;
      higher is better. It may go on from the setting's rung before.
    max_epochs: As in `brackets`.
    factor: As in `brackets`.
  """
  trials, drawn = [], 0
  for bracket, rungs in enumerate(brackets(max_epochs, factor)):
    alive = [(number, draw(number))
             for number in range(drawn, drawn + rungs[0][0])]
    drawn += rungs[0][0]
    for rung, (count, epochs) in enumerate(rungs):
      if rung:
        last = trials[-len(alive):]
        alive = [alive[i]
                 for i in survivors([trial.score for trial in last], count)]
      trials += [
          Trial(bracket, rung, number, values, epochs,
                train(number, values, epochs)) for number, values in alive]
  return trials
