"""Detectors: where they are found, and an error message for each that is missing, damaged or of another kind."""

import hashlib
import io
import json
import logging
import shutil
import zipfile

import numpy as np
import pytest
import torch

from metrics.features import detectors
from metrics.features.detectors import DetectorError
from metrics.features.feature_requests import INCEPTION_FEATURES, INCEPTION_PROBABILITIES, VGG_LPIPS
from tests import metric_stand_ins as stand_ins


@pytest.fixture
def offline(monkeypatch):
    """No name is looked up, no network is touched: what listens at port 9 of this machine refuses."""
    monkeypatch.setenv('HTTPS_PROXY', 'http://127.0.0.1:9')
    monkeypatch.delenv('NO_PROXY', raising=False)
    monkeypatch.delenv('no_proxy', raising=False)


def put(folder, name, content):
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return folder


def test_published_addresses():
    base = 'https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/'
    assert detectors.URLS == {'inception': base + 'inception-2015-12-05.pt', 'vgg16': base + 'vgg16.pt'}


def test_features_are_those_of_the_file(detector_folder, rgb_images):
    inception = detectors.load('inception', 'cpu', detector_folder)
    images = torch.from_numpy(rgb_images)
    features = detectors.apply(inception, images, INCEPTION_FEATURES)
    np.testing.assert_allclose(features, stand_ins.inception_features(rgb_images), rtol=1e-4, atol=1e-5)
    probabilities = detectors.apply(inception, images, INCEPTION_PROBABILITIES)
    np.testing.assert_allclose(probabilities, stand_ins.class_probabilities(rgb_images), rtol=1e-4, atol=1e-5)
    path = detector_folder / 'inception-2015-12-05.pt'
    assert (inception.name, inception.label) == ('inception-2015-12-05', None)
    assert inception.source == str(path)
    assert inception.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert detectors.check(detectors.load('vgg16', 'cpu', detector_folder), VGG_LPIPS, 16, 'cpu') == 32


def test_gradients_reach_the_images(detector_folder):
    vgg = detectors.load('vgg16', 'cpu', detector_folder)
    images = torch.full([1, 3, 16, 16], 128.0, requires_grad=True)
    vgg.module(images, resize_images=False, return_lpips=True).square().sum().backward()
    assert images.grad.abs().sum() > 0


def test_a_file_put_into_the_cache_by_hand(detector_folder, cache_dir, offline):
    assert detectors.locate('vgg16') is None
    with pytest.raises(DetectorError, match=r'vgg16.*could not download https://nvlabs.*--detectors') as error:
        detectors.load('vgg16')
    place = str(cache_dir / 'downloads' / (hashlib.md5(detectors.URLS['vgg16'].encode()).hexdigest() + '_vgg16.pt'))
    assert place in str(error.value)
    assert not list(cache_dir.rglob('*vgg16.pt'))
    shutil.copy(detector_folder / 'vgg16.pt', place)
    vgg = detectors.load('vgg16')
    assert (vgg.name, vgg.source, str(detectors.locate('vgg16'))) == ('vgg16', detectors.URLS['vgg16'], place)


def test_stand_ins_by_a_manifest(detector_folder, tmp_path):
    folder = tmp_path / 'named'
    folder.mkdir()
    shutil.copy(detector_folder / 'inception-2015-12-05.pt', folder / 'mine.pt')
    (folder / 'detectors.json').write_text(json.dumps({'label': 'birds', 'inception': 'mine.pt'}))
    inception = detectors.load('inception', 'cpu', folder)
    assert (inception.name, inception.label) == ('mine', 'birds')
    with pytest.raises(DetectorError, match=r"no detector 'vgg16'.*vgg16\.pt.*detectors\.json"):
        detectors.load('vgg16', 'cpu', folder)


@pytest.mark.parametrize(
    'manifest, words',
    [
        ('{', 'cannot be read as JSON'),
        ('[]', 'object of strings'),
        ('{"label": "x", "inception": 3}', 'object of strings'),
        ('{"inception": "mine.pt"}', 'label'),
        ('{"label": "Birds/", "inception": "mine.pt"}', '"label" in .*detectors.json.*Birds/.*lower-case'),
        ('{"label": "set2"}', "'set2'.*letter at the end"),
        ('{"label": "birds", "inception": "gone.pt"}', "'gone.pt', which is not in the folder"),
        ('{"label": "birds", "inception": "../outside.pt"}', "'../outside.pt', which is not in the folder"),
        ('{"a":' * 5000 + '1' + '}' * 5000, 'cannot be read as JSON .*nested'),
        ('"' + 'x' * 200_000 + '"', 'cannot be read as JSON .*more than 100000 bytes'),
    ],
)
def test_unusable_manifests(tmp_path, manifest, words):
    put(tmp_path / 'named', 'detectors.json', manifest.encode())
    (tmp_path / 'outside.pt').write_bytes(b'')
    with pytest.raises(DetectorError, match=words):
        detectors.load('inception', 'cpu', tmp_path / 'named')


def test_no_folder(tmp_path):
    with pytest.raises(DetectorError, match="'nowhere' is not a folder"):
        detectors.load('inception', 'cpu', 'nowhere')


@pytest.mark.parametrize('kept', [0, 0.5, 0.99])
def test_a_truncated_file(detector_folder, tmp_path, kept, caplog):
    content = (detector_folder / 'inception-2015-12-05.pt').read_bytes()
    folder = put(tmp_path / 'cut', 'inception-2015-12-05.pt', content[: int(len(content) * kept)])
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(DetectorError, match=r'damaged or of another kind.*[Cc]opy it again\.$'),
    ):
        detectors.load('inception', 'cpu', folder)
    assert caplog.records == []


def test_a_checkpoint_is_not_a_detector(tmp_path):
    (tmp_path / 'other').mkdir()
    torch.save({'weight': torch.zeros(3)}, tmp_path / 'other' / 'inception-2015-12-05.pt')
    with pytest.raises(DetectorError, match='damaged or of another kind'):
        detectors.load('inception', 'cpu', tmp_path / 'other')


def test_a_detector_of_another_interface(detector_folder, tmp_path):
    folder = put(tmp_path / 'swapped', 'inception-2015-12-05.pt', (detector_folder / 'vgg16.pt').read_bytes())
    detector = detectors.load('inception', 'cpu', folder)
    with pytest.raises(DetectorError, match=r'does not support the call.*no_output_bias=True.*another interface'):
        detectors.check(detector, INCEPTION_PROBABILITIES, 16, 'cpu')
    maps = detectors.Detector('maps', 'maps.pt', '', lambda images, return_features: images.float())
    with pytest.raises(DetectorError, match=r'returns \[2, 3, 16, 16\].*for 2 images.*another interface'):
        detectors.check(maps, INCEPTION_FEATURES, 16, 'cpu')


class Executed:
    """Leaves a trace when a pickle of it is read the ordinary way."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


@pytest.mark.parametrize('named', [False, True], ids=['published name', 'manifest'])
def test_exported_programs_are_not_opened(tmp_path, named):
    """PyTorch's reader falls back to ordinary unpickling, and its graphs may call anything in PyTorch."""
    state = io.BytesIO()
    torch.save({'x': Executed(tmp_path / 'executed')}, state)
    folder = tmp_path / 'new'
    folder.mkdir()
    name = 'mine.pt2' if named else 'inception-2015-12-05.pt2'
    with zipfile.ZipFile(folder / name, 'w') as archive:
        archive.writestr('version', '8.8')
        archive.writestr('serialized_exported_program.json', '{}')
        for part in ('state_dict', 'constants', 'example_inputs'):
            archive.writestr(f'serialized_{part}.pt', state.getvalue())
    if named:
        (folder / 'detectors.json').write_text(json.dumps({'label': 'birds', 'inception': name}))
    with pytest.raises(DetectorError, match=r'\.pt2 is not opened, because .* TorchScript file \(\.pt\)'):
        detectors.load('inception', 'cpu', folder)
    assert not (tmp_path / 'executed').exists()
