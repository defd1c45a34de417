"""Names of outputs: an extension that says something else than what is written is refused, by every script."""

import importlib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dnnlib.outputs import EXTENSIONS, OutputFile, OutputFolder

SCRIPTS = 'train generate style_mixing gen_video projector dataset_tool legacy'.split()
NOT_FILES = ['x', 'x.', 'x.tar', 'x.mp4.tmp', 'x.mp4x', 'mp4', '.mp4', 'x.mp4/', 'x.mp4 ']


def convert(kind: click.ParamType, value: str | Path) -> str:
    return kind.convert(str(value), None, None)


@pytest.mark.parametrize('name', ['x.mp4', 'X.MP4', 'a.b/x.y.mp4', '~/x.mp4'])
def test_files_of_the_kind(name: str):
    assert convert(OutputFile('video'), name) == str(Path(name).expanduser())


@pytest.mark.parametrize('name', [*NOT_FILES, 'https://a.b/x.mp4', 's3://a/x.mp4'])
def test_files_of_another_kind(name: str):
    with pytest.raises(click.BadParameter) as error:
        convert(OutputFile('video'), name)
    assert name in str(error.value) and ('.mp4' in str(error.value))


def test_a_folder_is_not_a_file(tmp_path: Path):
    (tmp_path / 'x.mp4').mkdir()
    with pytest.raises(click.BadParameter, match='is a folder'):
        convert(OutputFile('video'), tmp_path / 'x.mp4')


@pytest.mark.parametrize('name', ['x.zip', 'x.ZIP', 'x', 'x.2024', 'v1.0', 'Mr. Smith', '.hidden', 'x.tar/', 'a.tar/x'])
def test_datasets(name: str):
    assert convert(OutputFile('dataset', or_folder=True), name) == name


@pytest.mark.parametrize(
    'name', ['x.tar', 'x.tar.gz', 'x.7z', 'x.zip ', 'x.zipx', 'x.zi', 'x.TGZ', 'x.png', 's3://a/x']
)
def test_datasets_of_an_unknown_kind(name: str):
    with pytest.raises(click.BadParameter) as error:
        convert(OutputFile('dataset', or_folder=True), name)
    assert name in str(error.value)


def test_an_existing_folder_may_be_called_like_a_file(tmp_path: Path):
    (tmp_path / 'x.tar').mkdir()
    assert convert(OutputFile('dataset', or_folder=True), tmp_path / 'x.tar')
    assert convert(OutputFolder(), tmp_path / 'x.tar')


@pytest.mark.parametrize('name', ['out', 'out.v2', 'run.1', 'x.png/', '../out'])
def test_folders(name: str):
    assert convert(OutputFolder(), name) == name


@pytest.mark.parametrize('name', ['x.png', 'x.PNG', 'a/x.mp4', 'x.tar.gz', 'x.npz', 'x.pkl', 'https://a.b/c'])
def test_folders_called_like_files(name: str):
    with pytest.raises(click.BadParameter) as error:
        convert(OutputFolder(), name)
    assert name in str(error.value)


@pytest.mark.parametrize('script', SCRIPTS)
def test_every_output_is_checked_first(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    main = importlib.import_module(script).main
    outputs = [option for option in main.params if option.opts[0] in ('--outdir', '--output', '--dest', '--bad-list')]
    assert outputs and all(isinstance(option.type, (OutputFile, OutputFolder)) for option in outputs)
    for option in outputs:
        for name in ('x.tar', 'https://a.b/x.tar'):
            result = CliRunner().invoke(main, [f'{option.opts[0]}={name}'])
            assert result.exit_code == 2 and name in result.output and option.opts[0] in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('name', ['x.pth', 'x.safetensor', 'x', 'x.pkl.gz', 'x.zip'])
def test_networks_have_a_known_extension(name: str, tmp_path: Path):
    legacy = importlib.import_module('legacy')
    result = CliRunner().invoke(legacy.main, ['--source=x.pkl', f'--dest={tmp_path / name}'], terminal_width=1000)
    assert result.exit_code == 2 and "'--dest'" in result.output
    for extension in EXTENSIONS['exchange']:
        assert extension in result.output
