"""Utilities that do not depend on PyTorch: attribute dictionaries, objects by name, logs, downloads, command lines."""

from dnnlib import util
from dnnlib.util import EasyDict

__all__ = ['EasyDict', 'util']
