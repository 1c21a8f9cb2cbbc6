"""Every config file, in every protocol, for two steps on embedded data."""

import importlib.util
import pathlib
import re

import pytest

import run_helpers
from vision_jax import config as config_lib
from vision_jax import loop

_LARGEST = 64
FILES = sorted((run_helpers.ROOT / 'configs').glob('*.py'))


def load(path: pathlib.Path):
  """Imports a config file by its path, as the flag does."""
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.mark.parametrize('protocol', config_lib.PROTOCOLS)
@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_two_steps(path, protocol, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  config = load(path).get_config(f'protocol={protocol}')
  if config.model.weights:
    # What is tested here is this config; the other file has its own test.
    config.model.weights = ''
  if config.data.imbalance.kind == 'none':
    # Few and small: some networks are deep.
    config.data.source = 'procedural'
    config.data.procedural_examples = 48
    config.data.image_size = tuple(
        min(side, _LARGEST) for side in config.data.image_size)
  config.train.max_steps = 2
  config.train.batch_size = 8
  config.report.progress = False
  config.report.figures = False
  result = loop.train(config, tmp_path / 'run')
  assert result['steps'] == 2
  assert result['protocol'] == protocol
  assert result['published'] == list(config.published.switches)
  assert protocol == 'published' or not config.published.switches


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_the_docstring_has_its_command_expected_result_and_time(path):
  text = load(path).__doc__
  assert f'--config=configs/{path.name}' in text
  assert re.search(r'\d+ (s|seconds|min|minutes)\b', text), 'no time'
  assert re.search(r'\b(accuracy|error|loss|distance)\b', text), 'no result'
