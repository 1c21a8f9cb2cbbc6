"""The GAN's comparison: equal budgets, and words that follow from the rows."""

import pytest

from experiments import jellyfish
from experiments import jellyfish_report


def parse(*flags):
  return jellyfish._parser().parse_args(['--root=data', *flags])


def make_row(protocol, kid, *, seed=0, step=10, width=0.01):
  row = {name: 0.5 for name in (
      'fd', 'precision', 'recall', 'density', 'coverage', 'fakes_nearer')}
  return row | {
      'protocol': protocol, 'seed': seed, 'step': step, 'kid': kid,
      'kid_low': kid - width, 'kid_high': kid + width, 'n_fake': 9,
      'n_real': 8, 'seconds': 60.0}


def test_lower_counts_outside_both_intervals_alone():
  rows = [make_row('published', 0.4), make_row('sound', 0.3),
          make_row('modern', 0.281)]
  won, lost = jellyfish_report.verdicts(rows)
  assert won == ('- `sound` has a lower kernel distance than `published` '
                 'outside both intervals.')
  assert lost.startswith('- `modern` does not have a lower kernel distance')


def test_several_seeds_have_to_agree():
  rows = [make_row('sound', 0.30, seed=0), make_row('sound', 0.32, seed=1),
          make_row('modern', 0.20, seed=0), make_row('modern', 0.32, seed=1)]
  (line,) = jellyfish_report.verdicts(rows)
  assert 'does not have' in line and 'in every seed' in line
  # Differences -.1 and 0: mean -.05, Student's interval 12.706 * .05 wide.
  assert '-0.05 [-0.685, +0.585]' in line


def test_steps_on_the_way_are_compared_with_their_own():
  curves = [make_row('sound', 0.3, step=10), make_row('sound', 0.2, step=20),
            make_row('modern', 0.2, step=10), make_row('modern', 0.19, step=20),
            make_row('modern', 0.1, step=30)]
  (line,) = jellyfish_report.along(curves)
  assert line.endswith('at 1 of 2 measured points: 10.')


def test_the_report_judges_the_end_and_the_best_checkpoint():
  end = [make_row('sound', 0.30, step=20), make_row('modern', 0.30, step=20)]
  best = [make_row('sound', 0.29, step=10), make_row('modern', 0.21, step=10)]
  text = jellyfish_report.report(
      'c', parse(), end, best, end + best, extractor='e', machine='m',
      images={'train': 8, 'test': 4})
  at_end, at_best = text.split("At each run's best checkpoint")
  assert '`modern` does not have' in at_end and '| 20 | 0.3 |' in at_end
  assert '`modern` has a lower' in at_best and '| 10 | 0.21 |' in at_best


def test_runs_measured_once_are_named_as_no_choice():
  curves = [make_row('sound', 0.3, step=10), make_row('sound', 0.2, step=20),
            make_row('modern', 0.1, seed=9)]
  assert 'of `modern-9` one point' in jellyfish_report._unchosen(curves)
  assert jellyfish_report._unchosen(curves[:2]) == ''


@pytest.mark.parametrize('size,features', [(64, 4), (32, 3)])
def test_protocols_share_networks_and_budget(monkeypatch, size, features):
  monkeypatch.setattr(
      jellyfish.modes, 'describe', lambda config: {'steps_per_epoch': 19})
  configs = [jellyfish.make_config(parse(f'--size={size}'), protocol, 0)
             for protocol in jellyfish.PROTOCOLS]
  for config in configs:
    assert config.train.max_steps == 1500 and config.train.epochs == 79
    assert config.train.batch_size == configs[0].train.batch_size
    assert config.data.exclude_pattern == configs[1].data.exclude_pattern != ''
    assert len(config.gan.generator_features) == features
    assert (config.gan.generator_features, config.gan.discriminator_features
            ) == (configs[0].gan.generator_features,
                  configs[0].gan.discriminator_features)


def test_runs_are_all_or_those_that_are_named():
  assert jellyfish._pairs(parse('--seeds=2')) == [
      ('published', 0), ('sound', 0), ('modern', 0),
      ('published', 1), ('sound', 1), ('modern', 1)]
  assert jellyfish._pairs(parse('--only=sound-0,modern-9')) == [
      ('sound', 0), ('modern', 9)]
  for wrong in ('sound', 'sound-', 'best-0', 'sound-0,'):
    with pytest.raises(ValueError, match='such as sound-0'):
      jellyfish._pairs(parse(f'--only={wrong}'))


def test_pictures_and_curves_are_of_each_first_seed(monkeypatch, tmp_path):
  rows = [make_row('sound', 0.3, seed=1), make_row('modern', 0.2, seed=9),
          make_row('sound', 0.4, seed=2)]
  text = jellyfish_report.report(
      'c', parse(), rows, rows, rows, extractor='e', machine='m',
      images={'train': 8, 'test': 4})
  assert text.index('`sound`, seed 1,') < text.index('`modern`, seed 9,')
  assert 'seed 2,' not in text
  drawn = {}
  monkeypatch.setattr(jellyfish_report.figures, 'interval_plot',
                      lambda series, *unused, **fields: drawn.update(series))
  jellyfish_report.draw_curves(rows, tmp_path / 'kid.png')
  assert {name: [point[1] for point in points]
          for name, points in drawn.items()} == {'sound': [0.3], 'modern': [0.2]}
