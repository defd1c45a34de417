"""The same code on CUDA: golden values, mixed precision, short runs. Skipped without a CUDA device."""

import json

import numpy as np
import pytest
import torch

from torch_utils import cuda_memory, precision
from training.networks_stylegan2 import Discriminator, Generator

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device'),
]


# Later options replace earlier ones: the device of tests/rehearsal computes as a GPU does, but slowly.
SHORTER = ['--cbase=256', '--batch=8', '--kimg=0.064', '--tick=0.016'] if hasattr(torch.cuda, 'rehearsal') else []


@pytest.fixture(autouse=True)
def full_precision():
    """Disable TensorFloat-32, whose 10-bit mantissa would hide errors."""
    with precision.tensor_float32(False):
        yield


def test_free_memory_is_queried_by_another_process():
    total = torch.cuda.get_device_properties(0).total_memory
    assert 0 < cuda_memory.free_cuda_bytes([0]) <= total


def assert_close(actual, expected, tolerance):
    error = (actual.float().cpu() - expected).abs().max() / expected.abs().max()
    assert error <= tolerance, f'relative error {error:.2e}'


def test_golden_generators(golden):
    data = golden('networks_stylegan2.npz')
    for case in json.loads(str(data['cases'])):
        if case['net'] != 'G':
            continue
        prefix = f'G/{case["name"]}/'
        G = Generator(**case['kwargs'])
        with torch.no_grad():
            for name, tensor in [*G.named_parameters(), *G.named_buffers()]:
                tensor.copy_(torch.from_numpy(np.asarray(data[f'{prefix}state/{name}'])))
        G = G.cuda().eval()
        ws = torch.from_numpy(data[f'{prefix}ws']).cuda()
        for fused in (None, True, False):
            image = G.synthesis(ws, noise_mode='const', fused_modconv=fused).detach()
            assert_close(image, torch.from_numpy(data[f'{prefix}img_const']), 1e-4)


@pytest.mark.parametrize('channels_last', [False, True])
def test_half_precision_agrees_with_full_precision(channels_last):
    torch.manual_seed(0)
    half = dict(num_fp16_res=4, conv_clamp=256)
    sizes = dict(channel_base=1024, channel_max=64)
    G = Generator(
        z_dim=32,
        c_dim=0,
        w_dim=32,
        img_resolution=64,
        img_channels=3,
        synthesis_kwargs=dict(fp16_channels_last=channels_last, **half, **sizes),
    ).cuda()
    D = Discriminator(
        c_dim=0, img_resolution=64, img_channels=3, block_kwargs=dict(fp16_channels_last=channels_last), **half, **sizes
    ).cuda()
    z = torch.randn(4, 32, device='cuda')
    images = G(z, None, noise_mode='const')
    assert images.dtype == torch.float32
    assert_close(images.detach(), G(z, None, noise_mode='const', force_fp32=True).detach().cpu(), 2e-2)
    logits = D(images, None)
    assert_close(logits.detach(), D(images, None, force_fp32=True).detach().cpu(), 5e-2)
    logits.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in [*G.parameters(), *D.parameters()] if p.grad is not None)


@pytest.mark.timeout(600)
def test_train_and_generate(run_script, tmp_path):
    data = tmp_path / 'digits.zip'
    assert run_script('dataset_tool.py', '--source=digits', f'--dest={data}').returncode == 0
    trained = run_script(
        'train.py',
        '--outdir=runs',
        f'--data={data}',
        '--cfg=auto',
        '--cond=1',
        '--kimg=0.5',
        '--tick=0.25',
        '--snap=1',
        '--device=cuda',
        '--cbase=2048',
        '--metrics=none',
        *SHORTER,
        timeout=280,
    )
    assert trained.returncode == 0, trained.stderr
    (run_dir,) = (tmp_path / 'runs').iterdir()
    network = sorted(run_dir.glob('*.pkl'))[-1]
    made = run_script('generate.py', f'--network={network}', '--seeds=0-3', '--class=3', '--outdir=out')
    assert made.returncode == 0, made.stderr
    assert len(list((tmp_path / 'out').glob('seed*.png'))) == 4


@pytest.mark.timeout(1200)  # four trainings
def test_deterministic_runs_repeat_and_resume_bitwise(run_script, tmp_path):
    data = tmp_path / 'digits.zip'
    assert run_script('dataset_tool.py', '--source=digits', f'--dest={data}').returncode == 0
    command = [
        'train.py',
        f'--data={data}',
        '--cfg=auto',
        '--cond=1',
        '--kimg=1',
        '--tick=0.25',
        '--snap=1',
        '--device=cuda',
        '--cbase=2048',
        '--metrics=none',
        '--init-p=0.5',
        '--deterministic=1',
        '--keep-states=9',
        *SHORTER,
    ]
    run_dirs = []
    for name in ('one', 'again', 'resumed'):
        result = run_script(*command, f'--outdir={name}', timeout=280)
        assert result.returncode == 0, result.stderr
        run_dirs.append(next((tmp_path / name).iterdir()))
    for path in sorted(run_dirs[2].glob('training-state-*.pt'))[2:]:
        path.unlink()
    assert run_script('train.py', f'--resume-run={run_dirs[2]}', timeout=280).returncode == 0
    networks = [sorted(run_dir.glob('*.pkl'))[-1].read_bytes() for run_dir in run_dirs]
    assert networks[0] == networks[1] == networks[2]
