"""All scripts on CUDA devices, without a GPU: see `tests.rehearsal`. Each test runs processes of its own."""

import json
import pickle
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from tests import metric_stand_ins as stand_ins
from tests.rehearsal import iterations
from tests.rehearsal.backend import COUNTERS
from tests.rehearsal.processes import REHEARSAL_IS_POSSIBLE, on_both, run, script, successful
from tests.small_generators import make_generator, make_stylegan3_generator, read_images, write_networks
from tests.small_runs import SMALL, last_network, only, train, write_images
from training.run.run_dir import RunDir

pytestmark = REHEARSAL_IS_POSSIBLE
SHORT = ['--device=cuda', '--tick=0.016', '--kimg=0.032', '--snap=1', '--workers=0']


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
    pytest.param(['-k', 'golden or half_precision or captured and up or whole_generators'], id='few'),
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


def losses_of(run_dir):
    """The means of all losses and penalties by tick and name."""
    rows = [json.loads(line) for line in (run_dir / 'stats.jsonl').read_text().splitlines()]
    return {
        (tick, name): statistic['mean']
        for tick, row in enumerate(rows)
        for name, statistic in row.items()
        if name.startswith('Loss/')
    }


METHODS = ['--lecam=0.3', '--bcr=10,5', '--diffaugment=color,translation,cutout', '--apa=1']
RUNS = {
    'all pipes': ['--init-p=0.5', '--augpipe=bgcfnc', '--mirror=1'],
    'methods': [*METHODS, '--init-p=0.3', '--validation=8', '--ada-heuristic=rv', '--d-reg-interval=2'],
    'relativistic': ['--loss=relativistic', *METHODS[1:], '--aug=noaug'],  # LeCam compares single outputs
    'StyleGAN3': ['--cfg=tiny-t', '--init-p=0.5', '--augpipe=bgc'],
}


@pytest.mark.parametrize(
    'name', ['all pipes', *(pytest.param(name, marks=pytest.mark.slow) for name in list(RUNS)[1:])]
)
def test_a_run_in_full_precision_is_that_of_the_cpu(data, tmp_path, name):
    # Two steps: each of Adam's first steps multiplies differences by 30 to 100.
    options = [*SHORT, '--kimg=0.016', '--fp32=1', *RUNS[name]]
    on_cpu = subprocess.run(train(data, tmp_path / 'cpu', *options, '--device=cpu'), capture_output=True)
    assert on_cpu.returncode == 0, on_cpu.stderr
    successful(train(data, tmp_path / 'cuda', *options), shared_rng=1)
    run_dirs = [only(tmp_path / name) for name in ('cpu', 'cuda')]
    expected, actual = map(losses_of, run_dirs)
    assert expected.keys() == actual.keys() and len(expected) > 10
    # What D says about pairs does not depend on its last biases. Adam makes steps of what rounding leaves of their
    # gradients, so they, and single outputs, differ.
    only_pairs = name == 'relativistic'
    for key, value in expected.items():
        if not only_pairs or key[1].split('/')[1] not in ('scores', 'signs'):
            assert actual[key] == pytest.approx(value, rel=1e-3, abs=1e-4), key
    if only_pairs:
        return
    expected, actual = map(networks_of, run_dirs)
    assert expected.keys() == actual.keys()
    for key, tensor in expected.items():
        error = (actual[key] - tensor).abs().max() / tensor.abs().max().clamp(min=1e-3)
        assert error < 2e-2, f'{key}: {error:.1e}'  # Adam's first steps have the size of the learning rate


@pytest.mark.parametrize('options', [
    pytest.param(['--cfg=auto', '--nhwc=1'], id='nhwc'),
    pytest.param(['--cfg=auto', '--precision=bf16'], id='bf16', marks=pytest.mark.slow),
    pytest.param(['--cfg=tiny-t', '--mirror=1'], id='stylegan3', marks=pytest.mark.slow),
    pytest.param(['--cfg=auto', '--gpus=2', '--allow-tf32=1'], id='two devices', marks=pytest.mark.slow),
    pytest.param(
        ['--cfg=auto', '--gpus=2', '--augpipe=bgcfnc', *METHODS, '--validation=8'],
        id='methods',
        marks=pytest.mark.slow,
    ),
    pytest.param(['--cfg=auto', '--loss=relativistic', '--augpipe=bgcfnc'], id='relativistic', marks=pytest.mark.slow),
])  # fmt: skip
def test_runs_in_mixed_precision(data, tmp_path, options):
    arguments = [*SHORT, *options, '--cbase=64', '--cmax=8', '--batch=8', '--init-p=0.9']
    successful(train(data, tmp_path / 'runs', *arguments), devices=2)
    tensors = networks_of(only(tmp_path / 'runs'))
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    rows = [json.loads(line) for line in (only(tmp_path / 'runs') / 'stats.jsonl').read_text().splitlines()]
    assert all(row['Resources/peak_gpu_mem_gb']['mean'] > 0 for row in rows)
    assert all(row['Timing/tflop_per_sec']['mean'] > 0 for row in rows)
    assert not any('Timing/share_of_peak' in row for row in rows)  # no data sheet has the name of this card


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


@pytest.mark.slow
def test_graphs_on_two_devices_compute_the_same(data, tmp_path):
    options = [*SHORT, '--cfg=tiny', '--gpus=2', '--batch=8', '--cbase=64', '--cmax=8', '--init-p=0.3', '--kimg=0.096']
    networks = []
    for graphs in (0, 1):
        outdir = tmp_path / str(graphs)
        successful(train(data, outdir, *options, f'--cuda-graphs={graphs}'), devices=2)
        networks.append(last_network(only(outdir)))
    assert networks[0] == networks[1]


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
    pytest.param(['--cfg=tiny', '--cuda-graphs=1', '--kimg=0.16', '--insgen=1', '--lecam=0.1'], id='methods as graphs',
                 marks=pytest.mark.slow),
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


@pytest.fixture(scope='module')
def detectors(tmp_path_factory):
    return stand_ins.write_detectors(tmp_path_factory.mktemp('stand-ins') / 'detectors')


def write_picture(path, size):
    image = stand_ins.random_images(1, seed=5)[0].transpose(1, 2, 0)
    PIL.Image.fromarray(image).resize((size, size)).save(path)
    return path


def only_images(folder):
    """The folder, without what is not an image."""
    for path in folder.iterdir():
        if path.suffix != '.png':
            path.unlink()
    return folder


@pytest.mark.parametrize('name, arguments', [
    ('generate.py', ['--seeds=0-2', '--trunc=0.7', '--class=1', 'stylegan2']),
    ('generate.py', ['--seeds=0-1', '--translate=0.2,0', '--rotate=30', 'stylegan3']),
    ('generate.py', ['--seeds=0-5', '--class=1', '--batch=1', '--cuda-graphs=1', 'stylegan2']),
    ('style_mixing.py', ['--rows=0,1', '--cols=2', '--styles=0-1', '--class=1', 'stylegan2']),
    pytest.param(
        'style_mixing.py', ['--rows=0', '--cols=2,3', '--styles=2-3', '--batch=1', 'stylegan3'], marks=pytest.mark.slow
    ),
])  # fmt: skip
def test_images_are_those_of_the_cpu(networks, tmp_path, name, arguments):
    network = f'--network={getattr(networks, arguments[-1])}'
    folders = on_both(
        lambda device, outdir: script(name, network, *arguments[:-1], device, f'--outdir={outdir}', '--trust-pickle'),
        tmp_path,
    )
    expected, actual = map(read_images, folders)
    assert expected.keys() == actual.keys() and expected
    for file, picture in expected.items():
        assert np.abs(picture.astype(int) - actual[file].astype(int)).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    'network, motion', [('stylegan2', ['--class=0,1', '--batch=3']), ('stylegan3', ['--spin=1', '--cuda-graphs=1'])]
)
def test_a_video_is_that_of_the_cpu(networks, tmp_path, read_video, network, motion):
    options = [f'--network={getattr(networks, network)}', '--seeds=0,1', '--frames=4', '--enlarge=4', *motion]
    folders = on_both(
        lambda device, outdir: script('gen_video.py', *options, device, f'--output={outdir}/video.mp4'), tmp_path
    )
    expected, actual = (read_video(folder / 'video.mp4').astype(int) for folder in folders)
    assert expected.shape == actual.shape and len(expected) == 8
    assert np.abs(expected - actual).mean() < 0.5 and expected.std() > 10


@pytest.mark.slow
@pytest.mark.parametrize('network, graphs', [('stylegan2', 0), ('stylegan2', 1), ('stylegan3', 1)])
def test_a_projection_is_that_of_the_cpu(networks, tmp_path, detectors, network, graphs):
    G = dict(stylegan2=make_generator(c_dim=2), stylegan3=make_stylegan3_generator())[network]
    target = write_picture(tmp_path / 'target.png', G.img_resolution)
    options = [f'--network={getattr(networks, network)}', f'--target={target}', f'--detectors={detectors}']
    options += [
        '--num-steps=6',
        '--space=w+',
        f'--cuda-graphs={graphs}',
        *(['--class=1'] if network == 'stylegan2' else []),
    ]
    folders = on_both(lambda device, outdir: script('projector.py', *options, device, f'--outdir={outdir}'), tmp_path)
    expected, actual = (json.loads((folder / 'projection.json').read_text())['distance'] for folder in folders)
    assert expected['best'] < expected['start']
    assert [actual[key] for key in expected] == pytest.approx(list(expected.values()), rel=5e-3)
    (expected, actual) = (read_images(folder) for folder in map(only_images, folders))
    for file, picture in expected.items():
        assert np.abs(picture.astype(int) - actual[file].astype(int)).mean() < 1


@pytest.mark.slow
@pytest.mark.parametrize('name, metrics, options', [
    ('stylegan2', 'fid64_full,kid64_full,is64,pr1k3,ppl_zfull,ppl2_wend', ['--num-samples=32', '--bootstrap=20']),
    ('stylegan2', 'fid64_full,ppl2_wend', ['--num-samples=32', '--gpus=2']),
    ('stylegan2', 'fid64_full,ppl2_wend', ['--num-samples=32', '--batch=8', '--cuda-graphs=1']),
    ('stylegan3', 'eqt20_int,eqt20_frac,eqr20', []),
])  # fmt: skip
def test_metrics_are_those_of_the_cpu(tmp_path, detectors, name, metrics, options):
    images = stand_ins.write_zip(tmp_path / 'data.zip', stand_ins.random_images(80))
    network = stand_ins.save_network(tmp_path / 'stylegan2.pkl', images)
    if name == 'stylegan3':
        images = stand_ins.write_zip(tmp_path / 'large.zip', stand_ins.random_images(8).repeat(2, 2).repeat(2, 3))
        network = tmp_path / 'stylegan3.pkl'
        kwargs = dict(class_name='training.dataset.ImageFolderDataset', path=str(images), resolution=32)
        network.write_bytes(pickle.dumps({'G_ema': make_stylegan3_generator(), 'training_set_kwargs': kwargs}))
    command = script('calc_metrics.py', f'--network={network}', f'--metrics={metrics}', f'--detectors={detectors}')
    results = {}
    for device in ('cpu', 'cuda'):
        # Latents do not depend on the device, but the noise of the networks would.
        output = successful([*command, *options, f'--device={device}'], devices=2, shared_rng=1).stdout
        lines = [json.loads(line) for line in output.splitlines()]
        results[device] = {key: value for line in lines for key, value in line['results'].items()}
    assert results['cpu'].keys() == results['cuda'].keys() and results['cpu']
    for key, value in results['cpu'].items():
        assert results['cuda'][key] == pytest.approx(value, rel=2e-3), key


@pytest.mark.slow
@pytest.mark.parametrize('source', ['published-format-stylegan2-cond-16', 'tf-stylegan2-ada-cond-16'])
def test_converted_networks_compute_in_half_precision(golden_path, tmp_path, source):
    converted = tmp_path / 'half.pkl'
    successful(script('legacy.py', f'--source={golden_path(f"{source}.pkl")}', f'--dest={converted}', '--force-fp16=1'))
    options = [f'--network={converted}', '--seeds=0-3', '--class=1']
    folders = on_both(
        lambda device, outdir: script('generate.py', *options, device, f'--outdir={outdir}'), tmp_path, devices=1
    )
    expected, actual = map(read_images, folders)
    differences = [np.abs(picture.astype(int) - actual[file].astype(int)) for file, picture in expected.items()]
    assert len(differences) == 4 and 0 < np.max(differences) <= 3  # The CPU computes in full precision.


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


@pytest.fixture(scope='module')
def counted_iterations(data, tmp_path_factory):
    """What each iteration of a run in mixed precision costs; faults are planted in some."""
    folder = tmp_path_factory.mktemp('counted')
    kimg = 0.008 * iterations.NUM_ITERATIONS
    options = [f'--data={data}', f'--outdir={folder}', *SMALL, '--device=cuda', '--workers=0', '--cfg=auto']
    options += ['--cbase=64', '--cmax=8', '--init-p=0.5', iterations.REGULARIZED, f'--kimg={kimg}', f'--tick={kimg}']
    successful([sys.executable, '-m', 'tests.rehearsal.iterations', folder / 'counts.json', *options])
    counts = json.loads((folder / 'counts.json').read_text())
    assert len(counts) == iterations.NUM_ITERATIONS and all(row['launches'] > 1000 for row in counts)
    return counts


def test_an_iteration_waits_for_nothing_but_what_is_allowed(counted_iterations):
    """... copies from pinned memory, and computes in float64 nothing but statistics."""
    found = iterations.deviations(counted_iterations)
    assert [deviation for deviation in found if deviation.iteration not in iterations.FAULTS] == []


@pytest.mark.parametrize('iteration', iterations.FAULTS)
def test_planted_faults_are_counted(counted_iterations, iteration):
    """Each makes exactly one of the counts too large."""
    found = [row for row in iterations.deviations(counted_iterations) if row.iteration == iteration]
    assert [row.kind for row in found] == [iterations.FAULTS[iteration][0]] and found[0].found > found[0].allowed


def test_counters_are_written(data, tmp_path):
    command = [sys.executable, '-c', "import torch; torch.ones(3, device='cuda').sum().item()"]
    successful(command, counts=tmp_path / 'counts.jsonl')
    counts = json.loads((tmp_path / 'counts.jsonl').read_text())
    assert set(COUNTERS) < counts.keys() and counts['synchronizations'] == 1 and counts['launches'] >= 2
