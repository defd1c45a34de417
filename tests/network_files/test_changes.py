"""Networks of another size, other channels and classes compute what they computed before, and learn everywhere."""

import copy

import pytest
import torch

from dataset_format.images import CHANNEL_KINDS
from network_files.changes import fitting
from network_files.changes.architectures import (
    canonical_names,
    construct_like,
    generation_of,
    is_stylegan3,
    keywords_of,
    synthesis_keywords,
    with_synthesis_keywords,
)
from network_files.changes.colors import color_map
from network_files.changes.conversion import convert
from network_files.changes.labels import match_classes
from network_files.changes.resolutions import change_resolution, channel_base_for, resample
from training import networks_stylegan2, networks_stylegan3

GENERATIONS = ['stylegan2', 'stylegan3-t', 'stylegan3-r']
MOST_SLOW = [*GENERATIONS[:1], *(pytest.param(name, marks=pytest.mark.slow) for name in GENERATIONS[1:])]
PAIRS = [*(('stylegan2', name) for name in ('resnet', 'orig', 'skip')), *((name, 'resnet') for name in GENERATIONS[1:])]
NAMES = {0: [], 3: ['cat', 'dog', 'owl'], 5: ['owl', 'bee', 'cat', 'dog', 'elk'], 2: ['dog', 'yak']}


def trained(network):
    """Move all parameters away from their initial values: no bias is 0, and no two layers look alike."""
    for parameter in network.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    return network.eval().requires_grad_(False)


def make_generator(generation='stylegan2', resolution=16, channels=3, c_dim=0, **kwargs):
    common = dict(
        z_dim=12,
        c_dim=c_dim,
        w_dim=8,
        img_resolution=resolution,
        img_channels=channels,
        mapping_kwargs={'num_layers': 2},
    )
    widths = dict(channel_base=256, channel_max=16)
    if generation == 'stylegan2':
        return trained(networks_stylegan2.Generator(**common, synthesis_kwargs={**widths, **kwargs}))
    of_r = dict(conv_kernel=1, use_radial_filters=True) if generation == 'stylegan3-r' else {}
    options = dict(num_layers=5, margin_size=4, num_fp16_res=0, output_scale=1.0)
    return trained(networks_stylegan3.Generator(**common, **widths, **options, **of_r))


def make_discriminator(architecture='resnet', resolution=16, channels=3, c_dim=0):
    options = dict(architecture=architecture, channel_base=256, channel_max=16, mapping_kwargs={'num_layers': 2})
    return trained(
        networks_stylegan2.Discriminator(c_dim=c_dim, img_resolution=resolution, img_channels=channels, **options)
    )


def make_networks(generation='stylegan2', architecture='resnet', **kwargs):
    torch.manual_seed(7)
    G = make_generator(generation, **kwargs)
    return {'G': G, 'D': make_discriminator(architecture, **kwargs), 'G_ema': trained(copy.deepcopy(G))}


def other_architecture(network, channel_base=None, channel_max=None, **changes):
    """Return a network with random weights that differs from another one in some keywords."""
    kwargs = keywords_of(network)
    widths = {}
    if 'img_resolution' in changes:
        before = synthesis_keywords(kwargs) if hasattr(network, 'synthesis') else kwargs
        size = changes['img_resolution']
        new = (size, size) if isinstance(size, int) else tuple(size)
        old = network.img_resolution
        base = channel_base_for((old, old), new, before['channel_base'], is_stylegan3(network))
        widths = {'channel_base': base}
    widths |= {k: v for k, v in dict(channel_base=channel_base, channel_max=channel_max).items() if v is not None}
    kwargs = with_synthesis_keywords(kwargs, **widths) if hasattr(network, 'synthesis') else {**kwargs, **widths}
    if 'cmap_dim' in kwargs and network.c_dim > 0:
        kwargs['cmap_dim'] = network.b4.cmap_dim
    return construct_like(network, {**kwargs, **changes}, seed=11)


def changed(old, old_names=None, new_names=None, **changes):
    new = {name: other_architecture(network, **changes) for name, network in old.items()}
    return new, convert(old, new, old_names, new_names)


def images_of(G, label=None, count=4):
    z = torch.randn([count, G.z_dim], generator=torch.Generator().manual_seed(3))
    return G(z, one_hot(G.c_dim, label, count), noise_mode='const')


def one_hot(c_dim, label, count=4):
    return torch.zeros(count, 0) if c_dim == 0 else torch.eye(c_dim)[[label] * count]


def pictures(network, count=4):
    shape = [count, network.img_channels, network.img_resolution, network.img_resolution]
    return torch.randn(shape, generator=torch.Generator().manual_seed(4))


def assert_close(one, other, tolerance=2e-5):
    assert one.shape == other.shape
    assert (one - other).abs().max() <= tolerance * max(1, float(other.abs().max()))


def assert_gradients_everywhere(networks):
    """Every parameter of G and D has a gradient for a batch with all classes; so have all classes of an embedding."""
    G, D = networks['G'].requires_grad_(True), networks['D'].requires_grad_(True)
    count = max(8, 4 * G.c_dim)
    z = torch.randn([count, G.z_dim], generator=torch.Generator().manual_seed(5))
    c = torch.eye(G.c_dim)[torch.arange(count) % G.c_dim] if G.c_dim else torch.zeros(count, 0)
    logits = D(G(z, c, noise_mode='random'), c)
    (logits * torch.randn([count, 1], generator=torch.Generator().manual_seed(6))).sum().backward()
    for network in (G, D):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()), name
            share = float((parameter.grad != 0).double().mean())
            assert share > 0.999, f'{name}: {share:.3f} of its weights have a gradient'


# ---------------------------------------------------------------------------------------------------------------------
# Labels


def test_classes_are_matched_by_name():
    assert match_classes(['cat', 'dog'], ['dog', 'owl', 'cat']) == [1, None, 0]
    assert match_classes(3, 4) == [0, 1, 2, None]
    assert match_classes(10, ['3', '12', 'x']) == [3, None, None]
    assert match_classes(['cat', 'dog'], 2) == [None, None]


@pytest.mark.parametrize('generation, architecture', PAIRS)
def test_all_classes_of_an_unconditional_network_are_what_it_was(generation, architecture):
    old = make_networks(generation, architecture)
    new, report = changed(old, None, NAMES[3], c_dim=3)
    for label in range(3):
        for name in ('G', 'G_ema'):
            assert_close(images_of(new[name], label), images_of(old[name]))
        img = pictures(old['D'])
        assert_close(new['D'](img, one_hot(3, label)), old['D'](img, None))
    assert not any(report.fresh.values())
    assert_gradients_everywhere(new)


@pytest.mark.parametrize('generation', GENERATIONS)
def test_classes_of_the_same_name_keep_theirs(generation):
    old = make_networks(generation, c_dim=3)
    new, report = changed(old, NAMES[3], NAMES[5], c_dim=5)
    img = pictures(old['D'])
    for label, name in enumerate(NAMES[3]):
        now = NAMES[5].index(name)
        assert_close(images_of(new['G_ema'], now), images_of(old['G_ema'], label))
        assert_close(new['D'](img, one_hot(5, now)), old['D'](img, one_hot(3, label)))
    mean = old['G'].mapping.embed(torch.eye(3)).mean(dim=0)
    assert_close(new['G'].mapping.embed(torch.eye(5))[1], mean)
    assert '3 of 5 classes are known' in report.notes[0] and not any(report.fresh.values())
    assert_gradients_everywhere(new)


def test_fewer_classes_keep_theirs_and_vectors_keep_their_entries():
    old = make_networks(c_dim=5)
    new, _report = changed(old, NAMES[5], NAMES[2], c_dim=2)
    assert_close(images_of(new['G'], 0), images_of(old['G'], NAMES[5].index('dog')))
    wider = {name: other_architecture(network, c_dim=7) for name, network in old.items()}
    convert(old, wider, NAMES[5], [*NAMES[5], 'more', 'most'], one_hot=False)
    vectors = torch.randn([4, 7], generator=torch.Generator().manual_seed(1))
    z = torch.randn(4, 12)
    same = wider['G'](z, vectors, noise_mode='const'), old['G'](z, vectors[:, :5], noise_mode='const')
    assert_close(*same)
    assert_close(
        wider['D'](pictures(old['D']), vectors),
        old['D'](pictures(old['D']), vectors[:, :5]),
    )


@pytest.mark.parametrize('generation', GENERATIONS)
def test_without_labels_a_network_starts_from_the_mean_of_the_classes(generation):
    old = make_networks(generation, c_dim=3)
    new, report = without_labels(old)
    img = pictures(old['D'])
    logits = torch.stack([old['D'](img, one_hot(3, label)) for label in range(3)])
    assert_close(new['D'](img, None), logits.mean(dim=0))
    mapping = old['G'].mapping
    embedded = mapping.embed(torch.eye(3))
    mean = (embedded * torch.rsqrt(embedded.square().mean(dim=1, keepdim=True) + 1e-8)).mean(dim=0)
    z = torch.randn(4, 12)
    x = torch.cat([z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8), mean.expand(4, -1)], dim=1)
    assert_close(new['G'].mapping(z, None)[:, 0], mapping.fc1(mapping.fc0(x)))
    assert not any(report.fresh.values())
    assert_gradients_everywhere(new)


def without_labels(old):
    new = {}
    for name, network in old.items():
        kwargs = {**keywords_of(network), 'c_dim': 0}
        if name == 'D':
            kwargs['cmap_dim'] = None
        new[name] = construct_like(network, kwargs, seed=11)
    return new, convert(old, new, NAMES[3], None)


# ---------------------------------------------------------------------------------------------------------------------
# Image channels


@pytest.mark.parametrize('new_channels', CHANNEL_KINDS)
@pytest.mark.parametrize('old_channels', CHANNEL_KINDS)
@pytest.mark.parametrize('generation', MOST_SLOW[:2])
def test_colors(generation, old_channels, new_channels):
    if old_channels == new_channels:
        return
    old = make_networks(generation, channels=old_channels, c_dim=2)
    new, report = changed(old, img_channels=new_channels)
    for name in ('G', 'G_ema'):
        expected = color_map(old_channels, new_channels).apply(images_of(old[name], 1))
        assert_close(images_of(new[name], 1), expected)
    img = pictures(new['D'])
    if new_channels in (2, 4) and old_channels in (1, 3):
        img[:, -1] = 1  # an old D knows opaque images only
    seen = color_map(new_channels, old_channels).apply(img)
    assert_close(new['D'](img, one_hot(2, 0)), old['D'](seen, one_hot(2, 0)))
    kinds = CHANNEL_KINDS[old_channels], CHANNEL_KINDS[new_channels]
    assert not any(report.fresh.values()) and report.notes == ['The images change from {} to {}.'.format(*kinds)]
    assert_gradients_everywhere(new)


def test_the_maps_between_colors():
    red = torch.tensor([1.0, -1, -1]).reshape(1, 3, 1, 1)
    assert color_map(3, 1).apply(red).item() == pytest.approx(0.299 - 0.587 - 0.114)
    assert color_map(3, 4).apply(red).flatten().tolist() == [1, -1, -1, 1]
    assert color_map(1, 2).apply(red[:, :1]).flatten().tolist() == [1, 1]
    assert color_map(4, 2).apply(torch.cat([red, red[:, :1] * 0.5], dim=1))[0, 1].item() == 0.5


# ---------------------------------------------------------------------------------------------------------------------
# Widths


@pytest.mark.parametrize('generation, architecture', PAIRS)
def test_more_channels(generation, architecture):
    old = make_networks(generation, architecture, c_dim=2)
    new, report = changed(old, channel_base=512, channel_max=24)
    assert_close(images_of(new['G_ema'], 1), images_of(old['G_ema'], 1), 3e-3)
    assert_close(new['D'](pictures(old['D']), one_hot(2, 1)), old['D'](pictures(old['D']), one_hot(2, 1)), 3e-3)
    assert not any(report.fresh.values()) and report.image_rms < 1e-3
    assert_gradients_everywhere(new)


def test_layers_that_lose_channels_are_listed():
    old = make_networks()
    new, report = changed(old, channel_base=64)
    assert 'synthesis.b16.conv1.weight' in report.fresh['G'] and 'synthesis.b4.const' not in report.fresh['G']
    assert torch.equal(new['G'].synthesis.b4.const, old['G'].synthesis.b4.const)
    assert any('start from random values' in line for line in report.describe())


# ---------------------------------------------------------------------------------------------------------------------
# Size


@pytest.mark.parametrize('architecture', ['resnet', 'orig', 'skip'])
@pytest.mark.parametrize('resolution', [32, 64])
def test_doublings_of_stylegan2(architecture, resolution):
    old = make_networks(architecture=architecture, c_dim=2, channels=4 if architecture == 'orig' else 1)
    old = {name: doubled_widths(network) for name, network in old.items()}
    new, report = changed(old, img_resolution=resolution)
    expected = resample(images_of(old['G_ema'], 1), resolution, resolution)
    assert_close(images_of(new['G_ema'], 1), expected, 2e-3)
    img = pictures(new['D'])
    logits = old['D'](resample(img, 16, 16), one_hot(2, 1))
    assert_close(new['D'](img, one_hot(2, 1)), logits, 2e-3)
    assert not any(report.fresh.values()) and report.image_rms < 1e-3 and report.logit_rms < 2e-3
    assert_gradients_everywhere(new)


def doubled_widths(network):
    """Return a network with enough channels at high resolutions to pass an image on."""
    return trained(other_architecture(network, channel_base=1024))


@pytest.mark.parametrize('resolution', [8, [16, 32], [24, 16], 24])
def test_fitting_brings_other_sizes_nearer(resolution):
    old = make_networks(c_dim=2)
    new, report = changed(old, img_resolution=resolution)
    w, _c = fitting.sample_latents(old['G_ema'])
    expected = fitting.converted(fitting.synthesize(old['G_ema'], w), new['G_ema'])
    sides = (resolution, resolution) if isinstance(resolution, int) else resolution
    plain = change_resolution(old['G_ema'], *sides)
    before = fitting.rms(fitting.synthesize(plain, w) - expected)
    assert report.image_rms == pytest.approx(fitting.rms(fitting.synthesize(new['G_ema'], w) - expected))
    assert report.image_rms < 0.95 * before and not any(report.fresh.values())
    assert report.logit_rms < 3 * report.logit_scale
    assert any(f'differ from the old ones by {report.image_rms:.4f}' in line for line in report.describe())
    assert_gradients_everywhere(new)


@pytest.mark.parametrize('resolution', [8, pytest.param(32, marks=pytest.mark.slow), [16, 32]])
@pytest.mark.parametrize('generation', [GENERATIONS[1], MOST_SLOW[2]])
def test_sizes_of_stylegan3(generation, resolution):
    old = make_networks(generation, channels=4, c_dim=2)
    new, report = changed(old, img_resolution=resolution)
    assert report.image_rms < 0.6 * report.image_scale and not any(report.fresh.values())
    assert generation_of(new['G']) == generation_of(old['G'])
    assert_gradients_everywhere(new)


def test_a_generator_whose_image_is_made_by_its_last_block_lists_new_ones():
    old = make_networks()
    old = {**old, 'G': make_generator(architecture='resnet'), 'G_ema': make_generator(architecture='resnet')}
    _new, report = changed(old, img_resolution=32)
    assert {name.split('.')[1] for name in report.fresh['G']} == {'b32'}


def test_a_discriminator_with_few_channels_lists_its_new_block():
    old = make_networks()
    old = {name: trained(other_architecture(network, channel_base=64)) for name, network in old.items()}
    _new, report = changed(old, img_resolution=32)
    assert {name.split('.')[0] for name in report.fresh['D']} == {'b32'} and report.logit_rms > 0


# ---------------------------------------------------------------------------------------------------------------------
# Everything


@pytest.mark.parametrize('generation', [GENERATIONS[0], MOST_SLOW[1], GENERATIONS[2]])
def test_everything_at_once(generation):
    old = make_networks(generation, channels=1)
    new, report = changed(old, None, NAMES[3], c_dim=3, img_channels=4, img_resolution=32, channel_max=20)
    assert len(report.notes) == 4 and not any(report.fresh.values())
    if generation == 'stylegan2':
        old_images = color_map(1, 4).apply(resample(images_of(old['G']), 32, 32))
        assert_close(images_of(new['G'], 2), old_images, 3e-3)
    assert_gradients_everywhere(new)


def test_the_same_architecture_is_copied_bit_for_bit():
    old = make_networks('stylegan3-r', c_dim=3)
    new, report = changed(old, NAMES[3], NAMES[3])
    assert report.notes == report.describe() == [] and report.image_rms is None
    for name, network in old.items():
        tensors = dict(new[name].named_parameters()) | dict(new[name].named_buffers())
        for key, tensor in [*network.named_parameters(), *network.named_buffers()]:
            assert torch.equal(tensor, tensors[key]), key


def test_G_and_its_average_get_the_same_new_weights():
    old = make_networks()
    old['G_ema'] = copy.deepcopy(old['G'])
    new, _report = changed(old, None, NAMES[3], c_dim=3, img_resolution=32)
    for (key, one), other in zip(new['G'].named_parameters(), new['G_ema'].parameters()):
        assert torch.equal(one, other), key


def test_another_generation_starts_fresh_but_D_does_not():
    old = make_networks('stylegan3-t')
    new = {'G': make_generator(), 'G_ema': make_generator(), 'D': other_architecture(old['D'])}
    report = convert(old, new)
    assert 'synthesis.b4.const' in report.fresh['G'] and report.fresh['D'] == []


def test_keywords_and_names():
    G = make_generator('stylegan3-t')
    assert keywords_of(G)['num_layers'] == 5 and keywords_of(G)['mapping_kwargs'] == {'num_layers': 2}
    assert 'synthesis.L0.weight' in canonical_names(G)
    D = networks_stylegan2.Discriminator(0, 16, 3, channel_base=64, block_kwargs={'freeze_layers': 2})
    assert keywords_of(D)['block_kwargs'] == {} and keywords_of(D)['architecture'] == 'resnet'
