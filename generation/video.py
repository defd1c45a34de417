"""Frames to an mp4 file, through the encoder that comes with imageio-ffmpeg.

The encoder is a process that this module starts itself, since only its exit status tells a whole video from one that
the disk or a signal has cut short.
"""

import contextlib
import importlib
import os
import subprocess
import tempfile
from typing import IO

import numpy as np
import torch

from dnnlib.files import atomic_file
from torch_utils.images import on_white

_INSTALL = 'pip install imageio-ffmpeg'
_TRIAL_SECONDS = 60

# What every player shows: H.264 with colour at half resolution, and its index in front so that browsers can start at
# once. Constant rate factor 14 is where differences to the frames are no longer seen. The colour matrix is named,
# because players otherwise guess it from the size of the picture.
_TO_BT709 = (
    'scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_inp,format=yuv420p,'
    'setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709'
)
_ENCODING = ['-vf', _TO_BT709, '-c:v', 'libx264', '-crf', '14', '-preset', 'medium', '-movflags', '+faststart']


class VideoError(ValueError):
    """The video was not written. One sentence."""


class NoEncoder(VideoError):
    """No encoder runs on this machine. One sentence with the way out."""


def require_encoder() -> None:
    """Encode two small frames into nothing, so that a missing encoder is found before any work.

    Raises NoEncoder: imageio-ffmpeg is not installed, or what it offers does not run or knows no H.264.
    """
    command = [_encoder(), *_input_options(16, 16, fps=1), *_ENCODING, '-f', 'null', '-']
    try:
        trial = subprocess.run(command, input=bytes(2 * 16 * 16 * 3), capture_output=True, timeout=_TRIAL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoEncoder(_does_not_run(command[0], str(error))) from error
    if trial.returncode != 0:
        raise NoEncoder(_does_not_run(command[0], _last_words(trial.stderr, trial.returncode)))


class VideoWriter:
    """An mp4 file to be: H.264, 4:2:0, odd sizes padded to even ones by repeating the last row or column; what is
    transparent is shown on white.

    A context manager. Under `path` there is nothing until the block has ended and the encoder has said that all is
    well; where either fails, nothing remains.

    Args:
        path: The file, whatever its ending.
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

    def __enter__(self) -> 'VideoWriter':
        with contextlib.ExitStack() as exits:
            self._messages = exits.enter_context(tempfile.TemporaryFile())
            self._target = os.path.abspath(exits.enter_context(atomic_file(self.path)).name)
            exits.push(self._end)
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *error) -> bool | None:
        return self._exits.__exit__(*error)

    def add(self, frame: np.ndarray) -> None:
        """Append a frame: uint8 [H, W, C] with C from 1 to 4, or [H, W], all of one shape.

        Raises ValueError for another frame, VideoError where the encoder has ended.
        """
        frame = np.asarray(frame)
        if frame.dtype != np.uint8 or frame.ndim not in (2, 3) or frame.shape[2:] not in ((), (1,), (2,), (3,), (4,)):
            raise ValueError(f'a frame is uint8 [H, W] or [H, W, 1 to 4], not {frame.dtype} {list(frame.shape)}')
        if self._process is None:
            self._frame_shape = frame.shape
            self._start(*frame.shape[:2])
        if frame.shape != self._frame_shape:
            raise ValueError(f'a frame of shape {list(frame.shape)} after one of {list(self._frame_shape)}')
        try:
            self._process.stdin.write(_even_rgb(frame).tobytes())
        except OSError as error:
            raise self._failure() from error

    def _start(self, height: int, width: int) -> None:
        command = [
            _encoder(), *_input_options(height + height % 2, width + width % 2, self.fps), *_ENCODING,
            '-f', 'mp4', '-y', f'file:{self._target}',
        ]  # fmt: skip
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._messages
            )
        except OSError as error:
            raise NoEncoder(_does_not_run(command[0], str(error))) from error

    def _end(self, error_type: type | None, *_error) -> None:
        """Let the encoder finish, or stop it where the block has raised."""
        if self._process is None:
            if error_type is None:
                raise VideoError(f'{self.path}: a video needs at least one frame')
            return
        if error_type is not None:
            self._process.kill()
        with contextlib.suppress(OSError):  # The encoder may be gone; its exit status tells why.
            self._process.stdin.close()
        self._process.wait()
        if error_type is None and self._process.returncode != 0:
            raise self._failure()

    def _failure(self) -> VideoError:
        status = self._process.wait()
        self._messages.seek(0)
        return VideoError(f'{self.path}: the video encoder failed: {_last_words(self._messages.read(), status)}')


def _even_rgb(frame: np.ndarray) -> np.ndarray:
    """[H, W, 3] of even size."""
    height, width = frame.shape[:2]
    frame = frame.reshape(height, width, -1)
    if frame.shape[2] in (2, 4):
        frame = on_white(torch.tensor(frame).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    frame = np.pad(frame, [(0, height % 2), (0, width % 2), (0, 0)], mode='edge')
    return np.broadcast_to(frame, [*frame.shape[:2], 3])


def _encoder() -> str:
    """Path of the ffmpeg program."""
    try:
        return importlib.import_module('imageio_ffmpeg').get_ffmpeg_exe()
    except ImportError as error:
        raise NoEncoder(f'videos need the package imageio-ffmpeg: {_INSTALL}') from error
    except RuntimeError as error:  # Of a build without a program of its own.
        raise NoEncoder(f'imageio-ffmpeg finds no ffmpeg program: {_INSTALL} --force-reinstall') from error


def _input_options(height: int, width: int, fps: float) -> list[str]:
    raw_frames = ['-f', 'rawvideo', '-pix_fmt', 'rgb24', '-s', f'{width}x{height}', '-r', str(fps), '-i', '-']
    return ['-hide_banner', '-loglevel', 'error', *raw_frames]


def _does_not_run(program: str, reason: str) -> str:
    return (
        f'the video encoder {program} does not run ({reason}): install another with {_INSTALL} --force-reinstall, '
        'or name an ffmpeg program with libx264 in the environment variable IMAGEIO_FFMPEG_EXE'
    )


def _last_words(messages: bytes, status: int) -> str:
    """The last line an encoder wrote, or how it ended."""
    lines = messages.decode(errors='replace').strip().splitlines()
    if status < 0:
        return f'it was ended by signal {-status}'
    return lines[-1].strip() if lines else f'it ended with status {status}'
