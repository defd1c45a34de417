"""What pyproject.toml cannot say: a wheel holds one package, `ada_gan`, and the flat files of a checkout inside it.

A checkout has scripts such as `train.py` and packages such as `metrics` in its root. Their names are too common to be
installed for everybody, so they go to `ada_gan/_tree/`, in the same layout; `ada_gan/__init__.py` makes them
importable.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import find_namespace_packages, find_packages, setup
from setuptools.command.build_py import build_py

TREE = 'ada_gan._tree'
ROOT = Path(__file__).resolve().parent
NOT_INSTALLED = ['ada_gan', 'ada_gan.*', 'tests', 'tests.*', 'docs', 'docs.*']


def flat_packages() -> list[str]:
    """Return the packages of the checkout, and the folders of programs that subcommands run."""
    folders_of_programs = find_namespace_packages(str(ROOT), include=['scripts', 'scripts.*', 'bench', 'bench.*'])
    return sorted({*find_packages(str(ROOT), exclude=NOT_INSTALLED), *folders_of_programs})


def other_files(package: str, packages: list[str]) -> list[str]:
    """Return the files of a package that are not Python (kernels, pages), those in folders without modules included."""
    folder = ROOT / package.replace('.', '/')
    inner = [ROOT / other.replace('.', '/') for other in packages if other.startswith(f'{package}.')]
    return [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
        and path.suffix not in ('.py', '.pyc', '.sh')
        and not any(part.startswith(('.', '__')) or part == 'node_modules' for part in path.relative_to(folder).parts)
        and not any(path.is_relative_to(other) for other in inner)
    ]


class BuildWithoutThisFile(build_py):
    """The scripts in the root are modules of `ada_gan._tree`, but this file is not."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        found = super().find_package_modules(package, package_dir)
        return [module for module in found if module[:2] != (TREE, 'setup')]


PACKAGES = flat_packages()
setup(
    packages=['ada_gan', TREE, *(f'{TREE}.{package}' for package in PACKAGES)],
    package_dir={'ada_gan': 'ada_gan', TREE: '.'},
    package_data={f'{TREE}.{package}': other_files(package, PACKAGES) for package in PACKAGES},
    include_package_data=False,
    cmdclass={'build_py': BuildWithoutThisFile},
)
