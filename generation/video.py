"""Write frames to an mp4 file with the encoder that comes with imageio-ffmpeg.

This module starts the encoder process itself, because only its exit status distinguishes a complete video from one that
was cut short by a full disk or a signal.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import tempfile
from collections.abc import Iterable
from types import TracebackType
from typing import IO

import numpy as np
import torch

from dnnlib.files import atomic_file
from dnnlib.progress import track
from torch_utils.images import on_white

_INSTALL = 'pip install imageio-ffmpeg'
_TRIAL_SECONDS = 60

# What every player supports: H.264 with color at half resolution, and the index at the beginning so that browsers can
# start at once. At a constant rate factor of 14 differences from the frames are not visible. The color matrix is named,
# because players otherwise guess it from the size of the picture.
_TO_BT709 = (
    'scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_inp,format=yuv420p,'
    'setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709'
)
_ENCODING = ['-vf', _TO_BT709, '-c:v', 'libx264', '-crf', '14', '-preset', 'medium', '-movflags', '+faststart']


class VideoError(ValueError):
    """A video that could not be written. One sentence."""


class NoEncoder(VideoError):
    """No encoder works on this machine. One sentence with the way out."""


def require_encoder() -> None:
    """Encode two small frames and discard the result, so that a missing encoder is found before any work.

    Raises:
        NoEncoder: imageio-ffmpeg is not installed, or its encoder does not run or does not support H.264.
    """
    command = [_encoder(), *_input_options(16, 16, fps=1), *_ENCODING, '-f', 'null', '-']
    try:
        trial = subprocess.run(command, input=bytes(2 * 16 * 16 * 3), capture_output=True, timeout=_TRIAL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoEncoder(_does_not_run(command[0], str(error))) from error
    if trial.returncode != 0:
        raise NoEncoder(_does_not_run(command[0], _last_words(trial.stderr, trial.returncode)))


class VideoWriter:
    """Context manager that writes an mp4 file: H.264, 4:2:0, transparent frames on white.

    Odd sizes are padded to even ones by repeating the last row or column. The file appears when the block has ended and
    the encoder has succeeded; if either fails, nothing is left behind.

    Args:
        path: The file; its extension does not matter.
        fps: Frames per second, greater than 0.
    """

    def __init__(self, path: str | os.PathLike, fps: float = 30):
        self.path = path
        self.fps = fps
        self._exits = contextlib.ExitStack()
        self._target = ''
        self._frame_shape: tuple[int, ...] | None = None
        self._process: subprocess.Popen | None = None
        self._messages: IO[bytes]

    def __enter__(self) -> VideoWriter:
        with contextlib.ExitStack() as exits:
            self._messages = exits.enter_context(tempfile.TemporaryFile())
            self._target = os.path.abspath(exits.enter_context(atomic_file(self.path)).name)
            exits.push(self._end)
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.__exit__(kind, error, trace)

    def add(self, frame: np.ndarray) -> None:
        """Append a frame.

        Args:
            frame: uint8 [H, W, C] with C from 1 to 4, or [H, W]; all frames have the same shape.

        Raises:
            ValueError: The frame has another shape or dtype.
            VideoError: The encoder has failed.
        """
        frame = np.asarray(frame)
        if frame.dtype != np.uint8 or frame.ndim not in (2, 3) or frame.shape[2:] not in ((), (1,), (2,), (3,), (4,)):
            raise ValueError(f'a frame must be uint8 [H, W] or [H, W, 1 to 4], got {frame.dtype} {list(frame.shape)}')
        if self._process is None:
            self._frame_shape = frame.shape
            self._start(*frame.shape[:2])
        if frame.shape != self._frame_shape:
            expected = list(self._frame_shape or ())
            raise ValueError(f'all frames must have the same shape, got {list(frame.shape)} after {expected}')
        try:
            self._stdin.write(_even_rgb(frame).tobytes())
        except OSError as error:
            raise self._failure() from error

    def _start(self, height: int, width: int) -> None:
        raw_input = _input_options(height + height % 2, width + width % 2, self.fps)
        command = [_encoder(), *raw_input, *_ENCODING, '-f', 'mp4', '-y', f'file:{self._target}']
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._messages
            )
        except OSError as error:
            raise NoEncoder(_does_not_run(command[0], str(error))) from error

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process is not None and self._process.stdin is not None
        return self._process.stdin

    def _end(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the encoder finish, or stop it if the block has raised an error."""
        if self._process is None:
            if error_type is None:
                raise VideoError(f'{self.path}: a video needs at least one frame')
            return
        if error_type is not None:
            self._process.kill()
        with contextlib.suppress(OSError):  # the encoder may be gone; its exit status tells why
            self._stdin.close()
        self._process.wait()
        if error_type is None and self._process.returncode != 0:
            raise self._failure()

    def _failure(self) -> VideoError:
        assert self._process is not None
        status = self._process.wait()
        self._messages.seek(0)
        return VideoError(f'{self.path}: the video encoder failed: {_last_words(self._messages.read(), status)}')


def write_video(path: str | os.PathLike, fps: float, frames: Iterable[np.ndarray], num_frames: int) -> None:
    """Write a video file, complete or not at all, and show the progress.

    Args:
        path: The file.
        fps: Frames per second.
        frames: Frames as in `VideoWriter.add`.
        num_frames: Number of frames, for the progress bar.

    Raises:
        VideoError: The video cannot be written.
    """
    with VideoWriter(path, fps) as writer:
        for frame in track(frames, num_frames, 'frame'):
            writer.add(frame)


# ---------------------------------------------------------------------------------------------------------------------
# Encoder


def _even_rgb(frame: np.ndarray) -> np.ndarray:
    """Return [H, W, 3] of even size."""
    height, width = frame.shape[:2]
    frame = frame.reshape(height, width, -1)
    if frame.shape[2] in (2, 4):
        frame = on_white(torch.tensor(frame).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    frame = np.pad(frame, [(0, height % 2), (0, width % 2), (0, 0)], mode='edge')
    return np.broadcast_to(frame, [*frame.shape[:2], 3])


def _encoder() -> str:
    """Return the path of the ffmpeg program."""
    try:
        return importlib.import_module('imageio_ffmpeg').get_ffmpeg_exe()
    except ImportError as error:
        raise NoEncoder(f'videos need the package imageio-ffmpeg: {_INSTALL} ({error})') from error
    except RuntimeError as error:  # a build without a program of its own
        raise NoEncoder(f'imageio-ffmpeg does not find an ffmpeg program: {_INSTALL} --force-reinstall') from error


def _input_options(height: int, width: int, fps: float) -> list[str]:
    raw_frames = ['-f', 'rawvideo', '-pix_fmt', 'rgb24', '-s', f'{width}x{height}', '-r', str(fps), '-i', '-']
    return ['-hide_banner', '-loglevel', 'error', *raw_frames]


def _does_not_run(program: str, reason: str) -> str:
    return (
        f'the video encoder {program} does not run ({reason}): install another with {_INSTALL} --force-reinstall, '
        'or set the environment variable IMAGEIO_FFMPEG_EXE to an ffmpeg program with libx264'
    )


def _last_words(messages: bytes, status: int) -> str:
    """Return the last line that the encoder wrote, or how it ended."""
    lines = messages.decode(errors='replace').strip().splitlines()
    if status < 0:
        return f'it was terminated by signal {-status}'
    return lines[-1].strip() if lines else f'it ended with status {status}'
