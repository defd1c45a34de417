"""The names of files in a dataset, in a form in which they can be compared."""

from __future__ import annotations

import contextlib
import re
import unicodedata

_ESCAPED_BYTE = re.compile('[\udc80-\udcff]')


def normal_name(name: str) -> str:
    """Return the normal form of a name: parts separated by single `/`, in Unicode's form NFC.

    Programs write the same name in different ways: with `\\` on Windows, with a leading `./`, or with accents as
    characters of their own on macOS.
    """
    if not name.isascii():
        name = _decoded(name)
    parts = unicodedata.normalize('NFC', name).replace('\\', '/').split('/')
    normal = '/'.join(part for part in parts if part not in ('', '.'))
    return name if normal == name else normal  # the same object, since there may be millions


def _decoded(name: str) -> str:
    """Return a name whose bytes are UTF-8 as text, even where the locale has another encoding, such as C."""
    if _ESCAPED_BYTE.search(name):
        with contextlib.suppress(UnicodeEncodeError):  # of other surrogates, which only JSON can contain
            return name.encode(errors='surrogateescape').decode(errors='surrogateescape')
    return name
