"Labels of inner nodes, and classes that change places in a mirror, against enumeration."
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import PERSON, trees

from hierseg.taxonomy.tree import Taxonomy
from hierseg.taxonomy.tensors import decompose_mask, levels_known, lift_mask


def under(tax, node):
    "Leaves under a node, from the paths alone."
    path = tax.node_paths[node]
    return [c for c in range(tax.n_leaves) if tax.node_paths[c][:len(path)] == path]


def with_coarse(tree):
    "A tree in which every inner node has an id of its own, and that id by node."
    plain = Taxonomy(tree)
    inner = range(plain.n_leaves, plain.n_nodes)
    keys = ['/'.join(plain.node_paths[n]) for n in inner]
    return Taxonomy(tree, coarse={k: 1000 + n for k, n in zip(keys, inner)}), plain


@given(trees(), st.integers(0, 2**31 - 1))
def test_a_coarse_pixel_has_the_class_that_all_its_leaves_share(tree, seed):
    tax, plain = with_coarse(tree)
    rng = np.random.default_rng(seed)
    raw = np.array([1000 + n if n >= tax.n_leaves else min(tax.leaf_ids[n]) for n in rng.integers(0, tax.n_nodes, 40)])
    mask = tax.encode(raw.reshape(5, 8))
    assert tax.decode(mask).tolist() == raw.reshape(5, 8).tolist()
    levels = decompose_mask(torch.tensor(mask), tax)
    known = levels_known(torch.tensor(mask), tax)
    for l in range(tax.n_levels):
        want = [[{plain.lift[l, c] for c in under(tax, n)} for n in row] for row in mask]
        want = torch.tensor([[s.pop() if len(s) == 1 else -100 for s in row] for row in want])
        assert torch.equal(levels[l], want) and torch.equal(lift_mask(torch.tensor(mask), tax, l), want)
        assert torch.equal(known > l, want >= 0)


@given(trees())
def test_a_tree_without_coarse_ids_is_as_it_was(tree):
    tax = Taxonomy(tree)
    mask = torch.tensor([*range(tax.n_leaves), -100])
    assert tax.n_codes == tax.n_leaves and not tax.coarse and decompose_mask(mask, tax)[-1] is mask
    assert lift_mask(mask, tax, -1) is mask and levels_known(mask, tax).tolist() == [tax.n_levels] * tax.n_leaves + [0]
    coarse, _ = with_coarse(tree)
    assert coarse.vocab == tax.vocab and (coarse.lift == tax.lift).all() and coarse.node_paths == tax.node_paths
    assert coarse == tax if tax.n_nodes == tax.n_leaves else coarse != tax
    assert Taxonomy.from_text(coarse.to_yaml()) == coarse


def test_coarse_ids_are_read_shown_and_counted():
    tax = Taxonomy.from_text('hierarchy: {bg: 0, body: {ids: 1, id: 2}}\ncoarse: {body: [10, 11]}')
    assert tax.vocab == ['bg', 'ids', 'id'] and tax.encode(np.array([10, 11, 2])).tolist() == [3, 3, 2]
    assert 'body: 10, 11' in str(tax) and tax.classes_content['level_1'] == {'body': [10, 11, 1, 2]}
    assert tax.ids_of('level_1', 'body') == [10, 11, 1, 2] and tax.unknown_ids(np.array([10, 12])) == [12]
    assert tax.node_ids == [[0], [1], [2], [10, 11]]


@pytest.mark.parametrize('names, pairs', [
    (['left_arm', 'right_arm', 'head'], 1), (['l_arm', 'r_arm', 'l_leg', 'r_leg'], 2), (['arm.L', 'arm.R'], 1),
    (['Arm (left)', 'Arm (right)'], 1), (['LeftArm', 'RightArm'], 1), (['armL', 'armR'], 1), (['left', 'right'], 1),
    (['bright', 'leftover', 'copyright'], 0), (['left_arm', 'right_leg'], 0), (['liver', 'river', 'l', 'x'], 0),
    (['torso', 'head'], 0), (['left_left', 'right_right'], 0)])
def test_left_right_pairs_are_proposed_from_names(names, pairs):
    tax = Taxonomy({'bg': 0, 'all': {n: i + 1 for i, n in enumerate(names)}})
    found = tax.left_right_pairs()
    assert len(found) == pairs and all(a != b for a, b in found)
    assert any('change places' in n for n in tax.notes) == (pairs > 0)
    if pairs:
        swapped = Taxonomy(tax, swap=[[tax.vocab[a], tax.vocab[b]] for a, b in found])
        assert swapped.swap == found and not any('change places' in n for n in swapped.notes)
        assert Taxonomy.from_text(swapped.to_yaml()) == swapped


def test_branches_stand_for_the_pairs_below_them():
    sided = {
        'left leg': {'foot': 1, 'l knee': 2},
        'right leg': {'r knee': 3, 'foot': 4},
        'head': {'nose': 5, 'chin': 6},
    }
    tax = Taxonomy({'bg': 0, 'body': sided}, swap=[['left leg', 'right leg']], coarse={'left leg': 21, 'right leg': 22})
    assert sorted(tax.swap) == [(1, 4), (2, 3)]
    mask = tax.encode(np.array([0, 1, 2, 3, 4, 5, 21, 22]))
    assert tax.decode(tax.swap_table[mask]).tolist() == [0, 4, 3, 2, 1, 5, 22, 21]


@given(trees())
def test_the_swap_table_is_its_own_inverse(tree):
    tax = Taxonomy(tree)
    sister = next(([k[0], k[1]] for l in range(tax.n_levels) for k in [tax.groups(l)[-1]] if len(k) > 1), None)
    if sister is None:
        return
    pair = [['/'.join(tax.node_paths[c]) for c in sister]]
    table = Taxonomy(tree, swap=pair).swap_table
    assert (table[table] == np.arange(tax.n_nodes)).all() and (table != np.arange(tax.n_nodes)).sum() == 2 or (
        tax.node_parent[sister[0]] != tax.node_parent[sister[1]])


def test_person_has_no_sides():
    assert Taxonomy(PERSON).left_right_pairs() == [] and Taxonomy(PERSON).swap == []
    assert (Taxonomy(PERSON).swap_table == np.arange(10)).all()


@given(trees(), st.integers(0, 2**31 - 1))
def test_the_data_room_encodes_as_the_tree_does(tree, seed):
    from hierseg.data.tensors import class_indices, encode_mask
    tax, _ = with_coarse(tree)
    known = [i for ids in tax.node_ids for i in ids]
    raw = np.random.default_rng(seed).choice(known, (6, 7)).astype(np.uint16)
    assert (class_indices(encode_mask(raw, tax)) == tax.encode(raw)).all()
