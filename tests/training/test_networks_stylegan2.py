"""StyleGAN2 networks against the golden values: names, shapes, images, logits, gradients."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset_format import sizes
from torch_utils import precision
from training import networks_stylegan2 as networks


def load(golden):
    data = golden('networks_stylegan2.npz')
    return data, json.loads(str(data['cases']))


def case_names(net):
    path = Path(__file__).parents[1] / 'golden' / 'networks_stylegan2.npz'
    with np.load(path) as data:
        return [case['name'] for case in json.loads(str(data['cases'])) if case['net'] == net]


def build(golden, net, name):
    """The network of a case, filled with its golden state; every name must match."""
    data, cases = load(golden)
    case = next(c for c in cases if c['net'] == net and c['name'] == name)
    module = (networks.Generator if net == 'G' else networks.Discriminator)(**case['kwargs'])
    prefix = f'{net}/{name}/state/'
    golden_state = {key[len(prefix) :]: data[key] for key in data if key.startswith(prefix)}
    ours = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    assert list(ours) == list(golden_state)
    with torch.no_grad():
        for key, tensor in ours.items():
            assert tuple(tensor.shape) == golden_state[key].shape, key
            tensor.copy_(torch.from_numpy(golden_state[key]))
    values = {
        key[len(f'{net}/{name}/') :]: torch.from_numpy(np.asarray(data[key]))
        for key in data
        if key.startswith(f'{net}/{name}/') and '/state/' not in key
    }
    return module, case, values


def assert_close(actual, expected, tolerance=1e-4):
    assert actual.shape == expected.shape
    error = (actual - expected).abs().max() / expected.abs().max()
    assert error <= tolerance, f'relative error {error:.2e}'


@pytest.mark.parametrize('name', case_names('G'))
def test_generator_golden(golden, name):
    G, case, v = build(golden, 'G', name)
    G.eval().requires_grad_(False)
    assert G.num_ws == case['num_ws']
    assert_close(G.mapping(v['z'], v['c']), v['ws'])
    for mode in ('const', 'none'):
        assert_close(G.synthesis(v['ws'], noise_mode=mode), v[f'img_{mode}'])
        for fused in (False, True):
            assert_close(G.synthesis(v['ws'], noise_mode=mode, fused_modconv=fused), v[f'img_{mode}'])
    assert_close(G.synthesis(v['ws'], noise_mode='const', fused_modconv=False), v['img_const_unfused'])
    assert_close(G(v['z'], v['c'], noise_mode='const'), v['img_const'])

    for cutoff, expected in ((3, v['ws_trunc']), (None, v['ws_trunc_all'])):
        assert_close(G.mapping(v['z'], v['c'], truncation_psi=0.6, truncation_cutoff=cutoff), expected)


@pytest.mark.parametrize('name', case_names('G'))
def test_mapping_running_mean(golden, name):
    G, _case, v = build(golden, 'G', name)
    G.train().requires_grad_(False)
    before = G.mapping.w_avg.clone()
    G.mapping(v['z'], v['c'], skip_w_avg_update=True)
    assert torch.equal(G.mapping.w_avg, before)
    assert_close(G.mapping(v['z'], v['c']), v['ws_train'])
    assert_close(G.mapping.w_avg, v['w_avg_after'])
    assert_close(G.mapping.w_avg, v['ws_train'][:, 0].mean(0).lerp(before, 0.995))


@pytest.mark.parametrize('name', case_names('D'))
def test_discriminator_golden(golden, name):
    D, case, v = build(golden, 'D', name)
    assert [n for n, _ in D.named_parameters()] == case['parameters']
    assert [n for n, _ in D.named_buffers()] == case['buffers']
    img = v['img'].clone().requires_grad_(True)
    logits = D(img, v['c'])
    assert_close(logits.detach(), v['logits'])
    (gradient,) = torch.autograd.grad(logits.sum(), img)
    assert_close(gradient, v['dimg'])


# ---------------------------------------------------------------------------------------------------------------------
# Sizes that are no squares of a power of two

# [height, width] or a number → the levels that name the blocks, and the lowest block's map.
SIZES = {
    (64, 96): ([4, 8, 16, 32, 64], (4, 6)),
    (48, 48): ([4, 8, 16, 32, 64], (3, 3)),
    (16, 64): ([4, 8, 16, 32], (2, 8)),
    (40, 24): ([4, 8, 16, 32], (5, 3)),
    (56, 56): ([8, 16, 32, 64], (7, 7)),
    (32, 32): ([4, 8, 16, 32], (4, 4)),
}


def build_pair(resolution, architecture='skip', num_fp16_res=0):
    torch.manual_seed(0)
    common = dict(img_resolution=resolution, img_channels=2)
    channels = dict(channel_base=256, channel_max=8, num_fp16_res=num_fp16_res)
    G = networks.Generator(
        z_dim=8,
        c_dim=3,
        w_dim=8,
        mapping_kwargs=dict(num_layers=2),
        **common,
        synthesis_kwargs=dict(channels, architecture=architecture),
    )
    return G, networks.Discriminator(c_dim=3, architecture=architecture, **common, **channels)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('architecture', ['orig', 'skip', 'resnet'])
def test_images_of_any_usable_size(size, architecture):
    levels, lowest = SIZES[size]
    resolution = size[0] if size[0] == size[1] else list(size)
    G, D = build_pair(resolution, architecture)
    assert G.img_resolution == D.img_resolution == G.synthesis.img_resolution == resolution
    assert G.synthesis.block_resolutions == levels and D.block_resolutions == levels[:0:-1]
    assert getattr(G.synthesis, f'b{levels[0]}').const.shape[1:] == lowest
    z, c = torch.randn(2, 8), torch.randn(2, 3)
    for noise_mode in ('random', 'const', 'none'):
        images = G(z, c, noise_mode=noise_mode)
        assert images.shape == (2, 2, *size)
    logits = D(images, c)
    assert logits.shape == (2, 1)
    logits.sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all()
        for network in (G, D)
        for name, parameter in network.named_parameters()
        if 'noise_strength' not in name
    )


def test_a_tuple_or_a_pair_of_equal_sides_is_the_same_network():
    by_number, by_pair = build_pair(32)[0], build_pair((32, 32))[0]
    assert by_pair.img_resolution == 32
    assert [(name, tensor.shape) for name, tensor in by_number.named_parameters()] == [
        (name, tensor.shape) for name, tensor in by_pair.named_parameters()
    ]
    assert build_pair((16, 24))[0].img_resolution == [16, 24]


def test_other_sizes_fit_a_square_network_by_name_and_shape():
    """All but the constant, the noise and the discriminator's first dense layer."""
    for square, other in zip(build_pair(64, 'resnet'), build_pair([64, 96], 'resnet')):
        ours, theirs = (dict(network.named_parameters()) for network in (other, square))
        assert list(ours) == list(theirs)
        assert [name for name in ours if ours[name].shape != theirs[name].shape] in (
            ['synthesis.b4.const'],
            ['b4.fc.weight'],
        )


def test_the_rule_of_sizes_is_that_of_the_datasets():
    for height in range(1, 130):
        for width in [*range(1, 130), 256, 512, 513]:
            try:
                networks._pyramid([height, width])
                usable = True
            except ValueError:
                usable = False
            assert usable == sizes.is_usable_size(width, height), (width, height)
            if usable:
                assert max(networks._pyramid([height, width])) == sizes.level_of(height, width)


@pytest.mark.parametrize('resolution', [22, [36, 64], [16, 128], 2, 0, -4, [8], [8, 8, 8], 'ab', 8.5, None])
def test_sizes_that_networks_cannot_have(resolution):
    with pytest.raises((ValueError, TypeError)):
        build_pair(resolution)


@pytest.mark.parametrize('wanted, nearest', [
    ((1280, 720), (1280, 768)), ((100, 100), (96, 96)), ((640, 480), (640, 512)), ((3, 3), (4, 4)),
    ((1, 1000), (8, 32)), ((96, 64), (96, 64)),
])  # fmt: skip
def test_nearest_sizes(wanted, nearest):
    found = sizes.nearest_usable_sizes(*wanted)
    assert found[0] == nearest and len(set(found)) == 3
    assert all(sizes.is_usable_size(*size) for size in found)


def test_a_map_of_the_wrong_proportions_is_refused():
    G, D = build_pair([16, 24])
    with pytest.raises(AssertionError):
        D(G(torch.randn(1, 8), torch.randn(1, 3)).mT, torch.randn(1, 3))


def test_half_precision_of_other_sizes_is_asked_for_by_level():
    G, D = build_pair([64, 96], num_fp16_res=2)
    for network in (G.synthesis, D):
        assert [level for level in network.block_resolutions if getattr(network, f'b{level}').use_fp16] in (
            [32, 64],
            [64, 32],
        )


def test_a_block_is_exported_for_any_number_of_images():
    block = networks.DiscriminatorBlock(32, 32, 32, resolution=8, img_channels=3, first_layer_idx=0).eval()
    sizes_of_x = {0: torch.export.Dim('images', max=100)}
    with precision.readable_setting():
        exported = torch.export.export(
            block, (torch.randn(2, 32, 8, 8), None), dynamic_shapes=(sizes_of_x, None), strict=False
        ).module()
    x = torch.randn(5, 32, 8, 8)
    assert_close(exported(x, None)[0], block(x, None)[0])


@pytest.mark.parametrize('size', [4, 32])
def test_second_derivatives_of_a_single_image_with_a_dead_channel(size):
    x, weight = torch.randn(1, 8, size, size), torch.randn(8, 8, 3, 3)
    weight[3] = 0
    styles = torch.ones(1, 8, requires_grad=True)
    found = []
    for fused in (True, False):
        y = networks.modulated_conv2d(x, weight, styles, padding=1, fused_modconv=fused)
        (gradient,) = torch.autograd.grad(y.square().sum(), styles, create_graph=True)
        found.append(torch.autograd.grad(gradient.square().sum(), styles)[0])
    assert found[0].isfinite().all()
    assert_close(*found)


def test_generator_passes_further_arguments_to_synthesis():
    """`forward(z, c, truncation_psi, truncation_cutoff, **synthesis_kwargs)`, as published."""
    torch.manual_seed(0)
    G = networks.Generator(4, 0, 4, 16, 3, {'num_layers': 1}, {'channel_base': 64}).eval()
    z = torch.randn(2, 4)
    ws = G.mapping(z, None, truncation_psi=0.5, truncation_cutoff=2)
    for options in ({'noise_mode': 'none', 'gain': 0.5}, {'noise_mode': 'const', 'fused_modconv': True}):
        assert torch.equal(G(z, None, 0.5, 2, **options), G.synthesis(ws, **options))
    assert not torch.equal(G(z, None, noise_mode='none', gain=0.5), G(z, None, noise_mode='none'))
    with pytest.raises(TypeError, match='unheard_of'):
        G(z, None, unheard_of=1)
    torch.manual_seed(1)
    random = G(z, None)
    torch.manual_seed(1)
    assert torch.equal(random, G(z, None, noise_mode='random', force_fp32=False))


def test_layers_of_the_mapping_network_can_be_frozen():
    options = dict(z_dim=4, c_dim=2, w_dim=4, num_ws=3, num_layers=3)
    torch.manual_seed(0)
    free = networks.MappingNetwork(**options).eval()
    layers = ['embed', 'fc0', 'fc1', 'fc2']
    for frozen, kwargs in [
        ([], dict(freeze_layers=0, freeze_embed=False)),
        (['embed'], dict(freeze_embed=True)),
        (['fc0', 'fc1'], dict(freeze_layers=2)),
        (layers, dict(freeze_layers=99, freeze_embed=True)),
    ]:
        torch.manual_seed(0)
        mapping = networks.MappingNetwork(**options, **kwargs).eval()
        trained = [f'{layer}.{name}' for layer in layers if layer not in frozen for name in ('weight', 'bias')]
        assert [name for name, _ in mapping.named_parameters()] == trained
        assert mapping.state_dict().keys() == free.state_dict().keys()
        assert all(torch.equal(tensor, mapping.state_dict()[name]) for name, tensor in free.state_dict().items())
        z, c = torch.randn(5, 4), torch.eye(2)[[0, 1, 1, 0, 1]]
        assert torch.equal(mapping.double()(z, c), free.double()(z, c)) and mapping(z, c).dtype == torch.float64
        free.float()


def test_running_means_move_on_request_as_in_stylegan3():
    G = networks.Generator(4, 0, 4, 8, 1, {'num_layers': 1}, {'channel_base': 32})
    D = networks.Discriminator(0, 8, 1, channel_base=32)
    z = torch.randn(4, 4)
    ws = G.eval().mapping(z, None)
    G(z, None, update_emas=True)  # in evaluation mode
    assert torch.allclose(G.mapping.w_avg, ws[:, 0].mean(dim=0) * (1 - 0.995), atol=1e-8)
    once = G.mapping.w_avg.clone()
    G.train()(z, None)  # in training mode
    assert not torch.equal(G.mapping.w_avg, once)
    G.mapping(z, None, skip_w_avg_update=True)
    assert D(G.synthesis(ws, update_emas=True), None, update_emas=True).shape == (4, 1)
