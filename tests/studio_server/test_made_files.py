"""Files in --outdir: removed and brought back with nothing lost, and numbers that are never given twice."""

import pytest

from studio_server.made_files import all_made


@pytest.fixture
def made(tmp_path):
    return all_made(tmp_path)


def write(made, number):
    made.folder.mkdir(parents=True, exist_ok=True)
    for suffix in ('.npz', '.png'):
        made.path(number, suffix).write_text(f'{number}{suffix}')


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_what_is_removed_comes_back(made):
    kept = made['kept']
    write(kept, kept.next())
    before = contents(kept.folder)
    kept.remove('0001')
    assert kept.numbers() == [] and kept.removed() == ['0001']
    assert contents(kept.folder) == {} and contents(kept.folder / 'removed') == before
    kept.restore('0001')
    assert contents(kept.folder) == before and kept.removed() == []
    for number in ('0001', '9999', '..', '00001'):
        with pytest.raises(ValueError, match='was not removed'):
            kept.restore(number)


def test_nothing_is_overwritten(made):
    kept = made['kept']
    write(kept, '0001')
    kept.remove('0001')
    kept.path('0001').write_text('another one')
    with pytest.raises(ValueError, match='exists already'):
        kept.remove('0001')
    with pytest.raises(ValueError, match='exists already'):
        kept.restore('0001')
    assert kept.path('0001').read_text() == 'another one'
    assert contents(kept.folder / 'removed') == {'0001.npz': '0001.npz', '0001.png': '0001.png'}


def test_numbers_are_given_once(made, tmp_path):
    kept = made['kept']
    assert [kept.next(), kept.next()] == ['0001', '0002']  # of two jobs that have not written yet
    write(kept, '0007')
    kept.remove('0007')
    assert kept.next() == '0008'
    assert all_made(tmp_path)['kept'].next() == '0008'
    (kept.folder / 'x001.npz').touch()
    (kept.folder / '\u0661\u0662\u0663\u0664.npz').touch()
    assert kept.numbers() == []
