"""Our training steps against PyTorch's and Keras's: equal first, then timed.

    python -m experiments.benchmark
    python -m experiments.benchmark --only=unet,gan --repeats=20
    python -m experiments.benchmark --what=input
    python -m experiments.benchmark --what=endtoend --root=../shared/data

`--what=steps` (the default) times every workload of the five studies;
`input`, whether data keeps up with the step; `scaling`, time and memory
against size; `endtoend`, whole trainings; `profile`, what a step consists of;
`seeds`, what five cost as one program; `operations`, what each reformulation
gains.
Each writes its JSON file and report, and `steps` also table.md, as the README
has it. Peers come with `pip install -e .[benchmark]`; on an accelerator leave
the two forms of Keras out (`--forms=eager,compiled`) unless TensorFlow sees it,
and let processes share its memory (`XLA_PYTHON_CLIENT_PREALLOCATE=false`).
Expected on two quiet CPU cores: `steps` 40 minutes, most of it compilation.
"""

import argparse
import importlib
import os
import pathlib
import shlex
import sys
import time

from experiments import benchmark_report
from experiments import benchmark_steps
from experiments import benchmark_worker
from experiments import benchmark_workloads
from experiments import tables
from vision_jax import allocator
from vision_jax import config as config_lib
from vision_jax import writers

WHAT = ('steps', 'input', 'scaling', 'endtoend', 'profile', 'seeds',
        'operations')


def main(argv: list[str]) -> None:
  """Runs what is asked for and writes the results."""
  args = _parser().parse_args(argv)
  # As in a training, before XLA starts threads: those would have pools of their
  # own, and a step of EfficientNetB0 on one core take 2.6 s instead of 1.5.
  allocator.keep_freed_memory()
  about = {
      'command': f'python -m experiments.benchmark {shlex.join(argv)}'.strip(),
      'machine': tables.machine(),
      # Other work on the same cores slows the sides down unequally.
      'load_average': os.getloadavg()[0]}
  if args.what == 'steps':
    return steps(args, about)
  module = importlib.import_module(f'experiments.benchmark_{args.what}')
  began = time.perf_counter()
  results = about | module.run(args)
  results['seconds'] = time.perf_counter() - began
  out = pathlib.Path(args.out)
  writers.write_json(out / f'{args.what}.json', results)
  text = module.report(results, out)
  writers.write_text(out / f'{args.what}.md', text)
  print(text)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='python -m experiments.benchmark')
  parser.add_argument('--what', choices=WHAT, default='steps')
  parser.add_argument(
      '--only', default=','.join(benchmark_workloads.WORKLOADS),
      help='steps, profile and seeds: names of workloads')
  parser.add_argument('--forms', default=','.join(benchmark_worker.PEERS),
                      help='steps: forms of the peers')
  parser.add_argument('--dtype', default='float32',
                      choices=tuple(benchmark_steps.TOLERANCES))
  parser.add_argument('--repeats', type=int, default=15,
                      help='turns of each side')
  parser.add_argument('--budget', type=float, default=60.0,
                      help='seconds of turns a workload, once there are five')
  parser.add_argument('--limit', type=float, default=400.0,
                      help='seconds that one compilation may take')
  parser.add_argument('--together', type=int, default=1,
                      help='steps: workloads that are compiled at once')
  parser.add_argument('--root', default='../shared/data',
                      help='endtoend: folder of the data sets')
  parser.add_argument('--jobs', default='imbalance_cnn,butterflies_b1,gan',
                      help='endtoend: names of trainings')
  parser.add_argument('--rounds', type=int, default=1,
                      help='endtoend: turns of each side')
  parser.add_argument('--workers', default='0,2',
                      help='endtoend: processes that decode for PyTorch')
  parser.add_argument('--out', default='experiments/results/benchmark')
  return parser


def steps(args, about: dict[str, str]) -> None:
  """Times the workloads; the files are written anew after each.

  Raises:
    SystemExit: At the end, if a workload could not be timed.
  """
  began, out = time.perf_counter(), pathlib.Path(args.out)
  names = args.only.split(',')
  forms = tuple(filter(None, args.forms.split(',')))
  for flag, given, known in (('only', names, benchmark_workloads.WORKLOADS),
                             ('forms', forms, benchmark_worker.PEERS)):
    for word in given:
      config_lib.choose(flag, word, known)
  peak = benchmark_steps.machine_peak(args.dtype, limit=args.limit)
  results = about | {'dtype': args.dtype, 'peak_gflops': peak / 1e9,
                     'workloads': {}}
  failed = []
  for name, found in benchmark_steps.measure(
      names, forms, args.dtype, repeats=args.repeats, budget=args.budget,
      limit=args.limit, together=args.together):
    if 'error' in found:
      failed.append(f'{name}: {found["error"]}')
      print(failed[-1], flush=True)
      continue
    row = benchmark_steps.summarize(
        found, batch=benchmark_workloads.WORKLOADS[name].batch, peak=peak)
    results['workloads'][name] = row | {'turns': {
        form: side['seconds'] for form, side in found['sides'].items()
        if 'seconds' in side}}
    results['seconds'] = time.perf_counter() - began
    print(name, {key: row[key] for key in row
                 if key.endswith('_ms') or key == 'ratio'}, flush=True)
    benchmark_report.write(results, out)
  if results['workloads']:
    print((out / 'report.md').read_text())
  if failed:
    sys.exit('not timed: ' + '\n'.join(failed))


if __name__ == '__main__':
  main(sys.argv[1:])
