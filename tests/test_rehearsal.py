"""All scripts on CUDA devices, without a GPU: see `tests.rehearsal`. Each test runs processes of its own."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests import rehearsal
from tests.rehearsal.backend import COUNTERS
from tests.small_generators import make_generator, make_stylegan3_generator, read_images, write_networks
from tests.small_runs import ROOT, last_network, only, train, words, write_images
from training.run.run_dir import RunDir

pytestmark = pytest.mark.skipif(
    torch.version.cuda is not None or sys.platform != 'linux' or shutil.which('g++') is None,
    reason='needs the CPU build of PyTorch, Linux and g++',
)
SHORT = ['--device=cuda', '--tick=0.016', '--kimg=0.032', '--snap=1', '--workers=0']


def run(command, devices=1, timeout=280, **variables):
    """Run a command on a machine with so many devices."""
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', **rehearsal.environment(devices, **variables)}
    return subprocess.run(words(*command), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)


def successful(command, devices=1, **variables):
    result = run(command, devices, **variables)
    assert result.returncode == 0, result.stderr
    return result


def script(name, *args):
    return [sys.executable, ROOT / name, *args]


def pytest_of(*args):
    return [sys.executable, '-m', 'pytest', '-q', '-n0', '-p', 'no:cacheprovider', *args]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp('images') / 'data')


@pytest.fixture(scope='module')
def labeled_data(tmp_path_factory):
    folder = write_images(tmp_path_factory.mktemp('labeled') / 'data')
    labels = [[path.name, index % 2] for index, path in enumerate(sorted(folder.glob('*.png')))]
    (folder / 'dataset.json').write_text(json.dumps({'labels': labels}))
    return folder


def test_the_device_itself():
    result = successful(pytest_of('tests/rehearsal/test_device.py'), devices=2, memory_mib=4096)
    assert 'skipped' not in result.stdout, result.stdout


@pytest.mark.parametrize('selection', ['not slow', pytest.param('slow', marks=pytest.mark.slow)])
def test_the_training_step(selection):
    result = successful(pytest_of('tests/rehearsal/test_training_step.py', '-m', selection), memory_mib=4096)
    assert ' passed' in result.stdout and 'skipped' not in result.stdout, result.stdout


@pytest.mark.parametrize('selection', [
    pytest.param(['-k', 'golden or half_precision or captured and up'], id='few'),
    pytest.param([], marks=[pytest.mark.slow, pytest.mark.timeout(3600)], id='all'),
])  # fmt: skip
def test_the_tests_for_gpus_pass(selection):
    result = successful(pytest_of('tests/gpu', *selection), timeout=3500, memory_mib=4096)
    assert ' passed' in result.stdout, result.stdout


# ---------------------------------------------------------------------------------------------------------------------
# Training


def networks_of(run_dir):
    content = pickle.loads(last_network(run_dir))  # written by this test
    assert not any('half_dtype' in vars(layer) for layer in content['G_ema'].modules())
    return {
        f'{name}.{key}': tensor.double()
        for name in ('G', 'D', 'G_ema')
        for key, tensor in content[name].state_dict().items()
    }


def test_a_run_in_full_precision_is_that_of_the_cpu(data, tmp_path):
    options = ['--fp32=1', '--init-p=0.5', '--augpipe=bgcfnc', '--mirror=1']
    on_cpu = subprocess.run(train(data, tmp_path / 'cpu', *SHORT, '--device=cpu', *options), capture_output=True)
    assert on_cpu.returncode == 0, on_cpu.stderr
    successful(train(data, tmp_path / 'cuda', *SHORT, *options), shared_rng=1)
    expected, actual = (networks_of(only(tmp_path / name)) for name in ('cpu', 'cuda'))
    assert expected.keys() == actual.keys()
    for name, tensor in expected.items():
        error = (actual[name] - tensor).abs().max() / tensor.abs().max().clamp(min=1e-3)
        assert error < 2e-2, f'{name}: {error:.1e}'  # Adam's first steps have the size of the learning rate


@pytest.mark.parametrize('options', [
    pytest.param(['--cfg=auto', '--nhwc=1'], id='nhwc'),
    pytest.param(['--cfg=auto', '--precision=bf16'], id='bf16', marks=pytest.mark.slow),
    pytest.param(['--cfg=tiny-t', '--mirror=1'], id='stylegan3', marks=pytest.mark.slow),
    pytest.param(['--cfg=auto', '--gpus=2', '--allow-tf32=1'], id='two devices', marks=pytest.mark.slow),
])  # fmt: skip
def test_runs_in_mixed_precision(data, tmp_path, options):
    arguments = [*SHORT, *options, '--cbase=64', '--cmax=8', '--batch=8', '--init-p=0.9']
    successful(train(data, tmp_path / 'runs', *arguments), devices=2)
    tensors = networks_of(only(tmp_path / 'runs'))
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    rows = [json.loads(line) for line in (only(tmp_path / 'runs') / 'stats.jsonl').read_text().splitlines()]
    assert all(row['Resources/peak_gpu_mem_gb']['mean'] > 0 for row in rows)


@pytest.mark.slow
def test_a_deterministic_run_is_resumed_to_the_bit(data, tmp_path):
    arguments = [*SHORT, '--cfg=auto', '--cbase=64', '--cmax=8', '--init-p=0.5', '--deterministic=1', '--workers=1']
    successful(train(data, tmp_path / 'one', *arguments))
    run_dir = only(tmp_path / 'one')
    finished = last_network(run_dir)
    states = RunDir(str(run_dir)).training_states()
    assert len(states) > 1
    states[0].unlink()
    successful(script('train.py', f'--resume-run={run_dir}'))
    assert last_network(run_dir) == finished


# After the first tick, whatever waits for the GPU inside a tick is an error.
NEVER_WAITING = """
import torch, train, training.training_loop as loop
end_tick = loop._end_tick
def end_tick_that_may_wait(*args, **kwargs):
    torch.cuda.set_sync_debug_mode('default')
    end_tick(*args, **kwargs)
    torch.cuda.set_sync_debug_mode('error')
loop._end_tick = end_tick_that_may_wait
if __name__ == "__main__":
    train.main()
"""


@pytest.mark.parametrize('options', [
    pytest.param(['--cfg=auto', '--augpipe=bgcfnc', '--validation=8', '--cond=1'], id='many'),
    pytest.param(['--cfg=auto', '--gpus=2', '--batch-gpu=2', '--fp32=1'], id='two devices', marks=pytest.mark.slow),
    pytest.param(['--cfg=tiny-t', '--deterministic=1', '--mirror=1'], id='stylegan3', marks=pytest.mark.slow),
    pytest.param(['--cfg=auto', '--cuda-graphs=1', '--kimg=0.2'], id='graphs', marks=pytest.mark.slow),
    pytest.param(['--cfg=tiny', '--lecam=0.1', '--bcr=10', '--diffaugment=color,translation,cutout'], id='methods',
                 marks=pytest.mark.slow),
    pytest.param(['--cfg=tiny', '--loss=relativistic', '--validation=8', '--ada-heuristic=rv'], id='relativistic',
                 marks=pytest.mark.slow),
])  # fmt: skip
def test_nothing_waits_within_a_tick(labeled_data, tmp_path, options):
    arguments = [*SHORT, '--tick=0.032', '--kimg=0.072', '--cbase=64', '--cmax=8', '--batch=8', '--init-p=0.5']
    command = [f'--data={labeled_data}', f'--outdir={tmp_path}', '--metrics=none', *arguments, *options]
    script = tmp_path / 'train_without_waiting.py'
    script.write_text(NEVER_WAITING)  # a file, because the processes of two devices import it
    successful([sys.executable, script, *command], devices=2)


def test_memory_that_does_not_suffice_is_noticed_before_the_start(data, tmp_path):
    result = run(train(data, tmp_path / 'runs', *SHORT), memory_mib=64)
    assert result.returncode == 2 and "'--batch-gpu'" in result.stderr and 'on the GPU' in result.stderr


@pytest.mark.slow
def test_memory_that_runs_out_is_explained(data, tmp_path):
    patches = "import training.run.preflight as p; p.check_memory = lambda *_: p.Finding('memory', 'not checked')"
    arguments = [f'--data={data}', f'--outdir={tmp_path}', '--cfg=stylegan2', '--batch=8', *SHORT, '--metrics=none']
    result = run([sys.executable, '-c', f'{patches}\nimport train\ntrain.main()', *arguments], memory_mib=64)
    assert result.returncode == 1 and '--batch-gpu' in result.stderr and 'Traceback' not in result.stderr, result.stderr


# ---------------------------------------------------------------------------------------------------------------------
# Generation


@pytest.fixture(scope='module')
def networks(tmp_path_factory):
    networks = {'stylegan2': make_generator(c_dim=2), 'stylegan3': make_stylegan3_generator()}
    return write_networks(tmp_path_factory.mktemp('networks'), networks)


@pytest.mark.parametrize('name, arguments', [
    ('generate.py', ['--seeds=0-2', '--trunc=0.7', '--class=1', 'stylegan2']),
    ('generate.py', ['--seeds=0-1', '--translate=0.2,0', '--rotate=30', 'stylegan3']),
    ('style_mixing.py', ['--rows=0,1', '--cols=2', '--styles=0-1', '--class=1', 'stylegan2']),
])  # fmt: skip
def test_images_are_those_of_the_cpu(networks, tmp_path, name, arguments):
    network = f'--network={getattr(networks, arguments[-1])}'
    for device in ('cpu', 'cuda:1'):
        command = script(name, network, *arguments[:-1], f'--device={device}', f'--outdir={tmp_path / device}')
        successful([*command, '--trust-pickle'], devices=2)
    expected, actual = (read_images(tmp_path / device) for device in ('cpu', 'cuda:1'))
    assert expected.keys() == actual.keys() and expected
    for file, picture in expected.items():
        assert np.abs(picture.astype(int) - actual[file].astype(int)).max() <= 1


@pytest.mark.slow
def test_the_doctor_finds_the_kernels():
    result = successful([sys.executable, '-m', 'torch_utils.ops'])
    assert 'Rehearsal device' in result.stdout


# ---------------------------------------------------------------------------------------------------------------------
# Planted faults


FAULTS = {
    'a tensor of the CPU in the loss': (
        'import torch, training.loss as m; f = m.softplus; m.softplus = lambda x: f(x + torch.zeros(len(x), 1))',
        'same device',
    ),
    'a wrong device': (
        'import torch, training.loss as m; f = m.softplus; m.softplus = lambda x: f(x.to("cuda:1"))',
        'invalid device ordinal 1 of 1',
    ),
    'numpy on the device': (
        'import training.loss as m; f = m.softplus; m.softplus = lambda x: (x.detach().numpy(), f(x))[1]',
        'numpy',
    ),
}


@pytest.mark.parametrize(
    'fault', [list(FAULTS)[0], *(pytest.param(name, marks=pytest.mark.slow) for name in list(FAULTS)[1:])]
)
def test_planted_faults_stop_a_run(data, tmp_path, fault):
    patch, message = FAULTS[fault]
    arguments = [f'--data={data}', f'--outdir={tmp_path}', *SHORT, '--cfg=tiny', '--cbase=64', '--metrics=none']
    result = run([sys.executable, '-c', f'{patch}\nimport train\ntrain.main()', *arguments, '--batch=8'])
    assert result.returncode != 0 and message in result.stderr, result.stderr


def test_counters_are_written(data, tmp_path):
    command = [sys.executable, '-c', "import torch; torch.ones(3, device='cuda').sum().item()"]
    successful(command, counts=tmp_path / 'counts.jsonl')
    counts = json.loads((tmp_path / 'counts.jsonl').read_text())
    assert set(COUNTERS) < counts.keys() and counts['synchronizations'] == 1 and counts['launches'] >= 2
