"""Figures: written, small, and showing what they were given."""

from matplotlib import figure
from matplotlib.backends import backend_agg
import numpy as np
from PIL import Image
import pytest

from vision_jax import metrics
from vision_jax.analysis import figures


@pytest.fixture(name='drawn')
def _drawn(monkeypatch):
  """Collects the figures that a test draws, to look inside."""
  result = []
  original = figure.Figure.savefig

  def savefig(self, *args, **kwargs):
    result.append(self)
    return original(self, *args, **kwargs)

  monkeypatch.setattr(figure.Figure, 'savefig', savefig)
  return result


def _check(path):
  with Image.open(path) as image:
    assert image.format == 'PNG' and min(image.size) > 80
  assert path.stat().st_size <= figures.MAX_BYTES


def _names(count):
  return [f'{"swallowtail " * (1 + i % 2)}{i}' for i in range(count)]


def _overlaps(fig, labels):
  renderer = backend_agg.FigureCanvasAgg(fig).get_renderer()
  boxes = [label.get_window_extent(renderer)
           for label in labels if label.get_text()]
  return any(a.overlaps(b) for a, b in zip(boxes, boxes[1:]))


@pytest.mark.parametrize('count', [2, 20, 102])
def test_classes_stay_legible(tmp_path, drawn, count):
  generator = np.random.default_rng(0)
  labels = generator.integers(count, size=count * 10)
  predicted = np.where(generator.uniform(size=len(labels)) < 0.7, labels, 0)
  matrix = metrics.confusion(labels, predicted, count)
  figures.confusion_matrix(matrix, _names(count), tmp_path / 'confusion.png')
  figures.per_class_bars(
      metrics.per_class(labels, predicted, _names(count)),
      tmp_path / 'bars.png')
  for name in ('confusion.png', 'bars.png'):
    _check(tmp_path / name)
  for fig in (drawn[0], drawn[-1]):
    for axis in (fig.axes[0].xaxis, fig.axes[0].yaxis):
      assert not _overlaps(fig, axis.get_ticklabels())


def test_confusion_matrix_shows_counts_with_truth_in_rows(tmp_path, drawn):
  figures.confusion_matrix(
      np.array([[3, 1], [0, 2]]), ['a', 'b'], tmp_path / 'x.png')
  ax = drawn[0].axes[0]
  cells = {text.get_position(): text.get_text() for text in ax.texts}
  assert cells == {(0, 0): '3', (1, 0): '1', (1, 1): '2'}
  assert ax.get_ylabel() == 'true class' and '5 of 6' in ax.get_title()


def test_a_confusion_matrix_takes_a_title(tmp_path, drawn):
  figures.confusion_matrix(
      np.eye(2, dtype=int), ['a', 'b'], tmp_path / 'x.png', title='joined')
  assert drawn[0].axes[0].get_title() == 'joined'


def test_learning_curves_come_from_named_columns(tmp_path, drawn):
  rows = [
      {'epoch': 1, 'train_loss': 2.0, 'validation_loss': 1.0, 'seconds': 3.0},
      {'epoch': 2, 'train_loss': 1.5},
      {'epoch': 3, 'train_loss': 1.0, 'validation_loss': 0.5,
       'validation_accuracy': 0.9},
  ]
  figures.learning_curves(rows, tmp_path / 'curves.png')
  _check(tmp_path / 'curves.png')
  loss, accuracy = drawn[0].axes
  lines = {line.get_label(): line.get_xydata().tolist() for line in loss.lines}
  assert lines == {'train': [[1, 2.0], [2, 1.5], [3, 1.0]],
                   'validation': [[1, 1.0], [3, 0.5]]}
  assert (accuracy.get_ylabel(), len(accuracy.lines)) == ('accuracy', 1)
  with pytest.raises(ValueError, match='no column'):
    figures.learning_curves([{'epoch': 1}], tmp_path / 'none.png')


@pytest.mark.parametrize('channels', [1, 3])
def test_images_are_small_files_and_not_stretched(tmp_path, drawn, channels):
  # Noise does not compress: the worst case for the size.
  noise = np.random.default_rng(0).uniform(size=(25, 64, 64, channels))
  images = 0.4 + 0.2 * noise
  figures.image_grid(images, tmp_path / 'grid.png',
                     [f'truth {i}\nguess {i}' for i in range(25)])
  figures.reconstructions({'original': images[:6], 'noisy': images[6:12]},
                          tmp_path / 'rows.png')
  _check(tmp_path / 'grid.png')
  _check(tmp_path / 'rows.png')
  shown = drawn[0].axes[3].images[0]
  np.testing.assert_allclose(shown.get_array()[..., :channels], images[3],
                             atol=1e-6)
  assert drawn[-1].axes[6].get_ylabel() == 'noisy'


def test_image_figures_refuse_what_does_not_fit(tmp_path):
  images = np.zeros((3, 8, 8, 1))
  with pytest.raises(ValueError, match='2 titles for 3 images'):
    figures.image_grid(images, tmp_path / 'x.png', ['a', 'b'])
  with pytest.raises(ValueError, match="'noisy': 2"):
    figures.reconstructions(
        {'original': images, 'noisy': images[:2]}, tmp_path / 'x.png')


def test_interval_plot_has_its_series_first_in_the_legend(tmp_path, drawn):
  series = {'A': [(10, 0.4, 0.35, 0.45), (25, 0.5, 0.4, 0.55)],
            'B1': [(10, 0.45, 0.4, 0.5)]}
  figures.interval_plot(
      series, tmp_path / 'x.png', xlabel='labels (%)', ylabel='accuracy',
      references={'chance': 0.05})
  _check(tmp_path / 'x.png')
  ax = drawn[0].axes[0]
  names = [text.get_text() for text in ax.get_legend().get_texts()]
  assert names == ['A', 'B1', 'chance']
  whisker = ax.containers[0].lines[2][0].get_segments()[0]
  np.testing.assert_allclose(whisker[:, 1], [0.35, 0.45])
  assert (ax.get_xlabel(), ax.get_ylabel()) == ('labels (%)', 'accuracy')
