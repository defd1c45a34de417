"""Helpers without any dependency on PyTorch: attribute dictionaries, names, logs, downloads, command lines."""

from dnnlib import util
from dnnlib.util import EasyDict

__all__ = ['EasyDict', 'util']
