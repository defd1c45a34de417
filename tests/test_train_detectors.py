"""The stand-ins for the detectors: the files of the script, their reproducibility, and what the detectors compute."""

import importlib.util
import re
import sys
from pathlib import Path

import click.testing
import numpy as np
import pytest
import torch

from metrics.features import detectors
from metrics.features.feature_requests import INCEPTION_FEATURES, INCEPTION_PROBABILITIES, VGG_FEATURES, VGG_LPIPS
from tests import metric_stand_ins as stand_ins
from training.dataset import ImageFolderDataset

pytest.importorskip('sklearn.datasets')


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    from dataset_tool import main

    path = tmp_path_factory.mktemp('digits') / 'digits.zip'
    main(['--source=digits', f'--dest={path}', '--resolution=16x16', '--max-images=600'], standalone_mode=False)
    return path


@pytest.fixture
def script(monkeypatch):
    path = Path(__file__).resolve().parents[1] / 'scripts' / 'train_detectors.py'
    spec = importlib.util.spec_from_file_location('train_detectors', path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def train(run_script, digits, dest, *args):
    result = run_script('scripts/train_detectors.py', f'--data={digits}', f'--dest={dest}', *args)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_detectors_of_the_digits(run_script, digits, tmp_path):
    output = train(run_script, digits, 'one')
    accuracy = float(output.split('classifies ')[1].split('%')[0])
    assert accuracy > 90 and '120 unseen images' in output
    train(run_script, digits, 'two')
    files = {path.name for path in (tmp_path / 'one').iterdir()}
    assert files == {'detectors.json', 'inception-digits.pt', 'vgg16-digits.pt'}
    for name in files:
        assert (tmp_path / 'one' / name).read_bytes() == (tmp_path / 'two' / name).read_bytes(), name

    dataset = ImageFolderDataset(digits, use_labels=True)
    images = torch.from_numpy(np.stack([dataset[index][0] for index in range(200)])).expand(-1, 3, -1, -1)
    labels = [int(dataset.get_label(index).argmax()) for index in range(200)]
    dataset.close()
    inception, vgg = (detectors.load(name, 'cpu', tmp_path / 'one') for name in ('inception', 'vgg16'))
    assert inception.label == vgg.label == 'digits'
    probabilities = detectors.apply(inception, images, INCEPTION_PROBABILITIES)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(200), atol=1e-5)
    assert (probabilities.argmax(dim=1).numpy() == labels).mean() > 0.9
    assert detectors.apply(inception, images, INCEPTION_FEATURES).shape == (200, 64)
    larger = images[:8].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert detectors.apply(vgg, larger, VGG_FEATURES).shape == (8, 1024)
    # LPIPS: zero for equal images, and the larger the more noise.
    clean = images[:20].float()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    vectors = [detectors.apply(vgg, (clean + strength * noise).clamp(0, 255), VGG_LPIPS) for strength in (0, 5, 50)]
    distances = [float((vector - vectors[0]).square().sum(dim=1).mean()) for vector in vectors]
    assert distances[0] == 0 < distances[1] < distances[2]


@pytest.mark.parametrize(
    'args, words',
    [((), 'has no labels'), (('--label=Set2',), "'Set2'.*lower-case"), (('--dest=file/below',), '--dest.*is a file')],
)
def test_wrong_calls(script, digits, tmp_path, monkeypatch, args, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').write_text('')
    data = digits if args else stand_ins.write_zip(tmp_path / 'plain.zip', stand_ins.random_images(4))
    result = click.testing.CliRunner().invoke(script.main, [f'--data={data}', '--dest=out', *args])
    assert result.exit_code != 0 and not (tmp_path / 'out').exists()
    assert re.search(words, result.stderr.splitlines()[-1]), result.stderr
