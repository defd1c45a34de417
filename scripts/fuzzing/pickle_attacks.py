"""Hand-made pickles and safetensors files that try to run something, to hang, or to exhaust memory.

`attacks` returns all of them by name, for `scripts/fuzz_pickles.py`. A reader must refuse every one.
"""

from __future__ import annotations

import pickle
import struct

MADE_BY_ATTACK = 'made-by-attack'
"""Name of the file that exists in the working directory once an attack has run its command."""

_COMMAND_TEXT = f'touch {MADE_BY_ATTACK}'


# ---------------------------------------------------------------------------------------------------------------------
# Building blocks


def _global(module: str, name: str) -> bytes:
    return f'c{module}\n{name}\n'.encode()


def _text(text: str) -> bytes:
    raw = text.encode()
    return b'X' + struct.pack('<I', len(raw)) + raw


def _bytes(raw: bytes) -> bytes:
    return b'B' + struct.pack('<I', len(raw)) + raw


def _as_generator(value: bytes) -> bytes:
    """Return a pickle of {'G_ema': value}."""
    return b'\x80\x04}' + _text('G_ema') + value + b's.'


def _persistent(class_name: bytes, state: bytes, source: bytes | None = None) -> bytes:
    """Return the instructions that create a persistent object."""
    source = _text('raise SystemExit') if source is None else source
    items = (_text('type') + _text('class') + _text('version') + b'K\x06' + _text('module_src') + source
             + _text('class_name') + class_name + _text('state') + state)  # fmt: skip
    return _global('torch_utils.persistence', '_reconstruct_persistent_obj') + b'}(' + items + b'u\x85R'


def _generator_with(kwargs: bytes) -> bytes:
    state = b'}(' + _text('_init_args') + b')' + _text('_init_kwargs') + kwargs + b'u'
    return _as_generator(_persistent(_text('Generator'), state))


def _dict(**items: bytes) -> bytes:
    return b'}(' + b''.join(_text(key) + value for key, value in items.items()) + b'u'


def _int(value: int) -> bytes:
    raw = pickle.encode_long(value)
    return b'\x8b' + struct.pack('<I', len(raw)) + raw


def _doubled(levels: int) -> bytes:
    """Return a list that contains its predecessor twice, again and again: 2 ** levels leaves in a few bytes."""
    content = b'K\x01'
    for level in range(levels):
        slot = struct.pack('<I', level)
        content += b'r' + slot + b'0](j' + slot + b'j' + slot + b'e'
    return content


def _plain_options(**changes: bytes) -> bytes:
    return _dict(**{'z_dim': b'K\x04', 'c_dim': b'K\x00', 'w_dim': b'K\x04', 'img_resolution': b'K\x08',
                    'img_channels': b'K\x01', **changes})  # fmt: skip


def _storage_bytes(count: int, values: bytes, inner: bytes = b'') -> bytes:
    """Return the argument of torch.storage._load_from_bytes, with a claimed number of elements."""
    reference = (b'(' + _text('storage') + _global('torch', 'FloatStorage') + _text('0') + _text('cpu') + _int(count)
                 + b'Nt')  # fmt: skip
    head = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), pickle.dumps({'little_endian': True}, 2)]
    described = inner or b'\x80\x02' + reference + b'Q.'
    return b''.join(head) + described + pickle.dumps(['0'], 2) + struct.pack('<q', count) + values


def _load_from(raw: bytes) -> bytes:
    return _global('torch.storage', '_load_from_bytes') + _bytes(raw) + b'\x85R'


def _deep_modules(depth: int) -> bytes:
    content = b'}'
    for _ in range(depth):
        content = _dict(_modules=_dict(x=_persistent(_text('Generator'), content)))
    return _persistent(_text('Generator'), content)


def _module_in_itself() -> bytes:
    state = _dict(_modules=_dict(x=b'j\7\0\0\0'))
    return _global('training.networks', 'Generator') + b')\x81r\7\0\0\0' + state + b'b'


_COMMAND = _text(_COMMAND_TEXT)
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
        **raw_files(),
    }


def function_calls() -> dict[str, bytes]:
    """Return pickles that call a function."""
    return {
        f'call of {module}.{name}': _as_generator(_global(module, name) + _COMMAND + b'\x85R')
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
    hostile = b'\x80\x02' + _global('os', 'system') + _COMMAND + b'\x85R.'
    embedded = _persistent(_text('Generator'), b'}', source=_text(f'import os; os.system("{_COMMAND_TEXT}")'))
    return {
        'nested reduce': _as_generator(_global('builtins', 'eval') + _global('builtins', 'input') + b')R\x85R'),
        'INST': b'(' + _COMMAND + b'ios\nsystem\n.',
        'OBJ': b'(' + _global('os', 'system') + _COMMAND + b'o.',
        'NEWOBJ': _as_generator(_global('os', 'system') + _COMMAND + b'\x85\x81'),
        'NEWOBJ_EX': _as_generator(_global('os', 'system') + _COMMAND + b'\x85}\x92'),
        'STACK_GLOBAL': _as_generator(_text('os') + _text('system') + b'\x93' + _COMMAND + b'\x85R'),
        'STACK_GLOBAL with dots': _as_generator(_text('torch') + _text('os.system') + b'\x93' + _COMMAND + b'\x85R'),
        'GLOBAL with dots': _as_generator(_global('collections', 'OrderedDict.fromkeys') + _COMMAND + b'\x85R'),
        'extension registry': _as_generator(b'\x82\x01' + _COMMAND + b'\x85R'),
        'persistent id': _as_generator(_text('os.system') + b'Q'),
        'state of a name': _as_generator(_global('collections', 'OrderedDict') + _dict(__call__=b'N') + b'b'),
        'hostile pickle inside a storage': _as_generator(_load_from(hostile)),
        'hostile key list inside a storage': _as_generator(_load_from(_storage_bytes(1, b'1234')[:-30] + hostile)),
        'hostile reference inside a storage': _as_generator(_load_from(_storage_bytes(1, b'1234', inner=hostile))),
        'zip of torch.save inside a storage': _as_generator(_load_from(b'PK\x03\x04' + b'\0' * 100)),
        'source text with a side effect': _as_generator(embedded),
        'array of objects': _as_generator(_global('numpy', 'dtype') + _text('O') + b'\x89\x88\x87R'),
        'dtype with fields': _as_generator(_global('numpy', 'dtype') + _text('f4,O') + b'\x89\x88\x87R'),
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
            _plain_options(synthesis_kwargs=_dict(resample_filter=_doubled(60)))
        ),
        'a list that doubles 60 times, as name': _as_generator(_doubled(60) + _text('x') + b'\x93'),
        'a list that doubles 60 times, as class': _as_generator(_persistent(_doubled(60), b'}')),
        'a list that doubles 60 times, as dtype': _as_generator(_global('numpy', 'dtype') + _doubled(60) + b'\x85R'),
        'a list that doubles 60 times, as shape': _as_generator(
            _global('torch', 'Size') + _doubled(60) + b'\x85R'
        ),
        'a list that doubles 60 times, in place of networks': _doubled(60) + b'.',
        'a list of 200,000 made a set 50,000 times': big_list
        + (_global('builtins', 'set') + b'r\1\0\0\0' + b'0')
        + (b'j\1\0\0\0' + _AGAIN + b'\x85R0') * 50_000
        + b'N.',
        'bytes of a megabyte encoded 30,000 times': _text('x' * 1_000_000) + b'r\0\0\0\0' + b'0'
        + (_global('_codecs', 'encode') + _AGAIN + _text('latin1') + b'\x86R0') * 30_000 + b'N.',
        'the same storage read 20,000 times': _bytes(_storage_bytes(250_000, b'\0' * 1_000_000)) + b'r\0\0\0\0' + b'0'
        + (_global('torch.storage', '_load_from_bytes') + _AGAIN + b'\x85R') * 20_000 + b'N.',
        'three million empty sets': b'\x8f' * 3_000_000 + b'.',
        'keys whose hashes are equal': b'}(' + b''.join(_int(k * (2**61 - 1)) + b'N' for k in range(1, 60_000)) + b'u.',
        'an integer of a million digits': b'I' + b'9' * 1_000_000 + b'\n.',
        'a long of a million digits': b'L' + b'9' * 1_000_000 + b'L\n.',
        'a text that claims 2 GB': b'\x80\x04B\xff\xff\xff\x7fabc.',
        'a text that claims 2^63 bytes': b'\x80\x04\x8e' + b'\xff' * 7 + b'\x7fabc.',
        'a frame that claims 2^64 bytes': b'\x80\x04\x95' + b'\xff' * 8 + b'N.',
        'an option of 300,000 bits': _generator_with(_plain_options(z_dim=_int(2**300_000))),
        'layers of 300,000 bits': _generator_with(
            _plain_options(mapping_kwargs=_dict(num_layers=_int(2**300_000)))
        ),
        'a memo at 2^32': b'Nr\xff\xff\xff\xff.',
        'a storage that claims 2^40 values': _as_generator(_load_from(_storage_bytes(2**40, b'1234'))),
        'a storage that claims -1 values': _as_generator(_load_from(_storage_bytes(-1, b'1234'))),
        'a tensor larger than its storage': _as_generator(
            _global('torch._utils', '_rebuild_tensor_v2') + b'(' + _load_from(_storage_bytes(1, b'1234'))
            + b'K\0' + _int(2**40) + b'\x85' + b'K\0\x85\x89NtR'
        ),
    }  # fmt: skip


def exhausting_values() -> dict[str, bytes]:
    """Return pickles with values that are expensive to process."""
    empty_rows = _global('numpy.core.multiarray', '_reconstruct') + _global('numpy', 'ndarray') + b'K\0\x85C\1b\x87R'
    dtype = _global('numpy', 'dtype') + _text('f4') + b'\x89\x88\x87R'
    endless_range = _global('builtins', 'range') + _int(10**12) + b'\x85R'
    rows = b'(K\1' + _int(2**25) + b'K\0\x86' + dtype + b'\x89C\0tb'
    aliased = b'r\1\0\0\0' + b''.join(_text(f'p{k}') + b'j\1\0\0\0' for k in range(40_000))
    storage = _load_from(_storage_bytes(1, b'1234'))
    tensor = _global('torch._utils', '_rebuild_tensor_v2') + b'(' + storage + b'K\0))\x89NtR'
    many_layers = _plain_options(mapping_kwargs=_dict(num_layers=_int(30_000)))
    copies = b'](' + b'K\1' * 20 + b'e' + b'r\0\0\0\0' + b'0'
    return {
        'a set of an endless range': _global('builtins', 'set') + endless_range + b'\x85R.',
        'a dict of an endless range': _global('builtins', 'dict') + endless_range + b'\x85R.',
        'an endless range as the state of an array': empty_rows + endless_range + b'b.',
        'an endless range as the state of a dtype': dtype + endless_range + b'b.',
        'a text as the state of an array': empty_rows + _text('x' * 10_000_000) + b'b.',
        'an array of 2^25 empty rows': _generator_with(_plain_options(mapping_kwargs=empty_rows + rows)),
        'an array of 2^25 empty rows, as bands': _as_generator(
            _persistent(_text('AugmentPipe'), _dict(_init_kwargs=_dict(imgfilter_bands=empty_rows + rows)))
        ),
        '30,000 layers of one tensor': _as_generator(
            _persistent(_text('Generator'), _dict(_init_kwargs=many_layers, _parameters=b'}(' + tensor + aliased[:5]
                        + b'0' + aliased[5:] + b'u'))
        ),
        'layers counted by an array': _generator_with(_plain_options(mapping_kwargs=_dict(
            num_layers=_global('numpy.core.multiarray', 'scalar') + _global('numpy', 'dtype') + _text('f8')
            + b'\x89\x88\x87R' + _bytes(struct.pack('<d', 3e8)) + b'\x86R'))),
        'a list of 20 made a set 330,000 times': copies + _global('builtins', 'set') + b'r\1\0\0\0' + b'0]('
        + (b'j\1\0\0\0' + _AGAIN + b'\x85R') * 330_000 + b'e.',
        'memo places whose hashes are equal': b'N'
        + b''.join(b'p%d\n' % (k * (2**61 - 1)) for k in range(60_000)) + b'.',
        'a dtype that is a program': _global('numpy', 'dtype') + _text('(,,)f4') + b'\x89\x88\x87R.',
        'a name of 20 MB of short words': _text('ab ' * 7_000_000) + _text('x') + b'\x93.',
        'a class name of 20 MB of short words': _as_generator(_persistent(_text('ab ' * 7_000_000), b'}')),
        'a text in place of options': _generator_with(_plain_options(synthesis_kwargs=_text('abc'))),
        'class names that double 60 times': b'\x80\x04}(' + _text('class_names') + _doubled(60) + _text('G_ema')
        + b'Nu.',
        'a list 50,000 deep beside the networks': b'\x80\x04}(' + _text('more') + b']' * 50_000 + b'a' * 49_999
        + _text('G_ema') + b'Nu.',
        'a generator that is a discriminator': _as_generator(_persistent(_text('MinibatchStdLayer'),
            _dict(_init_args=b'K\4\x85'))),
    }  # fmt: skip


def absurd_sizes() -> dict[str, bytes]:
    """Return pickles of networks with absurd sizes."""
    sizes = {
        f'{name}={value:.3g}': _generator_with(_plain_options(**{name: _int(value)}))
        for name in ('z_dim', 'c_dim', 'w_dim', 'img_resolution', 'img_channels')
        for value in (2**20, 2**31, 2**62, 2**1000, -1)
    }
    nested_sizes = {
        f'{group}: {name}={value:.3g}': _generator_with(_plain_options(**{group: _dict(**{name: _int(value)})}))
        for group, name in [
            ('mapping_kwargs', 'num_layers'), ('mapping_kwargs', 'layer_features'),
            ('mapping_kwargs', 'embed_features'), ('synthesis_kwargs', 'channel_base'),
            ('synthesis_kwargs', 'channel_max'), ('synthesis_kwargs', 'kernel_size'),
            ('synthesis_kwargs', 'num_fp16_res'),
        ]
        for value in (2**31, 2**1000)
    }  # fmt: skip
    return {**sizes, **nested_sizes}


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
