"""The network pickles of a run, and which one stands for the run."""

import os
import pickle

import pytest

from network_files import snapshots

COMPLETE = pickle.dumps({})


def write(folder, kimg, content=COMPLETE):
    path = folder / f'network-snapshot-{kimg}.pkl'
    path.write_bytes(content)
    return path


def test_names():
    assert snapshots.file_name(200_032) == 'network-snapshot-000200.pkl'
    assert snapshots.kimg_of('runs/network-snapshot-000200.pkl') == 200
    assert snapshots.kimg_of('runs/network-snapshot-000200.pkl.bak') is None


def test_sorted_by_number(tmp_path):
    paths = [write(tmp_path, kimg) for kimg in ('999999', '1000000', '000090')]
    assert snapshots.list_snapshots(tmp_path) == [paths[2], paths[0], paths[1]]


def test_newest_complete_one(tmp_path, capsys):
    good = write(tmp_path, '000100')
    write(tmp_path, '000050', b'')
    cut = [write(tmp_path, '000200', b''), write(tmp_path, '000300', pickle.dumps(['x'])[:-3])]
    os.mkfifo(tmp_path / 'network-snapshot-000400.pkl')
    assert snapshots.network_file(str(tmp_path)) == str(good)
    text = capsys.readouterr().err
    assert str(good) in text and all(path.name in text for path in cut) and '000050' not in text
    assert snapshots.complete_snapshots(tmp_path) == [good]


@pytest.mark.parametrize('name', ['file.pkl', 'gone.pkl', 'https://example.com/runs/'])
def test_everything_else_stands_for_itself(tmp_path, capsys, name):
    (tmp_path / 'file.pkl').touch()
    path = name if name.startswith('https') else str(tmp_path / name)
    assert snapshots.network_file(path) == path and capsys.readouterr().err == ''


@pytest.mark.parametrize('names, words', [([], 'no network-snapshot'), (['000100'], 'snapshot-000100.pkl is cut off')])
def test_a_folder_without_networks(tmp_path, names, words):
    for name in names:
        write(tmp_path, name, b'half')
    with pytest.raises(ValueError, match=words):
        snapshots.network_file(str(tmp_path))
