"""The least convolution work of the networks and of the training phases, in FLOP.

The achieved TFLOP/s of a run (`training.run.efficiency`) and the floors of the benchmarks are computed from it.

The work is counted from the layers, not from the operations that an implementation runs. A convolution that changes
the resolution needs one multiplication and one addition for each weight and each pixel at the *lower* of its two
resolutions: inserted zeros need not be multiplied, nor dropped pixels computed. Only dense convolutions count, not
resampling filters, fully connected layers or element-wise operations, so a floor may be too low but never too high.

The work of a training phase follows from the chain rule. For y = w * x, the gradients with respect to x and to w cost
as much as y itself. `phase_flop` states which of them each phase needs; a test compares this with the convolutions that
PyTorch runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from dataset_format.sizes import sides
from training import known_classes, networks_stylegan3, setup
from training.freezing import frozen_parameters
from training.networks_stylegan2 import Conv2dLayer, SynthesisLayer, ToRGBLayer
from training.phases import phase_intervals

if TYPE_CHECKING:
    from training.config import TrainingConfig
    from training.dataset import ImageFolderDataset

CONVOLUTION_LAYERS = (Conv2dLayer, SynthesisLayer, ToRGBLayer, networks_stylegan3.SynthesisLayer)

# ---------------------------------------------------------------------------------------------------------------------
# Networks


@dataclass(frozen=True)
class LayerWork:
    """The work of one layer for one image."""

    name: str
    is_to_rgb: bool
    flop: int
    is_half: bool  # computes in half precision on CUDA
    is_frozen: bool  # its weights are not trained


@torch.no_grad()
def layer_work(network: torch.nn.Module, *inputs: torch.Tensor, frozen: Collection[str] = ()) -> list[LayerWork]:
    """Return the convolution layers of G or D in the order they run.

    Args:
        network: G or D.
        *inputs: Arguments of one forward pass, with a batch size of 1.
        frozen: Names of parameters that are not trained. Weights that are no parameters never are.
    """
    layers = []

    def counting_hook(name: str, block: torch.nn.Module) -> Callable[[Any, Any, Any], None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            pixels = min(args[0].shape[2] * args[0].shape[3], output.shape[2] * output.shape[3])
            is_trained = isinstance(module.weight, torch.nn.Parameter) and f'{name}.weight' not in frozen
            work = LayerWork(
                name,
                is_to_rgb=isinstance(module, ToRGBLayer) or getattr(module, 'is_torgb', False),
                flop=2 * module.weight.numel() * pixels,
                is_half=bool(getattr(module, 'use_fp16', getattr(block, 'use_fp16', False))),
                is_frozen=not is_trained,
            )
            layers.append(work)

        return hook

    hooks = [
        module.register_forward_hook(counting_hook(name, network.get_submodule(name.rpartition('.')[0])))
        for name, module in network.named_modules()
        if isinstance(module, CONVOLUTION_LAYERS)
    ]
    network(*inputs)
    for hook in hooks:
        hook.remove()
    return layers


def generator_flop(G: Any, z: torch.Tensor, c: torch.Tensor) -> int:
    """Return the convolution work of G for a batch of latents [N, z_dim] and labels [N, c_dim]."""
    return len(z) * sum(layer.flop for layer in layer_work(G, z[:1], c[:1]))


@dataclass(frozen=True)
class NetworkWork:
    """FLOP of one image through both networks, and through the layers that some derivatives do not need."""

    G: int
    G_to_rgb: int
    G_frozen: int  # without trained weights
    D: int
    D_first: int  # the first layers with trained weights, whose input needs no gradient for them; fromrgb by default
    D_frozen: int  # without trained weights
    D_epilogue: int  # the layer after the minibatch standard deviation, the only curved function in D

    @classmethod
    def of(cls, G: Any, D: Any) -> NetworkWork:
        """Count the work in one forward pass of each network, on its own device."""
        return cls.of_layers(*both_layer_works(G, D))

    @classmethod
    def of_layers(
        cls, g_layers: Sequence[LayerWork], d_layers: Sequence[LayerWork], only_half: bool = False
    ) -> NetworkWork:
        """Add up the layers of G and D in the order they run, if `only_half` is set those in half precision."""
        trained = [layer for layer in d_layers if not layer.is_frozen] or d_layers[-1:]
        first = trained[:1]
        if first[0].name.endswith('.skip'):  # which the next layer shares its input with
            first = trained[:2]

        def total(layers: Iterable[LayerWork]) -> int:
            return sum(layer.flop for layer in layers if layer.is_half or not only_half)

        return cls(
            G=total(g_layers),
            G_to_rgb=total(layer for layer in g_layers if layer.is_to_rgb),
            G_frozen=total(layer for layer in g_layers if layer.is_frozen),
            D=total(d_layers),
            D_first=total(first),
            D_frozen=total(layer for layer in d_layers if layer.is_frozen),
            D_epilogue=total(d_layers[-1:]),
        )


def both_layer_works(G: Any, D: Any, frozen: Collection[str] = ()) -> tuple[list[LayerWork], list[LayerWork]]:
    """Return the layers of G and D; `frozen` names the parameters of G that are not trained."""
    device = next(G.parameters()).device
    label = torch.zeros([1, G.c_dim], device=device)
    height, width = sides(G.img_resolution)
    image = torch.zeros([1, G.img_channels, height, width], device=device)
    return layer_work(G, torch.zeros([1, G.z_dim], device=device), label, frozen=frozen), layer_work(D, image, label)


# ---------------------------------------------------------------------------------------------------------------------
# Training phases


@dataclass(frozen=True)
class Objective:
    """What a loss computes, as far as it takes convolutions: the default is `training.loss.StyleGAN2Loss`."""

    pairs: bool = False  # the relativistic loss
    penalties: int = 1  # R1 and R2, those with a weight
    path_length: bool = True
    pl_batch_shrink: int = 2
    consistency: int = 0  # kinds of images, real and generated, for which bCR has a weight
    instances: bool = False  # instance discrimination

    @classmethod
    def of(cls, loss_kwargs: Mapping[str, Any]) -> Objective:
        """Return that of the keywords of a loss in `training.config.TrainingConfig`."""
        pairs = loss_kwargs.get('class_name') == known_classes.RELATIVISTIC_LOSS
        gammas = [loss_kwargs.get('r1_gamma', 10), *([loss_kwargs.get('r2_gamma', 10)] if pairs else [])]
        return cls(
            pairs=pairs,
            penalties=sum(gamma != 0 for gamma in gammas),
            path_length=loss_kwargs.get('pl_weight', 2) != 0,
            pl_batch_shrink=loss_kwargs.get('pl_batch_shrink', 2),
            consistency=sum(weight != 0 for weight in loss_kwargs.get('bcr_weights') or []),
            instances=loss_kwargs.get('insgen_weights') is not None,
        )


def phase_flop(work: NetworkWork, batch_size: int, objective: Objective = Objective()) -> dict[str, int]:
    """Return the forward and backward convolution work of one run of each training phase, on images handled at once.

    Gmain: Forward through G and D. Backward through D with respect to activations, through G with respect to
        activations and weights. In pairs, also forward through D for real images.
    Greg: On a smaller batch, forward through G, and its gradient with respect to ws. The derivative of that with
        respect to the gradients and the weights. Modulation multiplies activations, so from there also backward through
        G, except for ToRGB, which the image depends on linearly.
    Dmain: Forward through G. Forward and backward through D for generated and for real images, without the gradient
        with respect to the images.
    Dreg: For each penalty, forward through D, and its gradient with respect to the images. The derivative of that, as
        for G. The minibatch standard deviation is curved, so from there also backward through the layers before it. In
        pairs, also forward through G, and through D for images without a penalty.
    Gboth, Dboth: Both. D shares its forward passes, and the backward passes from its output.

    Consistency takes another forward and backward pass of D in Dmain; instance discrimination shows each kind of images
    to an average of D, after another forward pass of G if they are generated. Images that D sees in other ways, for
    pseudo augmentation and for validation, do not count.
    """
    g, d, frozen = work.G, work.D, work.D_frozen
    g_main = 3 * g - work.G_frozen + 2 * d + (d if objective.pairs else 0)
    g_reg = 6 * g - 2 * work.G_to_rgb - 2 * work.G_frozen if objective.path_length else 0
    trained = 3 * d - 2 * frozen - work.D_first  # forward, and backward without the gradient of the images
    d_main = g + (2 + objective.consistency) * trained
    penalty = 6 * d - 2 * work.D_epilogue - 3 * frozen - work.D_first
    d_reg = objective.penalties * penalty
    if objective.pairs and objective.penalties:
        d_reg += g + (2 - objective.penalties) * d
    # The same with the adversarial loss: one forward pass less, and the last backward pass begins at the output.
    d_both = d_main + objective.penalties * (3 * d - frozen)
    if objective.instances:
        g_main, d_main, d_both = g_main + g + d, d_main + g + 2 * d, d_both + g + 2 * d
    reg_batch = max(batch_size // objective.pl_batch_shrink, 1)
    return {
        'Gmain': batch_size * g_main,
        'Greg': reg_batch * g_reg,
        'Gboth': batch_size * g_main + reg_batch * g_reg,
        'Dmain': batch_size * d_main,
        'Dreg': batch_size * d_reg,
        'Dboth': batch_size * d_both,
    }


@dataclass(frozen=True)
class ImageWork:
    """FLOP that a run spends on each image that it shows, averaged over its phases, by the precision of the layers."""

    full: float
    half: float

    @property
    def total(self) -> float:
        """In both precisions."""
        return self.full + self.half


def image_work(config: TrainingConfig, dataset: ImageFolderDataset) -> ImageWork:
    """Count the work of a run for each image, without allocating any memory for its networks.

    Args:
        config: Configuration of the run.
        dataset: Determines the shapes of images and labels.
    """
    with torch.random.fork_rng(devices=[]), torch.device('meta'), torch.no_grad():
        G, D = setup.construct_networks(config, dataset)
        layers = both_layer_works(G, D, frozen_parameters('G', G, config))
    intervals = {
        f'{network}{part}': interval
        for network, reg_interval in (('G', config.G_reg_interval), ('D', config.D_reg_interval))
        for part, interval in phase_intervals(reg_interval).items()
    }
    objective = Objective.of(config.loss_kwargs)

    def per_image(work: NetworkWork) -> float:
        flop = phase_flop(work, config.batch_gpu, objective)
        return sum(flop[name] / interval for name, interval in intervals.items()) / config.batch_gpu

    is_half_possible = torch.device(config.device).type == 'cuda'
    half = per_image(NetworkWork.of_layers(*layers, only_half=True)) if is_half_possible else 0.0
    return ImageWork(full=per_image(NetworkWork.of_layers(*layers)) - half, half=half)
