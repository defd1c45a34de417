"""Project one picture, from its file to the files of the result, with its progress on the way."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import PIL.Image
import torch

from dnnlib.files import atomic_file, write_json
from dnnlib.progress import progress_bar
from dnnlib.scratch import scratch_folder
from generation import projected_latents
from generation.projection.optimization import (
    FeatureFunction,
    ProjectionResult,
    ProjectionSettings,
    WStatistics,
    project,
    render,
)
from generation.projection.targets import Target, load_target
from generation.video import VideoWriter
from torch_utils import images

TARGET_FILE, VIDEO_FILE, REPORT_FILE = 'target.png', 'proj.mp4', 'projection.json'
IMAGE_FILES = {'last': 'proj.png', 'best': 'proj_best.png'}
LATENT_FILES = {'last': 'projected_w.npz', 'best': 'projected_w_best.npz'}
OVERVIEW_FILE = 'overview.png'
ALL_FILES = (TARGET_FILE, *IMAGE_FILES.values(), *LATENT_FILES.values(), VIDEO_FILE, REPORT_FILE)

_FPS = 10
_MIN_FRAME_HEIGHT = 128
_NUM_PROGRESS_LINES = 10


@dataclass(frozen=True)
class Projector:
    """What all targets of a call have in common.

    Args:
        G: Generator.
        features: Features whose distance is minimized, on the device of G.
        statistics: Statistics of w.
        settings: Settings of the optimization.
        save_video: Write the video as well.
        report: Content of `projection.json` besides target, settings and distances.
    """

    G: Any
    features: FeatureFunction
    statistics: WStatistics
    settings: ProjectionSettings
    save_video: bool
    report: dict[str, Any]

    def run(self, target: Target, outdir: Path, title: str) -> ProjectionResult:
        """Project one target. The files appear in `outdir` after the last step; an interrupted run leaves none.

        Raises:
            InvalidArgument: The target cannot be used.
            ValueError: The optimization fails.
            OSError: A file cannot be written.
        """
        pixels = load_target(target, self.G.img_resolution, self.G.img_channels)
        with scratch_folder('projection') as scratch:
            video_path = scratch / VIDEO_FILE
            result = self._optimize(pixels, video_path if self.save_video else None, title)
            self._write(pixels, result, outdir)
            if self.save_video:
                with open(video_path, 'rb') as source, atomic_file(outdir / VIDEO_FILE) as f:
                    shutil.copyfileobj(source, f)
        write_json(self._report_on(target, result), outdir / REPORT_FILE)
        return result

    def _optimize(self, pixels: np.ndarray, video_path: Path | None, title: str) -> ProjectionResult:
        with contextlib.ExitStack() as stack:
            video = stack.enter_context(VideoWriter(video_path, fps=_FPS)) if video_path is not None else None
            progress = stack.enter_context(_DistanceProgress(title, self.settings.num_steps))

            def on_render(step: int, distance: float, image: torch.Tensor) -> None:
                progress.show(step, distance)
                if video is not None and step > 0:  # one frame per step, showing its result
                    video.add(_frame(pixels, images.to_uint8(image[0]).cpu().numpy()))

            return project(self.G, pixels, self.features, self.statistics, self.settings, on_render)

    def _write(self, pixels: np.ndarray, result: ProjectionResult, outdir: Path) -> None:
        images.save_png(pixels, outdir / TARGET_FILE)
        for which, candidate in (('last', result.last), ('best', result.best)):
            images.save_png(render(self.G, candidate), outdir / IMAGE_FILES[which])
            projected_latents.write(outdir / LATENT_FILES[which], candidate.to_latents())

    def _report_on(self, target: Target, result: ProjectionResult) -> dict[str, Any]:
        return {
            'target': str(target.path),
            **self.report,
            'seed': self.settings.seed,
            'num_steps': self.settings.num_steps,
            'space': self.settings.space,
            'learning_rate': self.settings.learning_rate,
            'noise_weight': self.settings.noise_weight,
            'distance': {
                'start': result.distances[0],
                'last': result.last.distance,
                'best': result.best.distance,
            },
            'best_step': result.best.step,
        }


def _frame(target: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Place two uint8 [C, H, W] side by side as [H', 2 W', C]; small images are enlarged by repeating their pixels."""
    factor = max(_MIN_FRAME_HEIGHT // target.shape[1], 1)
    frame = np.concatenate([target, image], axis=2)  # C H 2W
    return frame.repeat(factor, axis=1).repeat(factor, axis=2).transpose(1, 2, 0)


def write_overview(folders: Sequence[Path], outdir: Path) -> Path:
    """Write one picture of several finished projections: the targets in one row, their projections below."""
    file_names = (TARGET_FILE, IMAGE_FILES['last'])
    pictures = [images.from_pil(PIL.Image.open(folder / name)) for name in file_names for folder in folders]
    path = outdir / OVERVIEW_FILE
    images.save_image_grid(
        images.enlarge_with_margin(np.stack(pictures)),
        path,
        grid_size=(len(folders), len(file_names)),
        row_labels=['target', 'projection'],
        column_labels=[folder.name for folder in folders],
    )
    return path


class _DistanceProgress:
    """A progress bar with the distance on terminals; elsewhere a line every tenth of the way."""

    def __init__(self, title: str, num_steps: int):
        self._title, self._num_steps = title, num_steps
        self._steps_per_line = max(num_steps // _NUM_PROGRESS_LINES, 1)
        self._bar = progress_bar(num_steps, 'step', title)

    def __enter__(self) -> _DistanceProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def show(self, step: int, distance: float) -> None:
        if not self._bar.disable:
            self._bar.set_postfix_str(f'distance {distance:.4g}', refresh=False)
            self._bar.update(step - self._bar.n)
        elif step % self._steps_per_line == 0 or step == self._num_steps:
            print(f'{self._title}: step {step} of {self._num_steps}, distance {distance:.4g}', flush=True)
