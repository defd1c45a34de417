"""The directory of a training run: the names of all files in it, and how a new one is created.

Every other module asks here for a path, so that this is the only place where these names are written, except for those
of network pickles: `network_files.snapshots` knows them too, for programs that need nothing else of a run.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from network_files import snapshots

_RUN_NAME = re.compile(r'(\d{5})(?:-|$)')
_FAKES_NAME = re.compile(r'fakes(\d+)\.png')
_AVERAGES_NAME = re.compile(r'averages-(\d{6,})\.pt')
_STATE_NAME = re.compile(r'training-state-(\d{6,})(?:\.(\d{3}))?\.pt')
_METRIC_FILES = 'metric-*.jsonl'
_MEMORIZATION_FILES = 'memorization-*.png'
_APPENDED_FILES = ('log.txt', 'stats.jsonl', _METRIC_FILES, 'events.out.tfevents.*')


@dataclass(frozen=True)
class RunDir:
    """The directory of one run; every path starts with `path`. It creates nothing."""

    path: str

    # Files that exist once

    @property
    def options_json(self) -> str:
        """The complete configuration: `training.config.TrainingConfig`."""
        return self._file('training_options.json')

    @property
    def provenance_json(self) -> str:
        """Versions, commit and command of each start: `training.run.provenance`."""
        return self._file('provenance.json')

    @property
    def tracker_json(self) -> str:
        """The identifier by which trackers continue the run: `training.run.tracking`."""
        return self._file('tracker.json')

    @property
    def log_txt(self) -> str:
        """What the terminal showed."""
        return self._file('log.txt')

    @property
    def stats_jsonl(self) -> str:
        """The statistics of each tick: `training.run.stats_writer`."""
        return self._file('stats.jsonl')

    @property
    def reals_png(self) -> str:
        """A grid of real images."""
        return self._file('reals.png')

    @property
    def fakes_init_png(self) -> str:
        """The grid of generated images before the training."""
        return self._file('fakes_init.png')

    @property
    def report_html(self) -> str:
        """The report of the run: `reporting`."""
        return self._file('report.html')

    # Files of one snapshot or metric

    def fakes_png(self, cur_nimg: int) -> str:
        """The grid of generated images after `cur_nimg` images."""
        return self._file(f'fakes{cur_nimg // 1000:06d}.png')

    def network_pkl(self, cur_nimg: int) -> str:
        """The network pickle after `cur_nimg` images."""
        return self._file(snapshots.file_name(cur_nimg))

    def averages(self, cur_nimg: int) -> str:
        """The averages of the generator after `cur_nimg` images: `training.run.averages_files`."""
        return self._file(f'averages-{cur_nimg // 1000:06d}.pt')

    def training_state(self, cur_nimg: int) -> str:
        """The training state after `cur_nimg` images.

        Its name contains every digit of `cur_nimg`, so that no two states share a name.
        """
        kimg, rest = divmod(cur_nimg, 1000)
        return self._file(f'training-state-{kimg:06d}' + (f'.{rest:03d}' if rest else '') + '.pt')

    def metric_jsonl(self, name: str) -> str:
        """The values of a metric, one line for each snapshot."""
        return self._file(f'metric-{name}.jsonl')

    def metric_png(self, name: str) -> str:
        """The curve of a metric over the training."""
        return self._file(f'metric-{name}.png')

    def metric_gallery_png(self, name: str, kimg: int | None) -> str:
        """The images of one snapshot that a metric draws attention to."""
        return self._file(f'metric-{name}' + ('' if kimg is None else f'-{kimg:06d}') + '-pairs.png')

    # Existing files

    def network_pkls(self) -> list[Path]:
        """All network pickles, oldest first."""
        return snapshots.list_snapshots(self.path)

    def fakes_kimg(self, path: Path) -> int:
        """How many thousand images were shown before one of `fakes_pngs`."""
        match = _FAKES_NAME.fullmatch(path.name)
        assert match is not None
        return int(match[1])

    def fakes_pngs(self) -> list[Path]:
        """All grids of generated images except the initial one, oldest first."""
        return self._matching(_FAKES_NAME)

    def averages_files(self) -> list[Path]:
        """The averages of the generator of all snapshots, oldest first."""
        return self._matching(_AVERAGES_NAME)

    def training_states(self) -> list[Path]:
        """All training states, newest first."""
        return self._matching(_STATE_NAME)[::-1]

    def metric_jsonls(self) -> list[Path]:
        """The values of all metrics, sorted by name."""
        return sorted(Path(self.path).glob(_METRIC_FILES))

    def memorization_pngs(self) -> list[Path]:
        """The galleries of generated images beside their nearest training images, sorted by name."""
        return sorted(Path(self.path).glob(_MEMORIZATION_FILES))

    def appended_files(self) -> list[Path]:
        """The files that grow during a run, sorted by name."""
        return sorted(path for pattern in _APPENDED_FILES for path in Path(self.path).glob(pattern))

    def special_files(self) -> list[Path]:
        """What has the name of a file that a run reads or continues, but is a folder, a pipe or a device."""
        own = [self.options_json, self.provenance_json, self.log_txt, self.stats_jsonl]
        paths = {*map(Path, own), *self.appended_files(), *self.training_states()}
        return sorted(path for path in paths if path.exists() and not path.is_file())

    def _file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def _matching(self, pattern: re.Pattern[str]) -> list[Path]:
        matches = [(match, path) for path in Path(self.path).iterdir() if (match := pattern.fullmatch(path.name))]
        matches.sort(key=lambda item: [int(number or 0) for number in item[0].groups()])
        return [path for _match, path in matches]


# ---------------------------------------------------------------------------------------------------------------------
# All runs in a folder


def list_run_dirs(outdir: str) -> list[str]:
    """Return the run directories in `outdir`, newest first; [] if it does not exist."""
    names = os.listdir(outdir) if os.path.isdir(outdir) else []
    return [os.path.join(outdir, name) for name in sorted(names, reverse=True) if re.match(r'\d{5}-', name)]


def next_run_dir(outdir: str, desc: str) -> str:
    """Return the run directory that `create_run_dir` would create now."""
    return os.path.join(outdir, f'{_next_run_id(outdir):05d}-{desc}')


def create_run_dir(outdir: str, desc: str) -> str:
    """Create `outdir/<ID>-<desc>` with an unused ID, even if several processes do so at once.

    The bare `outdir/<ID>` is created first, because `mkdir` succeeds in one process only. A process that gets there
    after the first one has renamed it finds a directory with that ID and tries the next one.

    Raises:
        OSError: The directory cannot be created.
    """
    os.makedirs(outdir, exist_ok=True)
    while True:
        run_id = f'{_next_run_id(outdir):05d}'
        claim = os.path.join(outdir, run_id)
        try:
            os.mkdir(claim)
        except FileExistsError:
            continue
        if any(name.startswith(f'{run_id}-') for name in os.listdir(outdir)):
            os.rmdir(claim)
            continue
        run_dir = os.path.join(outdir, f'{run_id}-{desc}')
        try:
            os.rename(claim, run_dir)
        except OSError:
            os.rmdir(claim)
            raise
        return run_dir


def _next_run_id(outdir: str) -> int:
    names = os.listdir(outdir) if os.path.isdir(outdir) else []
    used = [int(match[1]) for match in map(_RUN_NAME.match, names) if match]
    return max(used, default=-1) + 1
