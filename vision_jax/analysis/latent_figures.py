"""Figures of a latent space: its map by class and by cluster, scores over k.

Drawn from finished arrays, one file a figure, like those of `figures.py`.
"""

from collections.abc import Mapping, Sequence
import os

import numpy as np

from vision_jax.analysis import figures

_MARKERS = 'os^Dv'
# Of a number from its place, and free around it, in widths of the map.
_RADII = (0.03, 0.045, 0.06, 0.08, 0.1, 0.13)
_CLEAR = 0.022
# Tableau's twenty colours, the strong ones first, so that each of the first
# ten classes and its pale twin also differ in shape.
_STRONG = ('#1f77b4', '#ff7f0e', '#2ca02c', '#d62728', '#9467bd', '#8c564b',
           '#e377c2', '#7f7f7f', '#bcbd22', '#17becf')
_PALE = ('#aec7e8', '#ffbb78', '#98df8a', '#ff9896', '#c5b0d5', '#c49c94',
         '#f7b6d2', '#c7c7c7', '#dbdb8d', '#9edae5')


def scatter(
    plane: np.ndarray,
    groups: np.ndarray,
    names: Sequence[str],
    path: str | os.PathLike[str],
    *,
    title: str) -> None:
  """Draws points coloured by group, numbered beside where it is densest.

  Args:
    plane: [n, 2].
    groups: int [n], indices into `names`.
    names: of the groups, for the legend beside the map.
    path: the PNG file to write.
    title: above the map.
  """
  fig, (ax,) = figures.grid_figure(1, 1, size=(9.0, 6.2))
  for i, name in enumerate(names):
    points = plane[groups == i]
    color, marker = style(i)
    ax.scatter(*points.T, s=13, color=color, marker=marker, linewidths=0.2,
               edgecolors='black', label=f'{i + 1:2d}  {name}')
  numbers = np.zeros((0, 2))
  for i in range(len(names)):
    points = plane[groups == i]
    if len(points):
      place = _dense(points)
      beside = _free(place, plane, numbers)
      _number(ax, i + 1, place, beside, style(i)[0])
      numbers = np.concatenate([numbers, beside[None]])
  ax.margins(0.08)  # Room for numbers at the rim.
  ax.set(xticks=[], yticks=[])
  ax.set_title(title, fontsize=11)
  ax.legend(fontsize=7.5, loc='center left', bbox_to_anchor=(1.0, 0.5),
            markerscale=1.8, frameon=False)
  figures.save(fig, path)


def style(i: int) -> tuple[str, str]:
  """Returns colour and marker of group `i`; the first fifty are distinct."""
  colors = _STRONG if i // 10 % 2 == 0 else _PALE
  return colors[i % 10], _MARKERS[i // 10 % len(_MARKERS)]


def _number(ax, number: int, place, beside, color: str) -> None:
  """Writes a number at `beside`, with a line to the `place` that it is of."""
  box = {'boxstyle': 'circle,pad=0.15', 'facecolor': 'white',
         'edgecolor': color, 'alpha': 0.9}
  ax.annotate(
      str(number), place, beside, fontsize=9, weight='bold', ha='center',
      va='center', bbox=box, arrowprops={'arrowstyle': '-', 'color': 'black'})


def _free(place, points: np.ndarray, numbers: np.ndarray) -> np.ndarray:
  """Returns the nearest spot around `place` clear of points and numbers.

  The clearest one where none is. A number is twice as far from another as from
  a point.
  """
  spread = np.maximum(np.ptp(points, axis=0), 1e-9)
  angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
  ring = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
  spots = place + spread * np.concatenate([r * ring for r in _RADII])
  gap = lambda taken: np.linalg.norm(
      (spots[:, None] - taken) / spread, axis=-1).min(axis=1, initial=np.inf)
  gaps = np.minimum(gap(points), gap(numbers) / 2)
  return spots[np.minimum(gaps, _CLEAR).argmax()]


def _dense(points: np.ndarray) -> np.ndarray:
  """Returns the point whose tenth of the group lies closest around it.

  The median of a group in two islands would lie in the water between them.
  """
  distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
  near = np.sort(distances, axis=1)[:, :max(2, len(points) // 10)]
  return points[near.mean(axis=1).argmin()]


def sweep(
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    path: str | os.PathLike[str],
    *,
    marked: int) -> None:
  """Draws scores over the number of clusters, one line an encoder.

  Args:
    curves: rows of `latent.sweep` by encoder.
    path: the PNG file to write.
    marked: the number of classes, drawn as a vertical line.
  """
  panels = (('ami', 'adjusted mutual information'),
            ('silhouette', 'silhouette of the clusters'))
  fig, axes = figures.grid_figure(len(panels), len(panels), size=(4.2, 3.4))
  for ax, (name, label) in zip(axes, panels):
    for i, (encoder, rows) in enumerate(curves.items()):
      ax.plot([row['k'] for row in rows], [row[name] for row in rows],
              color=style(i)[0], marker=_MARKERS[i % len(_MARKERS)],
              markersize=4, linewidth=1.4, label=encoder)
    ax.axvline(marked, color='0.4', linestyle='--', linewidth=1)
    ax.set(xlabel='clusters k', ylabel=label)
    ax.grid(alpha=0.3)
  axes[-1].legend(fontsize=8, loc='center left', bbox_to_anchor=(1.0, 0.5))
  figures.save(fig, path)
