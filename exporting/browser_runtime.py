"""The files of onnxruntime-web, which run a network in a browser: from its npm package, of one version only.

`ort-wasm.wasm` is ONNX Runtime for the CPU; the two scripts load it. Nothing else of the package is used.
"""

from __future__ import annotations

import os
from pathlib import Path

from dataset_conversion.tar_files import read_members
from dnnlib.util import open_url

VERSION = '1.30.0'
URL = f'https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz'
SHA256 = 'd2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71'

# Name in the package → name in the page. Not all web servers know *.mjs.
FILES = {
    'package/dist/ort.wasm.min.mjs': 'ort.js',
    'package/dist/ort-wasm-simd-threaded.mjs': 'ort-wasm.js',
    'package/dist/ort-wasm-simd-threaded.wasm': 'ort-wasm.wasm',
    'package/package.json': 'package.json',
}
_MAX_PACKAGE_BYTES = 2**26  # it has 33 MB
_MAX_BYTES = 2**29  # of all files in the package; they have 145 MB


def files_of_runtime(package: str | os.PathLike | None = None) -> dict[str, bytes]:
    """Return {name in the page: content}.

    Args:
        package: The npm package, as `npm pack onnxruntime-web@VERSION` writes it. None: download it to the cache.

    Raises:
        OSError: The package cannot be read or downloaded, or is another one (`dnnlib.util.DownloadError`).
        ValueError: It is damaged, or a file is missing in it. One sentence.
    """
    with open_url(URL if package is None else package, sha256=SHA256, max_bytes=_MAX_PACKAGE_BYTES) as file:
        path = Path(file.name)
    contents = dict(read_members(path, FILES.__contains__, 'the npm package of onnxruntime-web', _MAX_BYTES))
    missing = [name for name in FILES if not contents.get(name)]
    if missing:
        raise ValueError(f'{path} has no {", ".join(missing)}: get onnxruntime-web {VERSION} with `npm pack`.')
    return {FILES[name]: contents[name] for name in FILES}
