"""Videos: the frames that were written, complete or not at all; and the errors if no encoder works."""

import os
import signal
import stat
import sys

import numpy as np
import pytest

from generation import video

pytest.importorskip('imageio_ffmpeg')


def smooth_frames(count, height, width):
    """Return smooth colors that change over the image and in time, uint8 [T, H, W, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [[127 + 120 * np.sin((x + y * k) / 40 + t / 3 + k) for k in range(3)] for t in range(count)]
    return np.transpose(planes, (0, 2, 3, 1)).astype(np.uint8)


def write(path, frames, **kwargs):
    with video.VideoWriter(path, **kwargs) as writer:
        for frame in frames:
            writer.add(frame)


def test_frames_are_reproduced(tmp_path, read_video):
    frames = smooth_frames(7, 48, 64)
    write(tmp_path / 'deep' / 'x.mp4', frames)
    decoded = read_video(tmp_path / 'deep' / 'x.mp4')
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(int) - frames).mean() < 3
    assert [path.name for path in (tmp_path / 'deep').iterdir()] == ['x.mp4']


@pytest.mark.parametrize('color', [
    (255, 0, 0), (0, 200, 30), (10, 20, 250), (255, 255, 255), (0, 0, 0), (128, 128, 128),
])  # fmt: skip
def test_colors_are_reproduced(tmp_path, read_video, color):
    write(tmp_path / 'x.mp4', [np.full([32, 32, 3], color, np.uint8)])
    assert np.abs(read_video(tmp_path / 'x.mp4')[0].astype(int) - color).max() <= 3


@pytest.mark.parametrize('shape', [(32, 48), (32, 48, 1)])
def test_gray_frames(tmp_path, read_video, shape):
    frame = smooth_frames(1, 32, 48)[0, :, :, 0]
    write(tmp_path / 'x.mp4', [frame.reshape(shape)])
    assert np.abs(read_video(tmp_path / 'x.mp4')[0].astype(int) - frame[:, :, None]).mean() < 2


def test_odd_sizes_repeat_their_last_row_and_column(tmp_path, read_video):
    frames = smooth_frames(2, 33, 47)
    write(tmp_path / 'x.mp4', frames)
    decoded = read_video(tmp_path / 'x.mp4').astype(int)
    assert decoded.shape == (2, 34, 48, 3)
    assert np.abs(decoded[:, :33, :47] - frames).mean() < 3
    assert np.abs(decoded[:, 33, :47] - frames[:, 32]).mean() < 4


@pytest.mark.parametrize('fps', [10, 29.97])
def test_rate(tmp_path, fps):
    import subprocess

    import imageio_ffmpeg

    write(tmp_path / 'x.mp4', smooth_frames(3, 16, 16), fps=fps)
    output = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), '-i', tmp_path / 'x.mp4'], capture_output=True, text=True)
    stream = next(line for line in output.stderr.splitlines() if 'Video:' in line)
    assert f'{fps} fps' in stream and 'h264' in stream and 'yuv420p(tv, bt709' in stream


@pytest.mark.parametrize('frame', [
    np.zeros([16, 16, 3], np.float32), np.zeros([16, 16, 5], np.uint8), np.zeros([3, 16, 16], np.uint8),
    np.zeros([16], np.uint8), np.zeros([2, 16, 16, 3], np.uint8),
])  # fmt: skip
def test_invalid_frames(tmp_path, frame):
    with pytest.raises(ValueError, match='a frame must be uint8'), video.VideoWriter(tmp_path / 'x.mp4') as writer:
        writer.add(frame)
    assert list(tmp_path.iterdir()) == []


def test_frames_of_different_sizes(tmp_path):
    with pytest.raises(ValueError, match=r'\[16, 18, 3\] after \[16, 16, 3\]'):
        write(tmp_path / 'x.mp4', [np.zeros([16, 16, 3], np.uint8), np.zeros([16, 18, 3], np.uint8)])
    assert list(tmp_path.iterdir()) == []


def test_no_frames(tmp_path):
    with pytest.raises(video.VideoError, match='at least one frame'):
        write(tmp_path / 'x.mp4', [])
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_block_leaves_the_old_file(tmp_path):
    (tmp_path / 'x.mp4').write_bytes(b'before')
    with pytest.raises(KeyboardInterrupt), video.VideoWriter(tmp_path / 'x.mp4') as writer:
        writer.add(np.zeros([16, 16, 3], np.uint8))
        raise KeyboardInterrupt
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b'before']
    write(tmp_path / 'x.mp4', smooth_frames(1, 16, 16))
    assert (tmp_path / 'x.mp4').read_bytes()[4:8] == b'ftyp'


def test_odd_names(tmp_path, read_video):
    path = tmp_path / '-i %03d: "ä".mp4'
    write(path, smooth_frames(2, 16, 16))
    assert len(read_video(path)) == 2


@pytest.mark.parametrize('when', ['between frames', 'at the end'])
def test_a_killed_encoder(tmp_path, when):
    with pytest.raises(video.VideoError, match='signal 9'), video.VideoWriter(tmp_path / 'x.mp4') as writer:
        writer.add(np.zeros([64, 64, 3], np.uint8))
        os.kill(writer._process.pid, signal.SIGKILL)
        if when == 'between frames':
            for _ in range(1000):
                writer.add(np.zeros([64, 64, 3], np.uint8))
    assert list(tmp_path.iterdir()) == []


def encoder(path, *lines):
    path.write_text('\n'.join([f'#!{sys.executable}', *lines]))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_an_encoder_that_fails_at_the_end(tmp_path, monkeypatch):
    lines = ('import sys', 'sys.stdin.buffer.read()', 'sys.exit("No space left on device")')
    monkeypatch.setenv('IMAGEIO_FFMPEG_EXE', encoder(tmp_path / 'ffmpeg', *lines))
    with pytest.raises(video.VideoError, match='x.mp4: the video encoder failed: No space left on device'):
        write(tmp_path / 'out' / 'x.mp4', smooth_frames(2, 16, 16))
    assert list((tmp_path / 'out').iterdir()) == []


def test_the_encoder_works():
    video.require_encoder()


def test_an_encoder_without_h264(tmp_path, monkeypatch):
    lines = ('import sys', 'sys.exit("Unknown encoder \'libx264\'")')
    monkeypatch.setenv('IMAGEIO_FFMPEG_EXE', encoder(tmp_path / 'ffmpeg', *lines))
    with pytest.raises(video.NoEncoder, match="Unknown encoder 'libx264'.*pip install imageio-ffmpeg"):
        video.require_encoder()


@pytest.mark.parametrize('what', ['missing', 'not a program'])
def test_an_encoder_that_does_not_start(tmp_path, monkeypatch, what):
    program = tmp_path / 'ffmpeg'
    if what == 'not a program':
        program.write_bytes(b'\0\1\2')
        program.chmod(0o755)
    monkeypatch.setenv('IMAGEIO_FFMPEG_EXE', str(program))
    with pytest.raises(video.NoEncoder, match='does not run.*pip install imageio-ffmpeg'):
        video.require_encoder()
    with pytest.raises(video.NoEncoder, match='does not run'):
        write(tmp_path / 'out' / 'x.mp4', smooth_frames(2, 16, 16))
    assert list((tmp_path / 'out').iterdir()) == []


def test_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, 'imageio_ffmpeg', None)
    with pytest.raises(video.NoEncoder, match=r'pip install imageio-ffmpeg \('):
        video.require_encoder()


def test_a_package_without_a_program(monkeypatch):
    import imageio_ffmpeg

    def fail():
        raise RuntimeError('No ffmpeg exe could be found.')

    monkeypatch.setattr(imageio_ffmpeg, 'get_ffmpeg_exe', fail)
    with pytest.raises(video.NoEncoder, match='does not find an ffmpeg program'):
        video.require_encoder()
