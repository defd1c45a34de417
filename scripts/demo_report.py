"""The last part of `scripts/demo.sh`: pictures of what was learned, and an honest figure of how well.

Writes into the folder of the demo
  grid.png      generated images, a row per class;
  progress.gif  the same latents through the training;
  quality.json  what is also printed: does a classifier trained on the real images read the class that was asked
                for, do the images vary as the real ones do, and are they copies of them?
"""

import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import PIL.ImageOps
import torch

import dnnlib
from dnnlib.cli import PATH, Command
from dnnlib.files import atomic_file
from network_files.reading import load_network_pkl
from torch_utils import images
from training.dataset import ImageFolderDataset

NUM_GENERATED = 1000
NEIGHBOUR = 3  # k of precision and recall (arXiv 1904.06991)
WANTED_ACCURACY = 0.90
GRID_COLUMNS = 10
ENLARGE = 4  # Pixels of the pictures along one pixel of the images.
MARGIN = 2  # White pixels of the pictures at each side of an image.


# ------------------------------------------------------------------------------------------------
# Quality


def real_images(data):
    """(images as [N, pixels] float64 in [0, 1], class of each [N], class names) of a labelled dataset."""
    dataset = ImageFolderDataset(data, use_labels=True)
    pixels = np.stack([dataset[i][0] for i in range(len(dataset))])
    classes = np.stack([dataset.get_label(i) for i in range(len(dataset))]).argmax(axis=1)
    names = dataset.class_names or [str(i) for i in range(dataset.label_dim)]
    return pixels.reshape(len(pixels), -1) / 255, classes, names


@torch.no_grad()
def generate(G, classes, seed):
    """uint8 [N, C, H, W]: an image of each class asked for, from latents of a seed."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn([len(classes), G.z_dim], generator=generator)
    c = torch.eye(G.c_dim)[classes]
    batches = [images.to_uint8(G(zs, cs, noise_mode='const')) for zs, cs in zip(z.split(100), c.split(100))]
    return torch.cat(batches).numpy()


def distances(a, b):
    """Euclidean distances [len(a), len(b)] of the rows of two matrices."""
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0))


def nearest_others(points):
    """Sorted distances of each point to all others of its set."""
    to_others = distances(points, points)
    np.fill_diagonal(to_others, np.inf)
    return np.sort(to_others, axis=1)


def coverage_of(support, probes):
    """Share of `probes` inside the manifold of `support`: within a support point's distance to its k-th neighbour."""
    radii = nearest_others(support)[:, NEIGHBOUR - 1]
    return float((distances(probes, support) <= radii).any(axis=1).mean())


def measure(real, real_classes, fake, asked):
    """Quality figures of generated against real images, all [N, pixels] in [0, 1]."""
    from sklearn.model_selection import cross_val_score
    from sklearn.svm import SVC

    reader = SVC(C=10)
    reads_unseen = cross_val_score(reader, real, real_classes, cv=5).mean()
    read = reader.fit(real, real_classes).predict(fake)

    order = np.random.RandomState(0).permutation(len(real))
    known, unseen = real[order[: len(real) // 2]], real[order[len(real) // 2 :]]
    to_real = distances(fake, real).min(axis=1)
    real_to_real = nearest_others(real)[:, 0]
    return dict(
        num_generated=len(fake),
        class_accuracy=float((read == asked).mean()),
        reals_class_accuracy=float(reads_unseen),
        precision=coverage_of(real, fake),
        recall=coverage_of(fake, real),
        reals_recall=coverage_of(known, unseen),
        nearest_real_distance=float(np.median(to_real)),
        reals_nearest_distance=float(np.median(real_to_real)),
        # A copy would be nearer to a real image than all but one in a hundred reals are to each other.
        share_of_copies=float((to_real < np.percentile(real_to_real, 1)).mean()),
    )


QUALITY_TEXT = """
Quality of {num_generated} generated images               the same for real images
  read as the class that was asked for   {class_accuracy:7.1%}   {reals_class_accuracy:7.1%}  not seen by the classifier
  recall (k = 3, pixels)                 {recall:7.1%}   {reals_recall:7.1%}  of one half by the other
  precision (k = 3, pixels)              {precision:7.1%}
  distance to the nearest real image     {nearest_real_distance:7.2f}   {reals_nearest_distance:7.2f}  to another
  copies: nearer than 99 % of those      {share_of_copies:7.1%}
"""


# ------------------------------------------------------------------------------------------------
# Pictures


def as_cell(picture):
    """A grayscale picture, smoothly enlarged, in a white margin."""
    size = (picture.width * ENLARGE, picture.height * ENLARGE)
    return PIL.ImageOps.expand(picture.resize(size, PIL.Image.Resampling.BICUBIC), border=MARGIN, fill=255)


def save_progress(run_dir, path, num_classes, size):
    """Animation of the snapshots `fakes*.png`, whose row k has images of class k, `size` pixels wide: two of each."""
    snapshots = {
        int(match[1]): file
        for file in sorted(run_dir.glob('fakes*.png'))
        if (match := re.fullmatch(r'fakes(\d+)\.png', file.name))
    }
    frames = []
    pitch = size * ENLARGE + 2 * MARGIN
    for kimg, file in snapshots.items():
        with PIL.Image.open(file) as grid:
            frame = PIL.Image.new('L', (num_classes * pitch, 2 * pitch + 20), 255)
            for label in range(num_classes):
                for row in range(2):
                    cell = grid.crop((row * size, label * size, (row + 1) * size, (label + 1) * size))
                    frame.paste(as_cell(cell), (label * pitch, row * pitch))
        caption = f'{kimg} thousand images shown'
        PIL.ImageDraw.Draw(frame).text((4, 2 * pitch + 2), caption, fill=0, font=PIL.ImageFont.load_default(size=13))
        frames.append(frame)
    durations = [250] * (len(frames) - 1) + [3000]
    with atomic_file(path) as file:
        frames[0].save(file, format='gif', save_all=True, append_images=frames[1:], duration=durations, loop=0)


# ------------------------------------------------------------------------------------------------


@click.command(cls=Command)
@click.option('--run-dir', type=PATH, required=True, help='Folder of the finished training run')
@click.option('--data', type=PATH, required=True, help='Dataset it was trained on, with classes as labels')
@click.option('--outdir', type=PATH, required=True, help='Where the pictures and figures go')
@click.option('--seed', type=int, default=0, show_default=True, help='Of the latents')
def main(run_dir, data, outdir, seed):
    """Show and measure a class-conditional network on small images."""
    run_dir, outdir = Path(run_dir), Path(outdir)
    pickles = sorted(run_dir.glob('network-snapshot-*.pkl'))
    if not pickles:
        raise click.ClickException(f'{run_dir} has no network-snapshot-*.pkl: train first')
    with dnnlib.util.open_url(str(pickles[-1])) as file:
        G = load_network_pkl(file)['G_ema']
    real, real_classes, names = real_images(data)

    shown = generate(G, np.repeat(np.arange(len(names)), GRID_COLUMNS), seed)
    cells = np.stack([np.array(as_cell(images.to_pil(image))) for image in shown])[:, None]  # [N, 1, H, W]
    images.save_image_grid(cells, outdir / 'grid.png', (GRID_COLUMNS, len(names)), row_labels=names)
    save_progress(run_dir, outdir / 'progress.gif', len(names), G.img_resolution)

    asked = np.arange(NUM_GENERATED) % len(names)
    fake = generate(G, asked, seed + 1)
    quality = measure(real, real_classes, fake.reshape(NUM_GENERATED, -1) / 255, asked)
    with atomic_file(outdir / 'quality.json') as file:
        file.write((json.dumps(quality, indent=2) + '\n').encode())

    print(QUALITY_TEXT.format(**quality))
    print(f'network         {pickles[-1]}')
    print(f'image grid      {outdir / "grid.png"}')
    print(f'progress        {outdir / "progress.gif"}')
    print(f'figures         {outdir / "quality.json"}')
    if quality['class_accuracy'] < WANTED_ACCURACY:
        print(f'Fewer than {WANTED_ACCURACY:.0%} are read as asked: this run fell short of its goal.', file=sys.stderr)
        sys.exit(1)


if __name__ == '__main__':
    main()
