"""All operators and implementations against the golden values: results, gradients, second gradients."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from torch_utils.ops import bias_act, conv2d_resample, filtered_lrelu, upfirdn2d

GOLDEN = np.load(Path(__file__).parents[2] / 'golden' / 'ops.npz')
CASES = json.loads(str(GOLDEN['cases']))
FILTERS = {
    '1331': [1, 3, 3, 1],
    'asym': [[1, 2, 0, 1], [0, 3, 1, 2], [2, 1, 1, 0]],
    'sep12': np.linspace(-0.2, 1, 12),
    'one': None,
}


def cases(*ops):
    chosen = [case for case in CASES if case['op'] in ops]
    assert chosen
    return pytest.mark.parametrize('case', chosen, ids=[f'{case["op"]}-{case["id"]}' for case in chosen])


all_impls = pytest.mark.parametrize('impl', ['ref', 'native', 'pytorch'], indirect=True)


def golden(case, name, leaf=False):
    key = f'{case["op"]}/{case["id"]}/{name}'
    return torch.from_numpy(GOLDEN[key]).requires_grad_(leaf) if key in GOLDEN.files else None


def assert_close(actual, expected, rtol=1e-4):
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    error = (actual - expected).abs().max().item()
    assert error <= rtol * expected.abs().max().item() + 1e-12


def test_every_case_is_covered():
    assert {case['op'] for case in CASES} == {
        'upfirdn2d',
        'filter2d',
        'upsample2d',
        'downsample2d',
        'bias_act',
        'conv2d_resample',
        'filtered_lrelu',
    }


@pytest.mark.parametrize('name', FILTERS)
def test_setup_filter(name):
    f = upfirdn2d.setup_filter(FILTERS[name])
    assert_close(f, torch.from_numpy(GOLDEN[f'setup_filter/{name}']), rtol=1e-6)


@all_impls
@cases('upfirdn2d')
def test_upfirdn2d(case, impl):
    x = golden(case, 'x', leaf=True)
    f = upfirdn2d.setup_filter(FILTERS[case['filter']])
    options = {name: case[name] for name in ('up', 'down', 'padding', 'flip_filter', 'gain')}
    y = upfirdn2d.upfirdn2d(x, f, **options, impl=impl)
    assert_close(y, golden(case, 'y'))
    y.backward(golden(case, 'dy'))
    assert_close(x.grad, golden(case, 'dx'))


@all_impls
@cases('filter2d', 'upsample2d', 'downsample2d')
def test_resampling(case, impl):
    f = upfirdn2d.setup_filter(FILTERS[case['filter']])
    y = getattr(upfirdn2d, case['op'])(golden(case, 'x'), f, impl=impl)
    assert_close(y, golden(case, 'y'))


@all_impls
@cases('bias_act')
def test_bias_act(case, impl):
    x, b, dy = (golden(case, name, leaf=True) if name != 'b' or case['bias'] else None for name in ('x', 'b', 'dy'))
    options = {name: case[name] for name in ('dim', 'act', 'alpha', 'gain', 'clamp')}
    y = bias_act.bias_act(x, b, **options, impl=impl)
    assert_close(y, golden(case, 'y'))

    gradients = torch.autograd.grad(y, [x, b] if case['bias'] else [x], dy, create_graph=True)
    for gradient, name in zip(gradients, ['dx', 'db']):
        assert_close(gradient, golden(case, name))
    d2_dy, d2_x = torch.autograd.grad((gradients[0] * golden(case, 'v')).sum(), [dy, x], allow_unused=True)
    assert_close(d2_dy, golden(case, 'd2_dy'))
    assert_close(torch.zeros_like(x) if d2_x is None else d2_x, golden(case, 'd2_x'))


@cases('conv2d_resample')
def test_conv2d_resample(case):
    x, w = golden(case, 'x', leaf=True), golden(case, 'w', leaf=True)
    options = {name: case[name] for name in ('up', 'down', 'padding', 'groups', 'flip_weight')}
    y = conv2d_resample.conv2d_resample(x, w, upfirdn2d.setup_filter([1, 3, 3, 1]), **options)
    assert_close(y, golden(case, 'y'))
    y.backward(golden(case, 'dy'))
    assert_close(x.grad, golden(case, 'dx'))
    assert_close(w.grad, golden(case, 'dw'))


@all_impls
@cases('filtered_lrelu')
def test_filtered_lrelu(case, impl):
    x, b, dy = (golden(case, name, leaf=True) for name in ('x', 'b', 'dy'))
    options = {name: case[name] for name in ('up', 'down', 'padding', 'gain', 'slope', 'clamp', 'flip_filter')}
    y = filtered_lrelu.filtered_lrelu(x, golden(case, 'fu'), golden(case, 'fd'), b, **options, impl=impl)
    assert_close(y, golden(case, 'y'))
    dx, db = torch.autograd.grad(y, [x, b], dy, create_graph=True)
    assert_close(dx, golden(case, 'dx'))
    assert_close(db, golden(case, 'db'))
    (d2_dy,) = torch.autograd.grad((dx * golden(case, 'v')).sum(), dy)
    assert_close(d2_dy, golden(case, 'd2_dy'))
