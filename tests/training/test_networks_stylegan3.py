"""The generator of StyleGAN3 against the golden values: names, shapes, filters, images; and what it promises."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from training import networks_stylegan3 as networks

GOLDEN = Path(__file__).parents[1] / 'golden' / 'networks_stylegan3.npz'
with np.load(GOLDEN) as _data:
    CASES = {case['name']: case for case in json.loads(str(_data['cases']))}

SMALL = dict(z_dim=8, c_dim=0, w_dim=8, img_channels=3, channel_base=256, channel_max=8, num_fp16_res=0)


@pytest.fixture(params=CASES)
def case(request, golden):
    """The network of a case with its golden state, the case, and its other values by name."""
    name, data = request.param, golden('networks_stylegan3.npz')
    G = networks.Generator(**CASES[name]['kwargs']).eval().requires_grad_(False)
    prefix = f'{name}/state/'
    state = {key.removeprefix(prefix): torch.from_numpy(data[key]) for key in data if key.startswith(prefix)}
    own = {**dict(G.named_parameters()), **dict(G.named_buffers())}
    assert list(own) == list(state)
    for key, tensor in own.items():
        assert tensor.shape == state[key].shape, key
        if 'filter' in key:
            assert_close(tensor, state[key], 1e-6)
        tensor.copy_(state[key])
    values = {
        key.removeprefix(f'{name}/'): torch.from_numpy(np.asarray(data[key]))
        for key in data
        if key.startswith(f'{name}/') and '/state/' not in key
    }
    return G, CASES[name], values


def assert_close(actual, expected, tolerance=1e-4):
    assert actual.shape == expected.shape
    error = (actual - expected).abs().max() / expected.abs().max()
    assert error <= tolerance, f'relative error {error:.2e}'


def test_layers_have_the_published_sizes(case):
    G, expected, _ = case
    assert G.num_ws == expected['num_ws']
    assert G.synthesis.layer_names == [layer['name'] for layer in expected['layers']]
    for layer in expected['layers']:
        own = getattr(G.synthesis, layer['name'])
        assert (own.in_size.tolist(), own.out_size.tolist()) == (layer['in_size'], layer['out_size'])
        assert (own.up_factor, own.down_factor) == (layer['up'], layer['down'])


def test_images_are_the_published_ones(case):
    G, _, values = case
    assert_close(G.mapping(values['z'], values['c']), values['ws'])
    images = G.synthesis(values['ws'])
    assert_close(images, values['img'], 1e-3)
    one_by_one = torch.cat([G.synthesis(ws) for ws in values['ws'].split(1)])
    assert_close(one_by_one, values['img'], 1e-3)
    G.synthesis.input.transform.copy_(values['transform'])
    assert_close(G.synthesis(values['ws']), values['img_transformed'], 1e-3)


def test_truncation(case):
    G, _, values = case
    z, c = values['z'], values['c']
    full = values['ws_trunc'][:, 0]
    psi = ((full - G.mapping.w_avg) / (values['ws'][:, 0] - G.mapping.w_avg)).median().item()
    num_truncated = int(((values['ws_trunc'] - values['ws']).abs().amax(dim=(0, 2)) > 1e-6).sum())
    cutoff = None if num_truncated == G.num_ws else num_truncated
    assert_close(G.mapping(z, c, psi, cutoff), values['ws_trunc'])


def small(**kwargs):
    torch.manual_seed(0)
    return networks.Generator(**{**SMALL, 'img_resolution': 32, 'num_layers': 6, 'margin_size': 4, **kwargs})


def test_running_means_move_on_request_only():
    G = small().train()
    before = {name: tensor.clone() for name, tensor in G.named_buffers()}
    z = torch.randn(4, 8)
    G(z, None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in G.named_buffers())
    ws = G.mapping(z, None)
    G(z, None, update_emas=True)
    assert torch.allclose(G.mapping.w_avg, ws[:, 0].mean(dim=0) * (1 - 0.998), atol=1e-7)
    moved = {name for name, tensor in G.named_buffers() if not torch.equal(tensor, before[name])}
    assert moved == {'mapping.w_avg', *(f'synthesis.{name}.magnitude_ema' for name in G.synthesis.layer_names)}


def test_modulated_convolution_against_its_definition():
    """One batch, one sample and 1×1 kernels take different ways; all are the same function, with its gradients."""
    torch.manual_seed(1)
    for size, count in [(3, 3), (1, 3), (3, 1)]:
        x = torch.randn(count, 4, 6, 5, dtype=torch.float64, requires_grad=True)
        w = torch.randn(2, 4, size, size, dtype=torch.float64, requires_grad=True)
        s = torch.randn(count, 4, dtype=torch.float64, requires_grad=True)
        gain = torch.tensor(0.7, dtype=torch.float64)
        result = networks.modulated_conv2d(x, w, s, padding=size - 1, input_gain=gain)

        w1 = w * w.square().mean(dim=[1, 2, 3], keepdim=True).rsqrt()
        s1 = s * s.square().mean().rsqrt()
        own = [w1 * s1[i, :, None, None] for i in range(count)]
        own = [weight * (weight.square().sum(dim=[1, 2, 3], keepdim=True) + 1e-8).rsqrt() for weight in own]
        expected = torch.cat(
            [torch.nn.functional.conv2d(x[i : i + 1], own[i] * gain, padding=size - 1) for i in range(count)]
        )
        assert torch.allclose(result, expected, rtol=1e-10, atol=1e-12)
        v = torch.randn_like(expected)
        for ours, theirs in zip(
            torch.autograd.grad((result * v).sum(), [x, w, s]), torch.autograd.grad((expected * v).sum(), [x, w, s])
        ):
            assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-10)


def test_gradients_in_float64():
    G = small(num_layers=3, margin_size=2, conv_clamp=None).double()
    layer = getattr(G.synthesis, G.synthesis.layer_names[1])
    x = torch.randn(1, layer.in_channels, *layer.in_size[::-1].tolist(), dtype=torch.float64)
    w = torch.randn(1, 8, dtype=torch.float64, requires_grad=True)

    def project(w):
        return (layer(x, w) * v).sum()

    v = torch.randn(1, layer.out_channels, *layer.out_size[::-1].tolist(), dtype=torch.float64)
    assert torch.autograd.gradcheck(project, (w,))
    assert torch.autograd.gradgradcheck(project, (w,))


def test_shifts_of_the_input_shift_the_image():
    """An image shifted by whole pixels has the same pixels, apart from what enters at the border."""
    G = small(margin_size=10, num_layers=8).eval().requires_grad_(False)
    ws = G.mapping(torch.randn(2, 8), None)
    image = G.synthesis(ws)
    G.synthesis.input.transform[0, 2] = -4 / 32  # the inverse: the image moves to the right by 4 pixels
    shifted = G.synthesis(ws)
    error = (shifted[..., 4:] - image[..., :-4]).square().mean()
    assert 10 * math.log10(image.square().mean() / error) > 40  # dB
    assert (shifted - image).square().mean() > 100 * error


def test_rotations_of_the_input_rotate_the_image():
    """By 90°, where the pixels of the rotated image are pixels of the image."""
    G = small(conv_kernel=1, use_radial_filters=True, num_layers=8, margin_size=10).eval().requires_grad_(False)
    ws = G.mapping(torch.randn(2, 8), None)
    image = G.synthesis(ws)
    G.synthesis.input.transform.copy_(torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    turned = G.synthesis(ws)
    errors = [(turned - image.rot90(k, (2, 3))).square().mean() for k in (1, -1)]
    assert min(errors) * 1000 < image.square().mean() < max(errors) * 10


@pytest.mark.parametrize('resolution', [[32, 16], [16, 32], [64, 48]])
def test_images_that_are_not_square(resolution):
    G = small(img_resolution=resolution)
    assert G(torch.randn(2, 8), None).shape == (2, 3, *resolution)


def test_impossible_sizes_are_one_sentence():
    with pytest.raises(ValueError, match=r'img_resolution=\[32, 31\].*whole number'):
        small(img_resolution=[32, 31])
    with pytest.raises(ValueError, match='num_critical=6 must be at least 0 and less than num_layers=6'):
        small(num_critical=6)


def test_waves_are_drawn_within_the_band():
    layer = networks.SynthesisInput(w_dim=4, channels=20_000, size=8, sampling_rate=8, bandwidth=2)
    radius = layer.freqs.norm(dim=1)
    assert radius.max() <= 2 and abs(float((radius < 1).float().mean()) - 1 / 4) < 0.02  # uniform in the disc
    assert abs(float(layer.phases.mean())) < 0.02 and layer.phases.abs().max() <= 0.5
