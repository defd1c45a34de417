"""Write reports: of any runs (`write_report`), and of a run while it trains (`SnapshotReport`)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from dnnlib.errors import error_sentence
from dnnlib.files import atomic_file
from dnnlib.text import message_line
from reporting.page import MAX_RUNS, build_page
from reporting.run_record import read_run
from reporting.samples import UNREADABLE, NearestImages, Samples, make_samples
from training.config import TrainingConfig
from training.options import Options
from training.run.run_dir import RunDir


def write_report(path: str | os.PathLike, run_dirs: Sequence[str], samples: Mapping[str, Samples]) -> int:
    """Write the report of runs, complete or not at all.

    Args:
        path: HTML file.
        run_dirs: Directories of the runs.
        samples: Generated pictures by directory.

    Returns:
        Size of the file in bytes.

    Raises:
        OSError: The file cannot be written.
        ValueError: A directory is not that of a run, or there are too many.
    """
    if len(run_dirs) > MAX_RUNS:
        raise ValueError(f'{len(run_dirs)} runs are too many for one report: give {MAX_RUNS} or fewer.')
    records = [read_run(run_dir) for run_dir in run_dirs]
    content = build_page(records, samples, time.strftime('%Y-%m-%d %H:%M')).encode()
    with atomic_file(path) as file:
        file.write(content)
    return len(content)


def snapshot_report(config: TrainingConfig) -> SnapshotReport | None:
    """Return the function that writes the report of a run at each snapshot, unless its options exclude that."""
    wanted = (config.options or {}).get('report', Options.report)
    return SnapshotReport(config.training_set_kwargs) if wanted else None


class SnapshotReport:
    """Writes `report.html` into the directory of a run after each snapshot. A report that fails does not end the run.

    Args:
        dataset_kwargs: Keywords of the training set.
    """

    def __init__(self, dataset_kwargs: Mapping[str, Any]):
        self._dataset_kwargs = dict(dataset_kwargs)
        self._nearest: NearestImages | None = None

    def __call__(self, G: Any, run_dir: str, cur_nimg: int) -> None:
        """Write the report.

        Args:
            G: Generator in eval mode.
            run_dir: Directory of the run.
            cur_nimg: Images shown so far.
        """
        path = RunDir(run_dir).report_html
        try:
            write_report(path, [run_dir], {run_dir: self._make_samples(G, cur_nimg / 1000)})
        except Exception as error:  # No failure of a report may end the training.
            reason = error_sentence(error) if isinstance(error, (ValueError, OSError)) else None
            reason = reason or f'{type(error).__name__}: {error}'
            print(
                f'{path} could not be written; training continues. {message_line(reason)}', file=sys.stderr, flush=True
            )

    def _make_samples(self, G: Any, kimg: float) -> Samples:
        try:
            if self._nearest is None:
                self._nearest = NearestImages(self._dataset_kwargs)
            return make_samples(G, kimg, self._nearest)
        except (ValueError, OSError):
            return make_samples(G, kimg, None, UNREADABLE)
