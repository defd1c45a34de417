"""One projection from a picture's file to the files of its result, with its progress on the way."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import PIL.Image
import torch

from dnnlib.files import atomic_file
from dnnlib.progress import progress_bar
from generation import projected_latents
from generation.projection.optimization import Features, Rendering, Result, Settings, WStatistics, project, render
from generation.projection.targets import Target, load_target
from generation.video import VideoWriter
from torch_utils import images

TARGET_FILE, VIDEO_FILE, REPORT_FILE = 'target.png', 'proj.mp4', 'projection.json'
IMAGE_FILES = {'last': 'proj.png', 'best': 'proj_best.png'}
LATENT_FILES = {'last': 'projected_w.npz', 'best': 'projected_w_best.npz'}
OVERVIEW_FILE = 'overview.png'
ALL_FILES = (TARGET_FILE, *IMAGE_FILES.values(), *LATENT_FILES.values(), VIDEO_FILE, REPORT_FILE)

_FPS = 10
_SMALLEST_FRAME_HEIGHT = 128
_LINES_OF_PROGRESS = 10


@dataclass(frozen=True)
class Projector:
    """What all targets of a call have in common.

    report: What `projection.json` says beside the target, the settings and the distances.
    """

    G: torch.nn.Module
    features: Features
    statistics: WStatistics
    settings: Settings
    save_video: bool
    report: dict[str, Any]

    def run(self, target: Target, outdir: Path, title: str) -> Result:
        """Project one target. The files appear in `outdir` after the last step; an earlier end leaves none.

        Raises click.BadParameter where the target cannot be used, ValueError where the optimisation fails, OSError.
        """
        pixels = load_target(target, self.G.img_resolution, self.G.img_channels)
        with tempfile.TemporaryDirectory(prefix='projection-') as scratch:
            video_path = Path(scratch) / VIDEO_FILE
            result = self._optimize(pixels, video_path if self.save_video else None, title)
            self._write(pixels, result, outdir)
            if self.save_video:
                with open(video_path, 'rb') as source, atomic_file(outdir / VIDEO_FILE) as f:
                    shutil.copyfileobj(source, f)
        _write_json(self._report_on(target, result), outdir / REPORT_FILE)
        return result

    def _optimize(self, pixels: np.ndarray, video_path: Path | None, title: str) -> Result:
        with contextlib.ExitStack() as exits:
            video = exits.enter_context(VideoWriter(video_path, fps=_FPS)) if video_path is not None else None
            progress = exits.enter_context(_Progress(title, self.settings.num_steps))

            def on_render(step: int, distance: float, image: torch.Tensor) -> None:
                progress.show(step, distance)
                if video is not None and step > 0:  # one frame a step: what the step has led to
                    video.add(_frame(pixels, images.to_uint8(image[0]).cpu().numpy()))

            return project(self.G, pixels, self.features, self.statistics, self.settings, on_render)

    def _write(self, pixels: np.ndarray, result: Result, outdir: Path) -> None:
        images.save_png(pixels, outdir / TARGET_FILE)
        for which in ('last', 'best'):
            rendering: Rendering = getattr(result, which)
            images.save_png(render(self.G, rendering), outdir / IMAGE_FILES[which])
            projected_latents.write(outdir / LATENT_FILES[which], rendering.projections())

    def _report_on(self, target: Target, result: Result) -> dict[str, Any]:
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
    """Both uint8 [C, H, W], side by side as [H', 2 W', C]; small images are enlarged by repeating their pixels."""
    factor = max(_SMALLEST_FRAME_HEIGHT // target.shape[1], 1)
    frame = np.concatenate([target, image], axis=2)  # C H 2W
    return frame.repeat(factor, axis=1).repeat(factor, axis=2).transpose(1, 2, 0)


def write_overview(folders: Sequence[Path], outdir: Path) -> Path:
    """One picture of several finished projections: the targets in one row, what was found for them below."""
    file_names = (TARGET_FILE, IMAGE_FILES['last'])
    pictures = [images.from_pil(PIL.Image.open(folder / name)) for name in file_names for folder in folders]
    path = outdir / OVERVIEW_FILE
    images.save_image_grid(
        images.spaced_for_people(np.stack(pictures)),
        path,
        grid_size=(len(folders), len(file_names)),
        row_labels=['target', 'projection'],
        column_labels=[folder.name for folder in folders],
    )
    return path


def _write_json(content: dict[str, Any], path: Path) -> None:
    with atomic_file(path) as f:
        f.write((json.dumps(content, indent=2, ensure_ascii=False) + '\n').encode())


class _Progress:
    """A bar with the distance on terminals; elsewhere a line every tenth of the way."""

    def __init__(self, title: str, num_steps: int):
        self.title, self.num_steps = title, num_steps
        self.steps_per_line = max(num_steps // _LINES_OF_PROGRESS, 1)
        self.bar = progress_bar(num_steps, 'step', title)

    def __enter__(self) -> '_Progress':
        return self

    def __exit__(self, *_error: object) -> None:
        self.bar.close()

    def show(self, step: int, distance: float) -> None:
        if not self.bar.disable:
            self.bar.set_postfix_str(f'distance {distance:.4g}', refresh=False)
            self.bar.update(step - self.bar.n)
        elif step % self.steps_per_line == 0 or step == self.num_steps:
            click.echo(f'{self.title}: step {step} of {self.num_steps}, distance {distance:.4g}')
