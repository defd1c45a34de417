"""The demo with emoji: mistakes in its arguments, and a short run from the package to the report that is continued."""

import io
import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest

ROOT = Path(__file__).resolve().parents[1]
NAME = 'emoji-datasource-google-16.0.0.tgz'
CATEGORIES = ('Activities', 'Food & Drink', 'Objects')


def drawing(seed: int) -> bytes:
    """Return a PNG of a few colored shapes on a transparent background."""
    random = np.random.RandomState(seed)
    image = PIL.Image.new('RGBA', (64, 64), (0, 0, 0, 0))
    pen = PIL.ImageDraw.Draw(image)
    for _ in range(3):
        left, top = random.randint(4, 36, 2).tolist()
        width, height = random.randint(8, 24, 2).tolist()
        color = (*random.randint(0, 256, 3).tolist(), 255)
        pen.ellipse((left, top, left + width, top + height), fill=color)
    file = io.BytesIO()
    image.save(file, 'png')
    return file.getvalue()


def write_package(path: Path, num_images: int) -> None:
    table = [
        {'short_name': f'e{i}', 'category': CATEGORIES[i % 3], 'image': f'1f{i:03x}.png', 'has_img_google': True}
        for i in range(num_images)
    ]
    files = {f'package/img/google/64/{emoji["image"]}': drawing(i) for i, emoji in enumerate(table)}
    with tarfile.open(path, 'w:gz') as archive:
        for name, content in {'package/emoji.json': json.dumps(table).encode(), **files}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def demo(*args: object) -> subprocess.CompletedProcess:
    command = ['bash', 'scripts/demo_emoji.sh', *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize('args', [[], ['a.tgz', 'out', '1', 'more']])
def test_wrong_number_of_arguments(args):
    result = demo(*args)
    assert result.returncode == 2 and 'PATH_OF_TARBALL' in result.stderr and 'npm pack' in result.stderr


def test_package_that_does_not_exist(tmp_path):
    result = demo(tmp_path / NAME, tmp_path / 'out')
    assert result.returncode == 2 and 'does not exist' in result.stderr and 'npm pack' in result.stderr
    assert not (tmp_path / 'out').exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_short_demo_is_continued_with_a_larger_kimg(tmp_path):
    write_package(tmp_path / NAME, 120)
    out = tmp_path / 'out'
    first = demo(tmp_path / NAME, out, '0.1')
    assert first.returncode == 0, first.stdout + first.stderr
    data = (out / 'emoji.zip').stat().st_mtime_ns
    assert '<html' in (out / 'report.html').read_text(encoding='utf-8')
    shares = json.loads((out / 'memorization.jsonl').read_text())['results']
    assert shares['memorization-emoji2k_share'] == 0
    with PIL.Image.open(out / 'class-grid.png') as grid:
        assert grid.mode == 'RGB' and grid.height == 3 * (64 + 4)

    second = demo(tmp_path / NAME, out, '0.2')
    assert second.returncode == 0, second.stdout + second.stderr
    assert 'Resuming from' in second.stdout and (out / 'emoji.zip').stat().st_mtime_ns == data
    (run_dir,) = (out / 'runs').iterdir()
    assert json.loads((run_dir / 'training_options.json').read_text())['total_kimg'] == 0.2
