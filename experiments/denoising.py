"""Study 0, experiment 2: what denoisers restore, and what they teach.

    python -m experiments.denoising --root=../shared/data

Restoration: for three kinds of noise the dense and the convolutional
autoencoder and a denoising VAE against a median filter, on the same noisy test
images. Hypothesis 2 of the study, which it never tested: a classifier on the
denoiser's encoder, frozen and fine-tuned, on clean and on noisy test images,
against the plain autoencoder's encoder and random weights. Writes tables and
`report.md` from the runs' files; finished runs are not repeated. Small images
and few epochs are the default, `--full` is the study's own budget.
"""

import argparse
import itertools
import pathlib
import shlex
import sys
from typing import Any

from configs import denoising
from configs import transfer
from configs import vae
from experiments import denoising_report
from experiments import tables
from vision_jax import config as config_lib
from vision_jax import loop
from vision_jax import results
from vision_jax import stats
from vision_jax import writers

MODELS = ('dense', 'vae', 'conv')
NOISES = ('salt_pepper', 'gaussian', 'masking')
# Encoder weights by the name in the table: the noise of their autoencoder.
ENCODERS = {'random': None, 'autoencoder': 'none', 'denoiser': 'salt_pepper'}


def main(argv: list[str]) -> None:
  """Runs both parts and writes the report."""
  args = _parser().parse_args(argv)
  out = pathlib.Path(args.out)
  folders = restore(args)
  restored, pictures = denoising_report.restoration(folders)
  classified = teach(args)
  pairs = compare(classified)
  accuracies = [{
      key: value for key, value in row.items() if key != 'correct'}
                for row in classified]
  writers.write_csv(out / 'restoration.csv', restored)
  writers.write_csv(out / 'classification.csv', accuracies)
  writers.write_csv(out / 'pairs.csv', pairs)
  denoising_report.draw(pictures, out)
  bounds = denoising_report.elbos(folders, out)
  writers.write_text(out / 'report.md', report(
      args, argv, restored, bounds, accuracies, pairs))
  print((out / 'report.md').read_text())


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='python -m experiments.denoising')
  parser.add_argument('--root', required=True, help='folder of the data sets')
  parser.add_argument('--data', default='butterflies')
  parser.add_argument('--full', action='store_true',
                      help="the study's own image size and epochs")
  parser.add_argument('--size', type=int, default=32,
                      help='side of the colour images in pixels')
  parser.add_argument('--epochs', type=int, default=5,
                      help='of the convolutional autoencoders')
  parser.add_argument('--encoder', default='conv', choices=('conv', 'unet'),
                      help='whose encoder the classifiers take')
  parser.add_argument('--fraction', type=float, default=0.1,
                      help='of labelled training images')
  parser.add_argument('--seeds', default='0', help='of the classifiers')
  parser.add_argument('--runs', default='runs/denoising')
  parser.add_argument('--out', default='experiments/results/denoising')
  return parser


def _root(args) -> pathlib.Path:
  budget = 'full' if args.full else f'{args.size}px-{args.epochs}epochs'
  return pathlib.Path(args.runs) / budget


def _run(args, config, name: str) -> pathlib.Path:
  """Trains `config` where that has not been done, and returns its folder."""
  folder = _root(args) / name
  config.data.root = args.root
  print(folder, flush=True)
  loop.train(config, folder)
  return folder


def _train_autoencoder(args, model: str, noise: str) -> pathlib.Path:
  """Returns the folder of an autoencoder; the dense one is cheap anyway."""
  arg = f'data={args.data},model={model},noise={noise}'
  if model != 'dense' and not args.full:
    arg += f',size={args.size},epochs={args.epochs}'
  return _run(args, denoising.get_config(arg), f'{model}-{noise}')


def restore(args) -> dict[tuple[str, str], pathlib.Path]:
  """Returns the run folders of the denoisers by noise and model."""
  folders = {}
  for noise, model in itertools.product(NOISES, MODELS):
    if model == 'vae':
      config = vae.get_config(f'data={args.data},model=dense,noise={noise}')
      folders[noise, model] = _run(args, config, f'vae-{noise}')
    else:
      folders[noise, model] = _train_autoencoder(args, model, noise)
  return folders


def teach(args) -> list[dict[str, Any]]:
  """Returns a row per classifier and test noise, with `correct` [n]."""
  rows = []
  for seed, (weights, noise), model in itertools.product(
      map(int, args.seeds.split(',')), ENCODERS.items(), ('b1', 'b2')):
    config = transfer.get_config(
        f'data={args.data},model={model},fraction={args.fraction}')
    config.seed = seed
    pretrained = _train_autoencoder(args, args.encoder, noise or 'none')
    # The encoder, its input and the size of its images are the autoencoder's.
    donor = denoising_report.config_of(pretrained)
    config.data.image_size = donor.data.image_size
    config.model = config_lib.replace(
        donor, model__head=config.model.head,
        model__weights=str(pretrained) if noise else '',
        model__frozen=config.model.frozen).model
    training = 'frozen' if config.model.frozen else 'fine-tuned'
    folder = _run(
        args, config, f'{args.encoder}-{weights}-{training}-seed{seed}')
    found = denoising_report.correct(folder, ('none', *NOISES))
    for test, correct in found.items():
      low, high = stats.wilson(int(correct.sum()), len(correct))
      rows.append({
          'encoder': weights, 'training': training, 'seed': seed,
          'test noise': test, 'n': len(correct), 'right': int(correct.sum()),
          'accuracy': float(correct.mean()), 'low': low, 'high': high,
          'correct': correct})
  return rows


def compare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Compares the denoiser's encoder with the others on the same images."""
  find = {(row['encoder'], row['training'], row['seed'], row['test noise']):
          row['correct'] for row in rows}
  pairs = []
  for (encoder, training, seed, test), ours in find.items():
    if encoder != 'denoiser':
      continue
    for other in ('autoencoder', 'random'):
      theirs = find[other, training, seed, test]
      gain = stats.paired_bootstrap(
          lambda _, right: float(right.mean()), 0 * ours, ours, theirs)
      test_of = stats.mcnemar(ours, theirs)
      pairs.append({
          'denoiser against': other, 'training': training, 'seed': seed,
          'test noise': test, 'n': len(ours), 'accuracy gain': gain.estimate,
          'low': gain.low, 'high': gain.high,
          'only denoiser right': test_of.only_a,
          'only other right': test_of.only_b, 'McNemar p': test_of.p_value})
  return pairs


def report(args, argv, restored, bounds, accuracies, pairs) -> str:
  """Returns the Markdown report; every number in it comes from the runs."""
  size = 128 if args.full else args.size
  budget = ('the budget of the configs' if args.full else
            f'{args.epochs} epochs at {size} px instead of the configs\' own')
  seconds = sum(results.read(path.parent)['seconds']
                for path in _root(args).glob('*/result.json'))
  psnr, ssim = losers(restored)
  return f"""# Denoising: restoration, and hypothesis 2, on `{args.data}`

Command: `python -m experiments.denoising {shlex.join(argv)}`

Machine: {tables.machine()}. Runs took {seconds:.0f} s in all.
Convolutional autoencoders: {budget}. Dense autoencoder and VAE: 28 px grey, at
most 50 epochs. One seed of each denoiser.

## Restoration of noisy test images

Means over the n test images with their 95 % bootstrap intervals; every method
restores the same noisy images. `gain` is PSNR over the 3x3 median filter's, in
decibels, paired by image, from `low` to `high`. Networks that are worse than it
in PSNR: {psnr}; in mean SSIM: {ssim}.

{tables.markdown(restored)}
![dense](dense.png)

![convolutional](conv.png)

## The denoising VAE

ELBO and its two terms in nats a test image, one draw of the latent each; a
dimension is in use where its KL exceeds .01 nats. Below, under salt-and-pepper:
samples from the prior, spherical paths between pairs of test images, and a
traversal of the dimensions with the largest KL, from -2.5 to 2.5.

{tables.markdown(bounds)}
![samples](vae_samples.png)
![paths](vae_interpolations.png)

![traversal](vae_traversal.png)

## Hypothesis 2: does denoising teach a classifier more?

{args.encoder} encoder at {size} px, {100 * args.fraction:g} % of the labels;
Wilson's 95 % intervals over test images. Noise is on the test images only.

{tables.markdown(accuracies)}
On the same test images, with paired bootstrap intervals and McNemar's exact
test, not corrected for their number. {verdict(pairs)}

{tables.markdown(pairs)}"""


def losers(restored: list[dict[str, Any]]) -> tuple[str, str]:
  """Returns who is worse than the median filter in PSNR, and in mean SSIM."""
  filtered = {(row['noise'], row['images']): row['ssim'] for row in restored
              if row['method'] == 'median filter'}
  networks = [row for row in restored if row['method'] in MODELS]
  words = lambda rows: ', '.join(
      f'{row["method"]} ({row["noise"]})' for row in rows) or 'none'
  return (words(row for row in networks if row['high'] < 0),
          words(row for row in networks
                if row['ssim'] < filtered[row['noise'], row['images']]))


def verdict(pairs: list[dict[str, Any]]) -> str:
  """Says where the denoiser's encoder differs from the plain one's."""
  found = {True: [], False: []}
  for pair in pairs:
    if (pair['denoiser against'] == 'autoencoder'
        and pair['McNemar p'] < 0.05):
      found[pair['accuracy gain'] > 0].append(
          f'{pair["training"]}, {pair["test noise"]}')
  better, worse = ('; '.join(found[key]) or 'nowhere' for key in (True, False))
  return (f"Against the plain autoencoder's encoder at p < .05, the denoiser's "
          f'is better in: {better}; worse in: {worse}.')


if __name__ == '__main__':
  main(sys.argv[1:])
