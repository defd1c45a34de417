"""What dragging reads and writes: points as JSON, a mask as a picture, pictures with the points drawn, a video."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import torch

from dataset_format.images import MAX_PIXELS, BadImage, decode, max_file_bytes
from dnnlib.errors import InvalidArgument
from dnnlib.files import atomic_file, read_file, write_json
from dnnlib.json_input import read_json
from dnnlib.progress import progress_bar
from dnnlib.schema import ListOf, Number, Record
from dnnlib.scratch import scratch_folder
from generation import projected_latents
from generation.editing.dragging import MAX_POINTS, DragSession, DragState, Point
from generation.video import VideoWriter
from torch_utils import images

BEFORE_FILE, AFTER_FILE, IMAGE_FILE = 'before.png', 'after.png', 'dragged.png'
LATENT_FILE, VIDEO_FILE, REPORT_FILE = 'dragged_w.npz', 'drag.mp4', 'drag.json'

_MAX_POINTS_BYTES = 2**20
_POINT = ListOf(Number(-1e6, 1e6), max_length=2, min_length=2)
_PAIR = Record({'handle': _POINT, 'target': _POINT}, required=('handle', 'target'))
_RULE = Record({'points': ListOf(_PAIR, MAX_POINTS, min_length=1)}, required=('points',))
_MASK_THRESHOLD = 128

_MIN_DRAWN_SIDE = 256  # pixels of a picture with points
_HANDLE_COLOR, _TARGET_COLOR, _OUTLINE = (230, 30, 30), (30, 80, 240), (255, 255, 255)
_FPS = 15
_NUM_PROGRESS_LINES = 10


# ---------------------------------------------------------------------------------------------------------------------
# Input


def read_points(path: str) -> tuple[list[Point], list[Point]]:
    """Read handle and target points from a file such as {"points": [{"handle": [20, 31], "target": [28, 31]}]}.

    Raises:
        InvalidArgument: Argument 'points': the file cannot be read, or contains something else.
    """
    try:
        content = read_json(path, _MAX_POINTS_BYTES)
        _RULE.check(content, path)
    except OSError as error:
        raise InvalidArgument('points', f'{path}: {error.strerror or error}.') from error
    except ValueError as error:
        raise InvalidArgument('points', str(error)) from error
    pairs = content['points']
    handles, targets = ([(float(x), float(y)) for x, y in (p[key] for p in pairs)] for key in ('handle', 'target'))
    return handles, targets


def read_mask(path: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read a mask: a picture of any kind, of which the light half is True.

    Returns:
        bool [H, W].

    Raises:
        InvalidArgument: Argument 'mask': the file cannot be read.
    """
    try:
        picture = decode(read_file(path, max_file_bytes(max_pixels)), max_pixels)
        return np.asarray(picture.convert('RGB').convert('L')) >= _MASK_THRESHOLD
    except OSError as error:
        raise InvalidArgument('mask', f'{path}: {error.strerror or error}.') from error
    except BadImage as error:
        raise InvalidArgument('mask', f'{path}: {error}.') from error
    except ValueError as error:  # of `read_file`
        raise InvalidArgument('mask', str(error)) from error


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def draw_points(image: np.ndarray, points: Sequence[Point], targets: Sequence[Point]) -> np.ndarray:
    """Draw handle points in red, their targets in blue, and lines between them.

    Args:
        image: uint8 [C, H, W]; pixels of small images are repeated until a side has 256.
        points: Handle points, in pixels.
        targets: Their targets.

    Returns:
        uint8 [H', W', 3].
    """
    factor = max(math.ceil(_MIN_DRAWN_SIDE / max(image.shape[1:])), 1)
    on_white = images.on_white(torch.tensor(image)[None])[0]
    pixels = on_white.expand(3, -1, -1).permute(1, 2, 0).numpy()
    picture = PIL.Image.fromarray(pixels.repeat(factor, axis=0).repeat(factor, axis=1))
    pen = PIL.ImageDraw.Draw(picture)
    radius = max(max(picture.size) / 100, 5)
    for point, target in zip(points, targets):
        (x, y), (goal_x, goal_y) = ([(value + 0.5) * factor - 0.5 for value in pair] for pair in (point, target))
        pen.line([x, y, goal_x, goal_y], fill=_OUTLINE, width=max(round(radius / 2), 1))
        for center_x, center_y, color in ((goal_x, goal_y, _TARGET_COLOR), (x, y, _HANDLE_COLOR)):
            box = [center_x - radius, center_y - radius, center_x + radius, center_y + radius]
            pen.ellipse(box, fill=color, outline=_OUTLINE)
    return np.asarray(picture)


# ---------------------------------------------------------------------------------------------------------------------
# Run


def drag_to_files(
    session: DragSession, num_steps: int, outdir: Path, save_video: bool, report: dict[str, Any]
) -> DragState:
    """Drag until all points have arrived or `num_steps` are taken, and write all files; an interrupted run leaves none.

    Args:
        session: A session of which no step is taken yet.
        num_steps: Largest number of steps.
        outdir: Folder for the files.
        save_video: Write the video as well, one frame per step.
        report: Content of `drag.json` besides the points and distances.

    Returns:
        Where the points are in the end.

    Raises:
        ValueError: The optimization fails.
        OSError: A file cannot be written.
    """
    before, start = session.image, session.state
    with scratch_folder('drag') as scratch:
        video_path = scratch / VIDEO_FILE
        with contextlib.ExitStack() as stack:
            video = stack.enter_context(VideoWriter(video_path, fps=_FPS)) if save_video else None
            bar = stack.enter_context(progress_bar(num_steps, 'step', 'Dragging'))
            state = start
            while True:
                if video is not None:
                    video.add(draw_points(session.image, state.points, session.targets))
                if state.is_done or state.step == num_steps:
                    break
                state = session.step()
                _show(bar, state, num_steps)
        outdir.mkdir(parents=True, exist_ok=True)
        images.save_png(PIL.Image.fromarray(draw_points(before, start.points, session.targets)), outdir / BEFORE_FILE)
        after = session.image
        images.save_png(PIL.Image.fromarray(draw_points(after, state.points, session.targets)), outdir / AFTER_FILE)
        images.save_png(after, outdir / IMAGE_FILE)
        projected_latents.write(outdir / LATENT_FILE, session.latent)
        if save_video:
            with open(video_path, 'rb') as source, atomic_file(outdir / VIDEO_FILE) as f:
                shutil.copyfileobj(source, f)
    write_json({**report, **_result(session, start, state)}, outdir / REPORT_FILE)
    return state


def _show(bar: Any, state: DragState, num_steps: int) -> None:
    """Show the largest distance: beside the bar on terminals, elsewhere as a line every tenth of the steps."""
    text = f'distance {max(state.distances):.3g} pixels'
    if not bar.disable:
        bar.set_postfix_str(text, refresh=False)
        bar.update(1)
    elif state.step % max(num_steps // _NUM_PROGRESS_LINES, 1) == 0 or state.is_done:
        print(f'Step {state.step}: {text}', flush=True)


def _result(session: DragSession, start: DragState, end: DragState) -> dict[str, Any]:
    return {
        'steps': end.step,
        'has_arrived': end.is_done,
        'points': [
            {'handle': handle, 'target': target, 'end': point, 'distance': distance}
            for handle, target, point, distance in zip(start.points, session.targets, end.points, end.distances)
        ],
    }
