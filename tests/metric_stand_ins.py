"""What the tests of the metrics work on: small detectors with a twin in NumPy, small datasets and networks.

The detectors look at 16x16 pixels in blocks of 4x4, multiply the means by a matrix, and answer the calls of the
published ones.
"""

import io
import json
import zipfile

import numpy as np
import PIL.Image
import torch

from metrics.features.detectors import ignore_torchscript_deprecation
from training.networks_stylegan2 import Discriminator, Generator
from training.run import snapshots

RESOLUTION = 16
NUM_FEATURES, NUM_CLASSES, NUM_LPIPS = 24, 5, 32
_rng = np.random.RandomState(0)
NUM_MEANS = 3 * 4 * 4
FEATURES = (_rng.randn(NUM_MEANS, NUM_FEATURES) / 4).astype(np.float32)
CLASSES = (_rng.randn(NUM_FEATURES, NUM_CLASSES) * 4).astype(np.float32)
# Small integers over a power of two: exact in float32 for whole pixels, so that float16 is rounded alike everywhere.
VGG_FEATURES = (_rng.randint(-2, 3, size=[NUM_MEANS, NUM_FEATURES]) / 64).astype(np.float32)
LPIPS = (_rng.randn(NUM_MEANS, NUM_LPIPS) / 8).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------------------
# Detectors


class Inception(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer('features', torch.tensor(FEATURES))
        self.register_buffer('classes', torch.tensor(CLASSES))

    def forward(self, x: torch.Tensor, return_features: bool = False, no_output_bias: bool = False):
        assert x.dtype == torch.uint8 or x.shape[2] == 299  # resized before, with the interface of the published one
        means = torch.nn.functional.adaptive_avg_pool2d(x.to(torch.float32) / 255, [4, 4]).flatten(1)
        features = torch.relu(means @ self.features)
        if return_features:
            return features
        return (features @ self.classes).softmax(dim=1)


class VGG(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer('features', torch.tensor(VGG_FEATURES))
        self.register_buffer('lpips', torch.tensor(LPIPS))

    def forward(
        self, x: torch.Tensor, resize_images: bool = True, return_features: bool = False, return_lpips: bool = False
    ):
        means = torch.nn.functional.adaptive_avg_pool2d(x.to(torch.float32), [4, 4]).flatten(1)
        return means / 255 @ self.lpips if return_lpips else means @ self.features


class Embedding(torch.nn.Module):
    """A detector for fd_dinov2 and CMMD."""

    def __init__(self):
        super().__init__()
        self.register_buffer('features', torch.tensor(LPIPS))

    def forward(self, x: torch.Tensor, return_features: bool = True):
        means = torch.nn.functional.adaptive_avg_pool2d(x.to(torch.float32) / 255, [4, 4]).flatten(1)
        return means @ self.features


def save_script(module, path):
    with ignore_torchscript_deprecation():
        torch.jit.script(module.eval()).save(str(path))
    return path


def write_detectors(folder):
    """A folder for --detectors, with files of the published names."""
    folder.mkdir(parents=True)
    save_script(Inception(), folder / 'inception-2015-12-05.pt')
    save_script(VGG(), folder / 'vgg16.pt')
    for name in ('dinov2', 'clip'):
        save_script(Embedding(), folder / f'{name}.pt')
    return folder


def block_means(images):
    """uint8 [N, C, 16, 16] → float64 [N, 48]; gray counts as three equal channels."""
    images = np.repeat(images, 3, axis=1) if images.shape[1] == 1 else images
    blocks = images.reshape(len(images), 3, 4, 4, 4, 4).astype(np.float64)
    return blocks.mean(axis=(3, 5)).reshape(len(images), -1)


def inception_features(images):
    return np.maximum(block_means(images) / 255 @ FEATURES.astype(np.float64), 0)


def class_probabilities(images):
    logits = inception_features(images) @ CLASSES.astype(np.float64)
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def vgg_features(images):
    return block_means(images) @ VGG_FEATURES.astype(np.float64)


# ---------------------------------------------------------------------------------------------------------------------
# Datasets and networks


def random_images(count, channels=3, seed=0):
    """uint8 [N, C, 16, 16]: smooth spots, so that the detectors see more than gray."""
    rng = np.random.RandomState(seed)
    coarse = rng.randint(0, 256, size=[count, channels, 4, 4])
    return np.clip(
        coarse.repeat(4, axis=2).repeat(4, axis=3) + rng.randint(-20, 20, size=[count, channels, 16, 16]), 0, 255
    ).astype(np.uint8)


def write_zip(path, images, labels=None):
    """A dataset of uncompressed PNGs: its size does not depend on the pixels."""
    names = [f'00000/img{index:08d}.png' for index in range(len(images))]
    with zipfile.ZipFile(path, 'w', compression=zipfile.ZIP_STORED) as archive:
        for name, image in zip(names, images):
            pixels = image.transpose(1, 2, 0)
            content = io.BytesIO()
            PIL.Image.fromarray(pixels[:, :, 0] if len(image) == 1 else pixels).save(
                content, format='png', compress_level=0
            )
            archive.writestr(name, content.getvalue())
        listed = None if labels is None else [list(pair) for pair in zip(names, labels)]
        archive.writestr('dataset.json', json.dumps({'labels': listed}))
    return path


def make_generator(channels=3, c_dim=0, noise_strength=0.0, seed=0):
    """In eval mode; images do not depend on noise unless `noise_strength` is given."""
    torch.manual_seed(seed)
    G = Generator(
        z_dim=8,
        c_dim=c_dim,
        w_dim=8,
        img_resolution=RESOLUTION,
        img_channels=channels,
        mapping_kwargs=dict(num_layers=2),
        synthesis_kwargs=dict(channel_base=128, channel_max=8),
    )
    for name, parameter in G.named_parameters():
        if name.endswith('noise_strength'):
            parameter.data.fill_(noise_strength)
    return G.eval().requires_grad_(False)


def save_network(path, data, G=None, **kwargs):
    """A network pickle trained on `data`."""
    G = make_generator() if G is None else G
    D = Discriminator(
        c_dim=G.c_dim, img_resolution=RESOLUTION, img_channels=G.img_channels, channel_base=128, channel_max=8
    )
    trained_on = dict(
        class_name='training.dataset.ImageFolderDataset',
        path=str(data),
        use_labels=G.c_dim > 0,
        max_size=None,
        xflip=False,
        resolution=RESOLUTION,
    )
    modules = dict(G=G, D=D, G_ema=G, augment_pipe=None)
    snapshots.save_network_pickle(path, modules, trained_on | kwargs)
    return path
