"""The work that is counted for a training phase is what PyTorch really does."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from tests.small_runs import write_images
from training.loss import StyleGAN2Loss
from training.networks_stylegan2 import Discriminator, Generator
from training.options import Options, build_config, open_training_set
from training.relativistic_loss import RelativisticLoss
from training.work import NetworkWork, Objective, both_layer_works, image_work, layer_work, phase_flop

BATCH, RESOLUTION = 8, 16


class DenseConvolutions(TorchDispatchMode):
    """Adds up the FLOP of the convolutions that run, except for the depthwise ones, which are filters.

    Modulated 1×1 convolutions run as batched matrix products; nothing else does.
    """

    GROUPS_ARGUMENT = {torch.ops.aten.convolution: 8, torch.ops.aten.convolution_backward: 9}

    def __init__(self):
        super().__init__()
        self.flop = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        operator = func.overloadpacket
        position = self.GROUPS_ARGUMENT.get(operator)
        if operator == torch.ops.aten.bmm or (position is not None and args[position] == 1):
            self.flop += flop_registry[operator](*args, **(kwargs or {}), out_val=output)
        return output


def floor_and_count(phase, loss_class=StyleGAN2Loss, freeze_layers=0, frozen=lambda name: False, **loss_kwargs):
    """The work of a phase on one batch as it is counted from the layers, and of the convolutions that run."""
    torch.manual_seed(0)
    sizes = dict(channel_base=512, channel_max=32)
    G = Generator(16, 0, 16, RESOLUTION, 3, mapping_kwargs=dict(num_layers=2), synthesis_kwargs=sizes).train()
    D = Discriminator(0, RESOLUTION, 3, block_kwargs=dict(freeze_layers=freeze_layers), **sizes).train()
    names = {name for name, _parameter in G.named_parameters() if frozen(name)}
    kwargs = dict(r1_gamma=1, pl_weight=2, style_mixing_prob=0) | loss_kwargs
    loss = loss_class(torch.device('cpu'), G, D, **kwargs)
    for name, network in (('G', G), ('D', D)):
        network.requires_grad_(name == phase[0])
    for name in names:
        G.get_parameter(name).requires_grad_(False)
    no_label = torch.zeros(BATCH, 0)
    images = torch.randn(BATCH, 3, RESOLUTION, RESOLUTION)
    with DenseConvolutions() as counted:
        loss.accumulate_gradients(phase, images, no_label, torch.randn(BATCH, 16), no_label)
    objective = Objective.of(
        {'class_name': f'training.{loss_class.__module__.split(".")[1]}.{loss_class.__name__}'} | kwargs
    )
    return phase_flop(NetworkWork.of_layers(*both_layer_works(G, D, names)), BATCH, objective)[phase], counted.flop


CASES = {
    'plain': (('Gboth', 'Dmain', 'Dreg', 'Dboth'), {}),
    'pairs': (('Gmain', 'Dreg', 'Dboth'), dict(loss_class=RelativisticLoss)),
    'one penalty of pairs': (('Dreg', 'Dboth'), dict(loss_class=RelativisticLoss, r2_gamma=0)),
    'methods': (('Gmain', 'Dmain', 'Dboth'), dict(bcr_weights=[1, 1], insgen_weights=[1, 1])),
}


@pytest.mark.parametrize('case', CASES)
def test_floor_of_a_phase_is_the_convolution_work_that_runs(case):
    phases, arguments = CASES[case]
    for phase in phases:
        floor, counted = floor_and_count(phase, **arguments)
        assert floor <= counted <= 1.03 * floor, phase  # the rest are gradients that are zero or unused


def test_frozen_layers_take_less_work():
    first = ('synthesis.b4.', 'synthesis.b8.')
    for phase in ('Gmain', 'Greg', 'Dmain', 'Dboth'):
        floor, counted = floor_and_count(phase, freeze_layers=4, frozen=lambda name: name.startswith(first))
        # PyTorch also computes gradients in frozen layers of D that nothing uses.
        assert floor <= counted <= 1.15 * floor, phase
        assert floor < floor_and_count(phase)[0], phase


@pytest.mark.parametrize('loss_kwargs, phases', [
    (dict(pl_weight=0), {'Greg'}),
    (dict(r1_gamma=0), {'Dreg'}),
])  # fmt: skip
def test_a_regularizer_without_weight_takes_no_work(loss_kwargs, phases):
    for phase in phases:
        assert floor_and_count(phase, **loss_kwargs) == (0, 0)


@pytest.mark.parametrize('cfg', ['auto', 'tiny-t'])
def test_work_of_a_run_leaves_its_random_numbers_alone(tmp_path, cfg):
    data = str(write_images(tmp_path / 'data'))
    options = Options(outdir=str(tmp_path), data=data, batch=8, cfg=cfg, cbase=64, cmax=8)
    dataset = open_training_set(options)
    config = build_config(options, dataset, 'cpu', 1)
    state = torch.get_rng_state()
    work = image_work(config, dataset)
    assert torch.equal(torch.get_rng_state(), state)
    assert work.total > 0 and work.half == 0
    on_cuda = image_work(build_config(options, dataset, 'cuda', 1), dataset)
    assert on_cuda.total == work.total and (on_cuda.half > 0) == (cfg == 'auto')
    dataset.close()


def test_layers_in_half_precision_are_found():
    with torch.device('meta'):
        D = Discriminator(0, 64, 3, channel_base=512, channel_max=32, num_fp16_res=2)
        layers = layer_work(D, torch.zeros(1, 3, 64, 64), torch.zeros(1, 0))
    assert {layer.name.split('.')[0] for layer in layers if layer.is_half} == {'b64', 'b32'}
