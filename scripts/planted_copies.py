"""An experiment: does the metric `memorization` count copies, and does it accuse nobody?

Images of a dataset play all parts. Some are training images, others are held out, and the "generated" ones are further
images of the dataset, of which a share is replaced by training images. So the true share of copies is known. The table
has the mean share that the metric reports, and how often its interval contains the true one, over several draws.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click
import numpy as np
import torch

from dnnlib.cli import PATH, Command, usage_errors
from metrics.features import detectors
from metrics.features.feature_requests import INCEPTION_FEATURES, VGG_FEATURES, DetectorCall
from metrics.features.image_sources import as_rgb
from metrics.memorization import Memorization, memorization
from training.dataset import ImageFolderDataset

CALLS = {'inception': INCEPTION_FEATURES, 'vgg16': VGG_FEATURES}
NOISE = 4  # standard deviation of the disturbance of a copy that is not exact, in gray levels
BATCH_SIZE = 256


def load_images(data: str) -> torch.Tensor:
    """Return all images of a dataset, uint8 [N, 3, H, W]."""
    dataset = ImageFolderDataset(data)
    images = torch.from_numpy(np.stack([dataset[index][0] for index in range(len(dataset))]))
    dataset.close()
    return as_rgb(images)


def disturbed(images: torch.Tensor) -> torch.Tensor:
    """Return images with some noise, uint8 [N, 3, H, W]."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) * NOISE
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


def features(images: torch.Tensor, call: DetectorCall, folder: str) -> np.ndarray:
    """Return the features [N, D] of uint8 [N, 3, H, W] images."""
    detector = detectors.load(call.detector, folder=folder)
    batches = [detectors.apply(detector, batch, call) for batch in images.split(BATCH_SIZE)]
    return torch.cat(batches).to(getattr(torch, call.dtype)).numpy()


def trial(
    real: np.ndarray, copied: np.ndarray, share: float, num_training: int, with_held_out: bool, seed: int
) -> Memorization:
    """Draw training, held-out and generated images, and count the copies.

    Args:
        real: Features [N, D] of all images.
        copied: Features [N, D] of the copies of all images.
        share: True share of copies.
        num_training: Number of training images; a quarter of the others are held out.
        with_held_out: Whether the metric knows the held-out images.
        seed: Seed of the draw.
    """
    rng = np.random.RandomState(seed)
    order = rng.permutation(len(real))
    num_held_out = (len(real) - num_training) // 4
    training, held_out, new = np.split(order, [num_training, num_training + num_held_out])
    generated = real[new].copy()
    is_copy = rng.uniform(size=len(new)) < share
    generated[is_copy] = copied[rng.choice(training, is_copy.sum())]
    return memorization(real[training], generated, real[held_out] if with_held_out else None)


@click.command(cls=Command)
@click.option('--data', type=PATH, required=True, metavar='ZIP|DIR', help='Images that play all parts')
@click.option('--detectors', 'folder', type=PATH, required=True, metavar='DIR', help='Folder with detectors')
@click.option('--share', type=click.FloatRange(0, 1), default=0.05, show_default=True, help='True share of copies')
@click.option('--training', 'num_training', type=click.IntRange(min=3), required=True, help='Training images')
@click.option('--draws', type=click.IntRange(min=1), default=40, show_default=True, help='Draws for each row')
def main(data: str, folder: str, share: float, num_training: int, draws: int) -> None:
    """Plant copies of training images among other images of a dataset, and count them."""
    with usage_errors('--data'):
        images = load_images(data)
    if num_training > len(images) - 8:
        raise click.BadParameter(
            f'{num_training} of {len(images)} images leave too few others.', param_hint='--training'
        )
    for name, call in CALLS.items():
        with usage_errors('--detectors'):
            real, noisy = features(images, call, folder), features(disturbed(images), call, folder)
        for kind, copied, true_share in (('none', real, 0.0), ('exact', real, share), ('noisy', noisy, share)):
            for with_held_out in (True, False):
                found = [trial(real, copied, true_share, num_training, with_held_out, seed) for seed in range(draws)]
                row = {
                    'detector': name,
                    'copies': kind,
                    'compared_with': 'held-out images' if with_held_out else 'training images',
                    'true_share': true_share,
                    'share': round(float(np.mean([x.share for x in found])), 4),
                    'low': round(float(np.mean([x.low for x in found])), 4),
                    'high': round(float(np.mean([x.high for x in found])), 4),
                    'intervals_with_true_share': float(np.mean([x.low <= true_share <= x.high for x in found])),
                    'intervals_above_zero': float(np.mean([x.low > 0 for x in found])),
                }
                print(json.dumps(row), flush=True)


if __name__ == '__main__':
    main()
