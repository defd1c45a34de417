"""docs/colab.ipynb: executed on digits as a user would, on a machine that is taken away in the middle."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

nbformat = pytest.importorskip('nbformat')
pytest.importorskip('ipykernel')
pytest.importorskip('sklearn')
ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / 'docs' / 'colab.ipynb'
# Small networks; so long that the machine is taken away before the end.
TRAINING = '--cfg=tiny --cbase=128 --cmax=8 --batch=8 --device=cpu --tick=0.16 --snap=1'
SETTINGS = {
    'IMAGES': 'digits',
    'RESOLUTION': '16x16',
    'CHECK_LIST': True,
    'PACKAGE': '',
    'FOLDER': 'files',
    'USE_DRIVE': True,
}


def cells(notebook):
    return {cell['id']: cell for cell in notebook.cells}


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_what_is_committed(notebook):
    nbformat.validate(notebook)
    assert len(cells(notebook)) == len(notebook.cells)
    code = [cell for cell in notebook.cells if cell.cell_type == 'code']
    assert not any(cell.outputs or cell.execution_count for cell in code)
    (settings,) = (cell for cell in code if 'parameters' in cell.metadata.get('tags', []))
    assert {line.split(' = ')[0] for line in settings.source.splitlines()} == {*SETTINGS, 'TRAINING'}


@pytest.fixture
def kernel(tmp_path):
    """Environment in which notebooks are executed by this interpreter, with the packages of this checkout installed."""
    spec = tmp_path / 'jupyter' / 'kernels' / 'gan'
    spec.mkdir(parents=True)
    argv = [sys.executable, '-Xfrozen_modules=off', '-m', 'ipykernel_launcher', '-f', '{connection_file}']
    (spec / 'kernel.json').write_text(json.dumps(dict(argv=argv, display_name='gan', language='python')))
    return {
        **os.environ,
        'PYTHONPATH': str(ROOT),
        'JUPYTER_PATH': str(tmp_path / 'jupyter'),
        'IPYTHONDIR': str(tmp_path / 'ipython'),
        'OMP_NUM_THREADS': '1',
        'ADA_GAN_NOTEBOOK': str(tmp_path),  # marks the processes of this test
    }


def start(notebook, folder, environment, **settings):
    """Execute the notebook with other settings, in the folder, which then has executed.ipynb."""
    lines = [f'{name} = {value!r}' for name, value in {**SETTINGS, **settings}.items()]
    notebook = nbformat.from_dict(notebook)
    cells(notebook)['settings'].source = '\n'.join(lines)
    nbformat.write(notebook, folder / 'executed.ipynb')
    command = [sys.executable, '-m', 'jupyter', 'execute', '--inplace', '--kernel_name=gan', 'executed.ipynb']
    with open(folder / 'log.txt', 'w') as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)


def take_away(process, folder):
    """Kill a process and all those that it has started, directly or not."""
    process.kill()
    mark = f'ADA_GAN_NOTEBOOK={folder}'.encode()
    for path in Path('/proc').glob('[0-9]*/environ'):
        try:
            if mark in path.read_bytes().split(b'\0'):
                os.kill(int(path.parent.name), signal.SIGKILL)
        except (OSError, ProcessLookupError):
            continue
    process.wait()


def finished(process, folder, timeout=500):
    """Wait for the end, and return {cell: its outputs}."""
    try:
        assert process.wait(timeout) == 0, (folder / 'log.txt').read_text()[-3000:]
    finally:
        take_away(process, folder)
    executed = nbformat.read(folder / 'executed.ipynb', as_version=4)
    return {cell.id: cell.outputs for cell in executed.cells if cell.cell_type == 'code'}


def text(outputs):
    return ''.join(output.text for output in outputs if output.output_type == 'stream')


def pictures(outputs):
    return [output for output in outputs if 'image/png' in output.get('data', {})]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not Path('/proc/self/environ').exists(), reason='looks for processes in /proc')
def test_a_machine_that_is_taken_away(notebook, kernel, tmp_path):
    process = start(notebook, tmp_path, kernel, TRAINING=f'{TRAINING} --kimg=1000')
    try:
        deadline = time.monotonic() + 500
        while len(states := list(tmp_path.glob('files/runs/*/training-state-*.pt'))) < 2:
            assert process.poll() is None, (tmp_path / 'log.txt').read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        take_away(process, tmp_path)
    (run_dir,) = tmp_path.glob('files/runs/*')
    kimg = max(float(path.stem.split('-')[-1]) for path in states)

    # The same notebook from the top, now with an end that is near.
    outputs = finished(start(notebook, tmp_path, kernel, TRAINING=f'{TRAINING} --kimg={kimg + 2:g}'), tmp_path)
    assert 'exists already' in text(outputs['convert'])
    assert f'Resuming from {Path("files", "runs", run_dir.name)}' in text(outputs['train'])
    assert text(outputs['train']).endswith('The training is complete.\n')
    assert len(list(tmp_path.glob('files/runs/*'))) == 1
    assert len(json.loads((run_dir / 'provenance.json').read_text())) >= 1
    assert len(pictures(outputs['progress'])) == 2 and len(pictures(outputs['generate'])) == 1
    with zipfile.ZipFile(tmp_path / 'files' / 'results.zip') as archive:
        assert {'generator.onnx', 'report.html', 'grid.png'} < set(archive.namelist())
        assert archive.testzip() is None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_images_that_do_not_exist(notebook, kernel, tmp_path):
    process = start(notebook, tmp_path, kernel, TRAINING=TRAINING, IMAGES='no-photos')
    try:
        assert process.wait(300) != 0
    finally:
        take_away(process, tmp_path)
    log = (tmp_path / 'log.txt').read_text()
    assert 'no-photos does not exist: set IMAGES to a folder or a zip file' in log
    assert not (tmp_path / 'files' / 'runs').exists()
