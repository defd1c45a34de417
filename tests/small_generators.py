"""Tiny generators, files that contain them, and the images that scripts render with them."""

import pickle
from types import SimpleNamespace

import numpy as np
import PIL.Image
import torch

from training import networks_stylegan3
from training.networks_stylegan2 import Generator

NAMES = ['airplane', 'dog', 'red fox']
NUMBERS = ['1', '2', '10']


def make_generator(c_dim=0, img_channels=3, img_resolution=16, noise_strength=0.5, w_avg=None):
    """Return a generator with z_dim = w_dim = 8, the same one for the same arguments.

    Args:
        c_dim: Number of classes.
        img_channels: Number of channels of the images.
        img_resolution: Side of the images.
        noise_strength: Strength of the noise in every layer.
        w_avg: If given, the mean of w is as many numbers from -w_avg to w_avg.
    """
    torch.manual_seed(1)
    options = dict(mapping_kwargs={'num_layers': 2}, synthesis_kwargs={'channel_base': 128, 'channel_max': 8})
    G = Generator(z_dim=8, c_dim=c_dim, w_dim=8, img_resolution=img_resolution, img_channels=img_channels, **options)
    for name, parameter in G.named_parameters():
        if name.endswith('noise_strength'):
            parameter.data.fill_(noise_strength)
    if w_avg is not None:
        G.mapping.w_avg.copy_(torch.linspace(-w_avg, w_avg, 8))
    return G.eval().requires_grad_(False)


def make_stylegan3_generator(img_channels=3, equivariance='rotation', c_dim=0):
    """Return a generator of StyleGAN3 for 32×32 images with z_dim = w_dim = 8, the same one for the same arguments."""
    torch.manual_seed(1)
    options = {'conv_kernel': 1, 'use_radial_filters': True} if equivariance == 'rotation' else {}
    options = dict(channel_base=256, channel_max=8, num_layers=6, output_scale=2, num_fp16_res=0, **options)
    G = networks_stylegan3.Generator(8, c_dim, 8, img_resolution=32, img_channels=img_channels, **options)
    G.mapping.w_avg.copy_(torch.linspace(-1, 1, 8))
    return G.eval().requires_grad_(False)


def write_networks(folder, networks):
    """Write `NAME.pkl` for each `NAME: G_ema` or `NAME: (G_ema, other content)`; return the paths by name."""
    paths = {}
    for name, network in networks.items():
        G, others = network if isinstance(network, tuple) else (network, {})
        paths[name] = folder / f'{name}.pkl'
        paths[name].write_bytes(pickle.dumps({'G_ema': G, **others}))
    return SimpleNamespace(**paths)


def read_images(folder):
    """Return the pixels of all images in a folder by file name."""
    return {path.name: np.asarray(PIL.Image.open(path)) for path in sorted(folder.iterdir())}


def assert_same_image(image, expected):
    """Assert that two images are equal up to rounding, which may depend on the batch size."""
    difference = np.abs(image.astype(int) - expected.astype(int))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01


def assert_usage_error(result, hint):
    """Assert that a command ended with exit status 2 and one line that contains the hint."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    message = result.stderr[result.stderr.index('Error: ') :]
    assert hint in message and message.count('\n') == 1
