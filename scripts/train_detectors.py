"""Train small replacements for the detectors of the metrics on labeled images, on a CPU.

With them, every metric works without a download, for the demo, the tests and experiments with small images. Their
numbers show how generated images of the same kind compare with each other. They are not FID, so they have names of
their own, such as fd-digits5k_full. Digits take seconds, 40,000 photographs of 32x32 pixels about half an hour.

Writes a folder for `--detectors`:
  inception-LABEL.pt    TorchScript: features of the last hidden layer, class probabilities
  vgg16-LABEL.pt        TorchScript: features of the last convolution (of a large network their mean over all pixels),
                        LPIPS vectors of all convolutions
  detectors.json        the names of these files, and the label for the names of results
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click
import numpy as np
import torch

from dataset_format.sizes import sides
from dnnlib.cli import BOOL, PATH, Command, SeedRange, check_outdir, usage_errors
from dnnlib.errors import InvalidArgument
from dnnlib.files import atomic_file
from dnnlib.outputs import OutputFolder
from dnnlib.progress import Progress
from metrics.features.detectors import MANIFEST, check_label, ignore_torchscript_deprecation
from torch_utils.images import on_white
from training.dataset import ImageFolderDataset

BATCH_SIZE = 64
LEARNING_RATE = 2e-3
LABEL_SMOOTHING = 0.1  # also prevents gradients from becoming denormal numbers, which are slow
SHIFT = 1 / 16  # largest shift as a fraction of an image, as an augmentation
TEST_SHARE, MAX_TEST_IMAGES = 1 / 5, 2000  # images for testing


@dataclass(frozen=True)
class Size:
    """The size of a detector, and how it is trained."""

    channels: tuple[int, ...]  # of the convolutions; all but the first one have stride 2
    is_color: bool  # whether it sees colors, or their mean
    is_pooled: bool  # whether the last convolution is averaged over all pixels
    is_slowing: bool  # whether the learning rate falls to 0, along half a cosine
    epochs: int


SIZES = {
    'small': Size((16, 32, 64), is_color=False, is_pooled=False, is_slowing=False, epochs=12),
    'large': Size((32, 64, 128, 128), is_color=True, is_pooled=True, is_slowing=True, epochs=10),
}


# ---------------------------------------------------------------------------------------------------------------------
# Networks: N images, C channels, H height, W width, K classes


class Convolution(torch.nn.Module):
    """A padded 3x3 convolution with ReLU.

    `torch.nn.Conv2d` is not used, because TorchScript writes its constants in an arbitrary order, so that no two files
    would be equal.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.weight = torch.nn.Parameter(torch.randn(out_channels, in_channels, 3, 3) * (2 / (9 * in_channels)) ** 0.5)
        self.bias = torch.nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(torch.conv2d(x, self.weight, self.bias, [self.stride, self.stride], [1, 1]))


class Linear(torch.nn.Module):
    """A linear layer; `torch.nn.Linear` is not used for the same reason."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(out_features, in_features) * in_features**-0.5)
        self.bias = torch.nn.Parameter(torch.zeros(out_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.t() + self.bias


class Backbone(torch.nn.Module):
    """Convolutions, all but the first one with stride 2, and two linear layers.

    Args:
        resolution: Width and height of its images.
        num_classes: K.
        size: Its size.
    """

    def __init__(self, resolution: int, num_classes: int, size: Size):
        super().__init__()
        self.resolution = resolution
        self.is_color = size.is_color
        self.is_pooled = size.is_pooled
        inputs = (3 if size.is_color else 1, *size.channels)
        self.convolutions = torch.nn.ModuleList(
            [Convolution(inputs[i], inputs[i + 1], stride=1 if i == 0 else 2) for i in range(len(size.channels))]
        )
        pixels = 1 if size.is_pooled else (resolution >> (len(size.channels) - 1)) ** 2
        self.hidden = Linear(size.channels[-1] * pixels, size.channels[-1])
        self.classes = Linear(size.channels[-1], num_classes)

    def prepare(self, images: torch.Tensor, resize: bool) -> torch.Tensor:
        """Convert [N, C, H, W] from 0 to 255 to gray [N, 1, H, W] or RGB [N, 3, H, W] from -1 to +1."""
        x = images.to(torch.float32)
        if self.is_color:
            x = x.expand(-1, 3, -1, -1)
        else:
            x = x.mean(dim=1, keepdim=True)
        x = x / 127.5 - 1
        size = [self.resolution, self.resolution]
        if resize and (x.shape[2] != size[0] or x.shape[3] != size[1]):
            x = torch.nn.functional.interpolate(x, size=size, mode='bilinear', antialias=True)
        return x

    def activations(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the outputs [N, C, H, W] of the convolutions."""
        layers: list[torch.Tensor] = []
        for convolution in self.convolutions:
            x = convolution(x)
            layers.append(x)
        return layers

    def summary(self, x: torch.Tensor) -> torch.Tensor:
        """Return a vector [N, D] for the output [N, C, H, W] of the last convolution."""
        return x.mean(dim=[2, 3]) if self.is_pooled else x.flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features [N, D] of prepared images."""
        return torch.relu(self.hidden(self.summary(self.activations(x)[-1])))


class InceptionStandIn(torch.nn.Module):
    """A detector with the call interface of the Inception network."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone

    def forward(
        self, images: torch.Tensor, return_features: bool = False, no_output_bias: bool = False
    ) -> torch.Tensor:
        features = self.backbone(self.backbone.prepare(images, resize=True))
        if return_features:
            return features
        logits = self.backbone.classes(features)
        if no_output_bias:
            logits = logits - self.backbone.classes.bias
        return logits.softmax(dim=1)


class VGGStandIn(torch.nn.Module):
    """A detector with the call interface of the VGG network."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone

    def forward(
        self,
        images: torch.Tensor,
        resize_images: bool = True,
        return_features: bool = False,
        return_lpips: bool = False,
    ) -> torch.Tensor:
        layers = self.backbone.activations(self.backbone.prepare(images, resize=resize_images))
        if not return_lpips:
            return self.backbone.summary(layers[-1])
        # Unit vectors over channels. Their squared distances are averaged over pixels and summed over layers.
        return torch.cat(
            [
                (layer / (layer.square().sum(dim=1, keepdim=True) + 1e-10).sqrt()).flatten(1)
                / float(layer.shape[2] * layer.shape[3]) ** 0.5
                for layer in layers
            ],
            dim=1,
        )


# ---------------------------------------------------------------------------------------------------------------------
# Images


def trained_on(data: str, subset: int, seeds: Sequence[int]) -> set[int]:
    """Return the indices of the images that runs of `train.py` with `--subset` and any of these seeds train on."""
    found: set[int] = set()
    for seed in seeds:
        dataset = ImageFolderDataset(data, max_size=subset, random_seed=seed)
        found |= {int(dataset.get_details(index).raw_idx) for index in range(len(dataset))}
        dataset.close()
    return found


def load_images(data: str, left_out: set[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images uint8 [N, C, H, W] and classes int64 [N] of a dataset, without those of some indices.

    Raises:
        ValueError: The labels are not classes, or the images have an unsupported size.
    """
    dataset = ImageFolderDataset(data, use_labels=True)
    if not dataset.has_onehot_labels:
        raise ValueError(
            f'{data} has vectors as labels. Use a dataset with classes, which the detector learns to tell apart.'
        )
    height, width = sides(dataset.resolution)
    if height != width or width < 8 or width % 4 != 0:
        raise ValueError(
            f'{data} has images of {width}x{height} pixels. Both sides must be the same multiple of 4, 8 or more.'
        )
    remaining = [index for index in range(len(dataset)) if index not in left_out]
    if len(remaining) < 2:
        raise InvalidArgument(
            'leave_out_subset', f'leaves {len(remaining)} of {len(dataset)} images, but at least 2 are needed.'
        )
    images, labels = zip(*(dataset[index] for index in remaining))
    dataset.close()
    return on_white(torch.from_numpy(np.stack(images))), torch.from_numpy(np.stack(labels)).argmax(dim=1)


# ---------------------------------------------------------------------------------------------------------------------
# Training


def augment(x: torch.Tensor, mirror: bool, generator: torch.Generator) -> torch.Tensor:
    """Shift all images of a batch by the same few pixels, and mirror half of them if that is allowed."""
    limit = max(round(x.shape[3] * SHIFT), 1)
    dy, dx = torch.randint(-limit, limit + 1, [2], generator=generator).tolist()
    x = x.roll((dy, dx), dims=(2, 3))
    if mirror:
        x = torch.where(torch.rand([len(x), 1, 1, 1], generator=generator) < 0.5, x.flip(3), x)
    return x


def train(
    images: torch.Tensor, labels: torch.Tensor, size: Size, epochs: int, seed: int, mirror: bool = False
) -> Backbone:
    """Train a classifier.

    Args:
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        size: Its size.
        epochs: Number of passes over the images.
        seed: Seed of the weights and of the order of the images.
        mirror: Whether the mirror image of an image has the same class.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = Backbone(images.shape[2], int(labels.max()) + 1, size)
    optimizer = torch.optim.Adam(backbone.parameters(), lr=LEARNING_RATE)
    with Progress('Training', epochs * len(images)) as progress:
        for epoch in range(epochs):
            for step, batch in enumerate(torch.randperm(len(images), generator=generator).split(BATCH_SIZE)):
                shown = epoch * len(images) + step * BATCH_SIZE
                if size.is_slowing:
                    rate = LEARNING_RATE * (1 + math.cos(math.pi * shown / (epochs * len(images)))) / 2
                    optimizer.param_groups[0]['lr'] = rate
                x = backbone.prepare(images[batch], resize=False)
                logits = backbone.classes(backbone(augment(x, mirror, generator)))
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(logits, labels[batch], label_smoothing=LABEL_SMOOTHING).backward()
                optimizer.step()
                progress.update(shown + len(batch))
    return backbone.eval().requires_grad_(False)


@torch.no_grad()
def accuracy(backbone: Backbone, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of uint8 images [N, C, H, W] that are classified correctly."""
    logits = [backbone.classes(backbone(backbone.prepare(batch, resize=False))) for batch in images.split(BATCH_SIZE)]
    return float((torch.cat(logits).argmax(dim=1) == labels).float().mean())


def save_detectors(backbone: Backbone, dest: str, label: str) -> None:
    """Write the files listed at the top of this script."""
    files = {}
    for name, stand_in in (('inception', InceptionStandIn(backbone)), ('vgg16', VGGStandIn(backbone))):
        files[name] = f'{name}-{label}.pt'
        with ignore_torchscript_deprecation(), atomic_file(os.path.join(dest, files[name])) as file:
            torch.jit.save(torch.jit.script(stand_in.eval()), file)
    with atomic_file(os.path.join(dest, MANIFEST)) as file:
        file.write((json.dumps({'label': label, **files}, indent=2) + '\n').encode())


# ---------------------------------------------------------------------------------------------------------------------
# Command line


@click.command(cls=Command)
@click.option('--data', type=PATH, required=True, metavar='ZIP|DIR', help='Small images with classes, such as digits')
@click.option('--dest', type=OutputFolder(), required=True, metavar='DIR', help='Folder for the detectors')
@click.option('--label', default='digits', show_default=True, help='Part of the names of results')
@click.option(
    '--size',
    type=click.Choice(list(SIZES)),
    show_default='small for gray images, else large',
    help='Three convolutions of gray images, or four of color images with more channels',
)
@click.option(
    '--epochs', type=click.IntRange(min=1), show_default='small: 12, large: 10', help='Passes over the images'
)
@click.option('--mirror', type=BOOL, default=False, show_default=True, help='Also show mirror images')
@click.option(
    '--leave-out-subset',
    type=click.IntRange(min=1),
    metavar='N',
    help='Leave out the images that train.py --subset=N selects',
)
@click.option(
    '--leave-out-seeds',
    type=SeedRange(),
    default='0',
    show_default=True,
    help='Seeds of the runs of --leave-out-subset',
)
@click.option('--seed', type=int, default=0, show_default=True, help='Seed of the weights and the order of the images')
def main(
    data: str,
    dest: str,
    label: str,
    size: str | None,
    epochs: int | None,
    mirror: bool,
    leave_out_subset: int | None,
    leave_out_seeds: list[int],
    seed: int,
) -> None:
    """Train replacements for the detectors of the metrics on a labeled dataset of small images."""
    with usage_errors('--label'):
        check_label(label)
    check_outdir(dest, '--dest')
    # One thread, so that sums have one order and the files are always the same. More threads would not be faster.
    torch.set_num_threads(1)
    with usage_errors('--data'):
        left_out = set() if leave_out_subset is None else trained_on(data, leave_out_subset, leave_out_seeds)
        images, labels = load_images(data, left_out)
    kind = SIZES[size or ('small' if images.shape[1] == 1 else 'large')]
    is_test = torch.arange(len(images)) % max(round(1 / TEST_SHARE), len(images) // MAX_TEST_IMAGES) == 0
    backbone = train(images[~is_test], labels[~is_test], kind, epochs or kind.epochs, seed, mirror)
    save_detectors(backbone, dest, label)
    share = accuracy(backbone, images[is_test], labels[is_test])
    print(f'Wrote {dest}: classifies {share:.1%} of {int(is_test.sum())} unseen images correctly')


if __name__ == '__main__':
    main()
