"""The last step of `scripts/demo.sh`: pictures of what the network has learned, and figures that say how well.

Writes into the demo's folder
  grid.png      generated images, one row per class;
  progress.gif  the same latents over the course of the training;
  quality.json  the figures that are also printed: does a classifier trained on the real images recognize the requested
                classes, do the images vary as much as real ones, and are they copies of real ones?
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import PIL.ImageOps
import torch

from dnnlib.cli import PATH, Command
from dnnlib.files import atomic_file
from dnnlib.outputs import OutputFolder
from metrics.memorization import memorization
from network_files.reading import open_network
from torch_utils import images
from training.dataset import ImageFolderDataset
from training.run.run_dir import RunDir

NUM_GENERATED = 1000
NHOOD_SIZE = 3  # k of precision and recall (arXiv 1904.06991)
REQUIRED_ACCURACY = 0.90
GRID_COLUMNS = 10
ENLARGE = 4  # pixels of a picture along one pixel of an image
MARGIN = 2  # white pixels of a picture at each side of an image

# ---------------------------------------------------------------------------------------------------------------------
# Quality


def load_real_images(data: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Read a labeled dataset.

    Returns:
        float64 [N, pixels] images in [0, 1], the class [N] of each, and the names of the classes.
    """
    dataset = ImageFolderDataset(data, use_labels=True)
    pixels = np.stack([dataset[i][0] for i in range(len(dataset))])
    classes = np.stack([dataset.get_label(i) for i in range(len(dataset))]).argmax(axis=1)
    names = dataset.class_names or [str(i) for i in range(dataset.label_dim)]
    return pixels.reshape(len(pixels), -1) / 255, classes, names


@torch.no_grad()
def generate(G: Any, classes: np.ndarray, seed: int) -> np.ndarray:
    """Return uint8 [N, C, H, W] images, one of each requested class."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn([len(classes), G.z_dim], generator=generator)
    c = torch.eye(G.c_dim)[classes]
    batches = [images.to_uint8(G(zs, cs, noise_mode='const')) for zs, cs in zip(z.split(100), c.split(100))]
    return torch.cat(batches).numpy()


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the Euclidean distances [len(a), len(b)] between the rows of two matrices."""
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0))


def neighbor_distances(points: np.ndarray) -> np.ndarray:
    """Return the sorted distances of each point to all others."""
    to_others = distances(points, points)
    np.fill_diagonal(to_others, np.inf)
    return np.sort(to_others, axis=1)


def fraction_inside(manifold: np.ndarray, points: np.ndarray) -> float:
    """Return the fraction of points that are closer to a manifold point than its k-th neighbor in the manifold."""
    radii = neighbor_distances(manifold)[:, NHOOD_SIZE - 1]
    return float((distances(points, manifold) <= radii).any(axis=1).mean())


def measure(
    real: np.ndarray, real_classes: np.ndarray, fake: np.ndarray, requested_classes: np.ndarray
) -> dict[str, float]:
    """Compare generated with real images, all [N, pixels] in [0, 1]; return the content of quality.json."""
    from sklearn.model_selection import cross_val_score
    from sklearn.svm import SVC

    classifier = SVC(C=10)
    reals_class_accuracy = cross_val_score(classifier, real, real_classes, cv=5).mean()
    predicted_classes = classifier.fit(real, real_classes).predict(fake)

    order = np.random.RandomState(0).permutation(len(real))
    first_half, second_half = real[order[: len(real) // 2]], real[order[len(real) // 2 :]]
    fake_to_real = distances(fake, real).min(axis=1)
    real_to_real = neighbor_distances(real)[:, 0]
    copies = memorization(real, fake)
    return dict(
        num_generated=len(fake),
        class_accuracy=float((predicted_classes == requested_classes).mean()),
        reals_class_accuracy=float(reals_class_accuracy),
        precision=fraction_inside(real, fake),
        recall=fraction_inside(fake, real),
        reals_recall=fraction_inside(first_half, second_half),
        nearest_real_distance=float(np.median(fake_to_real)),
        reals_nearest_distance=float(np.median(real_to_real)),
        share_of_copies=copies.share,
        share_of_copies_low=copies.low,
        share_of_copies_high=copies.high,
    )


QUALITY_TEXT = """
Quality of {num_generated} generated images             generated     real
  recognized as the requested class       {class_accuracy:7.1%}  {reals_class_accuracy:7.1%}  by cross-validation
  recall (k = 3, pixels)                  {recall:7.1%}  {reals_recall:7.1%}  of one half by the other
  precision (k = 3, pixels)               {precision:7.1%}
  distance to the nearest real image      {nearest_real_distance:7.2f}  {reals_nearest_distance:7.2f}  to another one
  copies of real images                   {share_of_copies:7.1%}  95% interval {share_of_copies_interval}
"""

# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def enlarged(image: PIL.Image.Image) -> PIL.Image.Image:
    """Return a grayscale image, smoothly enlarged, with a white margin."""
    size = (image.width * ENLARGE, image.height * ENLARGE)
    return PIL.ImageOps.expand(image.resize(size, PIL.Image.Resampling.BICUBIC), border=MARGIN, fill=255)


def save_progress(run_dir: RunDir, path: Path, num_classes: int, size: int) -> None:
    """Write an animation of the run's image grids, with two images of each class.

    Args:
        run_dir: The run, whose grids have images of class k in row k.
        path: GIF file to write.
        num_classes: Number of classes.
        size: Width and height of the images in the grids.
    """
    frames = []
    pitch = size * ENLARGE + 2 * MARGIN
    for grid_png in run_dir.fakes_pngs():
        with PIL.Image.open(grid_png) as grid:
            frame = PIL.Image.new('L', (num_classes * pitch, 2 * pitch + 20), 255)
            for label in range(num_classes):
                for row in range(2):
                    cell = grid.crop((row * size, label * size, (row + 1) * size, (label + 1) * size))
                    frame.paste(enlarged(cell), (label * pitch, row * pitch))
        kimg = int(''.join(filter(str.isdigit, grid_png.stem)))
        caption = f'{kimg} thousand images shown'
        PIL.ImageDraw.Draw(frame).text((4, 2 * pitch + 2), caption, fill=0, font=PIL.ImageFont.load_default(size=13))
        frames.append(frame)
    durations = [250] * (len(frames) - 1) + [3000]
    with atomic_file(path) as file:
        frames[0].save(file, format='gif', save_all=True, append_images=frames[1:], duration=durations, loop=0)


# ---------------------------------------------------------------------------------------------------------------------
# Command


@click.command(cls=Command)
@click.option('--run-dir', 'run_path', type=PATH, required=True, help='Directory of the finished training run')
@click.option('--data', type=PATH, required=True, help='Dataset of the training, with classes as labels')
@click.option('--outdir', type=OutputFolder(), required=True, help='Where to write the pictures and figures')
@click.option('--seed', type=int, default=0, show_default=True, help='Seed of the latents')
def main(run_path: str, data: str, outdir: str, seed: int) -> None:
    """Show and evaluate a class-conditional network for small images."""
    run_dir = RunDir(run_path)
    network_pkls = run_dir.network_pkls()
    if not network_pkls:
        raise click.ClickException(f'{run_path} contains no network-snapshot-*.pkl: train a network first.')
    G = open_network(str(network_pkls[-1]))['G_ema']
    real, real_classes, names = load_real_images(data)
    grid_png, progress_gif, quality_json = (Path(outdir, name) for name in ('grid.png', 'progress.gif', 'quality.json'))

    grid = generate(G, np.repeat(np.arange(len(names)), GRID_COLUMNS), seed)
    cells = np.stack([np.array(enlarged(images.to_pil(image))) for image in grid])[:, None]  # [N, 1, H, W]
    images.save_image_grid(cells, grid_png, (GRID_COLUMNS, len(names)), row_labels=names)
    save_progress(run_dir, progress_gif, len(names), G.img_resolution)

    requested_classes = np.arange(NUM_GENERATED) % len(names)
    fake = generate(G, requested_classes, seed + 1)
    quality = measure(real, real_classes, fake.reshape(NUM_GENERATED, -1) / 255, requested_classes)
    with atomic_file(quality_json) as file:
        file.write((json.dumps(quality, indent=2) + '\n').encode())

    interval = f'{quality["share_of_copies_low"]:.1%} to {quality["share_of_copies_high"]:.1%}'
    print(QUALITY_TEXT.format(**quality, share_of_copies_interval=interval))
    print(f'network         {network_pkls[-1]}')
    print(f'image grid      {grid_png}')
    print(f'progress        {progress_gif}')
    print(f'figures         {quality_json}')
    if quality['class_accuracy'] < REQUIRED_ACCURACY:
        print(
            f'Fewer than {REQUIRED_ACCURACY:.0%} show the requested class: this run fell short of its goal.',
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == '__main__':
    main()
