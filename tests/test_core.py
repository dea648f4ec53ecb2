"What every room needs: refusals, strict YAML, whole files, names, tables, a model at rest."
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierseg.core import (DataError, ExperimentError, Registry, TaxonomyError, cell_text, evaluation_mode, file_name,
                          last_name, one_line, parse_yaml, printable, read_yaml, text_table, unknown, without_none,
                          write_atomic, written, yaml_text)

TEXT = st.text(max_size=8) | st.sampled_from(
    ['1e3', '010', '0x1f', '.5', 'true', 'No', '~', 'null', '', '.inf', '<<', '-']
)
SCALARS = st.one_of(st.integers(-10**6, 10**6), st.booleans(), st.none(), st.floats(allow_nan=False), TEXT)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=6), v, max_size=3))


@given(st.dictionaries(st.text(max_size=6), VALUES, max_size=4))
def test_what_yaml_writes_is_read_back(value):
    assert parse_yaml(yaml_text(value)) == value


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_in_one_line(text):
    try:
        parse_yaml(text, 'a.yaml', TaxonomyError)
    except TaxonomyError as e:
        assert str(e).startswith('a.yaml: ') and '\n' not in str(e)


@pytest.mark.parametrize('text, says', [('a: 1\na: 2', 'line 2: the key a stands there twice'),
                                        ('a: 010', 'line 1, a: 010'),
                                        ('a: 1_0', '1_0'), ('a: !!int 1', 'the tag'), ('a: &x [1]\nb: *x', 'alias *x'),
                                        ('[' * 90 + ']' * 90, 'deeper than 64'), ('{[1]: 2}', 'a key must be a name')])
def test_yaml_that_is_not_plain_is_refused(text, says):
    with pytest.raises(ExperimentError, match='f.yaml') as e:
        parse_yaml(text, 'f.yaml', ExperimentError)
    assert says in str(e.value)


def test_yaml_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path/'bytes.yaml').write_bytes(b'\xff\xfe\x00')
    (tmp_path/'list.yaml').write_text('- 1')
    for name, says in (('gone.yaml', 'no such file'), ('bytes.yaml', 'not UTF-8'), ('list.yaml', 'no mapping'),
                       ('.', 'is a folder')):
        with pytest.raises(TaxonomyError) as e:
            read_yaml(tmp_path/name, TaxonomyError)
        assert says in str(e.value) and str(tmp_path/name) in str(e.value)


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = write_atomic(tmp_path/'a.txt', 'old')

    def fail(tmp):
        tmp.write_text('half')
        raise OSError(28, 'No space left on device')
    with pytest.raises(ExperimentError, match='a.txt: cannot be written: No space left'):
        write_atomic(path, fail)
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['a.txt']
    assert write_atomic(path, b'\x00\x01').read_bytes() == b'\x00\x01'


def test_registry():
    zoo = Registry('animal', cat=str)
    assert zoo.register('dog', bytes) is bytes and list(zoo) == ['cat', 'dog'] and len(zoo) == 2
    assert zoo.find('bytes') is bytes and zoo.name_of(bytes) == 'dog' and zoo.name_of(int) is None
    zoo.remove('dog')
    zoo.remove('dog')
    for bad in ('dog', 3, None, ['cat']):
        with pytest.raises(ValueError, match='animal .* is unknown'):
            zoo.find(bad)
    assert written('x', zoo) == 'cat' and written('x', zoo, a=1) == {'__class__': 'str', 'a': 1}


def test_unknown_names_the_nearest_and_all():
    assert str(unknown('loss', 'hierachical', ['ce', 'hierarchical'])) == (
        "loss 'hierachical' is unknown (did you mean 'hierarchical'?); known are ce, hierarchical")


def test_small_things():
    assert one_line('a\n b\t c') == 'a b c' and one_line('abc', 2) == 'ab' and one_line('ab' * 200, None) == 'ab' * 200
    assert [last_name(n) for n in ('a.b.C', "<class 'x.Y'>", 7)] == ['C', 'Y', 7]
    assert without_none(a=None, b=False) == {'b': False}
    assert [cell_text(v) for v in (1.23456, float('nan'), None, True, 'x')] == ['1.235', '', '', 'True', 'x']
    assert text_table([['a', 1.0]], ['name', 'n']).split('\n') == [
        '| name | n     |',
        '|------|-------|',
        '| a    | 1.000 |',
    ]


def test_errors_of_loading_processes_keep_their_own_line():
    inner = DataError('m.png: label id 9')
    outer = DataError('Caught DataError in DataLoader worker process 1.\nTraceback (most recent call last):\n'
                      f' hierseg.core.DataError: {inner}\n')
    assert str(outer) == 'm.png: label id 9' and isinstance(outer, ValueError)


def test_a_model_is_left_as_it_was_found():
    import torch
    model = torch.nn.Linear(1, 1)
    for training in (True, False):
        model.train(training)
        with pytest.raises(KeyError), evaluation_mode(model):
            assert not model.training and not torch.is_grad_enabled()
            raise KeyError
        assert model.training == training and torch.is_grad_enabled()


def test_core_does_not_bring_torch():
    subprocess.run([sys.executable, '-c', "import sys, hierseg.core; assert 'torch' not in sys.modules"], check=True)


@given(st.text())
def test_whatever_is_printed_is_one_line_without_control_characters(text):
    for out in (printable(text), one_line(text), str(TaxonomyError(text)), str(DataError(text)), cell_text(text)):
        assert not any(unicodedata.category(c) in ('Cc', 'Zl', 'Zp', 'Cs') for c in out)
    assert printable(printable(text)) == printable(text)


def test_control_characters_cannot_forge_a_line_of_a_table():
    table = text_table([['torso\x1b[2J\nroad', 1.]], ['a\rb', 'n'])
    assert '\x1b' not in table and '\r' not in table and len(table.split('\n')) == 3


@given(st.text(), st.text())
def test_a_name_becomes_a_file_name_that_stays_in_its_folder(a, b):
    out = file_name(a)
    assert out and '/' not in out and '\\' not in out and '\0' not in out and out not in ('.', '..')
    assert len(out.encode()) <= 140
    assert Path('folder', out).parent == Path('folder') and (Path('/x') / out).resolve().parent == Path('/x')
    assert a == b or file_name(a) != file_name(b)


@pytest.mark.parametrize(
    'name', ['/../../../ESC', '..', '.', '', 'a/b', 'a\\b', 'x' * 300, 'é' * 200, 'con\n', 'a\0', '\udcff']
)
def test_bad_names_can_be_written(name, tmp_path):
    (tmp_path / f'photo_{file_name(name)}.png').write_bytes(b'')
    assert len(list(tmp_path.iterdir())) == 1


def test_ordinary_names_stay():
    for name in ('level_1', 'upper body', 'vehicle-car', 'tête', '10', 'level.1'):
        assert file_name(name) == name
