"""The entry point: flags in, a mode out, nothing else.

`python -m vision_jax.main --config=configs/transfer.py` trains; `--mode`
chooses another use of the same config. JAX is imported by the mode, after the
flags are read, so that `--help` and a typo answer at once.
"""

import gc
import json
import os
import pathlib
import sys
import time
from typing import NoReturn

from absl import app
from absl import flags
from absl import logging
from ml_collections import config_flags

from vision_jax import config as config_lib
from vision_jax.data import errors

_MODES = ('train', 'evaluate', 'predict', 'sample', 'describe')

_CONFIG = config_flags.DEFINE_config_file(
    'config', None,
    'Config file, with its argument: configs/transfer.py:data=butterflies. '
    'evaluate, predict and sample may leave it out: the run folder has it.',
    lock_config=True)
_MODE = flags.DEFINE_enum(
    'mode', 'train', _MODES,
    'train (goes on where a run folder has a checkpoint); evaluate, predict '
    'and sample (with the weights of --workdir); describe (counts, as JSON).')
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Run folder; by default runs/<config>-<time>.')
_INPUT = flags.DEFINE_string('input', None, 'predict: a folder of images.')
_OUTPUT = flags.DEFINE_string(
    'output', None, 'predict: the CSV to write; by default '
    '<workdir>/predicted.csv. sample: the PNG file, or the folder of images.')
_SPLIT = flags.DEFINE_string('split', 'test', 'evaluate: which split.')
_COUNT = flags.DEFINE_integer(
    'count', 36, 'sample: number of images.', lower_bound=1)
_SEED = flags.DEFINE_integer('seed', 0, 'sample: of the latents.')
_LAYOUT = flags.DEFINE_enum(
    'layout', 'grid', ('grid', 'images', 'interpolation'),
    'sample: one picture, a file an image, or paths between latents.')
_WEIGHTS = flags.DEFINE_enum(
    'weights', 'average', ('average', 'raw'),
    'sample: the moving average, where the run kept one, or the raw weights.')


def _fail(reason, status: int = 2) -> NoReturn:
  print(f'Error: {reason}', file=sys.stderr)
  sys.exit(status)


def _config():
  """Returns the config from the flag, or from the run folder's file."""
  if _CONFIG.value is not None:
    _check_file(config_flags.get_config_filename(
        flags.FLAGS['config']).partition(':')[0])
    return _CONFIG.value
  if _MODE.value in ('evaluate', 'predict', 'sample') and _WORKDIR.value:
    from vision_jax import checkpoint
    return checkpoint.read_config(_WORKDIR.value)
  raise config_lib.ConfigError(
      'No --config. For example: --config=configs/transfer.py')


def _check_file(path: str) -> None:
  """Raises ConfigError if there is no such config file."""
  if not pathlib.Path(path).is_file():
    known = sorted(map(str, pathlib.Path('configs').glob('[!_]*.py')))
    raise config_lib.ConfigError(
        f'There is no config file {path}{config_lib.nearest(path, known)}. '
        + ('Here are: ' + ' '.join(known) if known else
           'Start in the folder that has configs/.'))


def _folder(config) -> pathlib.Path:
  """Returns the run folder that the mode works in."""
  if _WORKDIR.value:
    return pathlib.Path(_WORKDIR.value)
  if _MODE.value != 'train':
    raise config_lib.ConfigError(
        f'--mode={_MODE.value} needs --workdir, the folder of a finished run.')
  # The process sets apart those that start within the same second.
  return pathlib.Path('runs') / (
      f'{config.name}-{time.strftime("%m%d-%H%M%S")}-{os.getpid()}')


def _run(config) -> None:
  # To look through what is imported, which stays, takes .2 s of every start.
  gc.disable()
  from vision_jax import guard
  from vision_jax import metrics
  from vision_jax import modes
  gc.freeze()
  gc.enable()
  try:
    _run_mode(config, modes)
  except (guard.NonFiniteError, metrics.MisalignedEvaluation) as error:
    # Their messages say where and what to do; nothing else is wrong.
    _fail(error, status=1)


def _run_mode(config, modes) -> None:
  if _MODE.value == 'describe':
    print(json.dumps(modes.describe(config), indent=2))
    return
  folder = _folder(config)
  if _MODE.value == 'train':
    modes.train(config, folder)
  elif _MODE.value == 'evaluate':
    modes.evaluate(config, folder, split=_SPLIT.value)
  elif _MODE.value == 'sample':
    modes.sample(
        config, folder, output=_OUTPUT.value, count=_COUNT.value,
        seed=_SEED.value, layout=_LAYOUT.value, weights=_WEIGHTS.value)
  else:
    modes.predict(config, folder, images=_INPUT.value, output=_OUTPUT.value)


def main(argv: list[str]) -> None:
  """Runs the mode; a user's mistake ends with its message and status 2.

  A training that went wrong ends so with status 1.
  """
  if len(argv) > 1:
    sys.exit(f'Error: unexpected arguments {argv[1:]}; flags start with --.')
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)
  try:
    _run(_config())
  except (config_lib.ConfigError, errors.DataError) as error:
    _fail(error)
  except KeyboardInterrupt:
    # Without a traceback, but still by the signal, which ends a shell's loop.
    sys.excepthook = lambda *_: print(
        '\nStopped at once. A training goes on from its last checkpoint by the '
        'same command with --workdir=<its run folder>.', file=sys.stderr)
    raise


def _parse_flags(argv: list[str]) -> list[str]:
  """Reads the flags; an override of no field ends with the nearest one."""
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    # Around what a config file raised, absl puts its traceback.
    before, mistake, reason = str(error).partition('config.ConfigError: ')
    _fail(reason.strip() if mistake else
          f'{before}\n--helpfull lists the flags.')
  except OSError as error:  # An override of a config that was not found.
    _fail(' '.join(str(error).split()))
  except (AttributeError, KeyError) as error:
    # A KeyError quotes the one that it was raised from, line breaks included:
    # of those that name the nearest field, the first raised is the clearest.
    reasons = []
    while error:
      reasons.append(' '.join(map(str, error.args)))
      error = error.__context__
    named = [reason for reason in reasons if 'Did you mean' in reason]
    reason = ' '.join(
        (named[-1] if named else reasons[0]).split()).strip('"')
    unknown = reason.partition(' ')[0].strip('"\'')
    paths = [arg.partition('=')[0] for arg in argv]
    path = next((path for path in paths if path.startswith('--config.')
                 and unknown in path.split('.')), None)
    if path is None:  # Not an override's: the config file itself has it.
      raise
    _fail(f'{path} names no field: {reason} '
          '(vision_jax/config.py has them all)')


def run() -> None:
  """The console entry point."""
  app.run(main, flags_parser=_parse_flags)


if __name__ == '__main__':
  run()
