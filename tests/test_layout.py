"""The layout that docs/architecture.md describes: layers, private names, lengths, repetition."""

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    'ada_gan',
    'bench',
    'dataset_conversion',
    'dataset_format',
    'dnnlib',
    'exporting',
    'generation',
    'metrics',
    'network_files',
    'plain_pickle',
    'publishing',
    'reporting',
    'scripts',
    'studio_server',
    'torch_utils',
    'training',
)
SOURCES = sorted([*ROOT.glob('*.py'), *(path for package in PACKAGES for path in (ROOT / package).rglob('*.py'))])
KERNELS = sorted(path for path in (ROOT / 'torch_utils').rglob('*') if path.suffix in ('.cpp', '.cu', '.cuh', '.h'))
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 500
SAME_LINES = 6


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


TREES = {path: ast.parse(path.read_text(encoding='utf-8')) for path in SOURCES}
MODULES = {module_of(path) for path in SOURCES}


def test_sources_are_found():
    assert {'train', 'training.training_loop', 'torch_utils.ops.bias_act', 'bench.common'} <= MODULES


def test_packages_import_downwards_without_circles():
    command = [str(Path(sys.executable).with_name('lint-imports')), '--no-cache']
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


# The contracts of import-linter know packages only: bench and scripts are folders of programs.


def imported_modules(tree):
    """{local name: module} of this project's modules, and the names taken from them."""
    modules, names = {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name: alias.name for alias in node.names if alias.name in MODULES}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if f'{node.module}.{alias.name}' in MODULES:
                    modules[alias.asname or alias.name] = f'{node.module}.{alias.name}'
                elif node.module in MODULES:
                    names.append((node.module, alias.name))
    return modules, names


@pytest.mark.parametrize('path', SOURCES, ids=name_of)
def test_no_private_name_of_another_file(path):
    modules, names = imported_modules(TREES[path])
    used = [f'{module}.{name}' for module, name in names if name.startswith('_')]
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Attribute) and node.attr.startswith('_') and not node.attr.startswith('__'):
            module = modules.get(ast.unparse(node.value))
            used += [] if module is None else [f'{module}.{node.attr}']
    # Pickles name this function (DESIGN: the frozen interface).
    used = [name for name in used if name != 'torch_utils.persistence._reconstruct_persistent_obj']
    assert used == []


def test_only_programs_import_programs():
    programs = {path.stem for path in ROOT.glob('*.py')}
    for path, tree in TREES.items():
        modules, names = imported_modules(tree)
        imported = {*modules.values(), *(module for module, _name in names)}
        top = name_of(path).split('/')[0]
        assert not imported & programs, f'{name_of(path)} imports a command line'
        if top not in ('bench', 'scripts'):
            assert not [name for name in imported if name.split('.')[0] in ('bench', 'scripts')], name_of(path)


# ---------------------------------------------------------------------------------------------------------------------
# Files from outside are never unpickled

UNPICKLING = {  # calls that run a pickle, and the keyword argument with which they do not
    'pickle.load': None,
    'pickle.loads': None,
    'pickle.Unpickler': None,
    'torch.load': ('weights_only', True),
    'np.load': ('allow_pickle', False),
    'numpy.load': ('allow_pickle', False),
}
UNPICKLERS = {
    ('network_files/reading.py', 'pickle.loads'): '--trust-pickle',
    ('torch_utils/launcher.py', 'pickle.loads'): 'the result of a process that this one has started',
}


def unpickling_calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield from (ast.unparse(base) for base in node.bases if ast.unparse(base) in UNPICKLING)
        elif isinstance(node, ast.ImportFrom) and node.module in ('pickle', '_pickle', 'joblib', 'cloudpickle', 'dill'):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in ('_pickle', 'joblib', 'cloudpickle', 'dill'))
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            keywords = {word.arg: getattr(word.value, 'value', None) for word in node.keywords}
            argument, value = UNPICKLING.get(name) or ('', None)
            if name in UNPICKLING and (argument not in keywords or keywords[argument] is not value):
                yield name
            elif name in ('eval', 'exec') or name.endswith('.extractall'):
                yield name


@pytest.mark.parametrize('path', SOURCES, ids=name_of)
def test_files_are_not_unpickled(path):
    found = [name for name in unpickling_calls(TREES[path]) if (name_of(path), name) not in UNPICKLERS]
    # The source in pickles is executed by Python's own unpickler only.
    assert found == (['exec'] if name_of(path) == 'torch_utils/persistence.py' else [])


# ---------------------------------------------------------------------------------------------------------------------
# Lengths


def long_functions(tree):
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield f'{node.name}: {lines} lines'


@pytest.mark.parametrize('path', SOURCES, ids=name_of)
def test_functions_fit_a_screen(path):
    assert list(long_functions(TREES[path])) == []


@pytest.mark.parametrize('path', [*SOURCES, *KERNELS], ids=name_of)
def test_long_files_say_why(path):
    lines = path.read_text(encoding='utf-8').splitlines()
    reason = 'long because' in ' '.join(' '.join(lines[:25]).split())
    assert len(lines) <= MAX_FILE_LINES or reason, f'{len(lines)} lines: split the file, or say that it is long because'


# ---------------------------------------------------------------------------------------------------------------------
# Repetition


def code_lines(path):
    """(line number, line) of all lines of code, without comments, docstrings, imports and lone punctuation."""
    tree, text = TREES[path], path.read_text(encoding='utf-8').splitlines()
    left_out = set()
    for node in ast.walk(tree):
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_docstring or isinstance(node, (ast.Import, ast.ImportFrom)):
            left_out |= set(range(node.lineno, node.end_lineno + 1))
    for number, line in enumerate(text, start=1):
        stripped = line.strip()
        if number not in left_out and any(map(str.isalnum, stripped)) and not stripped.startswith('#'):
            yield number, stripped


def embedded(places):
    """Whether all places are in files whose source travels inside pickles, which cannot share code."""
    return all(place.split(':')[0].startswith('training/networks_stylegan') for place in places)


def test_nothing_is_written_twice():
    places = defaultdict(set)
    for path in SOURCES:
        lines = list(code_lines(path))
        for start in range(len(lines) - SAME_LINES + 1):
            run = lines[start : start + SAME_LINES]
            places['\n'.join(line for _number, line in run)].add(f'{name_of(path)}:{run[0][0]}')
    repeated = {text: sorted(found) for text, found in places.items() if len(found) > 1 and not embedded(found)}
    assert not repeated, '\n\n'.join(f'{" = ".join(found)}\n{text}' for text, found in repeated.items())
