"""The vocabulary of configs: strict parsing, locking and comparison."""

import json

from hypothesis import given
from hypothesis import strategies as st
import pytest

from vision_jax import config as config_lib
from vision_jax import config_io


def test_no_argument_gives_the_defaults():
  args = config_lib.parse(None, data=('digits', 'x'), fraction=0.5, n=3)
  assert vars(args) == {'data': 'digits', 'fraction': 0.5, 'n': 3}


@given(st.sampled_from(['digits', 'x']), st.floats(0, 1), st.integers(0, 99))
def test_values_have_the_type_of_their_default(data, fraction, n):
  args = config_lib.parse(
      f'n={n}, data={data},fraction={fraction!r}', data=('digits', 'x'),
      fraction=1.0, n=0)
  assert vars(args) == {'data': data, 'fraction': fraction, 'n': n}


@pytest.mark.parametrize('arg, message', [
    ('dta=x', "did you mean 'data'"),
    ('data=digit', "did you mean 'digits'"),
    ('data', 'not key=value'),
    ('n=many', 'must be a int'),
    ('n=1,n=2', 'given twice'),
])
def test_a_wrong_argument_names_what_is_allowed(arg, message):
  with pytest.raises(config_lib.ConfigError, match=message):
    config_lib.parse(arg, data=('digits', 'x'), n=0)


def test_a_typo_in_a_field_names_the_nearest():
  with pytest.raises(AttributeError, match='Did you mean "root"'):
    config_lib.base().data.rot = 'x'


def test_json_and_back_is_the_same_config():
  config = config_lib.replace(
      config_lib.base(), data__classes=('a', 'b'), train__epochs=3)
  again = config_io.from_dict(json.loads(config.to_json()))
  assert config_io.changes(config, again) == {}
  assert again.is_locked


def test_a_missing_or_unknown_field_is_named():
  values = json.loads(config_lib.base().to_json())
  del values['data']['root']
  values['data']['rot'] = ''
  with pytest.raises(config_lib.ConfigError, match='config.data.*root, rot'):
    config_io.from_dict(values)


def test_changes_lists_only_what_differs():
  old = config_lib.base()
  new = config_lib.replace(old, optimizer__learning_rate=0.5)
  assert config_io.changes(old, new) == {
      'optimizer.learning_rate': (1e-3, 0.5)}


@pytest.mark.parametrize('field, value, message', [
    ('protocol', 'soud', "mean 'sound'"),
    ('seed', -1, 'config.seed=-1'),
    ('train__batch_size', 0, 'train.batch_size=0'),
    ('train__eval_batch_size', -2, 'train.eval_batch_size=-2'),
    ('model__dtype', 'float23', "mean 'float32'"),
    ('model__frozen', '(', 'model.frozen=.* no regular expression')])
def test_a_wrong_value_that_no_task_would_name_is_refused(
    field, value, message):
  config_lib.check(config_lib.base())
  with pytest.raises(config_lib.ConfigError, match=message):
    config_lib.check(config_lib.replace(config_lib.base(), **{field: value}))


def test_only_changed_fields_are_refused_as_ignored():
  config = config_lib.replace(
      config_lib.base(), train__epochs=3, loss__l2=0.1)
  config_lib.refuse_ignored(config, ('loss.name', 'taxonomy.'), 'x')
  with pytest.raises(
      config_lib.ConfigError, match="config.loss.l2=0.1.*'x'.*at 0.0"):
    config_lib.refuse_ignored(config, ('loss.',), 'x')


def test_a_replacement_of_no_field_is_an_error():
  with pytest.raises((KeyError, AttributeError)):
    config_lib.replace(config_lib.base(), data__rot='x')
