"""The names of files in a dataset, in a form in which they can be compared."""

from __future__ import annotations

import unicodedata


def normal_name(name: str) -> str:
    """Return the normal form of a name: parts separated by single `/`, in Unicode's form NFC.

    Programs write the same name in different ways: with `\\` on Windows, with a leading `./`, or with accents as
    characters of their own on macOS.
    """
    parts = unicodedata.normalize('NFC', name).replace('\\', '/').split('/')
    normal = '/'.join(part for part in parts if part not in ('', '.'))
    return name if normal == name else normal  # the same object, since there may be millions
