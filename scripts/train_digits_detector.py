"""Train small replacements for the detectors of the metrics on labeled images, in seconds on a CPU.

With them, every metric works without a download, for the demo and the tests. Their numbers show how generated images of
the same kind compare with each other. They are not FID, so they have names of their own, such as fd-digits5k_full.

Writes a folder for `--detectors`:
  inception-LABEL.pt    TorchScript: features of the last hidden layer, class probabilities
  vgg16-LABEL.pt        TorchScript: features of the last convolution, LPIPS vectors of all convolutions
  detectors.json        the names of these files, and the label for the names of results
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click
import numpy as np
import torch

from dataset_format.sizes import sides
from dnnlib.cli import PATH, Command, check_outdir, usage_errors
from dnnlib.files import atomic_file
from dnnlib.outputs import OutputFolder
from metrics.features.detectors import MANIFEST, check_label, ignore_torchscript_deprecation
from torch_utils.images import on_white
from training.dataset import ImageFolderDataset

CHANNELS = (16, 32, 64)
HIDDEN = 64
BATCH_SIZE = 64
LEARNING_RATE = 2e-3
LABEL_SMOOTHING = 0.1  # also prevents gradients from becoming denormal numbers, which are slow
MAX_SHIFT = 1  # pixels, as an augmentation
TEST_INTERVAL = 5  # every fifth image is for testing


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
    """Three convolutions, the last two with stride 2, and two linear layers."""

    def __init__(self, resolution: int, num_classes: int):
        super().__init__()
        self.resolution = resolution
        self.conv0 = Convolution(1, CHANNELS[0], stride=1)
        self.conv1 = Convolution(CHANNELS[0], CHANNELS[1], stride=2)
        self.conv2 = Convolution(CHANNELS[1], CHANNELS[2], stride=2)
        self.hidden = Linear(CHANNELS[2] * (resolution // 4) ** 2, HIDDEN)
        self.classes = Linear(HIDDEN, num_classes)

    def gray(self, images: torch.Tensor, resize: bool) -> torch.Tensor:
        """Convert [N, C, H, W] from 0 to 255 to gray [N, 1, H, W] from -1 to +1."""
        x = images.to(torch.float32).mean(dim=1, keepdim=True) / 127.5 - 1
        size = [self.resolution, self.resolution]
        if resize and (x.shape[2] != size[0] or x.shape[3] != size[1]):
            x = torch.nn.functional.interpolate(x, size=size, mode='bilinear', antialias=True)
        return x

    def activations(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the outputs [N, C, H, W] of the convolutions."""
        a = self.conv0(x)
        b = self.conv1(a)
        return [a, b, self.conv2(b)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features [N, HIDDEN] of gray images."""
        return torch.relu(self.hidden(self.activations(x)[2].flatten(1)))


class InceptionStandIn(torch.nn.Module):
    """A detector with the call interface of the Inception network."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone

    def forward(
        self, images: torch.Tensor, return_features: bool = False, no_output_bias: bool = False
    ) -> torch.Tensor:
        features = self.backbone(self.backbone.gray(images, resize=True))
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
        layers = self.backbone.activations(self.backbone.gray(images, resize=resize_images))
        if not return_lpips:
            return layers[2].flatten(1)
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
# Training


def load_images(data: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images uint8 [N, C, H, W] and classes int64 [N] of a dataset.

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
    images, labels = zip(*(dataset[index] for index in range(len(dataset))))
    dataset.close()
    return on_white(torch.from_numpy(np.stack(images))), torch.from_numpy(np.stack(labels)).argmax(dim=1)


def shift_randomly(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift all images of a batch by the same few pixels."""
    dy, dx = torch.randint(-MAX_SHIFT, MAX_SHIFT + 1, [2], generator=generator).tolist()
    return x.roll((dy, dx), dims=(2, 3))


def train(images: torch.Tensor, labels: torch.Tensor, epochs: int, seed: int) -> Backbone:
    """Train a classifier.

    Args:
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        epochs: Number of passes over the images.
        seed: Seed of the weights and of the order of the images.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = Backbone(images.shape[2], int(labels.max()) + 1)
    x = backbone.gray(images, resize=False)
    optimizer = torch.optim.Adam(backbone.parameters(), lr=LEARNING_RATE)
    for _epoch in range(epochs):
        for batch in torch.randperm(len(x), generator=generator).split(BATCH_SIZE):
            logits = backbone.classes(backbone(shift_randomly(x[batch], generator)))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits, labels[batch], label_smoothing=LABEL_SMOOTHING).backward()
            optimizer.step()
    return backbone.eval().requires_grad_(False)


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
@click.option('--epochs', type=click.IntRange(min=1), default=12, show_default=True, help='Passes over the images')
@click.option('--seed', type=int, default=0, show_default=True, help='Seed of the weights and the order of the images')
def main(data: str, dest: str, label: str, epochs: int, seed: int) -> None:
    """Train replacements for the detectors of the metrics on a labeled dataset of small images."""
    with usage_errors('--label'):
        check_label(label)
    check_outdir(dest, '--dest')
    # One thread, so that sums have one order and the files are always the same. More threads would not be faster.
    torch.set_num_threads(1)
    images, labels = load_images(data)
    is_test = torch.arange(len(images)) % TEST_INTERVAL == 0
    backbone = train(images[~is_test], labels[~is_test], epochs, seed)
    with torch.no_grad():
        predictions = backbone.classes(backbone(backbone.gray(images[is_test], resize=False))).argmax(dim=1)
    save_detectors(backbone, dest, label)
    accuracy = float((predictions == labels[is_test]).float().mean())
    print(f'Wrote {dest}: classifies {accuracy:.1%} of {len(predictions)} unseen images correctly')


if __name__ == '__main__':
    main()
