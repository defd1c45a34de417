"""Attacks the reader of network files: thousands of mutated files, and a list of hand-made attacks.

    python scripts/fuzz_pickles.py                  12,000 mutations; a few minutes on one core
    python scripts/fuzz_pickles.py --count=500

Each file goes through `load_network_pkl`, which must return networks or raise NetworkPickleError. Python's audit
hooks watch that nothing is imported, compiled, executed, started, opened or deleted meanwhile; a timer, that nothing
hangs; the system, how much memory the process has taken at its worst. What breaks a rule is written to a folder.
"""

import collections
import contextlib
import io
import os
import pickle
import pickletools
import random
import re
import resource
import select
import signal
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dnnlib.cli
from network_files import reading, safetensors_files
from training.augment import AugmentPipe
from training.networks_stylegan2 import Discriminator, Generator

GOLDEN = Path(__file__).resolve().parents[1] / 'tests' / 'golden'
MEMORY_MIB = 400
"""What `network_files.reading.load_network_pkl` may take besides 8 times the file."""

FORBIDDEN_EVENTS = re.compile(
    r'import|exec|compile|open|marshal\.|pickle\.find_class|code\.__new__|function\.__new__|os\.|subprocess\.|shutil\.'
    r'|socket\.|ctypes\.|urllib\.|tempfile\.|glob\.|sys\.(settrace|setprofile|addaudithook)|builtins\.(input|breakpoint)'
)


class Watch:
    """Counts forbidden events of the interpreter between `start` and `stop`, and stops the operation that made one."""

    def __init__(self):
        self.active = False
        self.events: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple) -> None:
        if self.active and FORBIDDEN_EVENTS.match(event):
            self.active = False
            self.events.append(f'{event} {args!r:.100}')
            raise PermissionError(f'the file made the reader do {event}')


class TooSlow(BaseException):
    """Raised by the timer; no handler of the reader catches it."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    def stop(*_):
        raise TooSlow

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def try_to_load(content: bytes, watch: Watch, seconds: float) -> str:
    """'opened', 'refused', or what went wrong: 'FAULT …'."""
    watch.events.clear()
    try:
        with time_limit(seconds):
            watch.active = True
            try:
                reading.load_network_pkl(io.BytesIO(content))
                outcome = 'opened'
            except reading.NetworkPickleError as error:
                outcome = 'refused' if 0 < len(str(error)) < 3000 else f'FAULT a message of {len(str(error))} letters'
            finally:
                watch.active = False
    except TooSlow:
        outcome = f'FAULT more than {seconds} s'
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        outcome = f'FAULT {type(error).__name__}: {error!s:.200} ({Path(place.filename).name}:{place.lineno})'
    return f'FAULT {watch.events[0]}' if watch.events else outcome


def try_alone(content: bytes, watch: Watch, seconds: float) -> tuple[str, float]:
    """`try_to_load` in a process of its own: what came of it, and the memory that it took (MiB).

    What hangs within C code, where no timer of Python's reaches it, is killed.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)  # of forks beside threads: the child starts none
        child = os.fork()
    if child == 0:
        try:
            before_mib = _peak_mib()
            outcome = try_to_load(content, watch, seconds)
            os.write(writing, f'{_peak_mib() - before_mib} {outcome}'.encode()[:1000])
        finally:
            os._exit(0)
    os.close(writing)
    deadline = time.monotonic() + 2 * seconds
    with open(reading, 'rb') as pipe:
        ready, _, _ = select.select([pipe], [], [], deadline - time.monotonic())
        answer = pipe.read().decode() if ready else ''
    if not ready:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    memory, _, outcome = answer.partition(' ')
    if not outcome:
        return ('FAULT its process ended' if ready else f'FAULT more than {2 * seconds} s'), 0.0
    bound_mib = MEMORY_MIB + 8 * len(content) / 2**20
    if float(memory) > bound_mib and not outcome.startswith('FAULT'):
        outcome = f'FAULT {float(memory):.0f} MiB of memory, more than {bound_mib:.0f}'
    return outcome, float(memory)


# ---------------------------------------------------------------------------------------------- originals


def small_networks() -> dict:
    torch.manual_seed(0)
    common = dict(c_dim=2, img_resolution=8, img_channels=1)
    options = dict(mapping_kwargs={'num_layers': 1}, synthesis_kwargs={'channel_base': 32, 'channel_max': 4})
    return {
        'G': None,
        'D': Discriminator(channel_base=32, channel_max=4, **common),
        'G_ema': Generator(z_dim=4, w_dim=4, **common, **options),
        'augment_pipe': AugmentPipe(xflip=1),
        'training_set_kwargs': dict(class_name='training.dataset.ImageFolderDataset', path='x.zip', max_size=7),
    }


def originals(folder: Path) -> dict[str, bytes]:
    """Files that open: those that are mutated. Most are tiny, for speed."""
    networks = small_networks()
    files = {'own': pickle.dumps(networks)}
    tiny = {'G_ema': Generator(2, 0, 2, 4, 1, {'num_layers': 1}, {'channel_base': 8}), 'training_set_kwargs': {'a': 1}}
    files |= {f'own, protocol {protocol}': pickle.dumps(tiny, protocol=protocol) for protocol in (0, 2, 4, 5)}
    files |= {path.name: path.read_bytes() for path in sorted(GOLDEN.glob('*.pkl')) if 'stylegan3' not in path.name}
    safetensors_files.write(networks, folder / 'own.safetensors')
    files['own safetensors'] = (folder / 'own.safetensors').read_bytes()
    return files


# ---------------------------------------------------------------------------------------------- mutations

_ATTACK_SNIPPETS = [
    b'cos\nsystem\n', b'cbuiltins\neval\n', b'cbuiltins\ngetattr\n', b'(S"1+1"\nibuiltins\neval\n',
    b'\x8c\x02os\x8c\x06system\x93', b'ctorch.storage\n_load_from_bytes\n', b'cnumpy\ndtype\n',
    b'ctorch_utils.persistence\n_reconstruct_persistent_obj\n',
    b'R', b'b', b'0', b'2', b'1', b'(', b't', b'}', b']', b')', b'\x81', b'\x92', b'\x90', b'\x91',
    b'u', b'e', b's', b'a',
    b'h\x00', b'h\x05', b'j\xff\xff\xff\x7f', b'q\x00', b'\x94', b'Q', b'P1\n', b'\x82\x01', b'N', b'\x88', b'K\xff',
    b'M\xff\xff', b'J\xff\xff\xff\xff', b'J\xff\xff\xff\x7f', b'\x8a\x09' + b'\xff' * 8 + b'\x7f',
    b'G\x7f\xf8' + b'\0' * 6,
    b'I99999999999999999999999\n', b'.', b'\x95' + b'\xff' * 8, b'B\xff\xff\xff\x7f', b'\x8e' + b'\xff' * 7 + b'\x7f',
]  # fmt: skip
_EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**40, 2**63 - 1, 2**64 - 1]


def change_bytes(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def flip_bits(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 2, 8])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def write_extremes(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """A size or a number becomes 0, -1 or as large as can be."""
    value = rng.choice(_EXTREMES)
    width = max((value.bit_length() + 7) // 8, rng.choice([1, 2, 4, 8]))
    raw = value.to_bytes(width, rng.choice(['little', 'big']))
    position = rng.randrange(len(data))
    return data[:position] + raw + data[position + width :]


def cut(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    return data[: rng.randrange(len(data))]


def move_a_piece(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Delete a piece, repeat it, or put it elsewhere."""
    start = rng.randrange(len(data))
    piece = data[start : start + rng.choice([1, 3, 10, 100, 1000])]
    without = data[:start] + data[start + len(piece) :]
    target = rng.randrange(len(data))
    return rng.choice([without, data[:target] + piece + data[target:], without[:target] + piece + without[target:]])


def splice(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    other = rng.choice(others)
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def insert_snippet(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    position = rng.randrange(len(data))
    return data[:position] + rng.choice(_ATTACK_SNIPPETS) + data[position:]


def opcodes_of(data: bytes) -> list[bytes]:
    """The instructions of a pickle, each with its argument."""
    starts = [position for _, _, position in pickletools.genops(data)]
    return [data[start:end] for start, end in zip(starts, [*starts[1:], len(data)])]


def mutate_opcodes(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Whole instructions deleted, repeated, exchanged, moved, or replaced by others."""
    opcodes = _cached_opcodes(data)[:]
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        a, b = rng.randrange(len(opcodes)), rng.randrange(len(opcodes))
        kind = rng.randrange(5)
        if kind == 0 and len(opcodes) > 2:
            del opcodes[a]
        elif kind == 1:
            opcodes.insert(b, opcodes[a])
        elif kind == 2:
            opcodes[a], opcodes[b] = opcodes[b], opcodes[a]
        elif kind == 3:
            opcodes[a] = opcodes[b]
        else:
            opcodes.insert(a, rng.choice(_ATTACK_SNIPPETS))
    return b''.join(opcodes)


_opcodes_by_id: dict[int, list[bytes]] = {}


def _cached_opcodes(data: bytes) -> list[bytes]:
    if id(data) not in _opcodes_by_id:
        _opcodes_by_id[id(data)] = opcodes_of(data)
    return _opcodes_by_id[id(data)]


BYTE_MUTATIONS = [change_bytes, flip_bits, write_extremes, cut, move_a_piece, splice, insert_snippet]
OPCODE_MUTATIONS = [mutate_opcodes]


def mutations_for(name: str) -> list[Callable]:
    # Half of a pickle's mutations are of instructions, since most changed bytes lie within numbers and texts.
    return BYTE_MUTATIONS + ([] if 'safetensors' in name else OPCODE_MUTATIONS * len(BYTE_MUTATIONS))


# ------------------------------------------------------------------------------------------------ attacks


def _global(module: str, name: str) -> bytes:
    return f'c{module}\n{name}\n'.encode()


def _text(text: str) -> bytes:
    raw = text.encode()
    return b'X' + struct.pack('<I', len(raw)) + raw


def _bytes(raw: bytes) -> bytes:
    return b'B' + struct.pack('<I', len(raw)) + raw


def _as_generator(value: bytes) -> bytes:
    """Pickle of {'G_ema': value}."""
    return b'\x80\x04}' + _text('G_ema') + value + b's.'


def _persistent(class_name: bytes, state: bytes, source: bytes = _text('raise SystemExit')) -> bytes:
    """Instructions for a persistent object."""
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
    """A list that holds itself's predecessor twice, over and over: 2 ** levels leaves in a few bytes."""
    content = b'K\x01'
    for level in range(levels):
        slot = struct.pack('<I', level)
        content += b'r' + slot + b'0](j' + slot + b'j' + slot + b'e'
    return content


def _plain_options(**changes: bytes) -> bytes:
    return _dict(**{'z_dim': b'K\x04', 'c_dim': b'K\x00', 'w_dim': b'K\x04', 'img_resolution': b'K\x08',
                    'img_channels': b'K\x01', **changes})  # fmt: skip


def _storage_bytes(count: int, values: bytes, inner: bytes = b'') -> bytes:
    """What torch.storage._load_from_bytes is given, with a claimed number of elements."""
    reference = (b'(' + _text('storage') + _global('torch', 'FloatStorage') + _text('0') + _text('cpu') + _int(count)
                 + b'Nt')  # fmt: skip
    head = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), pickle.dumps({'little_endian': True}, 2)]
    described = inner or b'\x80\x02' + reference + b'Q.'
    return b''.join(head) + described + pickle.dumps(['0'], 2) + struct.pack('<q', count) + values


def _load_from(raw: bytes) -> bytes:
    return _global('torch.storage', '_load_from_bytes') + _bytes(raw) + b'\x85R'


def attacks() -> dict[str, bytes]:
    """Files made to run something, to hang, or to take memory; none of them may open."""
    run = _text('touch made-by-attack')
    calls = {
        f'call of {module}.{name}': _as_generator(_global(module, name) + run + b'\x85R')
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
    hostile = b'\x80\x02' + _global('os', 'system') + run + b'\x85R.'
    embedded = _persistent(_text('Generator'), b'}', source=_text('import os; os.system("touch made-by-attack")'))
    executing = {
        'nested reduce': _as_generator(_global('builtins', 'eval') + _global('builtins', 'input') + b')R\x85R'),
        'INST': b'(' + run + b'ios\nsystem\n.',
        'OBJ': b'(' + _global('os', 'system') + run + b'o.',
        'NEWOBJ': _as_generator(_global('os', 'system') + run + b'\x85\x81'),
        'NEWOBJ_EX': _as_generator(_global('os', 'system') + run + b'\x85}\x92'),
        'STACK_GLOBAL': _as_generator(_text('os') + _text('system') + b'\x93' + run + b'\x85R'),
        'STACK_GLOBAL with dots': _as_generator(_text('torch') + _text('os.system') + b'\x93' + run + b'\x85R'),
        'GLOBAL with dots': _as_generator(_global('collections', 'OrderedDict.fromkeys') + run + b'\x85R'),
        'extension registry': _as_generator(b'\x82\x01' + run + b'\x85R'),
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
    big_list = b'](' + b'K\x01' * 200_000 + b'e' + b'r\0\0\0\0' + b'0'
    again = b'j\0\0\0\0'
    exhausting = {
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
        + (b'j\1\0\0\0' + again + b'\x85R0') * 50_000
        + b'N.',
        'bytes of a megabyte encoded 30,000 times': _text('x' * 1_000_000) + b'r\0\0\0\0' + b'0'
        + (_global('_codecs', 'encode') + again + _text('latin1') + b'\x86R0') * 30_000 + b'N.',
        'the same storage read 20,000 times': _bytes(_storage_bytes(250_000, b'\0' * 1_000_000)) + b'r\0\0\0\0' + b'0'
        + (_global('torch.storage', '_load_from_bytes') + again + b'\x85R') * 20_000 + b'N.',
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
    empty_rows = _global('numpy.core.multiarray', '_reconstruct') + _global('numpy', 'ndarray') + b'K\0\x85C\1b\x87R'
    dtype = _global('numpy', 'dtype') + _text('f4') + b'\x89\x88\x87R'
    endless_range = _global('builtins', 'range') + _int(10**12) + b'\x85R'
    rows = b'(K\1' + _int(2**25) + b'K\0\x86' + dtype + b'\x89C\0tb'
    aliased = b'r\1\0\0\0' + b''.join(_text(f'p{k}') + b'j\1\0\0\0' for k in range(40_000))
    storage = _load_from(_storage_bytes(1, b'1234'))
    tensor = _global('torch._utils', '_rebuild_tensor_v2') + b'(' + storage + b'K\0))\x89NtR'
    many_layers = _plain_options(mapping_kwargs=_dict(num_layers=_int(30_000)))
    copies = b'](' + b'K\1' * 20 + b'e' + b'r\0\0\0\0' + b'0'
    exhausting |= {
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
        + (b'j\1\0\0\0' + again + b'\x85R') * 330_000 + b'e.',
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
    absurd = {
        f'{name}={value:.3g}': _generator_with(_plain_options(**{name: _int(value)}))
        for name in ('z_dim', 'c_dim', 'w_dim', 'img_resolution', 'img_channels')
        for value in (2**20, 2**31, 2**62, 2**1000, -1)
    }
    absurd |= {
        f'{group}: {name}={value:.3g}': _generator_with(_plain_options(**{group: _dict(**{name: _int(value)})}))
        for group, name in [
            ('mapping_kwargs', 'num_layers'), ('mapping_kwargs', 'layer_features'),
            ('mapping_kwargs', 'embed_features'), ('synthesis_kwargs', 'channel_base'),
            ('synthesis_kwargs', 'channel_max'), ('synthesis_kwargs', 'kernel_size'),
            ('synthesis_kwargs', 'num_fp16_res'),
        ]
        for value in (2**31, 2**1000)
    }  # fmt: skip
    flat = b'{"__metadata__":[' + b'[],' * 7_000_000 + b'[]]}'
    header = b'{"__metadata__":' + b'{"a":' * 100_000 + b'1' + b'}' * 100_001
    raw = {
        'safetensors with a header of 2^63 bytes': struct.pack('<Q', 2**63) + b'{}',
        'safetensors with deeply nested JSON': struct.pack('<Q', len(header)) + header,
        'safetensors with 7 million lists in its JSON': struct.pack('<Q', len(flat)) + flat,
        'safetensors of something else': struct.pack('<Q', 2) + b'{}',
        'empty': b'',
        'an archive': b'PK\x03\x04' + b'\0' * 1000,
    }
    return {**calls, **executing, **exhausting, **absurd, **raw}


def _deep_modules(depth: int) -> bytes:
    content = b'}'
    for _ in range(depth):
        content = _dict(_modules=_dict(x=_persistent(_text('Generator'), content)))
    return _persistent(_text('Generator'), content)


def _module_in_itself() -> bytes:
    state = _dict(_modules=_dict(x=b'j\7\0\0\0'))
    return _global('training.networks', 'Generator') + b')\x81r\7\0\0\0' + state + b'b'


# ------------------------------------------------------------------------------------------------ the run


def fuzz(attack: bool, count: int, seed: int, seconds: float, failures: Path, folder: Path) -> int:
    """Prints what happened; returns the number of faults."""
    watch = Watch()
    files = originals(folder)
    for name, content in files.items():  # which also does what is done once in a process, such as late imports
        reading.load_network_pkl(io.BytesIO(content))
        if (outcome := try_to_load(content, watch, seconds)) != 'opened':
            raise ValueError(f'the original {name!r} does not open: {outcome}')
    before_mib, attack_mib = _peak_mib(), 0.0
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    faults, slowest, largest = [], (0.0, ''), 0

    def run(kind: str, what: str, content: bytes, may_open: bool) -> None:
        nonlocal slowest, largest, attack_mib
        started = time.perf_counter()
        if may_open:
            outcome = try_to_load(content, watch, seconds)
        else:
            outcome, taken_mib = try_alone(content, watch, seconds)
            attack_mib = max(attack_mib, taken_mib)
        slowest = max(slowest, (time.perf_counter() - started, what))
        largest = max(largest, len(content))
        if outcome == 'opened' and not may_open:
            outcome = 'FAULT it was opened'
        counts[kind][outcome.split()[0]] += 1
        if outcome.startswith('FAULT'):
            failures.mkdir(parents=True, exist_ok=True)
            path = failures / f'{len(faults):04d}.pkl'
            path.write_bytes(content)
            faults.append(f'{what}: {outcome} (kept as {path})')
            print(faults[-1], flush=True)

    for name, content in attacks().items() if attack else []:
        run('attacks by hand', name, content, may_open=False)
    rng = random.Random(seed)
    names, contents = list(files), list(files.values())
    for index in range(count):
        name = names[index % len(names)]
        mutate = rng.choice(mutations_for(name))
        kind = 'mutated instructions' if mutate in OPCODE_MUTATIONS else 'mutated bytes'
        run(kind, f'{mutate.__name__} of {name}, number {index}', mutate(files[name], rng, contents), may_open=True)

    for kind, outcomes in counts.items():
        print(f'{kind:22s}{sum(outcomes.values()):7d} files:{outcomes["refused"]:7d} refused with one sentence, '
              f'{outcomes["opened"]:5d} opened (the change was harmless), {outcomes["FAULT"]} faults')  # fmt: skip
    taken_mib = _peak_mib() - before_mib
    allowed_mib = MEMORY_MIB + 8 * largest / 2**20
    print(f'slowest: {slowest[0]:.2f} s ({slowest[1]})')
    print(f'memory at most {attack_mib:.0f} MiB by an attack, {taken_mib:.0f} MiB by all mutations; the largest file '
          f'has {largest / 2**20:.1f} MiB, the stated bound is {MEMORY_MIB} MiB and 8 times the file')  # fmt: skip
    if taken_mib > allowed_mib:
        faults.append('memory')
    return len(faults)


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == 'darwin' else peak / 2**10


@click.command(cls=dnnlib.cli.Command)
@click.option('--attacks', 'attack', type=dnnlib.cli.BOOL, default=True, show_default=True,
              help='Try the hand-made attacks')  # fmt: skip
@click.option('--count', type=click.IntRange(min=0), default=12_000, show_default=True, help='Mutated files to try')
@click.option('--seed', type=int, default=0, show_default=True, help='Of the mutations')
@click.option('--time-limit', 'seconds', type=click.FloatRange(min=0.1), default=20, show_default=True,
              help='Seconds for one file')  # fmt: skip
@click.option('--failures', type=dnnlib.cli.PATH, default='fuzz-failures', show_default=True,
              help='Folder for files that break a rule')  # fmt: skip
def main(attack: bool, count: int, seed: int, seconds: float, failures: str) -> None:
    """Attack the reader of network files; exit status 1 where it breaks a rule."""
    import tempfile

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        num_faults = fuzz(attack, count, seed, seconds, Path(failures), Path(folder))
    if os.path.exists('made-by-attack'):
        raise click.ClickException('an attack has run a command')
    if num_faults:
        raise click.ClickException(f'{num_faults} faults; see the lines above')
    print('no faults')


if __name__ == '__main__':
    main()
