"""The network pickles of a training run: their names, and the newest one, which stands for the directory of a run.

`training.run.run_dir` owns all other file names of a run.
"""

from __future__ import annotations

import os
import pickle
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from dnnlib.util import is_url
from network_files import hub

_NAME = re.compile(r'network-snapshot-(\d+)\.pkl')


def file_name(cur_nimg: int) -> str:
    """Return the name of the network pickle after `cur_nimg` images."""
    return f'network-snapshot-{cur_nimg // 1000:06d}.pkl'


def kimg_of(network_pkl: str | os.PathLike) -> int | None:
    """Return the kimg of a network pickle (200 for `network-snapshot-000200.pkl`), or None for any other file name."""
    match = _NAME.fullmatch(os.path.basename(network_pkl))
    return int(match[1]) if match else None


def list_snapshots(run_dir: str | os.PathLike) -> list[Path]:
    """Return all network pickles of a run, oldest first.

    Raises:
        OSError: The directory cannot be listed.
    """
    found = [(kimg, path) for path in Path(run_dir).iterdir() if (kimg := kimg_of(path)) is not None]
    return [path for _kimg, path in sorted(found)]


def complete_snapshots(run_dir: str | os.PathLike) -> list[Path]:
    """Return the network pickles of a run that were written to their end, oldest first; name the others on stderr.

    This project writes no others, but programs that were killed, full disks and interrupted copies leave them behind.

    Raises:
        OSError: The directory cannot be listed.
        ValueError: The run has no complete network pickle. One sentence.
    """
    found = list_snapshots(run_dir)
    complete = [path for path in found if _is_complete(path)]
    if not found:
        raise ValueError(
            f'{os.fspath(run_dir)!r} has no network-snapshot-*.pkl. Use the directory of a training run, or a file.'
        )
    if not complete:
        raise ValueError(f'{os.fspath(run_dir)!r} has no complete network pickle: {found[-1].name} is cut off.')
    newer = found[found.index(complete[-1]) + 1 :]
    if newer:
        _print_cut_off(newer)
    return complete


def network_file(path_or_url: str) -> str:
    """Return the file that `path_or_url` stands for.

    It is the newest complete network pickle of a run, the file of a repository on a hub at its newest commit, or
    `path_or_url` itself. Which one it is is printed on stderr.

    Raises:
        OSError: The directory cannot be listed, or the hub cannot be reached.
        ValueError: It is a directory without network pickles. One sentence.
    """
    if hub.is_address(path_or_url):
        return hub.pinned(path_or_url)
    if is_url(path_or_url) or not os.path.isdir(path_or_url):
        return path_or_url
    newest = str(complete_snapshots(path_or_url)[-1])
    print(f'Using the newest network of this run, {newest}', file=sys.stderr)
    return newest


def _print_cut_off(paths: Sequence[Path]) -> None:
    names = ', '.join(path.name for path in paths[-3:])
    print(f'Warning: {names} in {paths[0].parent} is cut off, and not used.', file=sys.stderr)


def _is_complete(path: Path) -> bool:
    """Return whether a pickle ends as pickles do."""
    if not path.is_file():
        return False
    try:
        with open(path, 'rb') as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == pickle.STOP
    except OSError:  # it is empty or unreadable
        return False
