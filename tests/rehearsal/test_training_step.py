"""What a training iteration does on a GPU, on the rehearsal device. Run by `tests/test_rehearsal.py`."""

import dataclasses
from types import MappingProxyType, SimpleNamespace

import pytest
import torch

from bench.networks import TrainingStep, training_setup
from torch_utils import training_stats
from torch_utils.distributed import World
from torch_utils.ops import upfirdn2d
from training import setup
from training.augment import SYM6, rotation, scaling, translation, warp_affine
from training.cuda_graphs import PhaseGraphs
from training.data.ahead import BatchesAhead
from training.phases import run_phase
from training.run import memory_estimate

pytestmark = pytest.mark.skipif(not getattr(torch.cuda, 'rehearsal', False), reason='needs the rehearsal device')

if getattr(torch.cuda, 'rehearsal', False):
    from tests.rehearsal.backend import counted

CUDA = torch.device('cuda', 0)


# ---------------------------------------------------------------------------------------------------------------------
# Data


def loaded(count, fails_at=None):
    for index in range(count):
        if index == fails_at:
            raise OSError('the disk is gone')
        yield torch.full([2, 3, 4, 4], index, dtype=torch.uint8).pin_memory(), torch.zeros([2, 0]), ['', str(index)]


def test_the_next_batch_is_copied_while_the_current_one_trains():
    batches = BatchesAhead(loaded(3), CUDA)
    current = next(batches)
    with counted() as counts:
        batches.start_next()
        batches.start_next()
    assert counts['pinned copies'] >= 1 and counts['synchronizations'] == 0
    assert current.pixels.tolist() == torch.zeros([2, 3, 4, 4]).tolist()  # the copy arrives elsewhere
    with counted() as counts:
        following = next(batches)
    assert counts['pinned copies'] == counts['pageable copies'] == counts['synchronizations'] == 0
    assert following.pixels.unique().tolist() == [1] and following.messages == ['', '1']
    assert next(batches).pixels.unique().tolist() == [2]  # without `start_next`


def test_an_error_comes_when_its_batch_is_due():
    batches = BatchesAhead(loaded(3, fails_at=1), CUDA)
    next(batches)
    batches.start_next()
    with pytest.raises(OSError, match='disk'):
        next(batches)


# ---------------------------------------------------------------------------------------------------------------------
# Augmentation


def random_maps(count, height, width, reach):
    """Rotations, scalings and translations; the larger `reach` is, the farther they go beyond the image."""
    angle, scale, shift = torch.rand(count) * 6.3, (torch.randn(count) * 0.3 * reach).exp2(), torch.randn(count, 2)
    shift = shift * reach * torch.tensor([width, height]) / 8
    return rotation(angle) @ scaling(scale, scale) @ translation(shift[:, 0], shift[:, 1])


@pytest.mark.parametrize('height, width, reach', [(16, 16, 0.5), (8, 24, 0.5), (24, 8, 0.5), (16, 16, 0)])
def test_warped_images_are_those_of_the_cpu(height, width, reach):
    torch.manual_seed(0)
    images, maps = torch.randn(6, 3, height, width), random_maps(6, height, width, reach)
    lowpass = upfirdn2d.setup_filter(SYM6)
    results = []
    for device in ('cpu', CUDA):
        x = images.to(device).requires_grad_()
        y = warp_affine(x, maps.to(device), lowpass.to(device))
        (dx,) = torch.autograd.grad(y.square().sum(), x)
        results.append((y.detach().cpu(), dx.cpu()))
    for expected, actual in zip(*results):
        assert (actual - expected).abs().max() < 1e-4 * expected.abs().max()


def test_what_is_farther_than_the_longer_side_is_zero_as_on_the_cpu():
    """Within the reach of the filters from there, the CPU mixes in the zeros already."""
    torch.manual_seed(0)
    images = torch.randn(2, 1, 16, 16)
    maps = translation(torch.tensor([0.0, 25.0]), torch.tensor([0.0, -3.0]))  # to 17 pixels beyond the border
    lowpass = upfirdn2d.setup_filter(SYM6)
    expected = warp_affine(images, maps, lowpass)
    actual = warp_affine(images.to(CUDA), maps.to(CUDA), lowpass.to(CUDA)).cpu()
    assert torch.allclose(actual[0], expected[0], atol=1e-4)
    assert torch.allclose(actual[1, ..., :3], expected[1, ..., :3], atol=1e-4) and actual[1, ..., :3].abs().max() > 0.1
    assert torch.allclose(actual[1, ..., 9:], torch.zeros([16, 7])) and not expected[1, ..., 9:].any()


@pytest.mark.parametrize('augpipe, channels', [('geom', 3), ('blit', 1), ('color', 3)])
def test_memory_of_warped_images_is_estimated(augpipe, channels):
    options = dict(augment_p=0.5, augpipe=augpipe, cfg='tiny', channel_base=64)
    config, dataset = training_setup(64, 2, 1, CUDA, **options)
    pipe, _ada = setup.build_augmentation(config, CUDA)
    images = torch.randn([2, channels, 64, 64], device=CUDA, requires_grad=True)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    shown = pipe(images)
    of_D = torch.ones_like(shown, requires_grad=True)  # stands for the gradient of D
    (gradient,) = torch.autograd.grad(shown, images, of_D, create_graph=True)
    gradient.square().sum().backward(inputs=[of_D])
    needed = (torch.cuda.max_memory_allocated() - before) / 2
    shaped = SimpleNamespace(image_shape=(channels, 64, 64))
    estimated = memory_estimate.warped_bytes(config, shaped)
    if augpipe == 'color':
        assert estimated == 0 and needed < 100 * 64**2
    else:
        assert estimated == pytest.approx(needed, rel=0.1)
    assert memory_estimate.warped_bytes(dataclasses.replace(config, augment_p=0), shaped) == 0


# ---------------------------------------------------------------------------------------------------------------------
# CUDA graphs


def training_step(cfg, methods=MappingProxyType({}), **options):
    """Networks of 8x8 pixels, their loss and phases, and two rounds of random images."""
    torch.manual_seed(0)
    options = dict(dict(cuda_graphs=True, batch_gpu=2), **options)
    config, dataset = training_setup(8, 4, 1, CUDA, channel_base=32, augment_p=0.5, cfg=cfg, methods=methods)
    config = dataclasses.replace(config, **options)
    if 'insgen' in methods:
        config.loss_kwargs['insgen_queue'] = 12  # full after three batches
    step = TrainingStep(World(0, 1, CUDA), config, dataset)
    if step.pseudo is not None:
        step.pseudo.p.fill_(0.5)
        step.pseudo.send_p()
    return step


def run_batches(step, graphs, count, nimg_per_batch=4, first=0):
    """Run the phases of some batches, with new images and latents each time."""
    torch.manual_seed(1)
    for batch_idx in range(first, first + count):
        for phase in step.phases:
            if phase.is_due(batch_idx):
                for piece in step.batches:
                    piece['real_img'] = torch.randn_like(piece['real_img'])
                    piece['gen_z'] = torch.randn_like(piece['gen_z'])
                run_phase(phase, step.loss, step.batches, step.world, batch_idx * nimg_per_batch, graphs)
        step.loss.end_batch(step.world)
    states = (step.loss.state_dict(), step.loss.shared_state_dict(), step.G.state_dict(), step.D.state_dict())
    return {f'{index}.{name}': tensor for index, state in enumerate(states) for name, tensor in state.items()}


@pytest.mark.parametrize('cfg, options', [
    ('auto', dict(G_reg_interval=2, D_reg_interval=2)),
    pytest.param('auto', dict(G_reg_interval=None, D_reg_interval=None), marks=pytest.mark.slow),
    pytest.param('tiny-r', dict(D_reg_interval=2), marks=pytest.mark.slow),
    ('tiny', dict(methods=dict(apa=True, lecam=0.3), D_reg_interval=2)),
    pytest.param('tiny', dict(methods=dict(insgen='1', bcr='10'), D_reg_interval=2), marks=pytest.mark.slow),
    pytest.param(
        'tiny', dict(methods=dict(insgen='1', apa=True, loss='relativistic'), D_reg_interval=2), marks=pytest.mark.slow
    ),
])  # fmt: skip
def test_graphs_compute_the_same(cfg, options):
    results, statistics = [], []
    for with_graphs in (False, True):
        step = training_step(cfg, **options)
        graphs = PhaseGraphs(step.loss, CUDA) if with_graphs else None
        training_stats.reset()
        collector = training_stats.Collector()
        results.append(run_batches(step, graphs, count=12))
        collector.update()
        statistics.append(collector.as_dict())
    for name, expected in results[0].items():
        assert torch.equal(results[1][name], expected), name
    assert statistics[0] == statistics[1] and statistics[0]
    assert graphs.num_graphs() >= len(step.phases)


def test_a_phase_of_graphs_is_a_few_launches():
    step = training_step('tiny')
    graphs = PhaseGraphs(step.loss, CUDA)
    run_batches(step, graphs, count=8)
    torch.cuda.set_sync_debug_mode('error')
    try:
        with counted() as counts:
            run_batches(step, graphs, count=1, first=1)  # without R1, which has not run often enough
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert counts['launches'] < 120 and counts['pageable copies'] == 0


@pytest.mark.slow
def test_graphs_follow_the_blur():
    """Its width changes in each batch, and the number of its taps after some."""
    results = []
    for with_graphs in (False, True):
        step = training_step('tiny-r')
        graphs = PhaseGraphs(step.loss, CUDA) if with_graphs else None
        assert step.loss.blur_radius(0) == 3 and step.loss.blur_radius(15 * 80) == 1
        results.append(run_batches(step, graphs, count=16, nimg_per_batch=80))
    assert graphs.num_graphs() > 0 and all(torch.equal(results[1][name], results[0][name]) for name in results[0])
