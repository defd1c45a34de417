"""Networks in float64 for images of 8x8 pixels that mix no images, and the comparison of a loss with a slow formula."""

import numpy as np
import pytest
import torch

from training.loss import Batch
from training.networks_stylegan2 import Discriminator, Generator

SIZES = dict(channel_base=32, channel_max=4)
D_PARAMETERS = ('b8.conv0.weight', 'b8.fromrgb.bias', 'b4.conv.weight', 'b4.out.weight')
G_PARAMETERS = ('synthesis.b4.const', 'synthesis.b8.conv0.weight', 'mapping.fc0.weight')


def networks(c_dim=0, channels=1):
    """G and D without noise and minibatch standard deviation, so that each image can be computed alone."""
    torch.manual_seed(0)
    common = dict(c_dim=c_dim, img_resolution=8, img_channels=channels)
    G = Generator(
        z_dim=4, w_dim=4, mapping_kwargs=dict(num_layers=1), synthesis_kwargs=dict(use_noise=False, **SIZES), **common
    )
    D = Discriminator(epilogue_kwargs=dict(mbstd_num_channels=0), mapping_kwargs=dict(num_layers=1), **common, **SIZES)
    for network in (G, D):
        network.double().train().requires_grad_(False)
    return G, D


def make_batch(size=4, c_dim=0, channels=1):
    """Random images and latents, float64; the labels of real images differ from those drawn for the generator."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    labels = torch.eye(max(c_dim, 1), dtype=torch.float64)[torch.arange(size) % max(c_dim, 1)]
    real_c = labels if c_dim else torch.zeros(size, 0, dtype=torch.float64)
    return Batch(normal(size, channels, 8, 8), real_c, normal(size, 4), real_c.roll(1, dims=0))


def one(batch, index):
    """One image of a batch with its labels and its latent."""
    return Batch(*(tensor[index : index + 1] for tensor in batch))


def gradient_of(loss, phase, batch, gain=1):
    """The gradients of a phase by the name of the parameter."""
    module = loss.G if phase[0] == 'G' else loss.D
    module.zero_grad(set_to_none=True)
    module.requires_grad_(True)
    loss.accumulate_gradients(phase, *batch, gain)
    module.requires_grad_(False)
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def assert_gradient(loss, phase, batch, slow, gain=1):
    """The gradient of a phase is the slope of a slow formula, along a random direction of several parameters.

    Args:
        loss: The loss, of networks in float64.
        phase: The phase.
        batch: A batch.
        slow: Function without arguments that returns the value of the formula.
        gain: Factor of the loss.
    """
    module = loss.G if phase[0] == 'G' else loss.D
    gradients = gradient_of(loss, phase, batch, gain)
    generator = torch.Generator().manual_seed(2)
    for name in G_PARAMETERS if phase[0] == 'G' else D_PARAMETERS:
        parameter = module.get_parameter(name)
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        values, step = [], 1e-6  # small, because of the kinks of leaky ReLUs
        for sign in (+1, -1):
            with torch.no_grad():
                parameter += sign * step * direction
            values.append(float(slow()))
            with torch.no_grad():
                parameter -= sign * step * direction
        slope = (values[0] - values[1]) / (2 * step)
        actual = 0 if gradients[name] is None else float((gradients[name] * direction).sum())
        assert actual == pytest.approx(gain * slope, rel=1e-4, abs=1e-8), name


def score(D, image, label):
    """D's output for one image, a number that can be derived."""
    return D(image, label)[0, 0]


def squared_gradient(D, image, label):
    """The squared norm of the gradient of D at one image, pixel by pixel."""
    image = image.detach().clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(score(D, image, label), image)
    return sum(float(value) ** 2 for value in gradient.flatten())


def softplus(value):
    """log(1 + exp(value)), of a number."""
    return np.log1p(np.exp(float(value)))
