"""Networks in the layout of stylegan2-pytorch, compared with an independent forward pass written from the papers."""

import argparse
import io
import math

import pytest
import torch
from torch.nn import functional

import legacy
from network_files import rosinality
from network_files.construction import named_tensors
from tests.small_generators import make_generator, make_stylegan3_generator
from training.networks_stylegan2 import Discriminator, Generator

SIZE, WIDTH = 32, 24


def make_networks(img_channels=3, num_layers=3, lr_multiplier=0.01, c_dim=0, seed=0):
    torch.manual_seed(seed)
    options = dict(channel_base=512, channel_max=32)
    G = Generator(
        z_dim=WIDTH,
        c_dim=c_dim,
        w_dim=WIDTH,
        img_resolution=SIZE,
        img_channels=img_channels,
        mapping_kwargs=dict(num_layers=num_layers, lr_multiplier=lr_multiplier),
        synthesis_kwargs=options,
    )
    D = Discriminator(c_dim=c_dim, img_resolution=SIZE, img_channels=img_channels, **options)
    for module in (G, D):
        for name, parameter in module.named_parameters():
            if name.endswith(('bias', 'noise_strength')):
                parameter.data.add_(torch.randn(parameter.shape) * 0.3)
    G.mapping.w_avg.copy_(torch.randn(WIDTH) * 0.1)
    return G.eval().requires_grad_(False), D.eval().requires_grad_(False)


def saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def load(content):
    return legacy.load_network_pkl(io.BytesIO(content))


# ---------------------------------------------------------------------------------------------------------------------
# The forward pass of StyleGAN2 (arXiv 1912.04958), in float64, on a state dict of the layout. Sizes come from shapes.


def leaky(x):
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def linear(state, name, x, lr=1.0, activate=False):
    weight, bias = state[f'{name}.weight'], state[f'{name}.bias']
    y = x @ weight.T * (lr / math.sqrt(weight.shape[1])) + bias * lr
    return leaky(y) if activate else y


def filtered(x, kernel, up, pads):
    """Insert zeros, pad, and correlate each channel with a flipped kernel."""
    n, c, h, w = x.shape
    wide = x.new_zeros(n, c, h * up, w * up)
    wide[:, :, ::up, ::up] = x
    wide = functional.pad(wide, [*pads, *pads])
    single = functional.conv2d(wide.reshape(n * c, 1, *wide.shape[2:]), kernel.flip(0, 1)[None, None])
    return single.reshape(n, c, *single.shape[2:])


def styled(state, name, x, w, demodulate, up=False):
    weight = state[f'{name}.weight'][0]  # [O, I, k, k]
    size = weight.shape[-1]
    style = linear(state, f'{name}.modulation', w)
    outputs = []
    for sample, s in zip(x, style):
        scaled = weight * s[None, :, None, None] / math.sqrt(weight[0].numel())
        if demodulate:
            scaled = scaled / (scaled.square().sum(dim=[1, 2, 3], keepdim=True) + 1e-8).sqrt()
        if up:
            y = functional.conv_transpose2d(sample[None], scaled.transpose(0, 1), stride=2)
            y = filtered(y, state[f'{name}.blur.kernel'], 1, (1, 1))
        else:
            y = functional.conv2d(sample[None], scaled, padding=size // 2)
        outputs.append(y)
    return torch.cat(outputs)


def layer(state, name, noise, x, w, up=False):
    x = styled(state, f'{name}.conv', x, w, demodulate=True, up=up)
    x = x + state[f'{name}.noise.weight'] * state[f'noises.noise_{noise}']
    return leaky(x + state[f'{name}.activate.bias'][None, :, None, None])


def to_rgb(state, name, x, w, image):
    rgb = styled(state, f'{name}.conv', x, w, demodulate=False) + state[f'{name}.bias']
    return rgb if image is None else rgb + filtered(image, state[f'{name}.upsample.kernel'], 2, (2, 1))


def generate(state, z):
    state = {name: tensor.double() for name, tensor in state.items()}
    w = z.double() / (z.double().square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
    index = 1
    while f'style.{index}.weight' in state:
        w = linear(state, f'style.{index}', w, lr=0.01, activate=True)
        index += 1
    x = layer(state, 'conv1', 0, state['input.input'].expand(len(z), -1, -1, -1), w)
    image = to_rgb(state, 'to_rgb1', x, w, None)
    block = 0
    while f'to_rgbs.{block}.bias' in state:
        x = layer(state, f'convs.{2 * block}', 2 * block + 1, x, w, up=True)
        x = layer(state, f'convs.{2 * block + 1}', 2 * block + 2, x, w)
        image = to_rgb(state, f'to_rgbs.{block}', x, w, image)
        block += 1
    return image


def convolve(state, weight, x, down=None, bias=None):
    weight = state[weight]
    scaled = weight / math.sqrt(weight[0].numel())
    if down is None:
        x = functional.conv2d(x, scaled, padding=weight.shape[-1] // 2)
    else:
        pad = (weight.shape[-1] + 1) // 2
        x = functional.conv2d(filtered(x, state[down], 1, (pad, pad)), scaled, stride=2)
    return x if bias is None else leaky(x + state[bias][None, :, None, None])


def discriminate(state, images):
    state = {name: tensor.double() for name, tensor in state.items()}
    x = convolve(state, 'convs.0.0.weight', images.double(), bias='convs.0.1.bias')
    index = 1
    while f'convs.{index}.skip.1.weight' in state:
        p = f'convs.{index}'
        skip = convolve(state, f'{p}.skip.1.weight', x, down=f'{p}.skip.0.kernel')
        x = convolve(state, f'{p}.conv1.0.weight', x, bias=f'{p}.conv1.1.bias')
        x = convolve(state, f'{p}.conv2.1.weight', x, down=f'{p}.conv2.0.kernel', bias=f'{p}.conv2.2.bias')
        x = (x + skip) / math.sqrt(2)
        index += 1
    groups = x.reshape(min(4, len(x)), -1, *x.shape[1:])
    spread = (groups.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=[1, 2, 3])  # [groups]
    spread = spread.repeat(groups.shape[0])[:, None, None, None].expand(-1, 1, *x.shape[2:])
    x = convolve(state, 'final_conv.0.weight', torch.cat([x, spread], dim=1), bias='final_conv.1.bias')
    return linear(state, 'final_linear.1', linear(state, 'final_linear.0', x.flatten(1), activate=True))


# ---------------------------------------------------------------------------------------------------------------------
# Writing


@pytest.mark.parametrize('img_channels, lr_multiplier', [(3, 0.01), (4, 0.03)])
def test_networks_compute_the_same(img_channels, lr_multiplier):
    G, D = make_networks(img_channels, lr_multiplier=lr_multiplier)
    content = rosinality.to_layout({'G_ema': G, 'G': None, 'D': D})
    z = torch.randn(2, WIDTH)
    expected = G(z, None, noise_mode='const')
    torch.testing.assert_close(generate(content['g_ema'], z).float(), expected, rtol=1e-4, atol=1e-4)
    images = torch.randn(8, img_channels, SIZE, SIZE)
    torch.testing.assert_close(discriminate(content['d'], images).float(), D(images, None), rtol=1e-4, atol=1e-4)
    assert torch.equal(content['latent_avg'], G.mapping.w_avg)


def test_shapes_are_those_of_the_layout():
    G, D = make_networks()
    content = rosinality.to_layout({'G_ema': G, 'G': G, 'D': D})
    assert set(content) == {'g_ema', 'd', 'latent_avg'}  # G is G_ema
    shapes = {name: list(tensor.shape) for name, tensor in content['g_ema'].items()}
    assert shapes['input.input'] == [1, 32, 4, 4]
    assert shapes['conv1.conv.weight'] == [1, 32, 32, 3, 3]
    assert shapes['convs.5.conv.weight'] == [1, 16, 16, 3, 3]
    assert shapes['convs.4.conv.blur.kernel'] == shapes['to_rgbs.2.upsample.kernel'] == [4, 4]
    assert shapes['noises.noise_6'] == [1, 1, 32, 32] and shapes['conv1.noise.weight'] == [1]
    assert shapes['to_rgb1.bias'] == [1, 3, 1, 1] and shapes['conv1.activate.bias'] == [32]
    assert content['g_ema']['convs.0.conv.blur.kernel'].sum().item() == pytest.approx(4)
    assert content['d']['convs.1.conv2.0.kernel'].sum().item() == pytest.approx(1)
    shapes = {name: list(tensor.shape) for name, tensor in content['d'].items()}
    assert shapes['convs.0.0.weight'] == [16, 3, 1, 1] and shapes['final_conv.0.weight'] == [32, 33, 3, 3]
    assert shapes['final_linear.0.weight'] == [32, 512] and shapes['final_linear.1.weight'] == [1, 32]


def test_one_class_of_a_conditional_network(capsys):
    G, D = make_networks(c_dim=3)
    label = torch.eye(3)[1:2]
    content = rosinality.to_layout({'G_ema': G, 'D': D}, label)
    z = torch.randn(2, WIDTH)
    expected = G(z, label.expand(2, -1), noise_mode='const')
    torch.testing.assert_close(generate(content['g_ema'], z).float(), expected, rtol=1e-4, atol=1e-4)
    assert 'd' not in content and 'discriminator is left out, since it is conditional' in capsys.readouterr().err


@pytest.mark.parametrize('network, hint', [
    (make_stylegan3_generator(), 'not one of StyleGAN2'),
    (make_generator(c_dim=3), 'is conditional'),
    (make_generator(img_resolution=[16, 24]), 'squares whose side is a power of two'),
    (Generator(16, 0, 8, 16, 3, synthesis_kwargs={'channel_max': 8}), r'different sizes \(8, 16\)'),
    (Generator(8, 0, 8, 16, 3, synthesis_kwargs={'channel_max': 8, 'architecture': 'resnet'}), "than 'skip'"),
    (Generator(8, 0, 8, 16, 3, synthesis_kwargs={'channel_max': 8, 'activation': 'relu'}), "activation 'relu'"),
    (Generator(8, 0, 8, 16, 3, synthesis_kwargs={'channel_max': 8, 'resample_filter': [1, 2, 1]}), 'another filter'),
], ids=['stylegan3', 'classes', 'sides', 'z', 'resnet', 'relu', 'filter'])  # fmt: skip
def test_networks_that_do_not_fit(network, hint):
    with pytest.raises(rosinality.NotInLayout, match=hint):
        rosinality.to_layout({'G_ema': network})


@pytest.mark.parametrize('kwargs, expected', [
    (dict(channel_base=32768), None),
    (dict(channel_base=16384), 'channel_multiplier=1'),
    (dict(channel_base=4096), 'the channels {4: 512, 8: 512, 16: 256, 32: 128, 64: 64}'),
])  # fmt: skip
def test_conventions(kwargs, expected):
    with torch.device('meta'):
        G = Generator(512, 0, 512, 64, 3, synthesis_kwargs=kwargs)
    assert rosinality.conventions(G) == expected


# ---------------------------------------------------------------------------------------------------------------------
# Reading


@pytest.mark.parametrize('options', [{}, {'_use_new_zipfile_serialization': False}], ids=['zip', 'before PyTorch 1.6'])
def test_round_trip_is_exact(options):
    G, D = make_networks()
    G_raw, _ = make_networks(seed=1)
    found = load(saved(rosinality.to_layout({'G_ema': G, 'G': G_raw, 'D': D}), **options))
    for key, module in (('G_ema', G), ('G', G_raw), ('D', D)):
        ours, theirs = named_tensors(found[key]), named_tensors(module)
        assert ours.keys() == theirs.keys()
        for name in ours:
            if name != 'mapping.w_avg' or key == 'G_ema':  # the file has one mean
                torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-7, msg=f'{key} {name}')


def test_checkpoint_of_a_training():
    """With optimizers, arguments, names of parallel training, noise and mean missing; the arguments are not run."""
    G, _D = make_networks()
    state = rosinality.to_layout({'G_ema': G})['g_ema']
    state = {f'module.{name}': tensor for name, tensor in state.items() if not name.startswith('noises.')}
    adam = torch.optim.Adam([torch.nn.Parameter(torch.zeros(3))])
    content = {'g_ema': state, 'g_optim': adam.state_dict(), 'args': argparse.Namespace(size=SIZE), 'ada_aug_p': 0.1}
    found = load(saved(content))['G_ema']
    z = torch.randn(2, WIDTH)
    expected = G(z, None, noise_mode='none')
    torch.testing.assert_close(found(z, None, noise_mode='none'), expected, rtol=1e-5, atol=1e-5)
    mean = found.mapping(torch.randn(20_000, WIDTH), None)[:, 0].mean(dim=0)
    torch.testing.assert_close(found.mapping.w_avg, mean, rtol=0, atol=0.06)


def test_mean_of_all_layers():
    G, _D = make_networks()
    content = rosinality.to_layout({'G_ema': G})
    content['latent_avg'] = content['latent_avg'].repeat(8, 1)  # as pSp stores it
    torch.testing.assert_close(load(saved(content))['G_ema'].mapping.w_avg, G.mapping.w_avg)


def test_whole_module_as_pti_saves_it():
    G = make_generator(c_dim=3)
    found = load(saved(G))
    assert all(torch.equal(tensor, named_tensors(found['G_ema'])[name]) for name, tensor in named_tensors(G).items())
    assert found['G'] is None and found['D'] is None
    found = load(saved({'G_ema': G, 'step': 7}))
    assert found['step'] == 7 and found['G_ema'].c_dim == 3
    found = load(saved(make_stylegan3_generator()))
    assert type(found['G_ema']).__module__ == 'training.networks_stylegan3'


def with_change(change):
    content = rosinality.to_layout(dict(zip(('G_ema', 'D'), make_networks())))
    change(content)
    return saved(content)


@pytest.mark.parametrize('change, hint', [
    (lambda c: c['g_ema'].pop('convs.0.conv.weight'), r'convs\.0\.conv\.weight is missing'),
    (lambda c: c['g_ema'].pop('style.2.weight'), 'is missing|is unknown'),
    (lambda c: c['g_ema'].update(extra=torch.zeros(1)), 'extra is unknown here'),
    (lambda c: c['g_ema'].update(extra='text'), 'not a tensor with a name'),
    (lambda c: c['g_ema'].update({'conv1.conv.weight': torch.zeros(3)}), r'has shape \[3\]'),
    (lambda c: c['g_ema'].update({'to_rgb1.bias': torch.zeros(1, 3, 2, 1)}), r'has shape \[1, 3, 2, 1\]'),
    (lambda c: c['g_ema'].update({'convs.1.conv.weight': torch.zeros(1, 5, 5, 3, 3)}), r'channels \(32, 5, 32, 16\)'),
    (lambda c: c['g_ema'].update({'to_rgbs.0.upsample.kernel': torch.ones(2, 2)}), 'another filter'),
    (lambda c: c['g_ema'].update({'convs.0.conv.modulation.bias': torch.zeros(5)}), 'do not match Generator'),
    (lambda c: c.update(latent_avg=torch.zeros(5)), 'latent_avg is not a mean'),
    (lambda c: c['d'].pop('final_linear.0.bias'), r'final_linear\.0\.bias is missing'),
])  # fmt: skip
def test_damaged_content(change, hint):
    with pytest.raises(legacy.NetworkPickleError, match=hint) as caught:
        load(with_change(change))
    assert '\n' not in str(caught.value)


def test_cut_files():
    for options in ({}, {'_use_new_zipfile_serialization': False}):
        content = saved(rosinality.to_layout(dict(zip(('G_ema', 'D'), make_networks()))), **options)
        for size in (100, len(content) // 2, len(content) - 100):
            with pytest.raises(legacy.NetworkPickleError, match='not a network pickle'):
                load(content[:size])


# ---------------------------------------------------------------------------------------------------------------------
# legacy.py


def test_legacy_writes_and_reads_the_layout(run_script, tmp_path):
    G, D = make_networks()
    legacy.save_network_pkl({'G': None, 'D': D, 'G_ema': G}, tmp_path / 'network.pkl')
    result = run_script('legacy.py', '--source=network.pkl', '--dest=network.pt')
    assert result.returncode == 0, result.stderr
    assert 'have to be told the channels {4: 32, 8: 32, 16: 32, 32: 16}, style_dim=24, n_mlp=3' in result.stdout
    content = torch.load(tmp_path / 'network.pt', weights_only=True)
    assert set(content) == {'g_ema', 'd', 'latent_avg'}
    result = run_script('legacy.py', '--source=network.pt', '--dest=again.pkl')
    assert result.returncode == 0, result.stderr
    z = torch.randn(1, WIDTH)
    with open(tmp_path / 'again.pkl', 'rb') as f:
        found = legacy.load_network_pkl(f)['G_ema']
    images = [network(z, None, truncation_psi=0.5, noise_mode='const') for network in (G, found)]
    torch.testing.assert_close(*images, rtol=0, atol=1e-6)
    result = run_script('generate.py', '--network=network.pt', '--seeds=0', '--outdir=out', '--device=cpu')
    assert result.returncode == 0 and (tmp_path / 'out' / 'seed0000.png').exists(), result.stderr


def test_legacy_refuses_in_one_sentence(run_script, tmp_path):
    G, D = make_networks(c_dim=3)
    data = {'G': None, 'D': D, 'G_ema': G, 'class_names': ['ant', 'bee', 'cat']}
    legacy.save_network_pkl(data, tmp_path / 'network.pkl')
    for options, hint in (
        (['--dest=x.pt'], "'--class': the network is conditional, so a class is required"),
        (['--dest=x.pkl', '--class=bee'], "'--class': .pkl files have labels"),
        (['--dest=x.pth'], 'must end in .pkl, .safetensors or .pt'),
    ):
        result = run_script('legacy.py', '--source=network.pkl', *options)
        assert result.returncode == 2 and hint in result.stderr and 'Traceback' not in result.stderr
    result = run_script('legacy.py', '--source=network.pkl', '--dest=bee.pt', '--class=bee')
    assert result.returncode == 0, result.stderr
    assert set(torch.load(tmp_path / 'bee.pt', weights_only=True)) == {'g_ema', 'latent_avg'}
