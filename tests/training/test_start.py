"Finished models as a start: which rows of a head are kept, that bodies are kept to the bit, what is refused and what is reported."
import json
import os
from collections import OrderedDict
from types import SimpleNamespace

os.environ['HF_HUB_OFFLINE'] = '1'
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from hierseg.data.loaders import HierDataLoaders
from hierseg.training.folder import ExperimentCallback
from hierseg.training.run import load_experiment
from hierseg.training.learner import hier_learner
from hierseg.models import transfer
from hierseg.models.transfer import (BodyHead, copy_rows, final_layer, match_rows, pixel_logits, resize_layer,
                                     with_head)
from hierseg.training.start import start_model
from hierseg.models.zoo import create_model, model_from_config, splitter
from hierseg.decoding.heads import EmbeddingHead, LeafHead, LevelHeads, NodeHead
from hierseg.data.synthetic import make_synthetic
from hierseg.taxonomy.tree import Taxonomy

from strategies import PERSON, trees

SMALL = dict(channels_array=[4, 8], bottleneck_channels=8, block_depth=1)
OTHER = {'bg': 0, 'body': {'upper_body': {'torso': 2, 'arm': [1, 6], 'head': 4}, 'leg': [3, 5]}}
HEADS = [LeafHead, NodeHead, LevelHeads, EmbeddingHead]
person, other = Taxonomy(PERSON), Taxonomy(OTHER)


def same(a, b):
    assert a.shape == b.shape and torch.equal(a, b)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_synthetic(tmp_path_factory.mktemp('data'), n_train=4, n_valid=2, size=32, seed=0)


def loaders(data, tree=PERSON, **kw):
    return HierDataLoaders.from_folder(data, tree, **{**dict(size=32, bs=2, num_workers=0), **kw})


def trained(learn, folder):
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-3, cbs=ExperimentCallback(folder=folder, n_triples=0))
    return learn


@pytest.fixture(scope='module')
def person_run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'person'
    return trained(hier_learner(loaders(data), 'unet', model_params=SMALL), folder), folder


# rows

@pytest.mark.parametrize('H', HEADS)
def test_the_same_tree_keeps_every_row(H):
    rows = match_rows(H(person), H(person))
    assert rows.source == list(range(H(person).n_channels)) and not any(rows.offset) and not rows.new and not rows.gone


@given(trees(), st.randoms(use_true_random=False))
def test_rows_of_nodes_are_those_of_the_same_path(tree, rnd):
    "Another order of the same tree, with other ids: brute force over the paths of all nodes."
    shuffle = lambda o: {k: shuffle(v) for k, v in rnd.sample(list(o.items()), len(o))} if isinstance(o, dict) else [i + 401 for i in o] if isinstance(o, list) else o + 401
    a, b = Taxonomy(tree), Taxonomy(shuffle(tree))
    for H in (LeafHead, NodeHead):
        n = H(a).n_channels
        want = [next(i for i in range(n) if a.node_paths[i] == b.node_paths[j]) for j in range(n)]
        assert match_rows(H(a), H(b)).source == want
    levels = match_rows(LevelHeads(a), LevelHeads(b)).source
    channels = [(l, n) for l in range(a.n_levels) for n in a.level_nodes[l]]
    for (l, n), s in zip([(l, n) for l in range(b.n_levels) for n in b.level_nodes[l]], levels, strict=True):
        assert channels[s][0] == l and a.node_paths[channels[s][1]] == b.node_paths[n]


def ids(o):
    return [i for v in o.values() for i in ids(v)] if isinstance(o, dict) else list(o) if isinstance(o, list) else [o]


@settings(max_examples=20)
@given(trees(), st.integers(0, 2**30))
def test_a_refined_tree_answers_as_the_old_one(tree, seed):
    "Classes split into parts: the old probabilities, to rounding, at every pixel, before any training."
    torch.manual_seed(seed)
    old, new = LeafHead(Taxonomy({k: ids(v) for k, v in tree.items()})), LeafHead(Taxonomy(tree))
    a, b = nn.Conv2d(3, old.n_channels, 1).double(), nn.Conv2d(3, new.n_channels, 1).double()
    rows = match_rows(old, new)
    copy_rows(b, a.weight, a.bias, rows, 'old')
    assert min(rows.source) >= 0 and not rows.new and not rows.gone
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64) * 5
    order = [old.taxonomy.level_classes[0].index(c) for c in new.taxonomy.level_classes[0]]
    torch.testing.assert_close(new.level_log_probs(b(x))[0].exp(), a(x).softmax(1)[:, order])


def test_rows_by_name_only_where_it_is_unique():
    flat = LeafHead(Taxonomy({'bg': 0, 'torso': 1, 'head': 2}))
    horse = LeafHead(Taxonomy({'bg': 0, 'man': {'head': 1, 'torso': 2}, 'horse': {'head': 3, 'mane': 4}}))
    rows = match_rows(flat, horse)
    assert rows.kept == ['bg', 'torso'] and rows.new == ['head', 'mane'] and rows.gone == ['head']
    assert match_rows(horse, flat).kept == ['bg', 'torso']


def test_a_name_that_is_a_node_of_the_new_tree_is_that_node():
    "Old class x, split in the new tree: a leaf called x, below it or elsewhere, has no claim to the whole row."
    a = LeafHead(Taxonomy({'w': 0, 'x': 1}))
    below, beside = (match_rows(a, LeafHead(Taxonomy(t))) for t in ({'w': 0, 'x': {'w': 1, 'x': 2}}, {'w': 0, 'x': {'a': 1, 'b': 2}, 'y': {'x': 3}}))
    assert below.source == [0, 1, 1] and below.split == ['w', 'x'] and below.offset[1:] == [-np.log(2)]*2
    assert beside.source == [0, 1, 1, -1] and beside.new == ['x']


def test_rows_of_two_kinds_of_head_are_not_mixed():
    kinds = {(A, B): max(match_rows(A(person), B(person)).source) for A in HEADS for B in HEADS if A is not B}
    assert {k for k, v in kinds.items() if v >= 0} == {(LeafHead, EmbeddingHead), (EmbeddingHead, LeafHead)}   # both have leaf logits in a softmax
    assert match_rows(EmbeddingHead(person, 4), EmbeddingHead(person, 8)).source[7:] == [-1]*8

    class Mine(LeafHead): pass
    assert set(match_rows(Mine(person), LeafHead(person)).source) == {-1}


def test_deeper_trees_keep_shallow_classes_of_level_heads():
    a, b = (LevelHeads(Taxonomy(t)) for t in ({'bg': 0, 'body': 1}, PERSON))
    assert match_rows(a, b).source == [0, 1, 0, -1, -1, 0] + [-1]*6


# layers

@pytest.mark.parametrize('layer', [nn.Conv2d(8, 6, 3, stride=2, padding=1, dilation=1, padding_mode='reflect', bias=False), nn.Conv2d(8, 6, 1, groups=2),
                                   nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1), nn.Linear(8, 6)])
def test_resized_layers(layer):
    x = torch.rand(2, 8, 8, 8)
    new = resize_layer(layer.half(), 4)
    assert new.weight.dtype == torch.float16 and (new.bias is None) == (layer.bias is None)
    want, got = list(layer.float()(x).shape), list(new.float()(x).shape)
    want[3 if isinstance(layer, nn.Linear) else 1] = 4
    assert got == want
    if layer.bias is not None: assert not new.bias.any()


def test_rows_of_a_transposed_convolution():
    a, b = nn.ConvTranspose2d(3, 7, 2, stride=2), nn.ConvTranspose2d(3, 6, 2, stride=2)
    rows = match_rows(LeafHead(person), LeafHead(other))
    copy_rows(b, a.weight, a.bias, rows, 'x')
    x = torch.rand(1, 3, 4, 4)
    for i, s in enumerate(rows.source):
        if s >= 0: torch.testing.assert_close(b(x)[:, i], a(x)[:, s])
    with pytest.raises(ValueError, match='old: its head reads features of shape'): copy_rows(b, torch.zeros(4, 7, 2, 2), None, rows, 'old')


def test_names_of_layers():
    net = create_model('unet', 3, 7, SMALL)
    assert final_layer(net, 'ups') == 'ups.1.0'
    for name in ('', None, 'hed', 'head.0'):
        with pytest.raises(ValueError, match='its last layers are .*head'): final_layer(net, name)


# experiments

@pytest.mark.parametrize('arch,params', [('unet', SMALL), ('segnet', dict(encoder_channels_array=[4, 8], block_depth=1)),
                                         ('dpt', dict(encoder='vit_tiny_patch16_224', decoder_intermediate_channels=[8]*4, decoder_fusion_channels=8)),
                                         ('upernet', dict(encoder='tf_efficientnet_lite0', decoder_channels=16))])
@pytest.mark.parametrize('loss', ['hierarchical', 'TreeMinLoss'])
def test_experiment_on_another_tree(arch, params, loss, data, tmp_path, capsys):
    if arch in ('dpt', 'upernet') and loss != 'hierarchical': return
    old = trained(hier_learner(loaders(data), arch, loss, model_params=params, pretrained=False if 'encoder' in params else None), tmp_path / 'old')
    capsys.readouterr()
    learn = hier_learner(loaders(data, OTHER), loss=loss, start=tmp_path / 'old')
    layer, report = learn.model.split_head, learn.model.started
    a, b = old.model.state_dict(), learn.model.state_dict()
    assert list(a) == list(b)
    for k in a:
        if not k.startswith(layer + '.'): same(a[k], b[k])
    rows = match_rows(old.head, learn.head)
    for i, s in enumerate(rows.source):
        if s >= 0:
            same(a[f'{layer}.weight'][s], b[f'{layer}.weight'][i])
            same(a[f'{layer}.bias'][s], b[f'{layer}.bias'][i])
    assert report.rows == rows and {'bg', 'torso', 'head'} <= set(rows.kept) and {'arm', 'leg'} <= set(rows.new) and 'low_leg' in rows.gone
    assert report.tensors == len(a) - 2 and report.dropped == []
    printed = capsys.readouterr().out
    assert printed == f'{report}\n' and printed.startswith('started from old (') and 'new arm, leg; gone low_hand' in printed
    trained(learn, tmp_path / 'new')
    again = load_experiment(tmp_path / 'new')
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad(): same(again.model(x), learn.model.eval()(x))
    assert [len(g) for g in splitter(again.model)] == [len(g) for g in splitter(learn.model)] and len(splitter(again.model)[-1]) == 2


def test_another_loss_gets_a_new_head(person_run, data):
    learn = hier_learner(loaders(data), loss='TreeMinLoss', start=person_run[1])
    assert learn.model.out_channels == person.n_nodes and not learn.model.started.rows.kept


def test_the_same_tree_is_a_warm_start(person_run, data):
    old, folder = person_run
    learn = hier_learner(loaders(data), start=str(folder / 'model.safetensors'))
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad(): same(learn.model.eval()(x), old.model.eval()(x))


@pytest.mark.parametrize('normalize', [False, ((.1, .2, .3), (.4, .5, .6))])
def test_images_are_normalised_as_the_old_model_had_them(normalize, data, tmp_path):
    trained(hier_learner(loaders(data, normalize=normalize), 'unet', model_params=SMALL), tmp_path / 'old')
    learn = hier_learner(loaders(data, OTHER), start=tmp_path / 'old')
    mean, std = normalize or ((0,)*3, (1,)*3)
    norm = learn.dls.data_config['normalize']
    np.testing.assert_allclose((norm['mean'], norm['std']), (mean, std))
    own = hier_learner(loaders(data, OTHER, normalize=((.5,)*3, (.25,)*3)), start=tmp_path / 'old')
    assert own.dls.data_config['normalize']['std'] == [.25]*3      # the caller's own statistics stay


def copy_run(folder, to, change):
    "An experiment with its weights changed by a function of the state dict."
    to.mkdir()
    for f in ('config.yaml', 'taxonomy.yaml'): (to / f).write_bytes((folder / f).read_bytes())
    state = load_file(folder / 'model.safetensors')
    change(state)
    save_file(state, to / 'model.safetensors')
    return to


def wide(state): state['ups.1.0.weight'] = torch.zeros(5, 12, 3, 3)


@pytest.mark.parametrize('change,msg', [
    (lambda s: s.pop('ups.1.0.weight'), r"broken: the body does not fit UNet: 1 of its \d+ tensors are missing, such as 'ups.1.0.weight'"),
    (wide, r"broken: the body does not fit UNet: 'ups.1.0.weight' is \(5, 12, 3, 3\), not \(8, 16, 3, 3\)"),
    (lambda s: s.pop('head.weight'), 'broken: holds no head.weight'),
    (lambda s: s.update({'head.weight': torch.zeros(7, 9, 1, 1)}), 'broken: its head reads features of shape')])
def test_a_body_that_does_not_fit(change, msg, person_run, data, tmp_path):
    with pytest.raises(ValueError, match=msg): hier_learner(loaders(data), start=copy_run(person_run[1], tmp_path / 'broken', change))


def test_what_is_not_loaded_is_named(person_run, data, tmp_path, capsys):
    folder = copy_run(person_run[1], tmp_path / 'more', lambda s: s.update(extra=torch.zeros(2)))
    learn = hier_learner(loaders(data), start=folder)
    assert learn.model.started.dropped == ['extra'] and 'not loaded: extra' in capsys.readouterr().out


def test_files_that_are_missing_or_broken(person_run, data, tmp_path):
    new = lambda start, **kw: hier_learner(loaders(data), start=start, **kw)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match='empty: holds neither config.yaml'): new(tmp_path / 'empty')
    with pytest.raises(ValueError, match='no such folder'): new(tmp_path / 'nowhere')
    for name, text, msg in (('a', '{[', r'config.yaml: not valid YAML'), ('b', 'lr: 1', 'config.yaml: has no model_params'),
                            ('c', 'model_params: {__class__: UNet}', 'taxonomy.yaml: no such file')):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'config.yaml').write_text(text)
        with pytest.raises(ValueError, match=msg): new(tmp_path / name)
    for f in ('config.yaml', 'taxonomy.yaml'): (tmp_path / 'c' / f).write_bytes((person_run[1] / f).read_bytes())
    with pytest.raises(ValueError, match='model.safetensors: no such file'): new(tmp_path / 'c')
    (tmp_path / 'c' / 'model.safetensors').write_bytes(b'0123456789')
    with pytest.raises(ValueError, match='model.safetensors: cannot be read as weights'): new(tmp_path / 'c')


def test_a_config_with_a_start_starts_again(person_run, data, tmp_path):
    "Never a silent random start: neither from a config, nor where the old folder has gone."
    learn = hier_learner(loaders(data, OTHER), start=person_run[1])
    params = {k: v for k, v in learn.model.config.items() if k not in ('in_channels', 'out_channels')}
    again = hier_learner(loaders(data, OTHER), None, model_params=params)
    for k, v in learn.model.state_dict().items():
        if not k.startswith('head.'): same(again.model.state_dict()[k], v)
    with pytest.raises(ValueError, match='gone.*no such folder'):
        hier_learner(loaders(data), None, model_params={**params, 'start': {'from': str(tmp_path / 'gone'), 'head': 'head'}})
    with pytest.raises(ValueError, match='or leave start out to begin anew'): create_model(None, 3, 7, {**params, 'start': {'from': None, 'head': 'head'}})


# checkpoints of segmentation_models_pytorch

import segmentation_models_pytorch as smp


@pytest.mark.parametrize('make,encoder', [
    (lambda: smp.Unet('resnet18', encoder_weights=None, classes=4, decoder_channels=(8, 8, 8, 8, 8)), 'smp-resnet18'),
    (lambda: smp.FPN('tu-tf_efficientnet_lite0', encoder_weights=None, classes=4, decoder_pyramid_channels=32, decoder_segmentation_channels=32, drop_path_rate=.1), 'tf_efficientnet_lite0'),
    (lambda: smp.DeepLabV3Plus('mobilenet_v2', encoder_weights=None, classes=4, decoder_channels=16), 'mobilenet_v2'),
    (lambda: smp.Segformer('mit_b0', encoder_weights=None, classes=4, decoder_segmentation_channels=16), 'mit_b0')], ids=['unet', 'fpn', 'deeplab', 'segformer'])
def test_checkpoint(make, encoder, data, tmp_path):
    net = make().eval()
    net.save_pretrained(tmp_path / 'ckpt')
    learn = hier_learner(loaders(data), start=tmp_path / 'ckpt')
    assert learn.model.config['encoder'] == encoder and learn.model.started.dropped == []
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        features = lambda m: m.decoder(m.encoder(x))
        same(features(learn.model.eval().net), features(net))
    assert learn.model(x).shape == (2, 7, 64, 64)
    assert [len(g) > 0 for g in splitter(learn.model)] == [True]*3
    again = model_from_config(yaml.safe_load(yaml.safe_dump(learn.model.config)))
    again.load_state_dict(learn.model.state_dict())
    with torch.no_grad(): same(again.eval()(x), learn.model(x))


def unet_checkpoint(folder, **kw):
    smp.Unet('tu-tf_efficientnet_lite0', encoder_weights=None, decoder_channels=(8, 8, 8, 8, 8), **kw).save_pretrained(folder)
    return folder


def edit(folder, **kw):
    cfg = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps({**cfg, **kw}))


def test_what_a_checkpoint_has_beyond_is_reported(data, tmp_path, capsys):
    learn = hier_learner(loaders(data), start=unet_checkpoint(tmp_path / 'c', aux_params=dict(classes=3), activation='sigmoid'))
    printed = capsys.readouterr().out
    assert all('classification_head' in k for k in learn.model.started.dropped) and len(learn.model.started.dropped) == 2
    assert 'not loaded: net.classification_head' in printed and "activation 'sigmoid' left off" in printed
    assert 'does not say how its images were normalised' in printed and learn.dls.data_config['normalize']['mean'] == [.5]*3


def test_saved_preprocessing_counts(data, tmp_path, capsys):
    import albumentations as A
    folder = unet_checkpoint(tmp_path / 'c')
    A.Compose([A.Sequential([A.Normalize(mean=(.1, .2, .3), std=(.4, .5, .6))])]).save_pretrained(folder)
    learn = hier_learner(loaders(data), start=folder)
    assert learn.dls.data_config['normalize'] == dict(mean=[.1, .2, .3], std=[.4, .5, .6]) and learn.model.config['normalization'] == [[.1, .2, .3], [.4, .5, .6]]
    assert 'does not say' not in capsys.readouterr().out


def test_checkpoints_that_are_refused(data, tmp_path):
    new = lambda start: hier_learner(loaders(data), start=start)
    folder = unet_checkpoint(tmp_path / 'c', in_channels=4)
    with pytest.raises(ValueError, match='images have 4 channels'): new(folder)
    edit(folder, in_channels=3)
    with pytest.raises(ValueError, match=r"c: the body does not fit EncoderDecoder: '\S*conv_stem.weight' is \(32, 4, 3, 3\), not \(32, 3, 3, 3\)"): new(folder)
    edit(folder, encoder_name='tu-tf_efficientnet_lite1')
    with pytest.raises(ValueError, match='tensors are missing'): new(folder)
    edit(folder, encoder_name='tu-no_such_net')
    with pytest.raises(ValueError, match="unknown encoder 'tu-no_such_net'"): new(folder)
    edit(folder, _model_class='Unit')
    with pytest.raises(ValueError, match="decoder 'Unit' is unknown .did you mean 'Unet'"): new(folder)
    (folder / 'model.safetensors').unlink()
    with pytest.raises(ValueError, match='model.safetensors: no such file'): new(folder)
    (folder / 'config.json').write_text('{"architectures": ["Segformer"]}')
    with pytest.raises(ValueError, match='lacks _model_class'): new(folder)


def test_hub_names(data, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="start='org/net': there is no such folder here, and it cannot be had from the hub.*HF_HUB_OFFLINE"):
        hier_learner(loaders(data), start='org/net')
    import huggingface_hub
    asked = []
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', lambda name, **kw: asked.append(name) or str(unet_checkpoint(tmp_path / 'cache')))
    learn = hier_learner(loaders(data), start='org/net')
    assert asked == ['org/net'] and learn.model.started.source == learn.model.config['start']['from'] == 'org/net'


# networks of the caller's own

class Net(nn.Module):
    def __init__(self, n=21, wrap=lambda o: o, stride=1):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, stride=stride), nn.BatchNorm2d(4), nn.ReLU())
        self.decode_head, self.wrap = nn.ModuleDict(dict(mid=nn.Conv2d(4, 4, 1), classifier=nn.Conv2d(4, n, 1))), wrap

    def forward(self, x): return self.wrap(self.decode_head['classifier'](self.decode_head['mid'](self.backbone(x))))


@pytest.mark.parametrize('wrap', [lambda o: o, lambda o: {'aux': o[:, :1], 'out': o}, lambda o: OrderedDict(loss=0, logits=o), lambda o: (o, 'labels')])
@pytest.mark.parametrize('stride', [1, 4])
def test_own_network(wrap, stride, data):
    net = Net(wrap=wrap, stride=stride)
    old, modes = {k: v.clone() for k, v in net.state_dict().items()}, net.training
    net.backbone[1].eval()
    learn = hier_learner(loaders(data), net, head='decode_head.classifier')
    assert learn.model(torch.rand(2, 3, 30, 21)).shape == (2, 7, 30, 21)
    assert learn.model.body is net and modes and net.training and not net.backbone[1].training      # the trial image leaves no trace
    assert [k for k, v in net.state_dict().items() if not torch.equal(v, old[k])] == ['decode_head.classifier.weight', 'decode_head.classifier.bias']
    body, head = splitter(learn.model)
    assert len(head) == 2 and len(body) == 6
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)


def test_own_network_with_the_wrong_name(data):
    net = Net()
    for name, msg in (('decode_head.mid', "'decode_head.mid' is not the last layer of Net: with 7 channels there, it fails"), ('head', "Net has no module 'head'"),
                      ('backbone.1', 'BatchNorm2d without a layer')):
        with pytest.raises(ValueError, match=msg): hier_learner(loaders(data), net, head=name)
    assert net.decode_head['mid'].out_channels == 4 and net(torch.rand(1, 3, 8, 8)).shape == (1, 21, 8, 8)
    for out in ({'masks': 1}, 'text', torch.rand(3, 4), (), SimpleNamespace()):
        with pytest.raises(ValueError, match='a segmentation model returns a tensor'): pixel_logits(out)


def test_torchvision(data):
    from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large
    net = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    learn = hier_learner(loaders(data), net, head='classifier.4')
    assert learn.model.eval()(torch.rand(1, 3, 40, 50)).shape == (1, 7, 40, 50)


def test_a_network_for_one_size_only(data):
    "It cannot be tried on a small image, and is taken at its word."
    class Fixed(Net):
        def forward(self, x):
            assert x.shape[-1] == 32
            return super().forward(x)
    learn = hier_learner(loaders(data), Fixed(), head='decode_head.classifier')
    with learn.no_bar(), learn.no_logging(): learn.fit(1)


def test_own_network_loads_again(data, tmp_path):
    learn = trained(hier_learner(loaders(data), Net(), head='decode_head.classifier'), tmp_path / 'own')
    with pytest.raises(ValueError, match="the caller's own Net: pass it again, with head='decode_head.classifier'"): load_experiment(tmp_path / 'own')
    again = load_experiment(tmp_path / 'own', model=Net(5), head='decode_head.classifier')
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad(): same(again.model(x), learn.model.eval()(x))
    with pytest.raises(ValueError, match="the caller's own Net: give it too"): hier_learner(loaders(data), start=tmp_path / 'own')
    other_tree = hier_learner(loaders(data, OTHER), Net(), start=tmp_path / 'own')
    same(other_tree.model.body.backbone[0].weight, learn.model.body.backbone[0].weight)
    assert other_tree.model.started.rows.kept == ['bg', 'torso', 'head'] and other_tree.model.started.network == 'Net'
    twice = with_head(other_tree.model, 'decode_head.classifier', 3)
    assert isinstance(twice, BodyHead) and twice.body is other_tree.model.body and twice(x).shape[1] == 3


def test_a_model_of_ours_needs_no_shell(data, tmp_path):
    net = create_model('unet', 3, 2, SMALL)
    learn = hier_learner(loaders(data), net, head='head')
    assert learn.model is net and net.config['out_channels'] == 7
    trained(learn, tmp_path / 'ours')
    again = load_experiment(tmp_path / 'ours')
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad(): same(again.model(x), net.eval()(x))
    assert [len(g) for g in splitter(again.model)] == [len(g) for g in splitter(net)]
    with pytest.raises(ValueError, match="'ups.1.0' is not the last layer of UNet, which is 'head'"): with_head(net, 'ups', 4)


@pytest.mark.parametrize('kw,msg', [
    (dict(arch='segnet'), 'leave out arch'), (dict(model_params=SMALL), 'leave out model_params'), (dict(encoder='resnet18', pretrained=True), 'leave out encoder, pretrained'),
    (dict(head='bottleneck'), r"bottleneck")])
def test_contradictions(kw, msg, person_run, data):
    with pytest.raises(ValueError, match=msg): hier_learner(loaders(data), start=person_run[1], **kw)


def test_more_contradictions(person_run, data, tmp_path):
    with pytest.raises(ValueError, match="'unet' gets its head from the loss"): hier_learner(loaders(data), 'unet', head='head')
    with pytest.raises(ValueError, match='only an experiment'): hier_learner(loaders(data), Net(), start=unet_checkpoint(tmp_path / 'c'))
    with pytest.raises(ValueError, match='the body does not fit BodyHead'): hier_learner(loaders(data), Net(), start=person_run[1], head='decode_head.classifier')


def test_quiet(person_run, capsys):
    assert start_model(person_run[1], LeafHead(other), verbose=False).out_channels == 5 and capsys.readouterr().out == ''
    assert transfer.Started.__doc__ and str(transfer.Started('a', 'B', 3, match_rows(None, LeafHead(other)))).startswith('started from a (B): body kept, 3 tensors; head: new bg, arm, torso')
