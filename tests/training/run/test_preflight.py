"""What train.py finds out before the first step, and what it says then."""

import json
import os
import re
import shutil
from collections import namedtuple
from pathlib import Path

import click.testing
import numpy as np
import PIL.Image
import pytest

import dnnlib.cli
import train
from dnnlib import machine
from torch_utils import cuda_memory, launcher
from training import setup
from training.options import Options, build_config, open_training_set
from training.run import preflight

NUM_IMAGES = 120  # more than --verify-data=sample decodes
MIB, GIB = 2**20, 2**30
SMALL = ('--cfg=tiny', '--cbase=64', '--cmax=8', '--metrics=none', '--device=cpu')


def write_images(folder, resolution=16, count=NUM_IMAGES):
    folder.mkdir(parents=True)
    random = np.random.RandomState(0)
    for index in range(count):
        pixels = random.randint(0, 256, size=[resolution, resolution, 3], dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f'img{index:08d}.png')
    return folder


def damage(path):
    """Cut a file after its header, so that only decoding notices."""
    path.write_bytes(path.read_bytes()[:60])


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp('data') / 'images')


@pytest.fixture
def dry_run(images, tmp_path, monkeypatch):
    """Function that runs `train.py --dry-run` in this process, as if on a machine without accelerators."""
    for name in ('WORLD_SIZE', 'RANK', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE', 'SLURM_STEP_NUM_TASKS'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(dnnlib.cli, 'available_devices', lambda: ['cpu'])
    monkeypatch.chdir(tmp_path)

    def run(*args, data=images):
        arguments = ['--dry-run', '--outdir=runs', f'--data={data}', *(args or SMALL)]
        return click.testing.CliRunner().invoke(train.main, arguments, prog_name='train.py')

    return run


def findings_of(result):
    """Return {subject: (text, warning)} of the printed table."""
    assert result.exit_code == 0, result.output
    table = result.stderr.split('Checks:\n')[1]
    lines = re.findall(r'^  (\w+) +(.*)\n(?: +Warning: (.*)\n)?', table, re.M)
    return {subject: (text, warning) for subject, text, warning in lines}


def error_of(result):
    assert result.exit_code == 2, result.output
    *before, last = result.stderr.rstrip('\n').split('\n')
    assert last.startswith('Error: ') and 'Traceback' not in result.stderr
    return last, before


# ---------------------------------------------------------------------------------------------------------------------
# All checks


def test_every_check_has_its_line(dry_run):
    findings = findings_of(dry_run(*SMALL, '--gpus=2'))
    assert list(findings) == ['processes', 'memory', 'disk', 'data']
    assert findings['processes'][0] == '2 on this machine, gloo; batch of 16 = 2 x 8 images'
    assert re.match(r'about 0\.\d GiB in each process for 8 images at once; .* free', findings['memory'][0])
    assert findings['data'][0] == '120 images: headers read, 100 decoded'


def test_classes_without_images_are_a_warning(dry_run, images, tmp_path):
    data = shutil.copytree(images, tmp_path / 'labeled')
    names = sorted(path.name for path in data.iterdir())
    by_name = [[name, 1 + index % 2] for index, name in enumerate(names)]
    (data / 'dataset.json').write_text(json.dumps({'labels': by_name}))
    text, warning = findings_of(dry_run(*SMALL, f'--data={data}', '--cond=1'))['classes']
    assert text == '3, of which 1 without images' and warning.startswith('no images of 0: ')
    assert 'classes' not in findings_of(dry_run(*SMALL, f'--data={data}'))


def test_a_run_prints_what_the_dry_run_prints_and_keeps_to_the_expected_output(images, run_script, tmp_path):
    options = ['--outdir=runs', f'--data={images}', *SMALL, '--kimg=0.1', '--tick=0.03', '--snap=2', '--keep-states=1']
    dry = run_script('train.py', *options, '--dry-run')
    run = run_script('train.py', *options)
    assert run.returncode == 0, run.stderr
    checks = re.search(r'Checks:\n.*?\n(?=Dry run)', dry.stderr, re.S)[0]
    for line in checks.splitlines():  # free memory and space change
        assert line.split(';')[0] in run.stdout
    assert not (tmp_path / 'images').exists()

    (run_dir,) = (tmp_path / 'runs').iterdir()
    pickles, grids = list(run_dir.glob('network-*.pkl')), list(run_dir.glob('fakes0*.png'))
    parsed = Options(
        outdir='runs', data=str(images), cfg='tiny', cbase=64, cmax=8, kimg=0.1, tick=0.03, snap=2, keep_states=1
    )
    dataset = open_training_set(parsed)
    output = preflight.expected_output(build_config(parsed, dataset, 'cpu', 1), dataset)
    (state,) = run_dir.glob('training-state-*.pt')
    assert output.num_states == 2 and output.states_bytes == 2 * output.state_bytes
    assert 0.5 * state.stat().st_size < output.state_bytes < 1.5 * state.stat().st_size
    # Names have whole kimg, so later snapshots of this short run take the place of the earlier ones.
    written = re.findall(r'^tick (\d+)', run.stdout, re.M)
    assert len([tick for tick in written if int(tick) % 2 == 0 or tick == written[-1]]) == output.num_snapshots
    actual = pickles[0].stat().st_size + grids[0].stat().st_size
    assert 0.5 * actual < output.snapshot_bytes < 1.5 * actual + 400_000  # a pickle also holds its source code


@pytest.mark.parametrize(
    'kimg, tick, snap, batch',
    [(0.1, 0.03, 2, 16), (0.1, 0.05, 1, 16), (0.016, 4, 50, 16), (1, 0.1, 3, 32), (0.5, 0.1, 4, 32)],
)
def test_number_of_snapshots(images, kimg, tick, snap, batch):
    options = Options(outdir='runs', data=str(images), cfg='tiny', kimg=kimg, tick=tick, snap=snap, batch=batch)
    dataset = open_training_set(options)
    output = preflight.expected_output(build_config(options, dataset, 'cpu', 1), dataset)

    number = index = shown = start = 0  # as the training loop counts
    while shown < kimg * 1000:
        shown += batch
        done = shown >= kimg * 1000
        if done or index == 0 or shown >= start + tick * 1000:
            number += done or index % snap == 0
            index, start = index + 1, shown
    assert output.num_snapshots == number


# ---------------------------------------------------------------------------------------------------------------------
# Data


@pytest.fixture(scope='module')
def damaged(images, tmp_path_factory):
    """Two of 24 images cannot be decoded; their headers are sound."""
    folder = write_images(tmp_path_factory.mktemp('damaged') / 'images', count=24)
    for index in (3, 20):
        damage(folder / f'img{index:08d}.png')
    return folder


@pytest.mark.parametrize('verify', ['sample', 'all'])
def test_every_damaged_image_is_named(dry_run, damaged, verify):
    error, before = error_of(dry_run(*SMALL, f'--verify-data={verify}', '--mirror=1', data=damaged))
    assert "'--data'" in error and '2 of 24 images cannot be used' in error and '--skip-bad' in error
    named = [line for line in before if 'cannot be read' in line]
    assert ['img00000003.png' in named[0], 'img00000020.png' in named[1], len(named)] == [True, True, 2]


def test_a_single_damaged_image_is_the_error(dry_run, images, tmp_path):
    folder = shutil.copytree(images, tmp_path / 'copy')
    damage(folder / 'img00000119.png')
    error, before = error_of(dry_run(*SMALL, '--verify-data=all', data=folder))
    assert 'img00000119.png cannot be read as an image' in error
    assert not any('img00000119' in line for line in before)


@pytest.mark.parametrize('verify, text', [('headers', '24 images: headers read'), ('none', 'images not verified')])
def test_less_can_be_verified(dry_run, damaged, verify, text):
    assert findings_of(dry_run(*SMALL, f'--verify-data={verify}', data=damaged))['data'] == (text, '')


def test_a_resumed_run_does_not_read_its_images_again(run_script, images, tmp_path):
    folder = shutil.copytree(images, tmp_path / 'copy')
    run_script('train.py', '--outdir=runs', f'--data={folder}', *SMALL, '--kimg=0.016')
    damage(folder / 'img00000050.png')
    options = ['--dry-run', '--resume-run=runs/00000-copy-tiny-kimg0.016', '--kimg=0.032']
    result = run_script('train.py', *options)
    assert result.returncode == 0 and 'images not verified' in result.stderr, result.stderr
    result = run_script('train.py', *options, '--verify-data=all')
    assert result.returncode == 2 and 'img00000050.png' in result.stderr, result.stderr


def test_another_shape_is_found_without_decoding(dry_run, images, tmp_path):
    folder = shutil.copytree(images, tmp_path / 'copy')
    PIL.Image.new('RGB', (8, 8)).save(folder / 'img00000050.png')
    error, _ = error_of(dry_run(*SMALL, '--verify-data=headers', data=folder))
    assert 'img00000050.png (8x8 RGB)' in error
    error, _ = error_of(dry_run(*SMALL, '--verify-data=all', data=folder))
    assert 'img00000050.png is 8x8 RGB' in error


# ---------------------------------------------------------------------------------------------------------------------
# Memory


@pytest.mark.parametrize('free, processes', [(700 * MIB, 1), (1400 * MIB, 2)])
def test_too_little_memory_names_batch_sizes_that_fit(dry_run, monkeypatch, free, processes):
    monkeypatch.setattr(machine, 'free_ram_bytes', lambda: free)
    options = ('--cfg=auto', '--cbase=2048', '--metrics=none', f'--batch={128 * processes}', f'--gpus={processes}')
    error, _ = error_of(dry_run(*options, '--batch-gpu=128'))
    assert "'--batch-gpu'" in error and '128 images at once need about' in error
    fitting = [int(number) for number in re.search(r'use --batch-gpu=([\d or]+)', error)[1].split(' or ')]
    assert fitting == sorted(fitting, reverse=True) and set(fitting) <= {4, 8, 16, 32, 64, 1, 2}
    for number in fitting:
        assert findings_of(dry_run(*options, f'--batch-gpu={number}'))['memory'][1] == ''
    assert 2 * fitting[0] == 128 or findings_of(dry_run(*options, f'--batch-gpu={2 * fitting[0]}'))['memory'][1]


def test_no_batch_fits(dry_run, monkeypatch):
    monkeypatch.setattr(machine, 'free_ram_bytes', lambda: 100 * MIB)
    error, _ = error_of(dry_run())
    assert 'fewer images at once do not help: use smaller --cbase and --cmax' in error


def test_about_enough_memory_is_a_warning(dry_run, monkeypatch):
    monkeypatch.setattr(machine, 'free_ram_bytes', lambda: 240 * MIB)
    assert 'may not be enough' in findings_of(dry_run())['memory'][1]


def test_unknown_free_memory_is_not_a_warning(dry_run, monkeypatch):
    monkeypatch.setattr(machine, 'free_ram_bytes', lambda: None)
    assert 'does not report' in findings_of(dry_run())['memory'][0]


def test_the_gpu_counts_on_cuda(images, monkeypatch):
    asked = []
    monkeypatch.setattr(cuda_memory, 'free_cuda_bytes', lambda indices: asked.append(indices) or 3 * GIB)
    options = Options(outdir='runs', data=str(images), batch=16, cbase=2048, metrics=())
    dataset = open_training_set(options)
    for device, gpus in (('cuda', 1), ('cuda:3', 1), ('cuda', 4)):
        assert 'GPU' in preflight.check_memory(build_config(options, dataset, device, gpus), dataset).text
    assert asked == [[0], [3], [0, 1, 2, 3]]
    monkeypatch.setattr(cuda_memory, 'free_cuda_bytes', lambda indices: None)
    assert 'does not report' in preflight.check_memory(build_config(options, dataset, 'cuda', 1), dataset).text


def test_free_memory_of_this_machine_and_of_a_container(tmp_path):
    total = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    assert 0 < machine.free_ram_bytes() < total
    (tmp_path / 'memory.max').write_text('1000\n')
    (tmp_path / 'memory.current').write_text('700\n')
    (tmp_path / 'memory.stat').write_text('anon 100\ninactive_file 200\nactive_file 50\n')
    arguments = (tmp_path, 'memory.max', 'memory.current', ('inactive_file', 'active_file'))
    assert machine._left_in_control_group(*arguments) == [550]
    (tmp_path / 'memory.max').write_text('max\n')
    assert machine._left_in_control_group(*arguments) == []


# ---------------------------------------------------------------------------------------------------------------------
# Disk

Usage = namedtuple('Usage', 'total used free')


def test_disk_for_some_of_the_snapshots_is_a_warning(dry_run, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: Usage(0, 0, 10_000_000))
    text, warning = findings_of(dry_run(*SMALL, '--kimg=90', '--snap=1', '--tick=0.5'))['disk']
    assert '10.0 MB free' in text and ' of training states; ' in text
    number = int(re.match(r'there is room for (\d+) snapshots: delete', warning)[1])
    assert 1 <= number < 180


def test_disk_for_none_is_an_error(dry_run, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: Usage(0, 0, 100_000))
    error, _ = error_of(dry_run())
    assert "'--outdir'" in error and "'runs' has 0.1 MB free" in error and 'choose another folder' in error


# ---------------------------------------------------------------------------------------------------------------------
# Processes


def under_torchrun(monkeypatch, **variables):
    defaults = dict(
        WORLD_SIZE=4, RANK=0, LOCAL_RANK=0, LOCAL_WORLD_SIZE=2, GROUP_WORLD_SIZE=2, MASTER_ADDR='a', MASTER_PORT=1
    )
    for name, value in (defaults | variables).items():
        monkeypatch.setenv(name, str(value)) if value is not None else monkeypatch.delenv(name, raising=False)


def test_machines(dry_run, monkeypatch):
    under_torchrun(monkeypatch)
    assert findings_of(dry_run())['processes'] == (
        '4 on 2 machines, 2 on this one, gloo; batch of 16 = 4 x 4 images',
        '',
    )
    under_torchrun(monkeypatch, LOCAL_WORLD_SIZE=1)
    assert '--nproc-per-node' in findings_of(dry_run())['processes'][1]


@pytest.mark.parametrize(
    'variables, words',
    [
        (dict(RANK='x'), ["RANK is 'x'", 'must be a number']),
        (dict(WORLD_SIZE='-1'), ["WORLD_SIZE is '-1'", 'must be a number']),
        (dict(LOCAL_RANK=2), ['LOCAL_RANK is 2', 'must be less than LOCAL_WORLD_SIZE=2']),
        (dict(RANK=4), ['RANK is 4', 'must be less than WORLD_SIZE=4']),
        (dict(MASTER_PORT=None), ['WORLD_SIZE is 4', 'MASTER_PORT is not set', 'torchrun']),
    ],
)
def test_variables_of_a_launcher_must_be_consistent(dry_run, monkeypatch, variables, words):
    under_torchrun(monkeypatch, **variables)
    error, _ = error_of(dry_run())
    assert all(word in error for word in words), error


def test_slurm_tasks_without_torchrun(dry_run, monkeypatch):
    monkeypatch.setenv('SLURM_STEP_NUM_TASKS', '4')
    assert 'Slurm has started 4 tasks' in findings_of(dry_run())['processes'][1]


def test_one_image_at_a_time_cannot_be_compared(dry_run, monkeypatch):
    monkeypatch.setattr(machine, 'free_ram_bytes', lambda: 500 * GIB)
    monkeypatch.setattr(os, 'cpu_count', lambda: 64)
    options = ('--cbase=512', '--metrics=none', '--gpus=64')
    assert 'use --batch=256 --mbstd-group=4, or fewer' in findings_of(dry_run(*options))['processes'][1]
    assert findings_of(dry_run(*options, '--batch=256', '--mbstd-group=4'))['processes'][1] == ''


def _compare(world, folders, results, batch):
    options = Options(outdir='runs', data=folders[world.rank], cfg='tiny', gamma=1 + batch * world.rank)
    dataset = open_training_set(options)
    config = build_config(options, dataset, 'cpu', world.size)
    try:
        setup.check_same_on_all_ranks(world, config, dataset)
        text = 'equal'
    except ValueError as error:
        text = str(error)
    Path(results, str(world.rank)).write_text(text)


@pytest.mark.parametrize('case', ['copies', 'options', 'images'])
def test_ranks_compare_options_and_data(images, tmp_path, case):
    copy = shutil.copytree(images, tmp_path / 'images of the other machine')
    if case == 'images':
        (copy / 'img00000007.png').unlink()
    launcher.launch(_compare, 2, 'cpu', [str(images), str(copy)], str(tmp_path), int(case == 'options'))
    texts = {(tmp_path / rank).read_text() for rank in '01'}
    assert len(texts) == 1
    (text,) = texts
    if case == 'copies':
        assert text == 'equal'
    else:
        assert text.startswith('Rank 1 (on ') and 'same options and the same data' in text
        assert ('r1_gamma' if case == 'options' else 'training_set_kwargs') in text


def test_options_are_complete_json(dry_run):
    """The table goes to stderr, so stdout remains readable by programs."""
    assert json.loads(dry_run().stdout)['batch_size'] == 16
