"""Runs the training of a config.json and is killed on the way.

    python tests/interrupted.py CONFIG WORKDIR SIGNAL STEP

The process sends itself SIGNAL when it is about to make its STEP-th step.
"""

import json
import os
import pathlib
import signal
import sys

from vision_jax import config_io
from vision_jax import interrupt
from vision_jax import loop
from vision_jax import runs


def _kill_at(make, number, last):
  def make_killing(*args):
    step, count = make(*args), 0
    def killing(*step_args):
      nonlocal count
      count += 1
      if count == last:
        os.kill(os.getpid(), number)
      return step(*step_args)
    return killing
  return make_killing


def main(path, workdir, number, last):
  """Trains until the signal comes."""
  # Workers of pytest-xdist ignore it, and so would this process.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  runs.make_train_step = _kill_at(
      runs.make_train_step, int(number), int(last))
  config = config_io.from_dict(json.loads(pathlib.Path(path).read_text()))
  try:
    loop.train(config, workdir)
  except interrupt.Stopped as stopped:
    print(stopped)


if __name__ == '__main__':
  main(*sys.argv[1:])
