"""Hand-made pickles and safetensors files that try to run something, to hang, or to exhaust memory.

`attacks` returns all of them by name, for `scripts/fuzz_pickles.py`. A reader must refuse every one.
"""

from __future__ import annotations

import json
import struct

from scripts.fuzzing.pickle_parts import (
    array,
    dict_of,
    dtype_of,
    get,
    integer,
    load_from,
    long_double,
    named,
    number,
    put,
    raw_bytes,
    scalar,
    storage_bytes,
    text,
)

MADE_BY_ATTACK = 'made-by-attack'
"""Name of the file that exists in the working directory once an attack has run its command."""

_COMMAND_TEXT = f'touch {MADE_BY_ATTACK}'


# ---------------------------------------------------------------------------------------------------------------------
# Building blocks


def _as_generator(value: bytes) -> bytes:
    """Return a pickle of {'G_ema': value}."""
    return b'\x80\x04}' + text('G_ema') + value + b's.'


def _persistent(class_name: bytes, state: bytes, source: bytes | None = None) -> bytes:
    """Return the instructions that create a persistent object."""
    source = text('raise SystemExit') if source is None else source
    items = (text('type') + text('class') + text('version') + b'K\x06' + text('module_src') + source
             + text('class_name') + class_name + text('state') + state)  # fmt: skip
    return named('torch_utils.persistence', '_reconstruct_persistent_obj') + b'}(' + items + b'u\x85R'


def _generator_with(kwargs: bytes) -> bytes:
    state = b'}(' + text('_init_args') + b')' + text('_init_kwargs') + kwargs + b'u'
    return _as_generator(_persistent(text('Generator'), state))


def _doubled(levels: int) -> bytes:
    """Return a list that contains its predecessor twice, again and again: 2 ** levels leaves in a few bytes."""
    content = b'K\x01'
    for level in range(levels):
        content += put(level) + b'](' + get(level) * 2 + b'e'
    return content


def _plain_options(**changes: bytes) -> bytes:
    return dict_of(**{'z_dim': b'K\x04', 'c_dim': b'K\x00', 'w_dim': b'K\x04', 'img_resolution': b'K\x08',
                    'img_channels': b'K\x01', **changes})  # fmt: skip


def _deep_modules(depth: int) -> bytes:
    content = b'}'
    for _ in range(depth):
        content = dict_of(_modules=dict_of(x=_persistent(text('Generator'), content)))
    return _persistent(text('Generator'), content)


def _module_in_itself() -> bytes:
    state = dict_of(_modules=dict_of(x=b'j\7\0\0\0'))
    return named('training.networks', 'Generator') + b')\x81r\7\0\0\0' + state + b'b'


def _under_many_keys(value: bytes, count: int) -> bytes:
    """Return a pickle of a dict with this value under many keys, and no generator."""
    return b'\x80\x04}(' + b''.join(text(f'n{k}') + value for k in range(count)) + text('G_ema') + b'Nu.'


def _safetensors(networks: object) -> bytes:
    metadata = {'format': 'ada-gan-networks', 'version': '1', 'networks': json.dumps(networks), 'other': '{}'}
    header = json.dumps({'__metadata__': metadata}).encode()
    return struct.pack('<Q', len(header)) + header


_COMMAND = text(_COMMAND_TEXT)
_AGAIN = b'j\0\0\0\0'  # pushes the value that was stored first

# ---------------------------------------------------------------------------------------------------------------------
# Attacks


def attacks() -> dict[str, bytes]:
    """Return all attacks by name."""
    return {
        **function_calls(),
        **hidden_calls(),
        **exhausting_structures(),
        **exhausting_values(),
        **absurd_sizes(),
        **stylegan3_generators(),
        **shared_descriptions(),
        **odd_numbers(),
        **class_names(),
        **raw_files(),
    }


def function_calls() -> dict[str, bytes]:
    """Return pickles that call a function."""
    return {
        f'call of {module}.{name}': _as_generator(named(module, name) + _COMMAND + b'\x85R')
        for module, name in [
            ('os', 'system'), ('posix', 'system'), ('nt', 'system'), ('builtins', 'eval'), ('builtins', 'exec'),
            ('__builtin__', 'eval'), ('builtins', '__import__'), ('builtins', 'getattr'), ('builtins', 'open'),
            ('builtins', 'breakpoint'), ('subprocess', 'Popen'), ('subprocess', 'check_output'), ('os', 'popen'),
            ('runpy', 'run_path'), ('importlib', 'import_module'), ('pickle', 'loads'), ('marshal', 'loads'),
            ('torch', 'load'), ('torch.hub', 'load'), ('torch.jit', 'load'), ('torch.serialization', 'load'),
            ('torch.utils.cpp_extension', 'load_inline'), ('numpy', 'load'), ('numpy.testing', 'runstring'),
            ('dnnlib.util', 'call_func_by_name'), ('dnnlib.util', 'get_obj_by_name'), ('dnnlib.util', 'open_url'),
            ('torch_utils.persistence', '_module_from_source'), ('torch_utils.persistence', 'import_hook'),
            ('shutil', 'rmtree'), ('socket', 'create_connection'), ('ctypes', 'CDLL'), ('code', 'interact'),
            ('types', 'FunctionType'), ('functools', 'partial'), ('operator', 'methodcaller'),
            ('legacy', 'load_network_pkl'), ('collections', 'namedtuple'), ('copyreg', '__newobj__'),
        ]
    }  # fmt: skip


def hidden_calls() -> dict[str, bytes]:
    """Return pickles that call a function through less common instructions, or in nested data."""
    hostile = b'\x80\x02' + named('os', 'system') + _COMMAND + b'\x85R.'
    embedded = _persistent(text('Generator'), b'}', source=text(f'import os; os.system("{_COMMAND_TEXT}")'))
    return {
        'nested reduce': _as_generator(named('builtins', 'eval') + named('builtins', 'input') + b')R\x85R'),
        'INST': b'(' + _COMMAND + b'ios\nsystem\n.',
        'OBJ': b'(' + named('os', 'system') + _COMMAND + b'o.',
        'NEWOBJ': _as_generator(named('os', 'system') + _COMMAND + b'\x85\x81'),
        'NEWOBJ_EX': _as_generator(named('os', 'system') + _COMMAND + b'\x85}\x92'),
        'STACK_GLOBAL': _as_generator(text('os') + text('system') + b'\x93' + _COMMAND + b'\x85R'),
        'STACK_GLOBAL with dots': _as_generator(text('torch') + text('os.system') + b'\x93' + _COMMAND + b'\x85R'),
        'GLOBAL with dots': _as_generator(named('collections', 'OrderedDict.fromkeys') + _COMMAND + b'\x85R'),
        'extension registry': _as_generator(b'\x82\x01' + _COMMAND + b'\x85R'),
        'persistent id': _as_generator(text('os.system') + b'Q'),
        'state of a name': _as_generator(named('collections', 'OrderedDict') + dict_of(__call__=b'N') + b'b'),
        'hostile pickle inside a storage': _as_generator(load_from(hostile)),
        'hostile key list inside a storage': _as_generator(load_from(storage_bytes(1, b'1234')[:-30] + hostile)),
        'hostile reference inside a storage': _as_generator(load_from(storage_bytes(1, b'1234', inner=hostile))),
        'zip of torch.save inside a storage': _as_generator(load_from(b'PK\x03\x04' + b'\0' * 100)),
        'source text with a side effect': _as_generator(embedded),
        'array of objects': _as_generator(named('numpy', 'dtype') + text('O') + b'\x89\x88\x87R'),
        'dtype with fields': _as_generator(named('numpy', 'dtype') + text('f4,O') + b'\x89\x88\x87R'),
        'hidden behind STOP': b'\x80\x02N.' + hostile,
    }  # fmt: skip


def exhausting_structures() -> dict[str, bytes]:
    """Return pickles with endless or very deep structures, or with expensive instructions repeated many times."""
    big_list = b'](' + b'K\x01' * 200_000 + b'e' + b'r\0\0\0\0' + b'0'
    return {
        'nesting of 400,000 lists': b']' * 400_000 + b'a' * 399_999 + b'.',
        'nesting of 400,000 tuples': _as_generator(b')' + b'\x85' * 400_000),
        'nested persistent objects': _as_generator(_deep_modules(2000)),
        'a module inside itself': _as_generator(_module_in_itself()),
        'a list that doubles 60 times, as argument': _generator_with(_plain_options(mapping_kwargs=_doubled(60))),
        'a list that doubles 60 times, as filter': _generator_with(
            _plain_options(synthesis_kwargs=dict_of(resample_filter=_doubled(60)))
        ),
        'a list that doubles 60 times, as name': _as_generator(_doubled(60) + text('x') + b'\x93'),
        'a list that doubles 60 times, as class': _as_generator(_persistent(_doubled(60), b'}')),
        'a list that doubles 60 times, as dtype': _as_generator(named('numpy', 'dtype') + _doubled(60) + b'\x85R'),
        'a list that doubles 60 times, as shape': _as_generator(
            named('torch', 'Size') + _doubled(60) + b'\x85R'
        ),
        'a list that doubles 60 times, in place of networks': _doubled(60) + b'.',
        'nesting of 90,000 objects': raw_bytes(bytes(5_000_000)) + b'0' + named('training.networks', 'Generator')
        + put(1) + b'N' + put(0)
        + (get(1) + b')\x81}' + text('x') + get(0) + b'sb' + put(0)) * 90_000 + _as_generator(get(0)),
        'a list of 200,000 made a set 50,000 times': big_list
        + (named('builtins', 'set') + b'r\1\0\0\0' + b'0')
        + (b'j\1\0\0\0' + _AGAIN + b'\x85R0') * 50_000
        + b'N.',
        'bytes of a megabyte encoded 30,000 times': text('x' * 1_000_000) + b'r\0\0\0\0' + b'0'
        + (named('_codecs', 'encode') + _AGAIN + text('latin1') + b'\x86R0') * 30_000 + b'N.',
        'the same storage read 20,000 times': raw_bytes(storage_bytes(250_000, b'\0' * 1_000_000)) + b'r\0\0\0\0' + b'0'
        + (named('torch.storage', '_load_from_bytes') + _AGAIN + b'\x85R') * 20_000 + b'N.',
        'three million empty sets': b'\x8f' * 3_000_000 + b'.',
        'keys whose hashes are equal': b'}('
        + b''.join(integer(k * (2**61 - 1)) + b'N' for k in range(1, 60_000)) + b'u.',
        'an integer of a million digits': b'I' + b'9' * 1_000_000 + b'\n.',
        'a long of a million digits': b'L' + b'9' * 1_000_000 + b'L\n.',
        'a text that claims 2 GB': b'\x80\x04B\xff\xff\xff\x7fabc.',
        'a text that claims 2^63 bytes': b'\x80\x04\x8e' + b'\xff' * 7 + b'\x7fabc.',
        'a frame that claims 2^64 bytes': b'\x80\x04\x95' + b'\xff' * 8 + b'N.',
        'an option of 300,000 bits': _generator_with(_plain_options(z_dim=integer(2**300_000))),
        'layers of 300,000 bits': _generator_with(
            _plain_options(mapping_kwargs=dict_of(num_layers=integer(2**300_000)))
        ),
        'a memo at 2^32': b'Nr\xff\xff\xff\xff.',
        'a storage that claims 2^40 values': _as_generator(load_from(storage_bytes(2**40, b'1234'))),
        'a storage that claims -1 values': _as_generator(load_from(storage_bytes(-1, b'1234'))),
        'a tensor larger than its storage': _as_generator(
            named('torch._utils', '_rebuild_tensor_v2') + b'(' + load_from(storage_bytes(1, b'1234'))
            + b'K\0' + integer(2**40) + b'\x85' + b'K\0\x85\x89NtR'
        ),
    }  # fmt: skip


def exhausting_values() -> dict[str, bytes]:
    """Return pickles with values that are expensive to process."""
    empty_rows = named('numpy.core.multiarray', '_reconstruct') + named('numpy', 'ndarray') + b'K\0\x85C\1b\x87R'
    dtype = named('numpy', 'dtype') + text('f4') + b'\x89\x88\x87R'
    endless_range = named('builtins', 'range') + integer(10**12) + b'\x85R'
    rows = b'(K\1' + integer(2**25) + b'K\0\x86' + dtype + b'\x89C\0tb'
    aliased = b'r\1\0\0\0' + b''.join(text(f'p{k}') + b'j\1\0\0\0' for k in range(40_000))
    storage = load_from(storage_bytes(1, b'1234'))
    tensor = named('torch._utils', '_rebuild_tensor_v2') + b'(' + storage + b'K\0))\x89NtR'
    many_layers = _plain_options(mapping_kwargs=dict_of(num_layers=integer(30_000)))
    copies = b'](' + b'K\1' * 20 + b'e' + b'r\0\0\0\0' + b'0'
    return {
        'a set of an endless range': named('builtins', 'set') + endless_range + b'\x85R.',
        'a dict of an endless range': named('builtins', 'dict') + endless_range + b'\x85R.',
        'an endless range as the state of an array': empty_rows + endless_range + b'b.',
        'an endless range as the state of a dtype': dtype + endless_range + b'b.',
        'a text as the state of an array': empty_rows + text('x' * 10_000_000) + b'b.',
        'an array of 2^25 empty rows': _generator_with(_plain_options(mapping_kwargs=empty_rows + rows)),
        'an array of 2^25 empty rows, as bands': _as_generator(
            _persistent(text('AugmentPipe'), dict_of(_init_kwargs=dict_of(imgfilter_bands=empty_rows + rows)))
        ),
        '30,000 layers of one tensor': _as_generator(
            _persistent(text('Generator'), dict_of(_init_kwargs=many_layers, _parameters=b'}(' + tensor + aliased[:5]
                        + b'0' + aliased[5:] + b'u'))
        ),
        'layers counted by an array': _generator_with(_plain_options(mapping_kwargs=dict_of(
            num_layers=named('numpy.core.multiarray', 'scalar') + named('numpy', 'dtype') + text('f8')
            + b'\x89\x88\x87R' + raw_bytes(struct.pack('<d', 3e8)) + b'\x86R'))),
        'a list of 20 made a set 330,000 times': copies + named('builtins', 'set') + b'r\1\0\0\0' + b'0]('
        + (b'j\1\0\0\0' + _AGAIN + b'\x85R') * 330_000 + b'e.',
        'memo places whose hashes are equal': b'N'
        + b''.join(b'p%d\n' % (k * (2**61 - 1)) for k in range(60_000)) + b'.',
        'a dtype that is a program': named('numpy', 'dtype') + text('(,,)f4') + b'\x89\x88\x87R.',
        'a name of 20 MB of short words': text('ab ' * 7_000_000) + text('x') + b'\x93.',
        'a class name of 20 MB of short words': _as_generator(_persistent(text('ab ' * 7_000_000), b'}')),
        'a text in place of options': _generator_with(_plain_options(synthesis_kwargs=text('abc'))),
        'class names that double 60 times': b'\x80\x04}(' + text('class_names') + _doubled(60) + text('G_ema')
        + b'Nu.',
        'a list 50,000 deep beside the networks': b'\x80\x04}(' + text('more') + b']' * 50_000 + b'a' * 49_999
        + text('G_ema') + b'Nu.',
        'a generator that is a discriminator': _as_generator(_persistent(text('MinibatchStdLayer'),
            dict_of(_init_args=b'K\4\x85'))),
    }  # fmt: skip


def absurd_sizes() -> dict[str, bytes]:
    """Return pickles of networks with absurd sizes."""
    sizes = {
        f'{name}={value:.3g}': _generator_with(_plain_options(**{name: integer(value)}))
        for name in ('z_dim', 'c_dim', 'w_dim', 'img_resolution', 'img_channels')
        for value in (2**20, 2**31, 2**62, 2**1000, -1)
    }
    nested_sizes = {
        f'{group}: {name}={value:.3g}': _generator_with(_plain_options(**{group: dict_of(**{name: integer(value)})}))
        for group, name in [
            ('mapping_kwargs', 'num_layers'), ('mapping_kwargs', 'layer_features'),
            ('mapping_kwargs', 'embed_features'), ('synthesis_kwargs', 'channel_base'),
            ('synthesis_kwargs', 'channel_max'), ('synthesis_kwargs', 'kernel_size'),
            ('synthesis_kwargs', 'num_fp16_res'),
        ]
        for value in (2**31, 2**1000)
    }  # fmt: skip
    return {**sizes, **nested_sizes}


def stylegan3_generators() -> dict[str, bytes]:
    """Return pickles of StyleGAN3 generators with absurd options; their constructors design filters.

    All have a hundred small tensors, as many as the layers that they may ask for.
    """
    tensor = (named('torch._utils', '_rebuild_tensor_v2') + b'(' + load_from(storage_bytes(1, b'1234'))
              + b'K\0))\x89NtR')  # fmt: skip
    names = b''.join(text(f'synthesis.L{k}_36_4.magnitude_ema') + get(7) for k in range(100))
    tensors = tensor + put(7) + b'}(' + names + b'u' + put(8)
    integers = {
        f'{name}={value:.3g}': {name: integer(value)}
        for name in ('img_resolution', 'channel_base', 'channel_max', 'num_layers', 'num_critical', 'margin_size',
                     'filter_size', 'lrelu_upsampling', 'conv_kernel', 'num_fp16_res')
        for value in (-1, 100_000, 2**62)
    }  # fmt: skip
    numbers = {
        f'{name}={value}': {name: number(value)}
        for name in ('first_cutoff', 'first_stopband', 'last_stopband_rel')
        for value in (1e-300, 1e18, float('nan'), float('inf'), -2.0)
    }
    sides = array(dtype_of('i8'), 2, struct.pack('<2q', 9, 2**40))
    kinds = {
        f'{name} of an odd type, {index}': {name: value}
        for name in ('num_layers', 'num_critical', 'margin_size', 'filter_size', 'img_resolution', 'mapping_kwargs')
        for index, value in enumerate([text('14'), b')', dict_of(x=b'K\1'), number(0.5), _doubled(60), sides])
    }
    largest = {'img_resolution': integer(2**13), 'num_layers': b'K\x64', 'num_critical': b'K\0',
               'filter_size': b'K\x10', 'lrelu_upsampling': b'K\4'}  # fmt: skip
    few = {'num_layers': b'K\3', 'num_critical': b'K\1', 'first_cutoff': number(0.3), 'first_stopband': number(0.5)}
    others = {
        'the most that is allowed': largest,
        'the largest step': {**largest, **few},
        'thousands of layers, nested': {'synthesis_kwargs': dict_of(num_layers=integer(5000))},
        'thousands of mapping layers': {'mapping_kwargs': dict_of(num_layers=integer(5000))},
    }
    options = {**integers, **numbers, **kinds, **others}
    state = {
        f'StyleGAN3: {name}': dict_of(_parameters=get(8), _init_kwargs=_plain_options(
            **{'img_resolution': b'K\x20', 'use_radial_filters': b'\x88', 'first_cutoff': b'K\2', **changes}))
        for name, changes in options.items()
    }  # fmt: skip
    huge = named('torch._utils', '_rebuild_tensor_v2') + b'(' + load_from(storage_bytes(1, b'1234')) + b'K\0('
    huge += integer(2**40) + b'K\2t(K\0K\0t\x89NtR'
    state['StyleGAN3: frequencies of 2^41 values in 4 bytes'] = dict_of(
        _buffers=dict_of(**{'synthesis.input.freqs': huge}), _init_kwargs=_plain_options()
    )
    return {name: tensors + _as_generator(_persistent(text('Generator'), content)) for name, content in state.items()}


def shared_descriptions() -> dict[str, bytes]:
    """Return files in which thousands of networks, modules or lists share one description of a few bytes."""
    padding = raw_bytes(b'\0' * 4_000_000) + b'0'  # a larger file may cost more
    weight = (named('torch._utils', '_rebuild_tensor_v2') + b'(' + load_from(storage_bytes(1, b'1234'))
              + b'K\0(K\1K\1t(K\1K\1t\x89NtR')  # fmt: skip
    layer = named('training.networks', 'FullyConnectedLayer') + put(0)
    state = dict_of(_init_args=b'(K\1K\1\x89t', _parameters=dict_of(weight=weight))
    another = get(0) + b')\x81' + get(1) + b'b'
    entries = b'}(' + b''.join(text(f'p{k}') + b'N' for k in range(20_000)) + b'u'
    alike = b'}(' + b''.join(text(f'k{k}') + get(1) for k in range(20_000)) + b'u'
    variables = b'](' + text('4x4/Const/const') + get(1) + b'\x86e'
    others = b'}(' + b''.join(text(f'm{k}') + another for k in range(10_000)) + b'u'
    network = named('tflib', 'Network') + put(0)
    keywords = dict_of(static_kwargs=entries, variables=b']', version=b'K\5')
    outer = dict_of(components=others, static_kwargs=b'}', variables=b']', version=b'K\5')
    itself = b']' + put(0) + get(0) + b'(' + get(0) * 300_000 + b'e0'
    option = b'}' + put(0) + get(0) + b'(' + b''.join(integer(k) + get(0) for k in range(100_000)) + b'u0'
    described = {f'n{k}': {'class_name': 'MinibatchStdLayer', 'init_args': [4]} for k in range(40_000)}
    return {
        'networks that share a description': padding + layer + state + put(1) + _under_many_keys(another, 30_000),
        'modules that share their buffers': layer + dict_of(_buffers=entries) + put(1)
        + _as_generator(get(0) + b')\x81' + dict_of(_modules=others) + b'b'),
        'networks of TensorFlow that share their keywords': padding + network + keywords + put(1)
        + get(0) + b')\x81' + outer + b'b.',
        'keywords of TensorFlow that share an array': network + array(dtype_of('f4'), 4096, bytes(4 * 4096)) + put(1)
        + get(0) + b')\x81' + dict_of(static_kwargs=alike, variables=variables, version=b'K\5') + b'b.',
        'a list of the same text, as bands': text('\1' * 9_999) + put(0) + _as_generator(_persistent(
            text('AugmentPipe'), dict_of(_init_kwargs=dict_of(imgfilter_bands=b'](' + get(0) * 9_000 + b'e')))),
        'a long name looked up 100,000 times': text('x' * 1_000_000) + put(0) + b'('
        + (get(0) * 2 + b'\x93') * 100_000 + b't.',
        'a list that doubles 18 times, under 5,000 keys': _doubled(18) + put(99) + _under_many_keys(get(99), 5_000),
        'a list that holds itself 300,000 times': itself + _under_many_keys(get(0), 1),
        'a list that holds itself 300,000 times, as argument': itself
        + _generator_with(_plain_options(mapping_kwargs=dict_of(x=get(0)))),
        'an option that holds itself 100,000 times': option + _generator_with(_plain_options(mapping_kwargs=get(0))),
        'source text in 14 million lines': _as_generator(
            _persistent(text('Unknown'), b'}', text('ab\n' * 14_000_000))
        ),
        'a million unknown names': b'(' + named('os', 'system') * 990_000 + b't.',
        'safetensors with 40,000 networks': _safetensors(described),
    }  # fmt: skip


def odd_numbers() -> dict[str, bytes]:
    """Return pickles with numbers and arrays of NumPy that few programs write."""
    huge_keys = b''.join(scalar('f16', long_double(2000 + k % 14_000)) + b'N' for k in range(30_000))
    shared_key = named('numpy.core.multiarray', 'scalar') + put(0) + dtype_of('f16') + put(1)
    other_keys = b''.join(
        get(0) + get(1) + b'C\x10' + struct.pack('<QH6x', (1 << 63) + k, 30_000) + b'\x86RN' for k in range(50_000)
    )
    sides = array(dtype_of('f8'), 2, struct.pack('<2d', 2.0**1000, 2.0**1000))
    long_sides = array(dtype_of('f16'), 2, long_double(16_000) * 2)
    small = dict_of(channel_base=b'K\4', use_noise=b'\x89', architecture=text('orig'))
    key = text('x' * 1_000_000)
    state = b'(K\3' + text('|') + b'NNN' + b'J\xff\xff\xff\xff' * 2 + b'K\x3ftb'
    return {
        'long doubles whose hashes are equal': b'}(' + huge_keys + b'u.',
        'long doubles whose hashes are equal, in 1.4 MiB': shared_key + b'}(' + other_keys + b'u.',
        'sides of 2^1000 pixels': _generator_with(_plain_options(img_resolution=sides, synthesis_kwargs=small)),
        'sides of 2^16000 pixels': _generator_with(_plain_options(img_resolution=long_sides, synthesis_kwargs=small)),
        'a keyword of 2^16000': _generator_with(_plain_options(w_dim=scalar('f16', long_double(16_000)))),
        'a complex keyword': _generator_with(_plain_options(w_dim=scalar('c16', b'\0' * 16))),
        'a Boolean keyword of 255': _generator_with(_plain_options(w_dim=scalar('b1', b'\xff'))),
        'half precision without a number': _generator_with(_plain_options(w_dim=scalar('f2', b'\xff\xff'))),
        'keys that are not numbers': b'}(' + (scalar('f2', b'\xff\xff') + b'N') * 20_000 + b'u.',
        'long keys that are equal': key + put(0) + key + put(1) + b'}(' + (get(0) + b'N' + get(1) + b'N') * 200_000
        + b'u.',
        'a scalar of a pointer': _as_generator(scalar('O', b'A' * 8)),
        'an array of pointers': _as_generator(array(dtype_of('O'), 1, b'A' * 8)),
        'an array of pointers, by its state': _as_generator(array(dtype_of('u8') + state, 1, b'A' * 8)),
        'an array of texts': _as_generator(array(dtype_of('U2'), 1, b'\xff' * 8)),
        'an array of dates': _as_generator(array(dtype_of('M8'), 1, b'\xff' * 8)),
        'an array that is longer than its bytes': _as_generator(array(dtype_of('f8'), 2**40, b'A' * 8)),
        'an array as the shape of an array': _as_generator(
            named('numpy', 'ndarray') + array(dtype_of('u8'), 1, b'A' * 8) + b'\x85R'
        ),
        'memo places up to 2^32': b''.join(b'Nr' + struct.pack('<I', 2**32 - 1 - k * 2**20) for k in range(64)) + b'.',
    }  # fmt: skip


def class_names() -> dict[str, bytes]:
    """Return files that name functions and modules where a class belongs."""
    names = [
        'os.system', 'subprocess.Popen', 'builtins.exec', 'torch.load', 'torch_utils.persistence._module_from_source',
        'training.networks_stylegan2.Generator', 'Generator.__init__', '__builtins__', '', 'construction.build',
    ]  # fmt: skip
    arguments = dict_of(_init_args=_COMMAND + b'\x85', _init_kwargs=b'}')
    described = {'init_args': [_COMMAND_TEXT], 'init_kwargs': {}}
    function = dict_of(build_func_name=text('os.system'), static_kwargs=dict_of(func_name=text('os.system')),
                       variables=b']', version=b'K\5', build_module_src=text('raise SystemExit'))  # fmt: skip
    return {
        **{f'class {name!r}': _as_generator(_persistent(text(name), arguments)) for name in names},
        **{
            f'class {name!r} in safetensors': _safetensors({'G_ema': {'class_name': name, **described}})
            for name in names
        },
        **{
            f'object of {module}.{name}': _as_generator(named(module, name) + b')\x81' + arguments + b'b')
            for module, name in [
                ('training.networks', 'os'), ('training.networks', 'torch.load'), ('training.augment', 'np.load'),
                ('training.dataset', 'ImageFolderDataset'), ('training.loss', 'StyleGAN2Loss'), ('tflib', 'run'),
                ('dnnlib.util', 'construct_class_by_name'), ('__main__', 'Generator'),
            ]
        },
        'class that is a number': _as_generator(_persistent(b'K\1', arguments)),
        'class name in arguments': _generator_with(_plain_options(class_name=text('os.system'))),
        'function of a TensorFlow network': named('tflib', 'Network') + b')\x81' + function + b'b.',
        'class that is a list, in safetensors': _safetensors({'G_ema': {'class_name': ['Generator'], **described}}),
    }  # fmt: skip


def raw_files() -> dict[str, bytes]:
    """Return files that are not pickles."""
    flat = b'{"__metadata__":[' + b'[],' * 7_000_000 + b'[]]}'
    header = b'{"__metadata__":' + b'{"a":' * 100_000 + b'1' + b'}' * 100_001
    return {
        'safetensors with a header of 2^63 bytes': struct.pack('<Q', 2**63) + b'{}',
        'safetensors with deeply nested JSON': struct.pack('<Q', len(header)) + header,
        'safetensors with 7 million lists in its JSON': struct.pack('<Q', len(flat)) + flat,
        'safetensors of something else': struct.pack('<Q', 2) + b'{}',
        'empty': b'',
        'an archive': b'PK\x03\x04' + b'\0' * 1000,
    }
