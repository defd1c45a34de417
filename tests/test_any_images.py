"""Images that are not square, with alpha and vector labels, from the source to the metrics.

Every script runs in a separate process, on one small dataset.
"""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import legacy
from tests.metric_stand_ins import write_detectors
from torch_utils import images
from training.networks_stylegan2 import Discriminator

ROOT = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT, NUM_LABELS = 96, 64, 3


def run(script, *arguments, status=0):
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONDONTWRITEBYTECODE': '1'}
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def write_source(folder):
    """Write discs of different colors on transparent backgrounds, labeled with the color."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:80, :120]
    labels = []
    folder.mkdir()
    for index in range(8):
        color = rng.random(NUM_LABELS)
        inside = (x - rng.integers(40, 80)) ** 2 + (y - rng.integers(30, 50)) ** 2 < 25**2
        pixels = np.zeros([80, 120, 4], np.uint8)
        pixels[inside] = [*(color * 255).astype(np.uint8), 255]
        PIL.Image.fromarray(pixels).save(folder / f'{index}.png')
        labels.append([f'{index}.png', [round(float(value), 3) for value in color]])
    (folder / 'dataset.json').write_text(json.dumps({'labels': labels}))
    return [label for _name, label in labels]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The folder with source, data.zip, detectors and a run; the run directory; its last snapshot; the labels."""
    folder = tmp_path_factory.mktemp('any-images')
    labels = write_source(folder / 'source')
    run(
        'dataset_tool.py',
        f'--source={folder / "source"}',
        f'--dest={folder / "data.zip"}',
        '--alpha=keep',
        '--transform=center-crop',
        f'--resolution={WIDTH}x{HEIGHT}',
    )
    detectors = write_detectors(folder / 'detectors')
    run(
        'train.py',
        f'--outdir={folder / "runs"}',
        f'--data={folder / "data.zip"}',
        '--cond=1',
        '--cfg=tiny',
        '--cbase=256',
        '--cmax=8',
        '--kimg=0.024',
        '--batch=4',
        '--tick=1',
        '--snap=1',
        '--aug=fixed',
        '--p=0.7',
        '--augpipe=bgcfnc',
        '--mirror=1',
        '--metrics=fid10_full',
        f'--detectors={detectors}',
        '--device=cpu',
    )
    (run_dir,) = (folder / 'runs').iterdir()
    return folder, run_dir, sorted(run_dir.glob('network-snapshot-*.pkl'))[-1], labels


def pixels_of(path, mode='RGBA', size=(WIDTH, HEIGHT)):
    picture = PIL.Image.open(path)
    assert (picture.mode, picture.size) == (mode, size)
    return np.asarray(picture)


def test_training_leaves_its_files(trained):
    folder, run_dir, _snapshot, labels = trained
    options = json.loads((run_dir / 'training_options.json').read_text())
    assert options['training_set_kwargs']['resolution'] == [HEIGHT, WIDTH]
    assert f'{WIDTH}x{HEIGHT} RGB with alpha' in run('train.py', f'--outdir={folder / "runs"}', '--cond=1', '-n',
        f'--data={folder / "data.zip"}', '--metrics=none').stderr  # fmt: skip
    columns, rows = 12, 10
    for name in ('reals.png', 'fakes_init.png'):
        pixels_of(run_dir / name, size=(columns * WIDTH, rows * HEIGHT))
    result = json.loads((run_dir / 'metric-fid10_full.jsonl').read_text().splitlines()[-1])
    assert np.isfinite(result['results']['fid10_full']) and result['transparency'] == 'on white'
    assert len(labels) == 8


def test_the_pickle_is_complete_and_loads_both_ways(trained, tmp_path):
    _folder, _run_dir, snapshot, labels = trained
    with open(snapshot, 'rb') as file:
        plain = pickle.load(file)
    with open(snapshot, 'rb') as file:
        safe = legacy.load_network_pkl(file)
    run('legacy.py', f'--source={snapshot}', f'--dest={tmp_path / "x.safetensors"}')
    run('legacy.py', f'--source={tmp_path / "x.safetensors"}', f'--dest={tmp_path / "x.pkl"}')
    z, c = torch.randn([2, plain['G_ema'].z_dim]), torch.tensor(labels[:2])
    expected = plain['G_ema'](z, c, noise_mode='const')
    assert expected.shape == (2, 4, HEIGHT, WIDTH)
    for data in (plain, safe, legacy.open_network(str(tmp_path / 'x.pkl'))):
        G, D = data['G_ema'], data['D']
        assert G.img_resolution == D.img_resolution == [HEIGHT, WIDTH] and (G.img_channels, G.c_dim) == (4, NUM_LABELS)
        assert G.init_kwargs['img_resolution'] == [HEIGHT, WIDTH]
        assert data['training_set_kwargs']['resolution'] == [HEIGHT, WIDTH]
        assert torch.equal(G(z, c, noise_mode='const'), expected)
        assert torch.equal(D(expected, c), plain['D'](expected, c))
        assert data['augment_pipe'](expected).shape == expected.shape


def test_a_label_for_generated_images(trained, tmp_path):
    _folder, _run_dir, snapshot, _labels = trained
    run('generate.py', f'--network={snapshot}', '--seeds=3,4', '--label=0.2,-1,0', f'--outdir={tmp_path}')
    G = legacy.open_network(str(snapshot))['G_ema']
    for seed in (3, 4):
        z = torch.from_numpy(np.random.RandomState(seed).randn(1, G.z_dim)).float()
        expected = images.to_uint8(G(z, torch.tensor([[0.2, -1, 0]]), noise_mode='const'))[0].permute(1, 2, 0)
        assert np.abs(pixels_of(tmp_path / f'seed{seed:04d}.png').astype(int) - expected.numpy()).max() <= 1
    run('generate.py', f'--network={snapshot}', '--seeds=0-4', '--class=1', '--grid=3x2', f'--outdir={tmp_path}')
    grid = pixels_of(tmp_path / 'grid.png', size=(3 * WIDTH, 2 * HEIGHT))
    assert not grid[HEIGHT:, 2 * WIDTH :].any()  # the cell without an image is transparent


@pytest.mark.parametrize(
    'arguments, words',
    [
        (['--label=0.2,1'], ['--label', 'expected 3 numbers', 'got 2']),
        (['--label=0.2,1,x'], ['--label', '0.2,1,x']),
        (['--label=0.2,1,nan'], ['--label', 'finite']),
        (['--label=0.2,1,0', '--class=1'], ['--label', "class '1'", 'only one of them']),
        ([], ['--class', '--label for a label of 3 numbers']),
    ],
)
def test_invalid_labels_are_usage_errors(trained, tmp_path, arguments, words):
    arguments = [f'--network={trained[2]}', '--seeds=0', f'--outdir={tmp_path / "out"}', *arguments]
    done = run('generate.py', *arguments, status=2)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('Error: ') and all(word in last for word in words), last
    assert not (tmp_path / 'out').exists()


def test_style_mixing_between_labels(trained, tmp_path):
    run(
        'style_mixing.py',
        f'--network={trained[2]}',
        '--rows=0',
        '--cols=1,2',
        '--label=0,0,1',
        '--col-label=1,0,0',
        '--labels=1',
        f'--outdir={tmp_path}',
    )
    pixels_of(tmp_path / '0-1.png')
    grid = np.asarray(PIL.Image.open(tmp_path / 'grid.png'))
    assert (grid[0, 0] == 255).all() and grid.shape[2] == 4  # the white background is opaque
    run(
        'style_mixing.py',
        f'--network={trained[2]}',
        '--rows=0',
        '--cols=1,2',
        '--label=0,0,1',
        f'--outdir={tmp_path}',
    )
    pixels_of(tmp_path / 'grid.png', size=(3 * WIDTH, 2 * HEIGHT))


def test_video_on_white(trained, tmp_path, read_video):
    _folder, _run_dir, snapshot, _labels = trained
    run(
        'gen_video.py',
        f'--network={snapshot}',
        '--seeds=0,1',
        '--label=0,0,1',
        '--label=1,0,0',
        '--frames=2',
        f'--output={tmp_path / "x.mp4"}',
    )
    frames = read_video(tmp_path / 'x.mp4')
    assert frames.shape == (4, HEIGHT, WIDTH, 3)
    run('generate.py', f'--network={snapshot}', '--seeds=0', '--label=0,0,1', f'--outdir={tmp_path}')
    picture = torch.from_numpy(pixels_of(tmp_path / 'seed0000.png').copy()).permute(2, 0, 1)[None]
    shown = images.on_white(picture)[0].permute(1, 2, 0).numpy()
    assert np.abs(frames[0].astype(int) - shown).mean() < 6  # H.264 is lossy, and has fewer samples for colors


def test_projection_keeps_alpha_and_proportions(trained, tmp_path):
    folder, _run_dir, snapshot, _labels = trained
    target = folder / 'source' / '2.png'
    run(
        'projector.py',
        f'--network={snapshot}',
        f'--target={target}',
        '--label=0.2,1,0',
        '--num-steps=3',
        f'--detectors={folder / "detectors"}',
        f'--outdir={tmp_path / "out"}',
    )
    wanted = pixels_of(tmp_path / 'out' / 'target.png')
    cropped = np.asarray(PIL.Image.open(target).resize((WIDTH, HEIGHT), PIL.Image.Resampling.LANCZOS))
    seen = cropped[:, :, 3] > 0
    assert np.array_equal(wanted[seen], cropped[seen]) and not wanted[~seen].any()
    report = json.loads((tmp_path / 'out' / 'projection.json').read_text())
    assert report['label'] == [0.2, 1, 0] and report['class'] is None
    run(
        'generate.py',
        f'--network={snapshot}',
        f'--projected-w={tmp_path / "out" / "projected_w.npz"}',
        f'--outdir={tmp_path / "again"}',
    )
    assert np.array_equal(pixels_of(tmp_path / 'again' / 'proj00.png'), pixels_of(tmp_path / 'out' / 'proj.png'))
    assert (tmp_path / 'out' / 'proj.mp4').stat().st_size > 0


def test_metrics_repeat_what_training_measured(trained):
    folder, run_dir, snapshot, _labels = trained
    before = json.loads((run_dir / 'metric-fid10_full.jsonl').read_text().splitlines()[-1])
    names = 'fid10_full,kid10_full,is10,ppl2_wend,ppl_zfull'
    done = run(
        'calc_metrics.py',
        f'--network={snapshot}',
        f'--metrics={names}',
        f'--detectors={folder / "detectors"}',
        '--num-samples=4',
        '--device=cpu',
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == 5
    for result in results:
        assert all(map(np.isfinite, result['results'].values())) and result['transparency'] == 'on white'
    assert results[0]['results'] == before['results'] and results[0]['dataset_sha256'] == before['dataset_sha256']


def test_a_square_discriminator_rejects_them(trained):
    D = Discriminator(c_dim=0, img_resolution=64, img_channels=4, channel_base=256, channel_max=8)
    with pytest.raises(AssertionError):
        D(torch.zeros([1, 4, HEIGHT, WIDTH]), None)
