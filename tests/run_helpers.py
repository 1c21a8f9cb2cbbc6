"""Small runs and subprocesses for the tests of the loop and the entry point."""

import os
import pathlib
import subprocess
import sys

from vision_jax import config as config_lib

ROOT = pathlib.Path(__file__).parent.parent


def make_config(**fields):
  """A classifier of 60 procedural images that trains in a few seconds.

  Fields are given as a__b=value for config.a.b.
  """
  config = config_lib.base()
  config.data.source = 'procedural'
  config.data.procedural_examples = 60
  config.data.procedural_classes = 3
  config.data.image_size = (8, 8)
  config.data.channels = 3
  config.model.features = (4, 8)
  config.model.head = ('flatten', 'dense:8')
  config.train.batch_size = 8
  config.train.eval_batch_size = 16
  config.train.epochs = 2
  config.report.progress = False
  config.report.figures = False
  return config_lib.replace(config, **fields)


def environment(tmp_path, **variables):
  """The environment of a subprocess that keeps its caches in `tmp_path`."""
  return {**os.environ, 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu',
          'XDG_CACHE_HOME': str(tmp_path / 'cache'), **variables}


def main(tmp_path, *args, **variables):
  """Runs `python -m vision_jax.main` as a user does, in the project folder."""
  return subprocess.run(
      [sys.executable, '-m', 'vision_jax.main', *args], cwd=ROOT,
      env=environment(tmp_path, **variables), capture_output=True, text=True,
      timeout=300, check=False)
