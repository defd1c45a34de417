"""The loss against the golden gradients, and its regularisers against analytic values in float64."""

import json

import numpy as np
import pytest
import torch

from training import loss as losses
from training import networks_stylegan3
from training.networks_stylegan2 import Discriminator, Generator

GAINS = {'Gmain': 1, 'Greg': 4, 'Dmain': 1, 'Dreg': 16}


def golden_networks(data, case):
    """G and D of a golden case with their state."""
    sizes = dict(channel_base=256, channel_max=16)
    G = Generator(
        z_dim=16,
        c_dim=case['c_dim'],
        w_dim=16,
        img_resolution=16,
        img_channels=3,
        mapping_kwargs=dict(num_layers=2),
        synthesis_kwargs=dict(use_noise=False, **sizes),
    )
    D = Discriminator(
        c_dim=case['c_dim'], img_resolution=16, img_channels=3, epilogue_kwargs=dict(mbstd_group_size=4), **sizes
    )
    with torch.no_grad():
        for prefix, module in (('G', G), ('D', D)):
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                tensor.copy_(torch.from_numpy(np.asarray(data[f'{case["name"]}/state/{prefix}.{name}'])))
    return G.train().requires_grad_(False), D.train().requires_grad_(False)


@pytest.mark.parametrize('case_name', ['uncond', 'cond'])
def test_gradients_of_all_phases_golden(golden, monkeypatch, case_name):
    data = golden('loss.npz')
    case = next(c for c in json.loads(str(data['cases'])) if c['name'] == case_name)
    G, D = golden_networks(data, case)

    def value(name):
        return torch.from_numpy(np.asarray(data[f'{case_name}/{name}']))

    loss = losses.StyleGAN2Loss(
        'cpu',
        G,
        D,
        **{k: case[k] for k in ('style_mixing_prob', 'r1_gamma', 'pl_weight', 'pl_batch_shrink', 'pl_decay')},
    )
    monkeypatch.setattr(torch, 'randn_like', lambda images: value('pl_noise'))
    for phase, gain in GAINS.items():
        module = G if phase[0] == 'G' else D
        module.zero_grad(set_to_none=True)
        module.requires_grad_(True)
        loss.accumulate_gradients(phase, value('real'), value('real_c'), value('z'), value('gen_c'), gain)
        module.requires_grad_(False)
        checked = 0
        for name, parameter in module.named_parameters():
            expected = value(f'grad/{phase}/{phase[0]}.{name}')
            actual = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            error = (actual - expected).abs().max()
            assert error <= 2e-3 * expected.abs().max(), f'{phase} {name}: {error:.2e}'
            checked += bool(expected.abs().max() > 0)
        assert checked > 5
    assert torch.allclose(loss.pl_mean, value('pl_mean_after'), rtol=1e-4, atol=0)


@pytest.mark.parametrize(('case_name', 'network'), [('t', 't-32'), ('r-cond-blur', 'r-32-cond')])
def test_gradients_with_stylegan3_golden(golden, case_name, network):
    """Blur, and running means that only the generator call of Dmain moves."""
    data = golden('stylegan3_training.npz')
    cases = [c for c in json.loads(str(data['cases'])) if c['kind'] == 'loss']
    case = next(c for c in cases if c['name'] == case_name)
    kwargs = next(c for c in json.loads(str(golden('networks_stylegan3.npz')['cases'])) if c['name'] == network)[
        'kwargs'
    ]
    G = networks_stylegan3.Generator(**{**kwargs, 'conv_clamp': None, 'magnitude_ema_beta': 0.9})
    D = Discriminator(c_dim=case['c_dim'], img_resolution=32, img_channels=3, channel_base=512, channel_max=16)

    def value(name):
        return torch.from_numpy(np.asarray(data[f'loss/{case_name}/{name}']))

    tensors = {f'G.{name}': tensor for name, tensor in [*G.named_parameters(), *G.named_buffers()]}
    tensors |= {f'D.{name}': tensor for name, tensor in [*D.named_parameters(), *D.named_buffers()]}
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(value(f'state/{name}'))
    G.train().requires_grad_(False)
    D.train().requires_grad_(False)
    blur = {key: case[key] for key in ('blur_init_sigma', 'blur_fade_kimg')}
    loss = losses.StyleGAN2Loss('cpu', G, D, style_mixing_prob=0, r1_gamma=case['r1_gamma'], pl_weight=0, **blur)
    for phase, gain in [('Gmain', 1), ('Dmain', 1), ('Dreg', 16)]:
        module = G if phase[0] == 'G' else D
        module.zero_grad(set_to_none=True)
        module.requires_grad_(True)
        batch = value('real'), value('c'), value('z'), value('c')
        loss.accumulate_gradients(phase, *batch, gain, cur_nimg=case['cur_nimg'])
        module.requires_grad_(False)
        for name, parameter in module.named_parameters():
            key = f'grad/{phase}/{phase[0]}.{name}'
            actual = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            expected = value(key) if f'loss/{case_name}/{key}' in data else torch.zeros_like(parameter)
            assert (actual - expected).abs().max() <= 2e-3 * expected.abs().max(), f'{phase} {name}'
    for key in data:
        if key.startswith(f'loss/{case_name}/after/'):
            name = key.removeprefix(f'loss/{case_name}/after/')
            assert (tensors[name] - value(f'after/{name}')).abs().max() <= 1e-4 * value(f'after/{name}').abs().max()


def test_blur_fades():
    loss = losses.StyleGAN2Loss('cpu', None, None, blur_init_sigma=10, blur_fade_kimg=200)
    assert [loss.blur_sigma(n) for n in (0, 100_000, 200_000, 300_000)] == [10, 5, 0, 0]
    assert losses.StyleGAN2Loss('cpu', None, None).blur_sigma(0) == 0
    images = torch.randn(1, 3, 32, 32)
    assert losses.gaussian_blur(images, 0.3) is images  # no taps at the sides
    flat = losses.gaussian_blur(torch.ones(1, 1, 40, 40), 2.0)
    assert torch.allclose(flat[..., 6:-6, 6:-6], torch.ones(1, 1, 28, 28), atol=1e-6)


def test_gmain_leaves_the_discriminator_alone_and_dmain_the_generator(golden):
    data = golden('loss.npz')
    G, D = golden_networks(data, json.loads(str(data['cases']))[0])
    loss = losses.StyleGAN2Loss('cpu', G, D)
    z, real, c = torch.randn(4, 16), torch.randn(4, 3, 16, 16), torch.zeros(4, 0)
    for phase, trained, other in (('Gmain', G, D), ('Dmain', D, G)):
        trained.requires_grad_(True)
        loss.accumulate_gradients(phase, real, c, z, c)
        trained.requires_grad_(False)
        assert any(p.grad is not None for p in trained.parameters())
        assert all(p.grad is None for p in other.parameters())
        trained.zero_grad(set_to_none=True)


def test_both_equals_main_plus_reg(golden):
    data = golden('loss.npz')
    G, D = golden_networks(data, json.loads(str(data['cases']))[0])
    loss = losses.StyleGAN2Loss('cpu', G, D, style_mixing_prob=0, r1_gamma=3)
    z, real, c = torch.randn(4, 16), torch.randn(4, 3, 16, 16), torch.zeros(4, 0)
    D.requires_grad_(True)

    def gradients(*phases):
        D.zero_grad(set_to_none=True)
        for phase in phases:
            loss.accumulate_gradients(phase, real, c, z, c)
        return [p.grad.clone() for p in D.parameters()]

    for a, b in zip(gradients('Dboth'), gradients('Dmain', 'Dreg'), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def test_r1_penalty_of_a_quadratic_and_its_gradient():
    images = torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    logits = images.square().sum(dim=[1, 2, 3]).unsqueeze(1)  # gradient 2x
    penalty = losses.r1_penalty(logits, images)
    assert torch.allclose(penalty, 4 * images.square().sum(dim=[1, 2, 3]))
    (second,) = torch.autograd.grad(penalty.sum(), images)
    assert torch.allclose(second, 8 * images)


def test_path_length_of_a_linear_generator_does_not_depend_on_ws():
    torch.manual_seed(0)
    jacobian = torch.randn(5, 3 * 8 * 8, dtype=torch.float64)
    lengths = []
    for _ in range(2):
        ws = torch.randn(200, 1, 5, dtype=torch.float64, requires_grad=True)
        torch.manual_seed(1)
        lengths.append(losses.path_lengths((ws[:, 0] @ jacobian).view(200, 3, 8, 8), ws))
    assert torch.allclose(lengths[0], lengths[1])
    # E|Jᵀy|² = |J|² / (H·W) for unit Gaussian y.
    assert lengths[0].square().mean() == pytest.approx(float(jacobian.square().sum() / 64), rel=0.1)


def finite_difference(function, parameter, direction, step=1e-5):
    """Central difference of a scalar function along a direction of one of its parameters."""
    values = []
    for sign in (+1, -1):
        with torch.no_grad():
            parameter += sign * step * direction
        values.append(float(function().detach()))
        with torch.no_grad():
            parameter -= sign * step * direction
    return (values[0] - values[1]) / (2 * step)


SMALL = dict(channel_base=64, channel_max=6)


@pytest.mark.parametrize('architecture', ['resnet', 'skip', 'orig'])
def test_second_gradients_of_r1_in_float64(architecture):
    torch.manual_seed(0)
    D = Discriminator(c_dim=3, img_resolution=16, img_channels=1, architecture=architecture, **SMALL).double()
    images = torch.randn(4, 1, 16, 16, dtype=torch.float64, requires_grad=True)
    labels = torch.eye(3, dtype=torch.float64)[[0, 1, 2, 1]]

    def penalty():
        return losses.r1_penalty(D(images, labels), images).sum()

    for name in ('b16.conv0.weight', 'b8.conv1.weight', 'b4.conv.weight', 'mapping.fc0.weight'):
        parameter = D.get_parameter(name)
        (gradient,) = torch.autograd.grad(penalty(), parameter)
        direction = torch.randn_like(parameter)
        expected = finite_difference(penalty, parameter, direction)
        assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-4), name


@pytest.mark.parametrize('architecture', ['skip', 'resnet', 'orig'])
def test_second_gradients_of_path_lengths_in_float64(architecture):
    torch.manual_seed(0)
    G = Generator(
        z_dim=4,
        c_dim=0,
        w_dim=4,
        img_resolution=16,
        img_channels=1,
        mapping_kwargs=dict(num_layers=2),
        synthesis_kwargs=dict(architecture=architecture, **SMALL),
    ).double()
    ws = torch.randn(2, G.num_ws, 4, dtype=torch.float64, requires_grad=True)

    def total_length():
        torch.manual_seed(3)
        return losses.path_lengths(G.synthesis(ws, noise_mode='const'), ws).sum()

    for name in ('synthesis.b4.const', 'synthesis.b8.conv0.weight', 'synthesis.b16.conv1.affine.weight'):
        parameter = G.get_parameter(name)
        (gradient,) = torch.autograd.grad(total_length(), parameter)
        direction = torch.randn_like(parameter)
        expected = finite_difference(total_length, parameter, direction)
        assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-4), name


def test_style_mixing_replaces_the_late_layers(golden):
    data = golden('loss.npz')
    G, D = golden_networks(data, json.loads(str(data['cases']))[0])
    loss = losses.StyleGAN2Loss('cpu', G, D, style_mixing_prob=1)
    torch.manual_seed(0)
    crossovers = set()
    for _ in range(40):
        _images, ws = loss.run_G(torch.randn(2, 16), torch.zeros(2, 0))
        same = (ws == ws[:, :1]).all(dim=2).all(dim=0).tolist()
        crossovers.add(same.index(False))
        assert same == sorted(same, reverse=True)
    assert crossovers == set(range(1, G.num_ws))


def test_unknown_phase():
    with pytest.raises(ValueError, match="phase='Gmian'.*Gmain"):
        losses.StyleGAN2Loss('cpu', None, None).accumulate_gradients('Gmian', None, None, None, None)
