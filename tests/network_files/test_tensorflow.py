"""TensorFlow pickles give the published numbers; networks of ours come back from TensorFlow's names and layouts to the
bit; whatever does not fit is refused by name."""

import json
import math
import pickle
import random
import sys
import time
import tracemalloc
import types

import numpy as np
import pytest
import torch

from network_files import safe_pickle
from network_files.errors import NetworkPickleError
from network_files.tensorflow import conversion as tensorflow
from network_files.tensorflow import sources
from network_files.tensorflow.sources import TensorFlowNetwork
from training.networks_stylegan2 import Discriminator, Generator

GOLDEN_NAMES = ['tf-stylegan2-ada-cond-16', 'tf-stylegan2-ada-uncond-32', 'tf-stylegan2-uncond-16']


def read(content, **kwargs):
    data = safe_pickle.loads(content, sources.READERS)
    assert tensorflow.is_tensorflow(data)
    return tensorflow.convert(data, 'net.pkl', **kwargs)


def refusal(data):
    with pytest.raises(NetworkPickleError) as caught:
        tensorflow.convert(data, 'net.pkl', force_fp16=False)
    text = str(caught.value)
    assert text.startswith('net.pkl') and len(text) < 1500 and '\n' not in text
    return text


# ---------------------------------------------------------------------------------------------------------------------
# Golden values


@pytest.mark.parametrize('name', GOLDEN_NAMES)
def test_published_numbers(golden, golden_path, name):
    expected = golden(f'{name}.npz')
    data = read(golden_path(f'{name}.pkl').read_bytes())
    assert list(data) == ['G', 'D', 'G_ema', 'augment_pipe', 'training_set_kwargs']
    assert data['augment_pipe'] is None and data['training_set_kwargs'] is None
    G, D = data['G_ema'], data['D']
    assert G.init_kwargs == json.loads(str(expected['init_kwargs_G'])) == data['G'].init_kwargs
    assert D.init_kwargs == json.loads(str(expected['init_kwargs_D']))

    z, c, image = (torch.from_numpy(expected[key]) for key in ('z', 'c', 'img_const'))
    results = {
        'img_const': G(z, c, noise_mode='const'),
        'img_trunc': G(z, c, noise_mode='const', truncation_psi=0.5),
        'logits': D(image, c),
    }
    for key, result in results.items():
        assert np.abs(result.numpy() - expected[key]).max() <= 1e-5 * np.abs(expected[key]).max()
    for module in (data['G'], G, D):
        assert not module.training and not any(tensor.requires_grad for tensor in module.parameters())


def test_force_fp16_in_all_three(golden_path):
    data = read(golden_path(f'{GOLDEN_NAMES[1]}.pkl').read_bytes(), force_fp16=True)
    for options in (*(data[key].init_kwargs['synthesis_kwargs'] for key in ('G', 'G_ema')), data['D'].init_kwargs):
        assert options['num_fp16_res'] == 4 and options['conv_clamp'] == 256
    assert data['G_ema'].synthesis.b16.use_fp16 and data['D'].b16.use_fp16


# ---------------------------------------------------------------------------------------------------------------------
# The way back: from our networks to TensorFlow's names


def on_a_grid(module):
    """Random values that are multiples of 1/256, so that the 1 of the style biases is taken off and added exactly."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if not name.endswith('resample_filter'):
            tensor.data = torch.randint(-512, 512, tensor.shape, generator=generator) / 256
    return module.eval().requires_grad_(False)


def make_G(architecture='skip', img_channels=3, c_dim=0, num_layers=2, **synthesis_kwargs):
    synthesis_kwargs = dict(channel_base=64, channel_max=8, architecture=architecture, **synthesis_kwargs)
    mapping_kwargs = dict(num_layers=num_layers)
    return on_a_grid(Generator(6, c_dim, 8, 16, img_channels, mapping_kwargs, synthesis_kwargs))


def make_D(architecture='resnet', img_channels=3, c_dim=0, num_layers=2, **kwargs):
    kwargs = dict(channel_base=64, channel_max=8, architecture=architecture, **kwargs)
    return on_a_grid(Discriminator(c_dim, 16, img_channels, mapping_kwargs=dict(num_layers=num_layers), **kwargs))


def numpy_of(tensor):
    return tensor.detach().numpy()


def put_dense(variables, name, layer):
    variables[f'{name}/weight'] = numpy_of(layer.weight).T
    variables[f'{name}/bias'] = numpy_of(layer.bias)


def put_convolution(variables, name, layer, rotate=False):
    kernel = np.einsum('oihw->hwio', numpy_of(layer.weight))
    variables[f'{name}/weight'] = np.rot90(kernel, 2) if rotate else kernel
    if layer.bias is not None:
        variables[f'{name}/bias'] = numpy_of(layer.bias)


def put_styled(variables, name, layer, rotate=False):
    put_convolution(variables, name, layer, rotate)
    variables[f'{name}/mod_weight'] = numpy_of(layer.affine.weight).T
    variables[f'{name}/mod_bias'] = numpy_of(layer.affine.bias) - 1
    if getattr(layer, 'use_noise', False):
        variables[f'{name}/noise_strength'] = np.float32(layer.noise_strength.item())


def image_layer(layer, resolution, counting_down):
    return f'{layer}_lod{int(math.log2(16 // resolution))}' if counting_down else f'{resolution}x{resolution}/{layer}'


def mapping_variables(mapping):
    variables = {}
    if mapping.c_dim:
        put_dense(variables, 'LabelEmbed', mapping.embed)
    for index in range(mapping.num_layers):
        put_dense(variables, f'Dense{index}', getattr(mapping, f'fc{index}'))
    return variables


def synthesis_variables(synthesis, counting_down=False):
    variables = {'4x4/Const/const': numpy_of(synthesis.b4.const)[None]}
    layers = []
    for res in (4, 8, 16):
        block = getattr(synthesis, f'b{res}')
        if res > 4:
            put_styled(variables, f'{res}x{res}/Conv0_up', block.conv0, rotate=True)
            layers.append(block.conv0)
        put_styled(variables, f'{res}x{res}/Conv1' if res > 4 else '4x4/Conv', block.conv1)
        layers.append(block.conv1)
        if hasattr(block, 'skip'):
            put_convolution(variables, f'{res}x{res}/Skip', block.skip, rotate=True)
        if hasattr(block, 'torgb'):
            put_styled(variables, image_layer('ToRGB', res, counting_down), block.torgb)
    for number, layer in enumerate(layers):
        if layer.use_noise:
            variables[f'noise{number}'] = numpy_of(layer.noise_const)[None, None]
    return variables


def discriminator_variables(D, counting_down=False):
    variables = {}
    for res in (16, 8, 4):
        block = getattr(D, f'b{res}')
        if hasattr(block, 'fromrgb'):
            put_convolution(variables, image_layer('FromRGB', res, counting_down), block.fromrgb)
        if res > 4:
            put_convolution(variables, f'{res}x{res}/Conv0', block.conv0)
            put_convolution(variables, f'{res}x{res}/Conv1_down', block.conv1)
        if hasattr(block, 'skip'):
            put_convolution(variables, f'{res}x{res}/Skip', block.skip)
    put_convolution(variables, '4x4/Conv', D.b4.conv)
    put_dense(variables, '4x4/Dense0', D.b4.fc)
    put_dense(variables, 'Output', D.b4.out)
    if D.c_dim:
        put_dense(variables, 'LabelEmbed', D.mapping.embed)
        for index in range(D.mapping.num_layers):
            put_dense(variables, f'Mapping{index}', getattr(D.mapping, f'fc{index}'))
    return variables


def network(variables, keywords=None, components=None, function='G_main', version=4):
    state = dict(
        version=version, name='G', static_kwargs=keywords or {}, components=components or {},
        build_module_src='raise LookupError("the embedded source was run")', build_func_name=function,
        variables=list(variables.items()),
    )  # fmt: skip
    return TensorFlowNetwork(state=state)


def tf_G(G, counting_down=False, function='G_main', extra=None, **keywords):
    keywords = dict(
        latent_size=6, label_size=G.c_dim, dlatent_size=8, resolution=16, num_channels=G.img_channels, fmap_base=32,
        fmap_max=8, mapping_layers=G.mapping.num_layers, **keywords,
    )  # fmt: skip
    components = {
        'synthesis': network(synthesis_variables(G.synthesis, counting_down) | (extra or {}), function=function),
        'mapping': network(mapping_variables(G.mapping), dict(dlatent_broadcast=6), function='G_mapping'),
    }
    return network({'dlatent_avg': numpy_of(G.mapping.w_avg), 'lod': np.float32(0)}, keywords, components)


def tf_D(D, counting_down=False, function='D_main', extra=None, **keywords):
    keywords = dict(
        label_size=D.c_dim, resolution=16, num_channels=D.img_channels, fmap_base=32, fmap_max=8, **keywords
    )
    return network(discriminator_variables(D, counting_down) | (extra or {}), keywords, function=function)


def assert_same(result, expected):
    theirs, ours = expected.state_dict(), result.state_dict()
    assert list(theirs) == list(ours)
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def assert_same_images(result, expected):
    assert_same(result, expected)
    z, c = torch.randn(2, 6), torch.rand(2, expected.c_dim)
    images = [G(z, c, noise_mode='const', truncation_psi=0.7) for G in (result, expected)]
    assert torch.equal(*images) and images[0].isfinite().all()


def assert_same_logits(result, expected):
    assert_same(result, expected)
    images, c = torch.randn(4, expected.img_channels, 16, 16), torch.rand(4, expected.c_dim)
    logits = [D(images, c) for D in (result, expected)]
    assert torch.equal(*logits) and logits[0].isfinite().all()


def pickled(obj, monkeypatch):
    """A pickle as the TensorFlow code writes it, with objects of a class that is only named."""

    class Network:
        def __init__(self, source):
            components = {name: Network(part) for name, part in source.state['components'].items()}
            self.__dict__.update({**source.state, 'components': components})

    Network.__module__, Network.__qualname__ = 'dnnlib.tflib.network', 'Network'
    for name in ('dnnlib.tflib', 'dnnlib.tflib.network'):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules['dnnlib.tflib.network'].Network = Network
    return pickle.dumps(tuple(map(Network, obj)), protocol=4)


@pytest.mark.parametrize('counting_down', [False, True])
@pytest.mark.parametrize('img_channels, c_dim', [(3, 0), (1, 5)])
@pytest.mark.parametrize('architecture', ['orig', 'skip', 'resnet'])
def test_networks_come_back_to_the_bit(monkeypatch, architecture, img_channels, c_dim, counting_down):
    G = make_G(architecture, img_channels, c_dim)
    D = make_D(architecture, img_channels, c_dim)
    as_stored = tf_G(G, counting_down, architecture=architecture)
    D_as_stored = tf_D(D, counting_down, architecture=architecture, mapping_layers=2, mapping_lrmul=0.01)
    data = read(pickled((as_stored, D_as_stored, as_stored), monkeypatch))
    assert_same_images(data['G_ema'], G)
    assert_same_images(data['G'], G)
    assert_same_logits(data['D'], D)


def test_grown_networks_are_of_the_original_architecture():
    """Their lower ToRGB and FromRGB count only while they grow, and no keyword tells the architecture."""
    G, D = make_G('orig'), make_D('orig')
    others = {'ToRGB_lod1/weight': np.zeros([1, 1, 8, 3], np.float32), 'ToRGB_lod2/bias': np.zeros(3, np.float32)}
    stored = tf_G(G, counting_down=True, function='G_synthesis_stylegan_revised', extra=others, structure='auto')
    others_of_D = {'FromRGB_lod1/weight': np.zeros([1, 1, 3, 8], np.float32), 'lod': np.zeros([], np.float32)}
    stored_D = tf_D(D, counting_down=True, function='D_stylegan', extra=others_of_D)
    data = tensorflow.convert((stored, stored_D, stored), 'net.pkl')
    assert_same_images(data['G_ema'], G)
    assert_same_logits(data['D'], D)

    stored = tf_G(G, counting_down=True, extra=others)  # known by the names alone
    assert_same_images(tensorflow.convert(stored, 'net.pkl')['G_ema'], G)
    stored = tf_G(G, True, function='G_synthesis_stylegan_revised', architecture='skip')  # which it does not read
    assert_same_images(tensorflow.convert(stored, 'net.pkl')['G_ema'], G)


@pytest.mark.parametrize('prefixes', [('G_mapping/', 'G_synthesis/'), ('mapping/', 'synthesis/'), ('', '')])
def test_generator_as_one_network(prefixes):
    G = make_G()
    stored = tf_G(G)
    parts = mapping_variables(G.mapping), synthesis_variables(G.synthesis)
    joined = {f'{prefix}{name}': array for prefix, part in zip(prefixes, parts) for name, array in part.items()}
    stored.state['variables'] += joined.items()
    del stored.state['components']
    assert_same_images(tensorflow.convert(stored, 'net.pkl')['G_ema'], G)


def test_one_generator_is_enough():
    G, other, D = make_G(), make_G(), make_D()
    other.mapping.w_avg += 1
    for stored in (tf_G(G), [tf_G(G)], (None, None, tf_G(G))):
        assert tensorflow.is_tensorflow(stored)
        data = tensorflow.convert(stored, 'net.pkl')
        assert data['G'] is data['D'] is None
        assert_same(data['G_ema'], G)
    data = tensorflow.convert([tf_G(other), tf_G(G)], 'net.pkl')
    assert_same(data['G_ema'], G)
    assert_same(data['G'], other)
    assert '0 generators and 1 discriminators' in refusal([tf_D(D)])
    assert '3 generators' in refusal([tf_G(G)] * 3)
    assert 'more than' in refusal([tf_G(G)] * 4)
    assert 'more than' in refusal([tf_G(G), {}])


@pytest.mark.parametrize('data', [None, {}, [], (), {'G_ema': None}, [1, 'a'], 'Network'])
def test_what_is_not_tensorflow(data):
    assert not tensorflow.is_tensorflow(data)


# ---------------------------------------------------------------------------------------------------------------------
# Keywords


def test_defaults_are_those_of_the_tensorflow_code():
    keywords = dict(latent_size=6, dlatent_size=8, resolution=16, fmap_base=np.int64(32), fmap_max=np.float32(8))
    G = make_G(num_layers=8)
    stored = network(mapping_variables(G.mapping) | synthesis_variables(G.synthesis), keywords)
    stored.state['variables'].append(('dlatent_avg', numpy_of(G.mapping.w_avg)))
    result = tensorflow.convert(stored, 'net.pkl')['G_ema']
    assert_same_images(result, G)
    assert result.init_kwargs['mapping_kwargs'] == dict(
        num_layers=8, embed_features=None, layer_features=None, activation='lrelu', lr_multiplier=0.01, w_avg_beta=0.995
    )


def test_keywords_arrive():
    G = make_G(use_noise=False, activation='relu', resample_filter=[1, 2, 1], conv_clamp=5.5)
    stored = tf_G(
        G, use_noise=0, nonlinearity='relu', resample_kernel=np.array([1, 2, 1]), conv_clamp=np.float64(5.5),
        num_fp16_res=2, mapping_lrmul=0.02, mapping_nonlinearity='elu', dlatent_avg_beta=None,
        extra={'noise0': np.zeros([1, 1, 4, 4], np.float32)},
        # without a meaning here
        truncation_psi=0.5, truncation_cutoff=8, style_mixing_prob=0.9, randomize_noise=True, fused_modconv=True,
        synthesis_func='G_synthesis_stylegan2', mapping_func='G_mapping', is_template_graph=True, fmap_decay=1.0,
        fmap_min=1, normalize_latents=True, dtype='float32', structure='auto', of_some_fork=None,
    )  # fmt: skip
    result = tensorflow.convert(stored, 'net.pkl')['G_ema']
    assert_same(result, G)
    assert result.init_kwargs['synthesis_kwargs'] == dict(
        channel_base=64, channel_max=8, num_fp16_res=2, conv_clamp=5.5, architecture='skip', resample_filter=[1, 2, 1],
        use_noise=False, activation='relu',
    )  # fmt: skip
    mapping_kwargs = result.init_kwargs['mapping_kwargs']
    assert (mapping_kwargs['lr_multiplier'], mapping_kwargs['activation']) == (0.02, 'elu')
    assert mapping_kwargs['w_avg_beta'] == 1

    D = make_D(epilogue_kwargs=dict(mbstd_group_size=2, mbstd_num_channels=2), block_kwargs=dict(freeze_layers=2))
    stored = tf_D(D, mbstd_group_size=2, mbstd_num_features=2, freeze_layers=2, resample_kernel=None)
    result = tensorflow.convert([stored, tf_G(make_G())], 'net.pkl')['D']
    assert list(dict(result.named_buffers())) == list(dict(D.named_buffers()))
    assert result.init_kwargs['block_kwargs']['resample_filter'] == [1, 1]
    assert torch.equal(result.b16.conv1.resample_filter, torch.full([2, 2], 0.25))


def test_sizes_that_the_code_left_open_come_from_the_arrays():
    """What None meant has changed: 512, the latent's size, the channels of another resolution."""
    options = dict(mapping_kwargs=dict(num_layers=3, embed_features=6, layer_features=7))
    G = on_a_grid(Generator(6, 4, 8, 16, 3, synthesis_kwargs=dict(channel_base=64, channel_max=8), **options))
    D = make_D(c_dim=4, cmap_dim=11)
    data = tensorflow.convert([tf_G(G), tf_D(D, mapping_layers=2, mapping_lrmul=0.01)], 'net.pkl')
    assert_same_images(data['G_ema'], G)
    assert_same_logits(data['D'], D)


def test_discriminator_without_further_mapping_layers_or_minibatch_deviation():
    D = make_D(c_dim=4, num_layers=0, epilogue_kwargs=dict(mbstd_num_channels=0))
    assert [name for name, _ in D.mapping.named_parameters()] == ['embed.weight', 'embed.bias']
    result = tensorflow.convert([tf_G(make_G(c_dim=4)), tf_D(D, mbstd_group_size=1)], 'net.pkl')['D']
    assert_same_logits(result, D)
    assert len(result.mapping(None, torch.eye(4)).unique(dim=0)) == 4


BAD_KEYWORDS = dict(
    resolution=[2**40, 17, 0, -4, 4.5, True, None, '16', [16], float('nan'), float('inf'), 10**5000],
    latent_size=[0, -1, 2**40, {}, b'6'],
    mapping_layers=[10**9, -1, 1.5, None],
    fmap_base=[0, 4, 10**400, float('inf'), 'all'],
    fmap_max=[0, 2**60],
    fmap_min=[2],
    fmap_decay=[0.5, [1]],
    normalize_latents=[False],
    dtype=['float64', 5],
    architecture=['fancy', 3, ['skip']],
    nonlinearity=['gelu', 'x' * 10**6, None],
    resample_kernel=[[], 'lanczos', [1] * 1000, [[1, 2], [3]], [[[1]]], [1, [2]], [0, 0], [1, 'x'], np.ones(10**5)],
    conv_clamp=[-1, 'none'],
    use_noise=['yes', 2],
    mapping_lrmul=[0, float('nan')],
    w_avg_beta=[2],
    num_fp16_res=[10**9],
    use_spectral_norm=[True, False],
    something_of_a_fork=[0],
)


@pytest.mark.parametrize('keyword', BAD_KEYWORDS)
def test_keywords_that_are_refused_by_name(keyword):
    stored = tf_G(make_G())
    for value in BAD_KEYWORDS[keyword]:
        stored.state['static_kwargs'].pop('architecture', None)
        started = time.monotonic()
        stored.state['static_kwargs'][keyword] = value
        assert keyword in refusal((stored, None, stored))
        assert time.monotonic() - started < 5


def test_absurd_but_possible_sizes_cost_nothing():
    stored = tf_G(make_G())
    stored.state['static_kwargs'].update(
        latent_size=2**24, dlatent_size=2**24, fmap_base=10**7, fmap_max=2**24, resolution=2**15, mapping_layers=1000,
        num_channels=2**24, label_size=2**24,
    )  # fmt: skip
    assert 'missing' in refusal(stored)


def test_one_array_under_many_names_is_not_multiplied():
    stored = tf_G(make_G())
    stored.state['static_kwargs'].update(latent_size=512, dlatent_size=512, mapping_layers=200)
    weight, bias = np.zeros([512, 512], np.float32), np.zeros(512, np.float32)
    stored.state['components']['mapping'].state['variables'] = [
        (f'Dense{index}/{name}', array) for index in range(200) for name, array in (('weight', weight), ('bias', bias))
    ]
    stored.state['variables'][0] = ('dlatent_avg', bias)
    synthesis = stored.state['components']['synthesis'].state
    synthesis['variables'] = [
        (name, np.zeros([512, array.shape[1]], np.float32) if name.endswith('mod_weight') else array)
        for name, array in synthesis['variables']
    ]
    tracemalloc.start()
    assert 'larger than the file' in refusal(stored)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


# ---------------------------------------------------------------------------------------------------------------------
# Variables


def test_missing_left_over_and_misshapen_variables_are_named():
    stored = tf_G(make_G(), extra={'32x32/Conv1/weight': np.zeros([3, 3, 4, 4]), 'noise9': np.zeros([1, 1, 4, 4])})
    pairs = stored.state['components']['synthesis'].state['variables']
    pairs[:] = [pair for pair in pairs if pair[0] not in ('8x8/Conv1/mod_bias', 'noise3')]
    text = refusal((None, None, stored))
    assert '2 missing (noise3, 8x8/Conv1/mod_bias)' in text
    assert '2 unknown (32x32/Conv1/weight, noise9)' in text
    assert text.startswith('net.pkl: G_ema was not opened: ')

    stored = tf_G(make_G())
    stored.state['components']['mapping'].state['variables'] = []
    stored.state['components']['synthesis'].state['variables'] += [(f'{i}' * 10**5, np.zeros(1)) for i in range(9)]
    text = refusal(stored)
    assert '4 missing (Dense0/weight, Dense1/weight, Dense0/bias, Dense1/bias)' in text
    assert '9 unknown' in text and 'and 4 more' in text

    stored = tf_D(make_D(), extra={'Output/weight': np.zeros([8, 2]), '16x16/Conv0/bias': np.zeros([4, 1])})
    text = refusal((tf_G(make_G()), stored, tf_G(make_G())))
    assert text.startswith('net.pkl: D was not opened: ') and '2 of another shape' in text
    assert 'Output/weight [8, 2] for b4.out.weight [1, 8]' in text
    assert '16x16/Conv0/bias [4, 1] for b16.conv0.bias [4]' in text


def test_keyword_and_variables_that_contradict_each_other():
    stored = tf_G(make_G('resnet'), architecture='skip')
    assert '16x16/Skip/weight' in (text := refusal(stored)) and '4x4/ToRGB/weight' in text
    stored = tf_G(make_G())
    stored.state['static_kwargs']['label_size'] = 3
    assert 'LabelEmbed/weight' in refusal(stored)


def test_values_of_other_types_become_float32():
    G = make_G()
    stored = tf_G(G)
    for state in (stored.state, *(part.state for part in stored.state['components'].values())):
        state['variables'] = [(name, np.asarray(array, '>f8')) for name, array in state['variables']]
    assert_same(tensorflow.convert(stored, 'net.pkl')['G_ema'], G)
    stored.state['variables'][0] = ('dlatent_avg', np.full(8, 1e300))
    assert tensorflow.convert(stored, 'net.pkl')['G_ema'].mapping.w_avg.isinf().all()


# ---------------------------------------------------------------------------------------------------------------------
# Networks of others


def test_other_networks_are_refused_with_the_reason():
    one = np.zeros([1], np.float32)
    assert 'StyleGAN (the first version)' in refusal(network({'4x4/Const/const': one}, function='G_style', version=3))
    assert 'StyleGAN (the first version)' in refusal(network({'4x4/Const/StyleMod/weight': one}))
    assert 'Progressive GAN' in refusal(network({'4x4/Dense/weight': one}, function='G_paper', version=2))
    assert 'neither a generator nor a discriminator' in refusal(network({'conv1_1/weight': one}, function='vgg16'))
    text = refusal([tf_G(make_G()), network({'conv1_1/weight': one})])
    assert text.startswith('net.pkl: network 2 of 2 ')
    G = tf_G(make_G())
    G.state['version'] = 3
    assert 'its version is 3' in refusal(G)


def test_conditional_generator_of_stylegan2_is_refused_with_the_reason():
    G = tf_G(make_G(), extra={'LabelConcat/weight': np.zeros([4, 6], np.float32)})
    assert 'before StyleGAN2-ADA' in (text := refusal(G)) and 'LabelConcat' in text


def test_network_that_was_still_growing_is_refused():
    G = tf_G(make_G('orig'), counting_down=True, function='G_synthesis_stylegan_revised')
    G.state['variables'][1] = ('lod', np.float32(1.5))
    assert 'growing' in refusal(G)
    G = tf_G(make_G())
    G.state['variables'][1] = ('lod', np.float32(1.5))  # left from a class that has the variable and no use for it
    tensorflow.convert(G, 'net.pkl')


# ---------------------------------------------------------------------------------------------------------------------
# Damage


def deep_list(depth=10**5):
    value = []
    for _ in range(depth):
        value = [value]
    return value


ODD_VALUES = {
    'none': None, 'number': 5, 'text': 'x' * 10**6, 'bytes': b'x', 'list': [1, 2], 'dict': {'a': 1}, 'set': {1},
    'nan': float('nan'), 'array of texts': np.array(['a']), 'array of objects': np.array([object()]),
    'array of complex numbers': np.zeros(3, complex), 'array of dates': np.zeros(3, 'M8[s]'), 'empty': np.zeros([0]),
    'array of many axes': np.zeros([1] * 30), 'tensor': torch.zeros(3), 'deep': deep_list(), 'huge': 10**6000,
    'dict of numbers': {1: 2}, 'pairs': [('a', 1), ('a', 1)], 'network': TensorFlowNetwork(),
}  # fmt: skip


@pytest.mark.parametrize('key', ['version', 'static_kwargs', 'components', 'variables'])
@pytest.mark.parametrize('kind', ODD_VALUES)
def test_states_of_wrong_types(key, kind):
    stored = tf_G(make_G())
    stored.state[key] = ODD_VALUES[kind]
    if not ((key == 'version' and kind in ('number', 'huge')) or (key == 'components' and kind == 'none')):
        assert refusal((stored, None, stored))
    del stored.state[key]
    assert refusal((stored, None, stored))


@pytest.mark.parametrize('kind', ODD_VALUES)
def test_variables_of_wrong_types(kind):
    for pair in ODD_VALUES[kind], ('dlatent_avg', ODD_VALUES[kind]), (ODD_VALUES[kind], np.zeros(3)):
        stored = tf_G(make_G())
        stored.state['variables'] = [pair]
        assert refusal(stored)
    stored = tf_G(make_G())
    stored.state['components']['mapping'] = ODD_VALUES[kind]
    assert refusal(stored)
    stored = tf_G(make_G())
    stored.state = ODD_VALUES[kind]
    assert refusal(stored)


def test_duplicates_and_loops():
    stored = tf_G(make_G())
    stored.state['variables'] *= 2
    assert 'two variables dlatent_avg' in refusal(stored)
    stored = tf_G(make_G(), extra={'ToRGB_lod0/weight': np.zeros(3)})
    assert 'two variables 16x16/ToRGB/weight' in refusal(stored)
    stored = tf_G(make_G())
    stored.state['components']['mapping'].state['components'] = {'outside': stored}
    assert 'contains itself' in refusal(stored)


def test_random_damage_ends_in_one_error(monkeypatch):
    """Bytes of a pickle, and nodes of what it holds, replaced by others."""
    rng = random.Random(0)
    G = tf_G(make_G('orig'))
    content = pickled((G, tf_D(make_D('orig')), G), monkeypatch)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 1, 2, 10])):
            position = rng.randrange(len(damaged))
            damaged[position : position + rng.choice([0, 1, 1, 5])] = rng.randbytes(rng.choice([0, 1, 1, 5]))
        try:
            data = safe_pickle.loads(bytes(damaged), sources.READERS)
        except pickle.UnpicklingError:
            continue
        for _ in range(rng.choice([0, 1, 2])):
            replace_a_node(data, rng)
        try:
            if tensorflow.is_tensorflow(data):
                tensorflow.convert(data, 'net.pkl')
        except NetworkPickleError:
            refused += 1
    assert refused > 20


def replace_a_node(data, rng):
    """Go down from `data` at random, and put something odd in place of what is there."""
    while True:
        node = data.state if isinstance(data, TensorFlowNetwork) else data
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, (list, tuple)) else []
        if not keys:
            return
        key = rng.choice(list(keys))
        if not isinstance(node, tuple) and rng.random() < 0.3:
            node[key] = rng.choice(list(ODD_VALUES.values()))
            return
        data = node[key]
