"Trees of other data sets: what is read, what is written back, what is refused."
import json

import pytest
from hypothesis import given, strategies as st

from hierseg.cli import main
from hierseg.core import TaxonomyError
from hierseg.taxonomy.formats import (TREE_FORMATS, ClassRow, read_tree, rows_of_tree, tree_of_rows, write_tree)
from hierseg.taxonomy.tree import Taxonomy
from strategies import CITYSCAPES, PERSON, STREET, trees


@given(trees())
def test_rows_and_back(tree):
    taxonomy = Taxonomy(tree)
    again = tree_of_rows(rows_of_tree(taxonomy))
    assert again == taxonomy or again.background != taxonomy.background
    assert again.node_paths == taxonomy.node_paths and again.leaf_ids == taxonomy.leaf_ids


@pytest.mark.parametrize('name, tree', [('paths', PERSON), ('paths', STREET), ('parents', PERSON), ('mapillary', CITYSCAPES), ('coco', CITYSCAPES),
                                        ('cityscapes', CITYSCAPES)])
def test_every_format_writes_what_it_reads(tmp_path, name, tree):
    taxonomy = Taxonomy(tree)
    suffix = {'paths': 'csv', 'parents': 'csv', 'cityscapes': 'csv'}.get(name, 'json')
    file = write_tree(taxonomy, tmp_path / f'tree.{suffix}', name)
    again = read_tree(file, name)
    assert again.node_paths == taxonomy.node_paths and again.leaf_ids == taxonomy.leaf_ids


def test_mapillary_by_hand(tmp_path):
    labels = [dict(name='marking--general', evaluate=True, color=[255, 255, 255]), dict(name='marking--general--stop-line', evaluate=True),
              dict(name='void--ground', evaluate=False)]
    (tmp_path / 'config.json').write_text(json.dumps(dict(labels=labels)))
    t = read_tree(tmp_path / 'config.json', 'mapillary')
    assert t.classes_content['level_3'] == {'general': [0], 'stop-line': [1]} and t.ignore == [2]
    assert t.colors == {'marking/general/general': '#ffffff'}


def test_what_cannot_be_said_is_refused(tmp_path):
    for name in 'coco', 'cityscapes':
        with pytest.raises(TaxonomyError, match='deeper'):
            write_tree(Taxonomy(PERSON), tmp_path / 'x', name)
    with pytest.raises(TaxonomyError, match='gaps'):
        write_tree(Taxonomy(STREET), tmp_path / 'x', 'mapillary')
    with pytest.raises(TaxonomyError, match='two classes are called'):
        write_tree(Taxonomy({'a': {'x': 1, 'y': 2}, 'b': {'x': 3}}), tmp_path / 'x', 'parents')
    assert not list(tmp_path.iterdir()), 'nothing half-written'


@pytest.mark.parametrize('name, tree', [('paths', {'coat': [13, 10, 55], 'hat': 2}), ('parents', {'coat': [13, 10, 55], 'hat': 2}),
                                        ('coco', {'a': {'x': [3, 5]}, 'b': {'y': 4}}), ('cityscapes', {'a': {'x': [3, 5]}, 'b': {'y': 4}}),
                                        ('mapillary', {'a': {'x': [0, 2]}, 'b': {'y': 1}})])
def test_a_class_of_several_ids_keeps_them_all(tmp_path, name, tree):
    file = write_tree(Taxonomy(tree), tmp_path / ('tree.json' if name in ('coco', 'mapillary') else 'tree.csv'), name)
    assert read_tree(file, name).leaf_ids == Taxonomy(tree).leaf_ids
    assert file.read_text().endswith('\n')


@pytest.mark.parametrize('name', list(TREE_FORMATS))
@pytest.mark.parametrize('text', ['', '[]', '{}', '[1]', '{"labels": [{}], "categories": [{}]}', 'path,id\n', 'path,id\n/,x\n', 'class,parent,id\na,b,1\n',
                                  'name,id,category\na,x,b\n', '\x00', 'Label(1)', '{"labels": [{"name": 3, "color": 5}]}'])
def test_nonsense_is_one_line_with_the_file(tmp_path, name, text):
    file = tmp_path / ('tree.csv' if name == 'cityscapes' and ',' in text else 'tree.txt')
    file.write_text(text)
    with pytest.raises(TaxonomyError) as e:
        read_tree(file, name)
    assert str(file) in str(e.value) and '\n' not in str(e.value)


@given(st.lists(st.tuples(st.lists(st.text(max_size=3), max_size=3), st.one_of(st.integers(), st.none(), st.text(max_size=2))), max_size=4))
def test_any_rows_give_a_tree_or_one_line(rows):
    try:
        tree_of_rows([ClassRow(tuple(p), i) for p, i in rows])
    except TaxonomyError as e:
        assert '\n' not in str(e)


def test_the_command_converts(tmp_path, capsys):
    write_tree(Taxonomy(CITYSCAPES), tmp_path / 'c.json', 'coco')
    assert main(['taxonomy', str(tmp_path / 'c.json'), '--from', 'coco', '--out', str(tmp_path / 't.yaml')]) == 0
    assert Taxonomy(tmp_path / 't.yaml').vocab == Taxonomy(CITYSCAPES).vocab
    assert main(['taxonomy', str(tmp_path / 't.yaml'), '--to', 'paths', '--out', str(tmp_path / 'p.csv')]) == 0
    assert (tmp_path / 'p.csv').read_text().startswith('path,id\nflat/road,0\n')
    with pytest.raises(SystemExit):
        main(['taxonomy', str(tmp_path / 'c.json'), '--from', 'cocoa'])
    assert "did you mean 'coco'" in capsys.readouterr().err


def test_the_command_says_what_a_format_has_no_place_for(tmp_path, capsys):
    tree = {'hierarchy': {'bg': 0, 'flower': {'left leaf': 1, 'right leaf': 2}}, 'ignore': [255], 'coarse': {'flower': 9},
            'swap': [['left leaf', 'right leaf']]}
    file, out = tmp_path / 't.yaml', tmp_path / 'p.csv'
    file.write_text(Taxonomy(tree).to_yaml())
    assert main(['taxonomy', str(file), '--to', 'paths', '--out', str(out)]) == 0
    assert f'note: {out}: paths has no place for ignore, coarse, swap of the tree' in capsys.readouterr().out
    assert main(['taxonomy', str(file), '--out', str(tmp_path / 'same.yaml')]) == 0
    assert 'no place' not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(['taxonomy', str(file), '--to', 'paths'])
    assert '--to paths: name the file to write with --out' in capsys.readouterr().err
