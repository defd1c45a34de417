"""What tuning reads and writes: photographs with their projections, the tuned network, pictures, a video."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from dnnlib.errors import InvalidArgument
from dnnlib.files import atomic_file, write_json
from dnnlib.progress import progress_bar
from dnnlib.scratch import scratch_folder
from generation import projected_latents
from generation.editing.tuning import TuningResult, TuningSettings, check_photographs, tune
from generation.projected_latents import ProjectedLatents
from generation.projection.optimization import FeatureFunction
from generation.projection.project_to_files import LATENT_FILES, TARGET_FILE
from generation.projection.targets import Target, find_targets, load_target
from generation.rendering import render_projected
from generation.video import VideoWriter
from network_files.writing import save_network_pkl
from torch_utils import images

NETWORK_FILE, LATENTS_FILE, OVERVIEW_FILE = 'tuned.pkl', 'tuned_w.npz', 'overview.png'
VIDEO_FILE, REPORT_FILE = 'tuning.mp4', 'tuning.json'

_FPS = 30
_MAX_SHOWN = 16  # photographs in the overview and in the video
_MIN_FRAME_SIDE = 128
_NUM_PROGRESS_LINES = 10
_MAX_PHOTOGRAPHS = 1000


# ---------------------------------------------------------------------------------------------------------------------
# Input


def find_projections(folders: Sequence[str]) -> tuple[list[Target], list[str]]:
    """Find what projector.py has written to folders, or, for several targets, to the folders in them.

    Returns:
        The targets, named like their folders, and the files of their latents.

    Raises:
        InvalidArgument: Argument 'projection': a folder contains no projection, or it cannot be read.
    """
    targets, files = [], []
    for folder in map(Path, folders):
        found = [folder] if _is_projection(folder) else []
        if not found and folder.is_dir():
            found = sorted(inner for inner in folder.iterdir() if _is_projection(inner))
        if not found:
            raise InvalidArgument(
                'projection',
                f'{folder} contains no {TARGET_FILE} with {LATENT_FILES["last"]}, nor folders that do: use the output '
                'folder of projector.py.',
            )
        for inner in found:
            try:
                (target,) = find_targets([str(inner / TARGET_FILE)])
            except InvalidArgument as error:
                raise InvalidArgument('projection', str(error)) from error
            targets.append(dataclasses.replace(target, name=inner.resolve().name or 'target'))
            files.append(str(inner / LATENT_FILES['last']))
    return targets, files


def _is_projection(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (TARGET_FILE, LATENT_FILES['last']))


def load(targets: Sequence[Target], files: Sequence[str], G: Any) -> tuple[list[np.ndarray], ProjectedLatents]:
    """Load photographs uint8 [C, H, W], and their latents from one or more files, for a generator.

    Raises:
        InvalidArgument: Argument 'target', 'projected_w' or 'max_pixels': something cannot be read, or does not match.
    """
    if len(targets) > _MAX_PHOTOGRAPHS:
        raise InvalidArgument('target', f'{len(targets)} photographs are too many: use {_MAX_PHOTOGRAPHS} or fewer.')
    latents = projected_latents.join([projected_latents.read(file, G) for file in files], G)
    photographs = [load_target(target, G.img_resolution, G.img_channels) for target in targets]
    check_photographs(photographs, latents, G)
    return photographs, latents


# ---------------------------------------------------------------------------------------------------------------------
# Run


@dataclass(frozen=True)
class Tuner:
    """What a call of the command has in common with any other.

    Args:
        data: Content of the network file; `G_ema` is on the device.
        features: Features whose distance is minimized.
        settings: Settings of the optimization.
        device: Device of the network.
        save_video: Write the video as well.
        report: Content of `tuning.json` besides settings and distances.
    """

    data: dict[str, Any]
    features: FeatureFunction
    settings: TuningSettings
    device: torch.device
    save_video: bool
    report: dict[str, Any]

    def run(
        self, names: Sequence[str], photographs: Sequence[np.ndarray], pivots: ProjectedLatents, outdir: Path
    ) -> TuningResult:
        """Tune the network and write all files; an interrupted run leaves none.

        Raises:
            InvalidArgument: See `tuning.tune`.
            OSError: A file cannot be written.
        """
        G = self.data['G_ema']
        before = self._render(G, pivots)
        with scratch_folder('tuning') as scratch:
            video_path = scratch / VIDEO_FILE
            with contextlib.ExitStack() as stack:
                video = stack.enter_context(VideoWriter(video_path, fps=_FPS)) if self.save_video else None
                film = stack.enter_context(_Film(video, photographs, before, self.settings.num_steps))
                result = tune(G, photographs, pivots, self.features, self.settings, self.device, film.on_step)
            outdir.mkdir(parents=True, exist_ok=True)
            after = self._render(result.G, pivots)
            save_network_pkl(with_generator(self.data, result.G), outdir / NETWORK_FILE)
            projected_latents.write(outdir / LATENTS_FILE, pivots)
            self._write_pictures(names, photographs, before, after, outdir)
            if self.save_video:
                with open(video_path, 'rb') as source, atomic_file(outdir / VIDEO_FILE) as f:
                    shutil.copyfileobj(source, f)
        self._write_report(names, result, outdir / REPORT_FILE)
        return result

    def _render(self, G: Any, pivots: ProjectedLatents) -> list[np.ndarray]:
        return list(render_projected(G, pivots, self.device, as_projected=True))

    def _write_pictures(
        self,
        names: Sequence[str],
        photographs: Sequence[np.ndarray],
        before: list[np.ndarray],
        after: list[np.ndarray],
        outdir: Path,
    ) -> None:
        for index, image in enumerate(after):
            images.save_png(image, outdir / image_file(index))
        count = min(len(names), _MAX_SHOWN)
        rows = [*photographs[:count], *before[:count], *after[:count]]
        images.save_image_grid(
            images.enlarge_with_margin(np.stack(rows)),
            outdir / OVERVIEW_FILE,
            grid_size=(count, 3),
            row_labels=['photograph', 'projected', 'tuned'],
            column_labels=list(names[:count]),
        )

    def _write_report(self, names: Sequence[str], result: TuningResult, path: Path) -> None:
        fits = [
            {'name': name, 'before': dataclasses.asdict(before), 'after': dataclasses.asdict(after)}
            for name, before, after in zip(names, result.before, result.after)
        ]
        content = {**self.report, **dataclasses.asdict(self.settings), 'photographs': fits, 'drift': result.drift}
        write_json(content, path)


def image_file(index: int) -> str:
    """Return the name of the file with a photograph as the tuned network renders it."""
    return f'tuned{index:02d}.png'


def with_generator(data: dict[str, Any], G: Any) -> dict[str, Any]:
    """Return the content of a network file with another generator, in place of both averaged and current one.

    Modules are on the CPU.
    """
    new = G.cpu().eval().requires_grad_(False)
    D = new if data['D'] is data['G_ema'] else data['D']  # it stands in for D in files without one
    return {**data, 'D': D, 'G': new, 'G_ema': new}


# ---------------------------------------------------------------------------------------------------------------------
# Progress and video


class _Film:
    """Shows the progress, and adds a frame for each step: photographs above, their images below."""

    def __init__(
        self, video: VideoWriter | None, photographs: Sequence[np.ndarray], before: list[np.ndarray], num_steps: int
    ):
        self._video, self._num_steps = video, num_steps
        self._photographs = np.stack(photographs[:_MAX_SHOWN])
        self._current = np.stack(before[:_MAX_SHOWN])
        self._bar = progress_bar(num_steps, 'step', 'Tuning')

    def __enter__(self) -> _Film:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def on_step(self, step: int, loss: float, rendered: dict[int, torch.Tensor]) -> None:
        """See `tuning.Progress`."""
        for index, image in rendered.items():
            if index < len(self._current):
                self._current[index] = images.to_uint8(image[0]).cpu().numpy()
        if self._video is not None:
            self._video.add(self._frame())
        if math.isnan(loss):
            self._bar.update(self._num_steps - self._bar.n)
        elif not self._bar.disable:
            self._bar.set_postfix_str(f'loss {loss:.4g}', refresh=False)
            self._bar.update(step - self._bar.n)
        elif step % max(self._num_steps // _NUM_PROGRESS_LINES, 1) == 0:
            print(f'Step {step} of {self._num_steps}: loss {loss:.4g}', flush=True)

    def _frame(self) -> np.ndarray:
        """Return uint8 [H', W', C]."""
        height = self._photographs.shape[2]
        factor = max(-(-_MIN_FRAME_SIDE // height), 1)
        both = np.concatenate([self._photographs, self._current])
        grid = images.image_grid(both, (len(self._photographs), 2))
        return grid.repeat(factor, axis=0).repeat(factor, axis=1)
