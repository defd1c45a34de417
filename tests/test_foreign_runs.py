"""Run directories and networks from somebody else: nothing in them is executed, waited for, or a traceback."""

import json
import os
import pickle

import click.testing
import numpy as np
import PIL.Image
import pytest
import torch

import calc_metrics
import dnnlib.cli
import train
from tests import metric_stand_ins as stand_ins
from training.run import appended_files, provenance
from training.run.run_dir import RunDir


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """An empty folder, on a machine without accelerators and without torchrun."""
    for name in ('WORLD_SIZE', 'RANK', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(dnnlib.cli, 'available_devices', lambda: ['cpu'])
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path / 'cache'))
    monkeypatch.chdir(tmp_path)


def call(command, *args):
    return click.testing.CliRunner().invoke(command.main, [str(arg) for arg in args], prog_name='script.py')


def error_of(result, status=2):
    assert result.exit_code == status, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit) and 'Traceback' not in result.output
    return result.stderr.rstrip('\n').splitlines()[-1]


@pytest.fixture
def run_dir(tmp_path):
    """A run that has not reached its first training state."""
    (tmp_path / 'data').mkdir()
    for index in range(8):
        PIL.Image.fromarray(np.full([8, 8, 3], index, np.uint8)).save(tmp_path / 'data' / f'{index}.png')
    small = ['--cfg=tiny', '--cbase=32', '--cmax=4', '--batch=8', '--metrics=none', '--device=cpu', '--kimg=0.008']
    dry = call(train, '--outdir=runs', '--data=data', *small, '--dry-run')
    assert dry.exit_code == 0, dry.output
    path = tmp_path / 'runs' / '00000-data'
    path.mkdir(parents=True)
    (path / 'training_options.json').write_text(dry.stdout)
    return path


def edit(run_dir, *keys, value):
    path = run_dir / 'training_options.json'
    options = json.loads(path.read_text())
    place = options
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(options))


def test_the_run_itself_can_be_resumed(run_dir):
    result = call(train, f'--resume-run={run_dir}', '--dry-run')
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    'field', 'training_set_kwargs G_kwargs D_kwargs G_opt_kwargs D_opt_kwargs loss_kwargs augment_kwargs'.split()
)
def test_functions_that_options_name_are_not_called(run_dir, field, tmp_path):
    edit(run_dir, field, value={'class_name': 'os.system', 'command': f'touch {tmp_path / "executed"}'})
    error = error_of(call(train, f'--resume-run={run_dir}'))
    assert f'{field}.class_name' in error and "'os.system'" in error and 'training_options.json' in error
    assert not (tmp_path / 'executed').exists()


@pytest.mark.parametrize(
    'keys, value',
    [
        (('batch_size',), 0),
        (('total_kimg',), float('nan')),
        (('options', 'data'), 5),
        (('options', 'kimg'), -1),
        (('data_loader_kwargs',), {'num_workers': -1}),
        (('G_kwargs', 'synthesis_kwargs', 'channel_base'), 1),
        (('D_kwargs', 'epilogue_kwargs', 'mbstd_num_channels'), 3),
        (('G_kwargs', 'synthesis_kwargs', 'num_fp16_res'), '4'),
    ],
)
def test_edited_options_are_one_sentence(run_dir, keys, value):
    edit(run_dir, *keys, value=value)
    error = error_of(call(train, f'--resume-run={run_dir}'))
    assert "'--resume-run'" in error and 'training_options.json' in error


@pytest.mark.parametrize('key', ['use_labels', 'max_size', 'xflip', 'resolution'])
def test_keywords_with_defaults_may_be_missing(run_dir, key):
    path = run_dir / 'training_options.json'
    options = json.loads(path.read_text())
    del options['training_set_kwargs'][key]
    path.write_text(json.dumps(options))
    result = call(train, f'--resume-run={run_dir}', '--dry-run')
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    'name', ['training_options.json', 'stats.jsonl', 'log.txt', 'provenance.json', 'metric-a.jsonl']
)
@pytest.mark.parametrize(
    'make',
    [os.mkfifo, os.mkdir, lambda path: os.symlink('/dev/zero', path)],
    ids=['pipe', 'folder', 'device'],
)
def test_files_that_are_something_else(run_dir, name, make):
    path = run_dir / name
    path.unlink(missing_ok=True)
    make(path)
    error = error_of(call(train, f'--resume-run={run_dir}'))
    assert name in error and ('regular file' in error or 'directory' in error)


def test_detectors_of_a_run_must_be_given_again(run_dir):
    edit(run_dir, 'detectors', value='/tmp/evil')
    assert call(train, f'--resume-run={run_dir}', '--dry-run').exit_code == 0  # no metrics: nothing is loaded
    edit(run_dir, 'metrics', value=['fid10_full'])
    error = error_of(call(train, f'--resume-run={run_dir}', '--dry-run'))
    assert "'/tmp/evil'" in error and '--detectors' in error and '--metrics=none' in error
    assert "'mine' is not a folder" in error_of(call(train, f'--resume-run={run_dir}', '--detectors=mine', '--dry-run'))
    assert call(train, f'--resume-run={run_dir}', '--metrics=none', '--dry-run').exit_code == 0


@pytest.mark.parametrize('option', ['--kimg=1e300', '--cmax=100000000', '--cbase=99999999999', '--workers=99999'])
def test_options_that_could_not_be_read_back(run_dir, option):
    error = error_of(call(train, '--outdir=runs', '--data=data', '--cfg=tiny', '--metrics=none', option, '--dry-run'))
    assert option.partition('=')[0] in error and 'must be' in error


def test_data_that_would_be_waited_for(tmp_path):
    os.mkfifo(tmp_path / 'pipe.zip')
    error = error_of(call(train, '--outdir=runs', '--data=pipe.zip', '--dry-run', '--device=cpu'))
    assert 'pipe.zip' in error and 'regular file' in error
    (tmp_path / 'folder').mkdir()
    os.mkfifo(tmp_path / 'folder' / '0.png')
    assert '0.png' in error_of(call(train, '--outdir=runs', '--data=folder', '--dry-run', '--device=cpu'))
    os.symlink('loop', 'loop')
    assert 'loop' in error_of(call(train, '--outdir=runs', '--data=loop', '--dry-run', '--device=cpu'))


@pytest.mark.parametrize(
    'text', ['', '{}', '[1]', '[' * 100_000, '[{"dataset_sha256": "x"}]', '[{"dataset_sha256": ["a"]}]', 'pipe']
)
def test_poisoned_provenance(run_dir, text, capsys):
    path = run_dir / 'provenance.json'
    if text == 'pipe':
        os.mkfifo(path)
    else:
        path.write_text(text)
    assert provenance.dataset_sha256(str(run_dir)) is None
    assert 'provenance.json' in capsys.readouterr().err
    provenance.record_dataset(str(run_dir), lambda: 'f' * 64)  # there is no entry to add it to
    provenance.record_start(str(run_dir), None, torch.device('cpu'))
    provenance.record_dataset(str(run_dir), lambda: 'f' * 64)
    assert [entry['dataset_sha256'] for entry in provenance.read(str(run_dir))] == ['f' * 64]


@pytest.mark.parametrize('line', ['[' * 100_000, '[]', '{"in_training": [1]}', 'NaN'])
def test_poisoned_lines_of_metrics(run_dir, line):
    kept = '{"results": {}}'
    (run_dir / 'metric-is5.jsonl').write_text(f'{line}\n{kept}\n')
    appended_files.rewind(RunDir(str(run_dir)), {})
    assert (run_dir / 'metric-is5.jsonl').read_text() == f'{kept}\n'


def test_files_that_have_grown_without_bound(run_dir):
    with open(run_dir / 'log.txt', 'wb') as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match=r'log\.txt has grown by 1,099,511,627,776 bytes'):
        appended_files.rewind(RunDir(str(run_dir)), {})


# ---------------------------------------------------------------------------------------------------------------------
# Networks


@pytest.fixture
def network(tmp_path):
    """A network pickle in the directory of a run, its dataset, and detectors that leave a trace."""
    stand_ins.write_zip(tmp_path / 'data.zip', stand_ins.random_images(20))
    stand_ins.write_detectors(tmp_path / 'detectors')
    (tmp_path / 'foreign').mkdir()
    return stand_ins.save_network(tmp_path / 'foreign' / 'network-snapshot-000001.pkl', tmp_path / 'data.zip')


def test_files_beside_a_network_do_not_choose_detectors(tmp_path, network, monkeypatch):
    options = {'detectors': str(tmp_path / 'detectors'), 'random_seed': 3}
    (tmp_path / 'foreign' / 'training_options.json').write_text(json.dumps(options))
    monkeypatch.setenv('HTTPS_PROXY', 'http://127.0.0.1:9')
    result = call(calc_metrics, '--network=foreign', '--metrics=is20', '--device=cpu')
    assert "detector 'inception' is missing" in error_of(result)  # the published one, which cannot be downloaded here
    assert result.stderr.count('which are not used') == 1 and 'only --detectors chooses them' in result.stderr
    result = call(calc_metrics, '--network=foreign', '--metrics=is20', '--device=cpu', '--detectors=detectors')
    assert result.exit_code == 0 and json.loads(result.stdout)['seed'] == 3 and 'not used' not in result.stderr


@pytest.mark.parametrize(
    'kwargs', [[1], 'text', 5, {'path': 3}, {'path': 'data.zip', 'xflip': 'yes'}, np.zeros(3), {'class_name': [1]}]
)
def test_training_set_kwargs_of_another_type(tmp_path, kwargs):
    stand_ins.write_zip(tmp_path / 'data.zip', stand_ins.random_images(20))
    stand_ins.write_detectors(tmp_path / 'detectors')
    content = {'G_ema': stand_ins.make_generator(), 'training_set_kwargs': kwargs}
    (tmp_path / 'net.pkl').write_bytes(pickle.dumps(content))
    args = ['--network=net.pkl', '--metrics=is20', '--device=cpu', '--detectors=detectors']
    error = error_of(call(calc_metrics, *args))
    assert 'training_set_kwargs' in error and 'net.pkl' in error
    assert call(calc_metrics, *args, '--data=data.zip').exit_code == 0


@pytest.mark.parametrize(
    'text', ['[]', '3', '{"random_seed": "x"}', '{"random_seed": -1}', '{"training_set_kwargs": []}', '[' * 99_999]
)
def test_options_beside_a_network(tmp_path, text):
    stand_ins.write_zip(tmp_path / 'data.zip', stand_ins.random_images(20))
    (tmp_path / 'net.pkl').write_bytes(pickle.dumps({'G_ema': stand_ins.make_generator()}))
    (tmp_path / 'training_options.json').write_text(text)
    error = error_of(call(calc_metrics, '--network=net.pkl', '--metrics=is20', '--device=cpu'))
    assert 'training_options.json' in error or 'training_set_kwargs' in error


@pytest.mark.parametrize('option', ['--network', '--data'])
def test_pipes_are_not_waited_for(tmp_path, network, option):
    os.mkfifo(tmp_path / 'pipe.zip')
    args = {'--network': 'foreign', '--data': 'data.zip'} | {option: 'pipe.zip'}
    error = error_of(call(calc_metrics, *(f'{name}={value}' for name, value in args.items()), '--device=cpu'))
    assert option in error and 'pipe.zip' in error and 'regular file' in error


def test_a_list_of_results_that_is_a_pipe(tmp_path, network):
    (tmp_path / 'foreign' / 'training_options.json').write_text('{}')
    os.mkfifo(RunDir('foreign').metric_jsonl('is20'))
    args = ['--network=foreign', '--metrics=is20', '--device=cpu', '--detectors=detectors']
    assert 'regular file' in error_of(call(calc_metrics, *args), status=1)
