"""What the system may do to any script: names that are not UTF-8, limits of the shell, readers that leave."""

import json
import os
import subprocess
import sys

import pytest

from dataset_conversion import image_files
from dataset_format.images import BadImage
from dataset_format.names import normal_name
from dnnlib.files import write_json
from tests import small_runs
from training.data.containers import open_container
from training.data.decoding import ImageError
from training.dataset import ImageFolderDataset
from training.run.run_dir import RunDir

pytestmark = pytest.mark.skipif(not sys.platform.startswith('linux'), reason='other systems have other rules for names')
STRANGE = os.fsdecode(b'caf\xe9')
SCRIPT = 'set -o pipefail; export PYTHONUNBUFFERED=; '


@pytest.fixture
def folder(tmp_path):
    return tmp_path / STRANGE


@pytest.fixture
def shell(tmp_path):
    def run(command, **env):
        environment = {**small_runs.environment(), **env}
        return subprocess.run(
            ['bash', '-c', SCRIPT + command], cwd=tmp_path, env=environment, capture_output=True, timeout=250
        )

    return run


def quoted(command):
    return b' '.join(b"'" + os.fsencode(word) + b"'" for word in command).decode('utf-8', 'surrogateescape')


def test_training_into_a_pipe_that_closes_in_folders_with_strange_names(folder, shell):
    data = small_runs.write_images(folder / 'data')
    command = quoted(small_runs.train(data, folder / 'runs', '--kimg=0.008'))
    result = shell(f'{command} | head -n 1', LC_ALL='C', PYTHONUTF8='0')
    assert (result.returncode, result.stderr) == (0, b'')
    run_dir = small_runs.only(folder / 'runs')
    assert 'Training is complete.' in (run_dir / 'log.txt').read_text()
    assert RunDir(str(run_dir)).training_states()
    assert json.loads((run_dir / 'training_options.json').read_text())['options']['data'] == str(data)


def test_conversion_with_small_limits(folder, tmp_path, shell):
    small_runs.write_images(folder / 'classes' / STRANGE)
    small_runs.write_images(folder / 'classes' / 'other')
    script = [sys.executable, small_runs.ROOT / 'dataset_tool.py', f'--source={folder / "classes"}', '--workers=1']
    command = quoted(small_runs.words(*script, f'--dest={tmp_path / "out.zip"}', '--subfolders-as-labels'))
    result = shell(f'ulimit -f 1; {command}')
    assert result.returncode == 1
    assert result.stderr.endswith(b'out.zip cannot be written: File too large.\n') and result.stderr.count(b'\n') == 1
    assert os.listdir(tmp_path) == [STRANGE]
    assert shell(command, LC_ALL='C', PYTHONUTF8='0').returncode == 0
    dataset = ImageFolderDataset(str(tmp_path / 'out.zip'), use_labels=True)
    assert dataset.class_names == [STRANGE, 'other']


def test_too_few_open_files_do_not_count_as_damaged_images(folder):
    resource = pytest.importorskip('resource')
    small_runs.write_images(folder, count=1)
    name = 'img00000000.png'
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    container, reader = open_container(folder), image_files.FolderReader(folder, 2**20)
    for read, kind in ((container.read, ImageError), (reader.read, BadImage)):
        assert read(name)
        with pytest.raises(kind):
            (folder / name).rename(folder / 'away')
            read(name)
        (folder / 'away').rename(folder / name)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limit[1]))
        try:
            with pytest.raises(OSError, match='Too many open files'):
                read(name)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def test_digests_and_json_of_strange_names(folder):
    small_runs.write_images(folder / STRANGE, count=2)
    dataset = ImageFolderDataset(str(folder))
    assert len({dataset.content_sha256(), dataset.metadata_sha256(), dataset.fingerprint()[0]}) == 3
    write_json({'target': f'{folder}/é'}, folder / 'x.json')
    assert json.loads((folder / 'x.json').read_text(encoding='utf-8')) == {'target': f'{folder}/é'}


def test_names_are_the_same_in_every_locale():
    in_c = 'é/ü.png'.encode().decode('ascii', 'surrogateescape')
    assert normal_name(in_c) == 'é/ü.png'
    assert normal_name(STRANGE) == STRANGE
    assert normal_name('\ud800\udce9') == '\ud800\udce9'
