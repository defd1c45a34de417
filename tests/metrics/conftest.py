"""A cache of its own for each test, and the detectors and data that most of them use."""

import pytest

from tests import metric_stand_ins as stand_ins


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


@pytest.fixture(scope='session')
def detector_folder(tmp_path_factory):
    return stand_ins.write_detectors(tmp_path_factory.mktemp('detectors') / 'stand-ins')


@pytest.fixture(scope='session')
def rgb_images():
    return stand_ins.random_images(96)


@pytest.fixture(scope='session')
def rgb_zip(tmp_path_factory, rgb_images):
    return stand_ins.write_zip(tmp_path_factory.mktemp('data') / 'rgb.zip', rgb_images)
