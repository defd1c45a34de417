"""Files of a run that grow while it trains: the log, the statistics, the metrics, and the events of TensorBoard.

A training state records how long each of them was when it was written. A run that resumes from the state repeats the
steps after it, so `rewind` removes the lines of those steps first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from dnnlib.json_input import parse_json
from dnnlib.scratch import remove_abandoned
from training import schema
from training.run.run_dir import RunDir

_MAX_REWOUND_BYTES = 2**28


def flush(run_dir: RunDir) -> dict[str, int]:
    """Make sure that the files have reached the disk, and return their lengths in bytes by name."""
    lengths = {}
    for path in run_dir.appended_files():
        with open(path, 'r+b') as file:
            os.fsync(file.fileno())
            lengths[path.name] = os.fstat(file.fileno()).st_size
    return lengths


def rewind(run_dir: RunDir, lengths: Mapping[str, int]) -> None:
    """Remove the ticks and events that were written after the files had these lengths.

    Unfinished files of a process that was killed are removed as well. Other lines of the log stay, and so do metrics
    that `calc_metrics.py` has computed for a finished snapshot.
    """
    log, metrics = Path(run_dir.log_txt), run_dir.metric_jsonls()
    for path in run_dir.appended_files():
        is_permanent: Callable[[bytes], bool]
        if path == log:
            is_permanent = _is_permanent_in_log
        elif path in metrics:
            is_permanent = _is_permanent_metric
        else:
            is_permanent = _never_permanent
        is_empty = _rewind_file(path, lengths.get(path.name, 0), is_permanent)
        if is_empty and path != log:
            path.unlink()
    remove_abandoned(run_dir.path, untouched_sec=0)


def _rewind_file(path: Path, length: int, is_permanent: Callable[[bytes], bool]) -> bool:
    """Remove the lines after `length` that are not permanent, and an incomplete one at the end.

    Returns:
        Whether this has made the file empty.

    Raises:
        ValueError: The file has grown more than any run would let it.
    """
    with open(path, 'r+b') as file:
        end = file.seek(0, os.SEEK_END)
        if end <= length:
            return False
        if end - length > _MAX_REWOUND_BYTES:
            raise ValueError(
                f'{path} has grown by {end - length:,} bytes since the training state was written, but at most '
                f'{_MAX_REWOUND_BYTES:,} are looked through: it is damaged, or of another run; move it away.'
            )
        file.seek(length)
        lines = file.read().splitlines(keepends=True)
        file.seek(length)
        file.write(b''.join(line for line in lines if line.endswith(b'\n') and is_permanent(line)))
        file.truncate()
        return file.tell() == 0


def _is_permanent_in_log(line: bytes) -> bool:
    return not line.startswith(b'tick ')


def _is_permanent_metric(line: bytes) -> bool:
    """Return whether another program than the training has written this line."""
    try:
        values = parse_json(line, 'the line')
        schema.METRIC_LINE.check(values, 'the line')
    except ValueError:
        return False
    return not values.get('in_training')


def _never_permanent(_line: bytes) -> bool:
    return False
