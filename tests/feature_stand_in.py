"""A small stand-in for the feature network of projection and tuning."""

import math

import torch

from metrics.features.detectors import ignore_torchscript_deprecation


class FeatureNetwork(torch.nn.Module):
    """Two random convolutions with the interface of vgg16.pt."""

    def __init__(self):
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.register_buffer('first', torch.randn(8, 3, 3, 3, generator=random) / math.sqrt(27))
        self.register_buffer('second', torch.randn(16, 8, 3, 3, generator=random) / math.sqrt(72))

    def forward(
        self,
        images: torch.Tensor,
        resize_images: bool = True,
        return_features: bool = False,
        return_lpips: bool = False,
    ) -> torch.Tensor:
        x = images.to(torch.float32) / 127.5 - 1
        if resize_images:
            x = torch.nn.functional.interpolate(x, [224, 224])
        x = torch.relu(torch.nn.functional.conv2d(x, self.first, padding=1))
        y = torch.relu(torch.nn.functional.conv2d(torch.nn.functional.avg_pool2d(x, 2), self.second, padding=1))
        if not return_lpips:
            return y.mean(dim=[2, 3])
        x = torch.nn.functional.normalize(x, dim=1) / math.sqrt(x.shape[2] * x.shape[3])
        y = torch.nn.functional.normalize(y, dim=1) / math.sqrt(y.shape[2] * y.shape[3])
        return torch.cat([x.flatten(1), y.flatten(1)], dim=1)


def write_detector(folder, network=None):
    """Write `vgg16.pt` to a new folder, and return the folder."""
    folder.mkdir()
    with ignore_torchscript_deprecation():
        torch.jit.script(FeatureNetwork() if network is None else network).save(folder / 'vgg16.pt')
    return folder
