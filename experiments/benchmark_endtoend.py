"""Whole trainings against the same jobs written plainly in PyTorch.

A side is a process, timed from its start to its end: import, compilation,
data, training, evaluation and checkpoints. Ours is the entry point as a user
starts it, with its tables, intervals and figures, which the peer does not
make. The peer (benchmark_endtoend_torch.py) gets our run folder: its config,
and which file is in which split.
"""

import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

import numpy as np

from experiments import tables
from vision_jax import config as config_lib


class Job(NamedTuple):
  """A training: a config file with its argument, and what it changes."""
  file: str
  argument: str
  fields: dict[str, Any]


JOBS = {
    'imbalance_cnn': Job(
        'imbalance', 'data=caltech101,ratio=15', {'train.epochs': 5}),
    # Its encoder is frozen at random weights: training that is another job.
    'butterflies_b1': Job(
        'transfer', 'data=butterflies,model=b1,fraction=0.25',
        {'train.epochs': 5, 'model.weights': ''}),
    'gan': Job('gan', 'data=jellyfish', {'train.max_steps': 200}),
}


class JobError(RuntimeError):
  """A side failed, or the two did not do the same work."""


def run(args) -> dict[str, Any]:
  """Returns the times of `--what=endtoend`, with those of earlier jobs."""
  path = pathlib.Path(args.out) / 'endtoend.json'
  found = json.loads(path.read_text())['jobs'] if path.is_file() else {}
  for name in args.jobs.split(','):
    job = config_lib.choose('jobs', name, JOBS)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
      found[name] = measure(
          job, args.root, pathlib.Path(folder), rounds=args.rounds,
          workers=tuple(map(int, args.workers.split(','))))
    command = (
        f'python -m experiments.benchmark --what=endtoend --jobs={name} '
        f'--rounds={args.rounds} --workers={args.workers} --root={args.root}')
    found[name] |= {'load_average': load, 'machine': tables.machine(),
                    'command': command}
    print(name, json.dumps(found[name]), flush=True)
  return {'jobs': {name: found[name] for name in JOBS if name in found}}


def measure(
    job: Job, root: str, folder: pathlib.Path, *, rounds: int,
    workers: tuple[int, ...]) -> dict[str, Any]:
  """Times one job: our first run ever, the peer and our later run, in turns.

  Args:
    job: The job.
    root: Folder of the data sets.
    folder: Where runs and caches lie; empty before.
    rounds: Turns. Each first run has caches of its own, empty before.
    workers: Numbers of processes that decode for the peer; the fastest counts.

  Raises:
    JobError: If a side fails or their numbers of steps or images differ.
  """
  _read_files(job, root)
  first, later, peers = [], [], {number: [] for number in workers}
  for turn in range(rounds):
    place = folder / str(turn)
    first.append(_ours(job, root, place, 'first'))
    for number, times in peers.items():
      times.append(_peer(
          place / 'first', root, place / f'peer-{number}', number))
    later.append(_ours(job, root, place, 'later'))
  for side in (*first, *later, *sum(peers.values(), [])):
    if side['work'] != first[0]['work']:
      raise JobError(f'{side["work"]} is not the work {first[0]["work"]}.')
  best = min(peers, key=lambda number: _median(peers[number]))
  return {'first': first, 'later': later, 'peer': peers[best],
          'peer_workers': best,
          'peer_seconds_by_workers': {
              str(number): [side['seconds'] for side in times]
              for number, times in peers.items()}}


def _read_files(job: Job, root: str) -> None:
  """Reads the data once, so that no side alone waits for the disk."""
  config = importlib.import_module(f'configs.{job.file}').get_config(
      job.argument)
  for path in (pathlib.Path(root) / config.data.path).rglob('*'):
    if path.is_file():
      path.read_bytes()


def _ours(job: Job, root: str, folder: pathlib.Path, name: str):
  """Runs the entry point; all its caches lie in `folder`."""
  target = folder / name
  fields = job.fields | {'data.root': root}
  seconds = _seconds([
      'vision_jax.main', f'--config=configs/{job.file}.py:{job.argument}',
      *(f'--config.{key}={value}' for key, value in fields.items()),
      f'--workdir={target}'], cache=folder / 'cache')
  result = json.loads((target / 'result.json').read_text())
  start = json.loads((target / 'start.json').read_text())
  examples = {split: result['examples'][split]
              for split in ('train', 'validation', 'test')}
  return {'seconds': seconds, **start,
          'work': {'steps': result['steps'], 'images': examples},
          'test': _shown(result['test'])}


def _peer(like: pathlib.Path, root: str, target: pathlib.Path, workers: int):
  """Runs the peer on the job of the run folder `like`."""
  seconds = _seconds([
      'experiments.benchmark_endtoend_torch', f'--like={like}',
      f'--root={root}', f'--out={target}', f'--workers={workers}',
      f'--spawned={time.time()}'], cache=target)
  return {'seconds': seconds,
          **json.loads((target / 'result.json').read_text())}


def _shown(metrics: dict[str, float]) -> dict[str, float]:
  """Keeps the numbers that both sides compute."""
  return {name: metrics[name] for name in (
      'accuracy', 'balanced_accuracy', 'loss', 'sliced_wasserstein')
          if name in metrics}


def _seconds(command: list[str], *, cache: pathlib.Path) -> float:
  """Returns the seconds of `python -m ...`, which must succeed."""
  # Of the variables, none may point to programs compiled before.
  kept = {key: value for key, value in os.environ.items()
          if not key.startswith('JAX_')}
  began = time.perf_counter()
  done = subprocess.run(
      [sys.executable, '-m', *command], capture_output=True, text=True,
      env=kept | {'XDG_CACHE_HOME': str(cache)}, check=False)
  seconds = time.perf_counter() - began
  if done.returncode:
    raise JobError(f'{" ".join(command)} failed:\n{done.stderr[-2000:]}')
  return seconds


def _median(sides: list[dict[str, Any]], key: str = 'seconds') -> float:
  return float(np.median([side[key] for side in sides]))


def report(results: dict[str, Any], out: pathlib.Path) -> str:
  """Returns the Markdown report."""
  del out  # There is no figure.
  whole, starts, tests = [], [], []
  for name, job in results['jobs'].items():
    first, later, peer = (
        _median(job[side]) for side in ('first', 'later', 'peer'))
    work = job['first'][0]['work']
    whole.append({
        'job': name, 'turns': len(job['later']), 'steps': work['steps'],
        'images': '/'.join(map(str, work['images'].values())),
        'ours, first run, s': first, 'ours, later, s': later,
        'PyTorch, s': peer, 'its workers': job['peer_workers'],
        'PyTorch / first': f'{peer / first:.2f}',
        'PyTorch / later': f'{peer / later:.2f}'})
    starts.append({
        'job': name,
        **{f'{column}, s': _median(job[side], 'first_step_seconds')
           for column, side in (('ours, first run', 'first'),
                                ('ours, later', 'later'),
                                ('PyTorch', 'peer'))}})
    tests.append({'job': name, **{
        f'{measure}, {side}': value
        for side, found in (('ours', job['later'][0]),
                            ('PyTorch', job['peer'][0]))
        for measure, value in found['test'].items()}})
  commands = '\n'.join(
      f'- `{job["command"]}` ({job["machine"]}; load average before: '
      f'{job["load_average"]:.1f})' for job in results['jobs'].values())
  return f"""# Whole trainings

{commands}

Medians over the turns of a process from its start to its end. The first run
has no compiled program and no decoded image; later runs find both. The peer
does the same steps on the same images (training/validation/test), with the same
checkpoints. Numbers of its decoding processes (`--workers`) that were tried:
{_tried(results['jobs'])}
Figures, intervals and per-class tables are made by our side alone.

{tables.markdown(whole)}
From the start of the process to the end of the first training step:

{tables.markdown(starts)}
What the tests said, to show that both sides train:

{tables.markdown(tests)}"""


def _tried(jobs: dict[str, Any]) -> str:
  """Says which numbers of decoding processes each job's peer was given."""
  tried = {name: list(job['peer_seconds_by_workers'])
           for name, job in jobs.items()}
  words = '; '.join(f'{name} {", ".join(numbers)}'
                    for name, numbers in tried.items())
  several = max(map(len, tried.values())) > 1
  return words + ('; the fastest counts.' if several else
                  '; one a job, so that none was chosen.')
