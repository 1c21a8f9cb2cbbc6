"""Class paths, a head that respects them, and metadata as an input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import data_helpers
import run_helpers
from vision_jax import config as config_lib
from vision_jax import fusion
from vision_jax import losses
from vision_jax import loop
from vision_jax import runs
from vision_jax import task as task_lib
from vision_jax.data import errors
from vision_jax.data import pipeline
from vision_jax.data import sources
from vision_jax.data import taxonomy
from vision_jax.models import hierarchy

NAMES = ('k/bird/crow', 'k/bird/gull', 'k/fish/carp', 'k/fish/eel',
         'k/fish/ray')


def write_table(tmp_path, rows, columns='file_path,family,phylum'):
  """Writes images and metadata.csv; a row is (path, *cells)."""
  folder = tmp_path / 'images'
  for i, (path, *_) in enumerate(rows):
    data_helpers.write_image(folder / path, i)
  (folder / 'metadata.csv').write_text(
      columns + '\n' + ''.join(','.join(row) + '\n' for row in rows))
  return data_helpers.folder_config(
      tmp_path, source='csv', csv_parent_columns=('phylum',))


def test_a_row_without_its_phylum_joins_its_family(tmp_path):
  config = write_table(tmp_path, [
      ('0.png', 'crow', 'bird'), ('1.png', 'crow', ''), ('2.png', 'eel', ''),
      ('3.png', 'carp', 'fish')])
  source = sources.load(config)
  assert source.class_names == ('bird/crow', 'fish/carp', 'unknown/eel')
  assert source.labels.tolist() == [0, 0, 2, 1]
  assert source.context == (('bird',), ('',), ('',), ('fish',))
  assert taxonomy.levels(source.class_names) == (('bird', 'fish', 'unknown'),)
  assert taxonomy.encode(source.context, source.class_names).tolist() == [
      [0], [-1], [-1], [1]]


@pytest.mark.parametrize('rows, message', [
    ([('0.png', 'crow', 'bird'), ('1.png', 'crow', 'fish')],
     "'crow' below bird and below fish"),
    ([('0.png', 'crow/raven', 'bird')], 'divides the levels'),
])
def test_a_contradictory_taxonomy_is_an_error(tmp_path, rows, message):
  with pytest.raises(errors.DataError, match=message):
    sources.load(write_table(tmp_path, rows))


def test_a_missing_column_is_named(tmp_path):
  config = write_table(tmp_path, [('0.png', 'crow', 'bird')])
  config.csv_parent_columns = ('order',)
  with pytest.raises(errors.DataError, match="'order'.*csv_parent_columns"):
    sources.load(config)


def test_plain_names_have_no_tree():
  with pytest.raises(errors.DataError, match='csv_parent_columns'):
    taxonomy.parents(('crow', 'gull'))


def test_class_probabilities_add_up_to_their_parents():
  parents = tuple(taxonomy.parents(NAMES)[1].tolist())
  keys = jax.random.split(jax.random.key(0))
  parent = jax.random.normal(keys[0], (6, 2)) * 3
  child = jax.random.normal(keys[1], (6, 5)) * 3
  p = np.exp(hierarchy.join(parent, child, parents))
  of_parent = np.asarray(jax.nn.softmax(parent))
  np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
  np.testing.assert_allclose(p[:, :2].sum(1), of_parent[:, 0], rtol=1e-5)
  np.testing.assert_allclose(
      p[:, 2:], of_parent[:, 1:] * jax.nn.softmax(child[:, 2:]), rtol=1e-4)
  # Its cross-entropy is that of the parent plus that among siblings.
  labels = jnp.array([0, 1, 2, 3, 4, 0])
  both = losses.cross_entropy(parent, jnp.array(parents)[labels])
  among = [losses.cross_entropy(child[i:i + 1, :2], labels[i:i + 1])
           if labels[i] < 2 else
           losses.cross_entropy(child[i:i + 1, 2:], labels[i:i + 1] - 2)
           for i in range(6)]
  np.testing.assert_allclose(
      losses.cross_entropy(hierarchy.join(parent, child, parents), labels),
      both + np.concatenate(among), rtol=1e-4)


def test_context_is_one_hot_zero_where_missing_and_hidden_at_random():
  context_of = fusion.make(NAMES, hidden=0.5)
  batch = {'label': np.zeros(3), 'context': np.array([[0, 1], [0, -1],
                                                      [-1, -1]])}
  assert context_of(batch, None).tolist() == [[1, 0, 1], [1, 0, 0], [0, 0, 0]]
  many = {'label': np.zeros(400), 'context': np.tile([[0, 0]], (400, 1))}
  shown = np.asarray(context_of(many, jax.random.key(0))).sum(1)
  assert set(shown) == {0, 2} and 0.4 < np.mean(shown == 0) < 0.6
  without = {'label': np.zeros(2)}
  assert context_of(without, None).tolist() == [[0] * 3] * 2


def test_a_known_parent_excludes_the_others():
  p = np.array([[0.1, 0.3, 0.2, 0.4, 0.0]] * 3 + [[1.0, 0, 0, 0, 0]])
  context = np.array([[0, 0], [0, 1], [-1, -1], [0, 1]])
  found = taxonomy.restrict(p, context, NAMES)
  np.testing.assert_allclose(found[0], [0.25, 0.75, 0, 0, 0])
  np.testing.assert_allclose(found[1], [0, 0, 1 / 3, 2 / 3, 0])
  np.testing.assert_allclose(found[2:], p[2:])  # Nothing known, nothing left.


def task_of(**fields):
  config = run_helpers.make_config(**fields)
  return runs.make_task(config, task_lib.Info(NAMES, (8, 8, 3), 4))


def test_the_task_wires_both_and_refuses_plain_names():
  task = task_of(taxonomy__hierarchical=True, taxonomy__fusion=True)
  state = task.init(jax.random.key(0))
  head = state.params['head']
  assert head['children']['kernel'].shape == (8, 5)
  assert head['parents']['kernel'].shape == (8, 2)
  # Flattened 2 x 2 x 8 features and the names k, bird and fish.
  assert head['trunk']['Dense_0']['kernel'].shape[0] % 4 == 3
  assert task.embed is None
  batch = {'image': jnp.zeros((2, 8, 8, 3)), 'label': jnp.array([0, 2]),
           'context': jnp.array([[0, 0], [0, -1]])}
  p = task.eval_step(state, batch)['probabilities']
  assert p.shape == (2, 5) and not np.allclose(p[0], p[1])
  with pytest.raises(errors.DataError, match='csv_parent_columns'):
    runs.make_task(
        run_helpers.make_config(taxonomy__hierarchical=True),
        task_lib.Info(('a', 'b'), (8, 8, 3), 4))


def test_fusion_learns_what_only_the_table_knows(tmp_path):
  rows = [(f'{i}.png', f'family{i % 2}', f'phylum{i % 2}') for i in range(24)]
  data = write_table(tmp_path, rows)
  config = run_helpers.make_config(
      taxonomy__fusion=True, taxonomy__fusion_hidden=0.0,
      optimizer__learning_rate=1e-2, train__epochs=6)
  config = config_lib.replace(config, **{
      f'data__{name}': data[name] for name in (
          'source', 'root', 'cache_dir', 'csv_parent_columns')})
  result = loop.train(config, tmp_path / 'run')
  # The images are noise: only the phylum tells the families apart.
  assert result['test']['accuracy'] == 1.0
  assert pipeline.load(config.data).context.shape == (24, 1)
