"The tree: numbering, levels, encoding and refusals, against plain recursive brute force on random trees."
import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import CITYSCAPES, PERSON, PLAIN, STREET, trees

from hierseg.core import TaxonomyError, printable
from hierseg.taxonomy.tree import PERSON_TREE, Taxonomy
from hierseg.taxonomy.tensors import aggregate_log_probs, aggregate_probs, decompose_mask


def leaves_of(tree, path=()):
    "Brute force: every leaf of a nested dict as (path, ids), file order."
    for name, v in tree.items():
        if isinstance(v, dict):
            yield from leaves_of(v, (*path, name))
        else:
            yield (*path, name), v if isinstance(v, list) else [v]


def class_order(tree, depth):
    "Brute force: the classes of a level as path prefixes, background first, then by smallest raw id under them."
    groups = {}
    for path, ids in leaves_of(tree):
        groups.setdefault(path[:depth], []).extend(ids)
    return sorted(groups, key=lambda p: (p != ('bg',), min(groups[p])))


@given(trees())
def test_levels_and_lift_are_those_of_brute_force(tree):
    tax = Taxonomy(tree)
    leaves = dict(leaves_of(tree))
    assert tax.n_levels == max(map(len, leaves))
    order = class_order(tree, tax.n_levels)
    assert [sorted(i) for i in tax.leaf_ids] == [sorted(leaves[p]) for p in order]
    for level in range(tax.n_levels):
        classes = class_order(tree, level + 1)
        assert tax.n_classes[level] == len(classes) == len(set(tax.level_classes[level]))
        assert tax.lift[level].tolist() == [classes.index(p[:level + 1]) for p in order]
        if level:
            parents = class_order(tree, level)
            assert tax.parents[level].tolist() == [parents.index(p[:level]) for p in classes]
        assert [tax.node_paths[n] for n in tax.level_nodes[level]] == classes


@given(trees())
def test_nodes_and_ancestors(tree):
    tax = Taxonomy(tree)
    paths = tax.node_paths
    assert paths[:tax.n_leaves] == class_order(tree, tax.n_levels)
    inner = {p[:d] for p, _ in leaves_of(tree) for d in range(1, len(p))}
    assert set(paths[tax.n_leaves:]) == inner and len(paths) == len(set(paths)) == tax.n_nodes
    depths = [len(p) for p in paths[tax.n_leaves:]]
    assert depths == sorted(depths)
    for v, p in enumerate(paths):
        assert tax.node_depth[v] == len(p)
        assert {paths[u] for u in np.flatnonzero(tax.ancestors[v])} == {p[:d] for d in range(1, len(p) + 1)}
        assert tax.node_parent[v] == (paths.index(p[:-1]) if len(p) > 1 else -1)


@given(trees(), st.integers(0, 2**32 - 1))
def test_encode_decode_and_decompose(tree, seed):
    free = next(i for i in range(500) if i not in {i for _, ids in leaves_of(tree) for i in ids})
    tax = Taxonomy(tree, ignore=free)
    order = class_order(tree, tax.n_levels)
    owner = {i: order.index(p) for p, ids in leaves_of(tree) for i in ids} | {free: -100}
    raw = np.random.default_rng(seed).choice(list(owner), (5, 6))
    mask = tax.encode(raw)
    assert mask.dtype == np.int64 and mask.tolist() == [[owner[i] for i in row] for row in raw.tolist()]
    smallest = {c: min(i for i, o in owner.items() if o == c) for c in owner.values()}
    assert tax.decode(mask).tolist() == [[smallest[owner[i]] for i in row] for row in raw.tolist()]
    for level, lifted in enumerate(decompose_mask(torch.tensor(mask)[None], tax)):
        classes = class_order(tree, level + 1)
        want = [[-100 if c < 0 else classes.index(order[c][:level + 1]) for c in row] for row in mask.tolist()]
        assert lifted[0].tolist() == want and lifted.dtype == torch.int64


@given(trees(), st.integers(0, 2**31 - 1))
def test_aggregated_probabilities_are_sums_and_sum_to_one(tree, seed):
    tax = Taxonomy(tree)
    logits = torch.randn(2, tax.n_leaves, 3, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 4
    probs, levels = logits.softmax(1), aggregate_probs(logits.softmax(1), tax)
    for level, (p, lp) in enumerate(zip(levels, aggregate_log_probs(logits.log_softmax(1), tax))):
        want = torch.stack(
            [
                sum(probs[:, c] for c in range(tax.n_leaves) if tax.lift[level, c] == k)
                for k in range(tax.n_classes[level])
            ],
            1,
        )
        torch.testing.assert_close(p, want)
        torch.testing.assert_close(lp.exp(), want)
        torch.testing.assert_close(p.sum(1), torch.ones_like(p.sum(1)))


@given(trees())
def test_distance_is_the_height_of_the_lowest_common_ancestor(tree):
    tax = Taxonomy(tree)
    order = class_order(tree, tax.n_levels)
    full = [
        p + (p[-1],) * (tax.n_levels - len(p)) if len(p) < tax.n_levels else p for p in order
    ]  # shallow leaves carried down
    for a, pa in enumerate(full):
        for b, pb in enumerate(full):
            common = (
                next((d for d in range(tax.n_levels) if pa[: d + 1] != pb[: d + 1]), tax.n_levels)
                if a != b
                else tax.n_levels
            )
            assert tax.distance[a, b] == tax.n_levels - common


@given(trees())
def test_yaml_pickle_and_copy_give_the_same_taxonomy(tree):
    tax = Taxonomy(tree)
    for same in (Taxonomy.from_text(tax.to_yaml()), pickle.loads(pickle.dumps(tax)), copy.deepcopy(tax), Taxonomy(tax)):
        assert same == tax and hash(same) == hash(tax) and same.vocab == tax.vocab and (same.lift == tax.lift).all()


def test_person_is_the_study_of_the_original():
    tax = Taxonomy(PERSON_TREE)
    assert PERSON_TREE == PERSON and tax.background == 'bg' and tax.bg_index == 0
    assert tax.classes_content == {
        'level_1': {'body': [1, 6, 2, 4, 3, 5]},
        'level_2': {'upper_body': [1, 6, 2, 4], 'lower_body': [3, 5]},
        'level_3': {'low_hand': [1], 'up_hand': [6], 'torso': [2], 'head': [4], 'low_leg': [3], 'up_leg': [5]},
    }
    raw = np.arange(7, dtype=np.uint8)
    assert tax.encode(raw).tolist() == list(range(7)) and tax.decode(raw).dtype == np.uint8


def test_cityscapes_channels_follow_leaves_then_categories_in_file_order():
    tax = Taxonomy(CITYSCAPES)
    assert tax.n_leaves == 19 and tax.n_nodes == 26
    assert [p[-1] for p in tax.node_paths[19:]] == [
        'flat',
        'construction',
        'object',
        'nature',
        'sky',
        'human',
        'vehicle',
    ]


def test_ragged_tree_without_background():
    tax = Taxonomy(STREET, ignore=255)
    assert tax.background is None and tax.bg_index is None and tax.n_levels == 3
    assert tax.level_classes == [['flat', 'sky', 'vehicle'], ['road', 'sidewalk', 'sky', 'car', 'two_wheeler'],
                                 ['road', 'sidewalk', 'sky', 'car', 'motorcycle', 'bicycle']]


def test_no_background_though_one_is_called_so():
    tree = {'bg': 5, 'a': 1}
    assert Taxonomy(tree).vocab == ['bg', 'a'] and Taxonomy(tree, background=None).vocab == ['a', 'bg']
    assert Taxonomy({'hierarchy': tree, 'background': None}).background is None
    assert Taxonomy({'hierarchy': {'x': 3, 'y': 1}, 'background': 'x'}).vocab == ['x', 'y']


def test_equal_names_on_one_path_and_in_two_branches():
    tax = Taxonomy({'head': {'head': {'head': 4, 'hair': 5}}, 'toy': {'car': 2}, 'vehicle': {'car': 1}})
    assert tax.vocab == ['vehicle/car', 'toy/car', 'head', 'hair'] and tax.node_depth[2] == 3


def test_one_level_is_flat_segmentation():
    tax = Taxonomy({'bg': 0, 'cat': 1})
    assert tax.is_flat and tax.n_levels == 1 and len(decompose_mask(torch.zeros(1, 2, 2, dtype=torch.long), tax)) == 1


def test_tree_drawing():
    assert str(Taxonomy({'bg': 0, 'a': {'b': [1, 2], 'c': 3}})) == ".\n├── bg: 0\n└── a\n    ├── b: 1, 2\n    └── c: 3"


BAD_TREES = {
    'duplicate id': ({'a': 1, 'b': {'c': 1}}, 'b/c: id 1'),
    'duplicate in a list': ({'a': [1, 1], 'b': 2}, 'a: id 1'),
    'negative id': ({'a': -1, 'b': 2}, 'a: id -1'),
    'large id': ({'a': 65536, 'b': 2}, 'a: id 65536'),
    'text leaf': ({'a': 'x', 'b': 2}, "a: 'x'"),
    'float leaf': ({'a': 1.0, 'b': 2}, 'a: 1.0'),
    'bool leaf': ({'a': True, 'b': 2}, 'a: True'),
    'empty branch': ({'a': {}, 'b': 2}, 'a: an empty branch'),
    'None branch': ({'a': {'x': None}, 'b': 2}, 'a/x: an empty branch'),
    'empty list': ({'a': [], 'b': 2}, 'a: an empty list'),
    'non-text key': ({1: 1, 'b': 2}, 'key 1'),
    'empty tree': ({}, 'empty'),
    'one class': ({'a': 1}, 'a: a single class'),
    'no mapping': ([1, 2], 'list'),
    'ignored and used': ({'hierarchy': {'a': 1, 'b': 2}, 'ignore': 2}, 'ignore: id 2'),
    'branch as background': (
        {'hierarchy': {'a': {'c': 1, 'd': 3}, 'b': 2}, 'background': 'a'},
        'background: a is a branch',
    ),
    'unknown background': ({'hierarchy': {'a': 1, 'b': 2}, 'background': 'z'}, "background: 'z'"),
    'levels that do not fit': ({'hierarchy': {'a': 1, 'b': 2}, 'levels': ['x', 'y']}, 'levels'),
    'unknown option': ({'hierarchy': {'a': 1, 'b': 2}, 'colours': {}}, 'colours'),
    'unknown coloured class': ({'hierarchy': {'a': 1, 'b': 2}, 'colors': {'z': '#000000'}}, 'colors: z'),
    'bad colour': ({'hierarchy': {'a': 1, 'b': 2}, 'colors': {'a': 'red'}}, 'colors: a'),
}


@pytest.mark.parametrize('tree, says', BAD_TREES.values(), ids=BAD_TREES)
def test_a_bad_tree_is_refused_naming_the_key(tree, says):
    with pytest.raises(TaxonomyError) as e:
        Taxonomy(tree)
    assert says in str(e.value) and '\n' not in str(e.value)


BOMB = 'a: &a {x: 1}\n' + ''.join(
    f'{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n' for a, b in zip('abcdefgh', 'bcdefghi')
)
BAD_YAML = {
    'duplicate key': ('a: 1\nb:\n  c: 2\n  c: 3\n', 'line 4: the key b/c'),
    'octal': ('a: 010\nb: 2', '010'),
    'hex': ('a: 0x10\nb: 2', '0x10'),
    'underscore': ('a: 1_0\nb: 2', '1_0'),
    'tag': ('a: !!python/object/apply:os.system ["true"]\nb: 1', 'line 1: the tag'),
    'standard tag': ('a: !!int 1\nb: 2', 'the tag'),
    'alias': ('a: &x {b: 1}\nc: *x', 'line 2: the alias *x'),
    'bomb': (BOMB, 'alias'),
    'a list': ('- 1\n- 2', 'no mapping'),
    'a scalar': ('hello', 'no mapping'),
    'nothing': ('', 'no mapping'),
    'broken': ('a: [1, 2', 'not valid YAML: line 1'),
    'two documents': ('a: 1\n---\nb: 2', 'not valid YAML'),
    'empty branch': ('a:\nb: 1', 'a: an empty'),
    'deep': ('a: ' + '[' * 4000 + ']' * 4000, 'deeper'),
    'mapping as key': ('{a: 1}: 2\nb: 1', 'key'),
    'merge': ('<<: {a: 1}\nb: !x 2', 'tag'),
}


@pytest.mark.parametrize('text, says', BAD_YAML.values(), ids=BAD_YAML)
def test_bad_yaml_is_refused_naming_file_and_line(tmp_path, text, says):
    (tmp_path / 'tree.yaml').write_text(text)
    with pytest.raises(TaxonomyError) as e:
        Taxonomy(tmp_path / 'tree.yaml')
    assert says in str(e.value) and 'tree.yaml' in str(e.value) and '\n' not in str(e.value)


def test_missing_and_binary_files_are_refused(tmp_path):
    (tmp_path / 'b.yaml').write_bytes(b'\xff\xfe\x00\x81')
    for path in (tmp_path / 'none.yaml', tmp_path / 'b.yaml', tmp_path):
        with pytest.raises(TaxonomyError) as e:
            Taxonomy(path)
        assert str(path) in str(e.value)


def test_keys_are_text_as_written():
    assert Taxonomy.from_text('no: 1\n010: 2\n3.5: 4\n~: 5\n').vocab == ['no', '010', '3.5', '~']


def test_written_yaml_is_plain_and_keeps_options(tmp_path):
    tax = Taxonomy(
        {'on': 1, 'b': {'010': [3, 4], 'c': 9}}, ignore=[255], levels=['coarse', 'fine'], colors={'b/c': [1, 2, 255]}
    )
    (tmp_path / 't.yaml').write_text(tax.to_yaml())
    same = Taxonomy(tmp_path / 't.yaml')
    assert (
        same == tax
        and same.ignore == [255]
        and same.level_names == ['coarse', 'fine']
        and same.colors == {'b/c': '#0102ff'}
    )
    assert yaml.safe_load(tax.to_yaml())['ignore'] == [255]


@pytest.mark.parametrize(
    'mask, says',
    [
        (np.array([1, 9]), 'label id 9 is not'),
        (np.array([-1, 70000]), 'label ids -1, 70000 are not'),
        (np.array([0.0]), 'float64'),
    ],
)
def test_encode_names_the_file_and_the_id(mask, says):
    with pytest.raises(TaxonomyError) as e:
        Taxonomy(PERSON).encode(mask, 'masks/one.png')
    assert says in str(e.value) and 'masks/one.png' in str(e.value)


def test_encode_bool_and_sixteen_bit():
    tax = Taxonomy({'a': 0, 'b': [1, 60000]})
    assert tax.encode(np.array([True, False])).tolist() == [1, 0]
    assert tax.encode(np.array([0, 60000], np.uint16)).tolist() == [0, 1]
    assert Taxonomy({'a': 0, 'b': 60000}).decode(np.array([1])).dtype == np.uint16


def test_log_aggregation_keeps_its_gradient_at_extreme_logits():
    z = torch.tensor([[1e4, -1e4, 0, 0, 0, 0, -1e4]], requires_grad=True)
    coarse = aggregate_log_probs(z.log_softmax(1), Taxonomy(PERSON))[0]
    (-coarse[0, 1]).backward()
    assert coarse.isfinite().all() and z.grad[0, 0].item() == pytest.approx(1, abs=1e-3) and z.grad.isfinite().all()


def test_wrong_channels_are_refused():
    with pytest.raises(ValueError, match='7 leaves'):
        aggregate_probs(torch.rand(1, 5, 2, 2), Taxonomy(PERSON))


def test_import_does_not_bring_torch():
    code = "import sys, hierseg.taxonomy as t; t.Taxonomy(t.PERSON_TREE); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, '-c', code], check=True)


# background: what is one leaf in the end


@pytest.mark.parametrize('tree, background', [
    ({'background': {'background': {'background': 0}}, 'body': {'upper': {'head': 1, 'arm': 2}, 'leg': 3}}, 'auto'),
    ({'background': {'bg': 0}, 'body': {'upper': {'head': 1, 'arm': 2}, 'leg': 3}}, 'background'),
    ({'background': {'bg': 0}, 'body': {'upper': {'head': 1, 'arm': 2}, 'leg': 3}}, 'background/bg'),
    ({'background': {'bg': 0}, 'body': {'upper': {'head': 1, 'arm': 2}, 'leg': 3}}, 'bg')])
def test_a_chain_of_single_children_that_ends_in_one_leaf_is_background(tree, background):
    flat = Taxonomy({**tree, 'background': 0})
    tax = Taxonomy(tree, background=background)
    assert tax == flat and tax.bg_index == 0 and tax.n_nodes == flat.n_nodes
    assert tax.classes_content == flat.classes_content and 'background' not in tax.classes_content['level_1']
    assert tax.notes[0].startswith('background is background/b') and '(id 0)' in tax.notes[0]
    assert Taxonomy.from_text(tax.to_yaml()) == tax


def test_notes_say_what_was_taken_for_background_and_what_was_not():
    assert Taxonomy(PERSON).notes == ['background is bg (id 0): class 0 on every level, left out of the scores']
    scored = Taxonomy({'Background': {'sky': 0, 'wall': 4}, 'body': 1, 'void': 9})
    assert scored.background is None and scored.notes[0] == 'no background: every class is scored'
    assert any(n.startswith('Background is scored') for n in scored.notes[1:])
    assert any(n.startswith('void is scored') for n in scored.notes[1:])
    assert any(n.startswith('bg is scored') for n in Taxonomy(PERSON, background=None).notes)
    assert all('\x1b' not in n for n in Taxonomy({'void': 1, 'a\x1b': {'bg': 2, 'b': 3}}).notes)


def test_an_explicit_null_keeps_a_nested_background_as_it_is():
    tax = Taxonomy({'background': {'background': 0}, 'body': {'head': 1, 'leg': 2}}, background=None)
    assert tax.background is None and tax.n_nodes == 5 and Taxonomy(tax.to_dict()) == tax


@pytest.mark.parametrize(
    'background, says',
    [
        (['bg'], 'is no class name'),
        (True, 'is no class name'),
        ({}, 'no class name'),
        ('head', 'is a branch, or stands in one'),
        ('zzz', 'is no top-level class'),
    ],
)
def test_a_bad_background_is_refused(background, says):
    with pytest.raises(TaxonomyError, match='^background: .*' + says):
        Taxonomy(PERSON, background=background)


# names


NAMES = st.text('ab/\\', min_size=1, max_size=3)


@given(st.recursive(st.none(), lambda v: st.dictionaries(NAMES, v, min_size=1, max_size=3), max_leaves=8))
def test_two_classes_never_share_a_displayed_name(shape):
    if not isinstance(shape, dict):
        return
    ids = iter(range(1000))

    def fill(v):
        return next(ids) if v is None else {k: fill(o) for k, o in v.items()}
    try:
        tax = Taxonomy(fill(shape))
    except TaxonomyError as e:
        assert 'single class' in str(e)
        return
    for l, names in enumerate(tax.level_classes):
        assert len(set(names)) == len(names)
    assert len(set(tax.node_names)) == tax.n_nodes
    shown = [i for ids in tax.classes_content[tax.level_names[-1]].values() for i in ids]
    assert sorted(shown) == sorted(i for ids in tax.leaf_ids for i in ids)
    for i, path in enumerate(tax.node_paths):
        assert i in tax.find_nodes(path[-1]) or len(tax.find_nodes(path[-1])) == 1
    assert Taxonomy.from_text(tax.to_yaml()) == tax


def test_a_slash_in_a_name_loses_no_id():
    tax = Taxonomy({'a/x': 1, 'a': {'x': 2}})
    assert tax.vocab == ['a/x', 'x'] and tax.classes_content['level_2'] == {'a/x': [1], 'x': [2]}
    more = Taxonomy({'a/x': 1, 'a': {'x': 2}, 'b': {'x': 3}})
    assert more.vocab == ['a\\/x', 'a/x', 'b/x'] and more.classes_content['level_2'] == {
        'a\\/x': [1],
        'a/x': [2],
        'b/x': [3],
    }
    assert tax.find_nodes('a/x') == [1] and tax.find_nodes('a\\/x') == [0]


# whatever a file holds, it is a taxonomy or one line that says why not


def one_line_or_taxonomy(make):
    try:
        tax = make()
    except TaxonomyError as e:
        assert str(e) and printable(str(e)) == str(e)
        return
    assert Taxonomy.from_text(tax.to_yaml()) == tax and str(tax) and tax.notes and tax._repr_html_()


@settings(max_examples=400)
@given(st.text(max_size=60))
def test_fuzz_text(text):
    one_line_or_taxonomy(lambda: Taxonomy.from_text(text, 'a.yaml'))


@settings(max_examples=400)
@given(PLAIN)
def test_fuzz_values(value):
    one_line_or_taxonomy(lambda: Taxonomy(value if isinstance(value, dict) else {'hierarchy': value}))
    one_line_or_taxonomy(lambda: Taxonomy.from_text(yaml.safe_dump(value), 'a.yaml'))


@settings(max_examples=400)
@given(
    st.dictionaries(
        st.sampled_from(['background', 'ignore', 'levels', 'colors', 'coarse', 'swap']),
        PLAIN | st.sampled_from(['bg', 'body', ['head', 'torso'], [['head', 'torso']], {'body': 9}, [255]]),
    )
)
def test_fuzz_options(options):
    one_line_or_taxonomy(lambda: Taxonomy({'hierarchy': PERSON, **options}))
    one_line_or_taxonomy(lambda: Taxonomy(PERSON, **options))


@pytest.mark.parametrize('options', [dict(background=['bg']), dict(levels=['x', ['y'], 'z']), dict(levels={'a': 1}),
                                     dict(colors=[1]), dict(colors={'torso': 5}), dict(colors={'torso': [1, 2, {}]}),
                                     dict(ignore={1: 2}), dict(ignore=[[1]]), dict(ignore='255'), dict(coarse=[10]),
                                     dict(coarse={'torso': 10}), dict(coarse={'body': []}), dict(coarse={'body': 3}),
                                     dict(swap=5), dict(swap=['head', 'torso']), dict(swap=[['head']]),
                                     dict(swap=[['head', 'head']]), dict(swap=[['head', 'body']]), dict(swap=[[1, 2]]),
                                     dict(swap=[['head', 'torso'], ['torso', 'up_leg']])], ids=repr)
def test_options_of_a_wrong_type_are_one_line(options):
    with pytest.raises(TaxonomyError) as e:
        Taxonomy(PERSON, **options)
    assert str(e.value).startswith(f'{next(iter(options))}: ') and printable(str(e.value)) == str(e.value)


# size


def test_a_tree_of_every_id_builds_without_a_table_of_pairs():
    tax = Taxonomy({f'c{i}': i for i in range(65536)})
    assert tax.n_leaves == 65536 and tax.max_distance == 1 and tax.height(3, [3, 4]).tolist() == [0, 1]
    assert tax.groups(0)[65535] == [65535] and 'distance' not in tax._cached
    with pytest.raises(TaxonomyError, match='65,536 classes would take 32.0 GiB'):
        print(tax.distance)
    with pytest.raises(TaxonomyError, match='65,538 classes would take 4.0 GiB'):
        print(Taxonomy({'all': {f'c{i}': i for i in range(65535)}, 'more': {'rest': 65535}}).ancestors)


@given(trees())
def test_height_is_the_distance(tree):
    tax = Taxonomy(tree)
    a, b = np.meshgrid(np.arange(tax.n_leaves), np.arange(tax.n_leaves))
    assert (tax.height(a, b) == tax.distance[a, b]).all() and tax.max_distance == tax.distance.max()


@given(trees())
def test_children_and_groups_are_those_of_brute_force(tree):
    tax = Taxonomy(tree)
    for l in range(tax.n_levels):
        assert tax.groups(l) == [np.flatnonzero(tax.lift[l] == k).tolist() for k in range(tax.n_classes[l])]
        if l < tax.n_levels - 1:
            assert tax.children(l) == [
                np.flatnonzero(tax.parents[l + 1] == k).tolist() for k in range(tax.n_classes[l])
            ]


def test_the_command_line_prints_the_notes(tmp_path, capsys):
    from hierseg.cli import main
    (tmp_path / 't.yaml').write_text('rest: {background: 0}\nbody: {left arm: 1, right arm: 2, void: 3}')
    assert not main(['taxonomy', str(tmp_path / 't.yaml')])
    out = capsys.readouterr().out
    for note in Taxonomy(tmp_path / 't.yaml').notes:
        assert note in out
    assert 'background is rest/background (id 0)' in out and 'left arm and right arm change places' in out
