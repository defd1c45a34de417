"""StyleGAN2 networks against the golden values: names, shapes, images, logits, gradients."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

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
    golden_state = {key[len(prefix):]: data[key] for key in data if key.startswith(prefix)}
    ours = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    assert list(ours) == list(golden_state)
    with torch.no_grad():
        for key, tensor in ours.items():
            assert tuple(tensor.shape) == golden_state[key].shape, key
            tensor.copy_(torch.from_numpy(golden_state[key]))
    values = {key[len(f'{net}/{name}/'):]: torch.from_numpy(np.asarray(data[key]))
              for key in data if key.startswith(f'{net}/{name}/') and '/state/' not in key}
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
    gradient, = torch.autograd.grad(logits.sum(), img)
    assert_close(gradient, v['dimg'])
