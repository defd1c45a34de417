"""The demo's report: its figures tell good, copied, collapsed and wrong images apart; its files appear."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

sklearn_datasets = pytest.importorskip('sklearn.datasets')
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='module')
def report():
    spec = importlib.util.spec_from_file_location('demo_report', ROOT / 'scripts' / 'demo_report.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def digits():
    """(train images, train classes, other images, other classes), [N, 64] in [0, 1]."""
    pixels, classes = sklearn_datasets.load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(pixels))
    pixels, classes = pixels[order] / 16, classes[order]
    return pixels[:1000], classes[:1000], pixels[1000:], classes[1000:]


def test_images_as_good_as_real_ones(report, digits):
    quality = report.measure(*digits)
    assert quality['class_accuracy'] > 0.95 and quality['reals_class_accuracy'] > 0.95
    assert quality['recall'] > 0.75 and quality['precision'] > 0.75
    assert quality['share_of_copies'] < 0.05


def test_copies_are_found(report, digits):
    real, classes, _, _ = digits
    quality = report.measure(real, classes, real + 0.001, classes)
    assert quality['share_of_copies'] == 1


def test_a_single_image_per_class_has_no_recall(report, digits):
    real, classes, _, _ = digits
    means = np.stack([real[classes == k].mean(axis=0) for k in range(10)])
    noise = np.random.RandomState(0).randn(500, 64) * 0.01
    asked = np.arange(500) % 10
    quality = report.measure(real, classes, means[asked] + noise, asked)
    assert quality['class_accuracy'] > 0.95 and quality['recall'] < 0.01


def test_wrong_classes_and_noise(report, digits):
    real, classes, other, other_classes = digits
    assert report.measure(real, classes, other, (other_classes + 1) % 10)['class_accuracy'] < 0.05
    noise = np.random.RandomState(0).rand(300, 64)
    assert report.measure(real, classes, noise, np.arange(300) % 10)['precision'] == 0


def test_report_of_a_short_run(run_script, tmp_path):
    data = tmp_path / 'digits.zip'
    assert run_script('dataset_tool.py', '--source=digits', f'--dest={data}', '--resolution=16x16').returncode == 0
    trained = run_script(
        'train.py',
        '--outdir=runs',
        f'--data={data}',
        '--cfg=tiny',
        '--cond=1',
        '--kimg=1',
        '--tick=1',
        '--snap=1',
        '--workers=0',
        '--device=cpu',
        '--metrics=none',
    )
    assert trained.returncode == 0, trained.stderr
    (run_dir,) = (tmp_path / 'runs').iterdir()
    result = run_script('scripts/demo_report.py', f'--run-dir={run_dir}', f'--data={data}', '--outdir=out')
    assert result.returncode == 1 and 'fell short of its goal' in result.stderr  # After 1,000 images.
    assert json.loads((tmp_path / 'out' / 'quality.json').read_text())['num_generated'] == 1000
    with PIL.Image.open(tmp_path / 'out' / 'grid.png') as grid:
        assert grid.height == 10 * (4 * 16 + 4) < grid.width  # Labels are left of the images.
    with PIL.Image.open(tmp_path / 'out' / 'progress.gif') as animation:
        assert animation.n_frames == 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_demo_reaches_its_goal(run_script, tmp_path):
    data = tmp_path / 'digits.zip'
    environment = dict(OMP_NUM_THREADS='2')
    assert run_script('dataset_tool.py', '--source=digits', f'--dest={data}', '--resolution=16x16').returncode == 0
    trained = run_script(
        'train.py',
        '--outdir=runs',
        f'--data={data}',
        '--cfg=tiny',
        '--cond=1',
        '--snap=1',
        '--metrics=none',
        env=environment,
        timeout=1700,
    )
    assert trained.returncode == 0, trained.stderr
    (run_dir,) = (tmp_path / 'runs').iterdir()
    result = run_script('scripts/demo_report.py', f'--run-dir={run_dir}', f'--data={data}', '--outdir=out')
    assert result.returncode == 0, result.stdout + result.stderr
    quality = json.loads((tmp_path / 'out' / 'quality.json').read_text())
    assert quality['class_accuracy'] >= 0.90
    assert quality['recall'] > 0.25 and quality['precision'] > 0.7 and quality['share_of_copies'] < 0.05

    # A picture of the network's own is found again.
    network = f'--network={sorted(run_dir.glob("network-snapshot-*.pkl"))[-1]}'
    for arguments in (
        ('scripts/train_digits_detector.py', f'--data={data}', '--dest=detectors'),
        ('generate.py', network, '--class=3', '--seeds=3', '--outdir=own'),
        ('projector.py', network, '--class=3', '--target=own/seed0003.png', '--detectors=detectors', '--outdir=own'),
    ):
        result = run_script(*arguments, timeout=600)
        assert result.returncode == 0, result.stdout + result.stderr
    distance = json.loads((tmp_path / 'own' / 'projection.json').read_text())['distance']
    assert distance['last'] < 0.02 * distance['start']


def test_report_without_a_network(run_script, tmp_path):
    result = run_script('scripts/demo_report.py', f'--run-dir={tmp_path}', '--data=x.zip', '--outdir=out')
    assert result.returncode == 1 and 'network-snapshot' in result.stderr and 'Traceback' not in result.stderr
