"""Networks on a hub, by addresses `hf://owner/name[/file][@revision]`, without running anything in them.

The package huggingface_hub says where the hub is (`HF_ENDPOINT`), which token belongs to it, and whether it may be
asked at all (`HF_HUB_OFFLINE`). What the hub sends is received by this project's own downloads, which have limits of
size and time, resume, and end in its own cache; files in the cache of huggingface_hub are found while the hub may not
be asked.

An address without a file stands for the network that `order` puts first. `pinned` returns the address of a file at a
commit, which means the same bytes for ever.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import sys
import urllib.parse
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from dnnlib.cache import cached_file, make_cache_dir_path
from dnnlib.downloads import open_url
from dnnlib.errors import DownloadError
from dnnlib.files import atomic_file, open_regular
from dnnlib.http_documents import Answer, get_document
from dnnlib.http_transfer import TransferFailed
from dnnlib.json_input import parse_json, read_json
from dnnlib.schema import Integer, ListOf, Optional, Record, Text
from dnnlib.text import excerpt, join_excerpts, message_line

SCHEME = 'hf://'
EXTENSIONS = ('.safetensors', '.pkl', '.pickle', '.pt', '.pth')
"""Extensions of network files, in the order in which an address without a file prefers them."""

LOG_IN = 'hf auth login'
INSTALL = 'pip install huggingface_hub'

_FORM = 'hf://owner/name, hf://owner/name/file or either with @revision'
_PART = re.compile(r'[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?')
_COMMIT = re.compile(r'[0-9a-f]{40}(?:[0-9a-f]{24})?')
_REVISION = re.compile(r'[A-Za-z0-9_][A-Za-z0-9._/+-]{0,254}')
_MAX_FILE_NAME = 500
_DEFAULT_REVISION = 'main'
_MAX_LISTING_BYTES = 32 * 2**20
_MAX_FILES = 1000
_SNAPSHOT = re.compile(r'network-snapshot-(\d{1,18})')

_SIBLING = Record(
    {
        'rfilename': Text(4096),
        'size': Optional(Integer(0, 2**62)),
        'lfs': Optional(Record({'sha256': Text(64, '[0-9a-f]{64}', 'a SHA-256')}, ignores_others=True)),
    },
    required=['rfilename'],
    ignores_others=True,
)
_ANSWER = Record(
    {'sha': Text(64, _COMMIT.pattern, 'a commit'), 'siblings': ListOf(_SIBLING, 200_000)},
    required=['sha', 'siblings'],
    ignores_others=True,
)
_STORED = Record(
    {
        'commit': Text(64, _COMMIT.pattern, 'a commit'),
        'files': ListOf(
            Record(
                {
                    'name': Text(_MAX_FILE_NAME),
                    'size': Optional(Integer(0, 2**62)),
                    'sha256': Optional(Text(64, '[0-9a-f]{64}', 'a SHA-256')),
                },
                required=['name', 'size', 'sha256'],
            ),
            _MAX_FILES,
        ),
    },
    required=['commit', 'files'],
)


class HubError(DownloadError):
    """A network on a hub that cannot be found or received; the message is a sentence for the user."""


# ---------------------------------------------------------------------------------------------------------------------
# Addresses


@dataclasses.dataclass(frozen=True)
class Address:
    """A network on a hub.

    Args:
        repo: 'owner/name'.
        file: Name in the repository, or None for the one that `order` puts first.
        revision: Branch, tag or commit, or None for the newest commit.
    """

    repo: str
    file: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        file = '' if self.file is None else f'/{self.file}'
        return f'{SCHEME}{self.repo}{file}' + ('' if self.revision is None else f'@{self.revision}')

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return the parts of an address.

        Raises:
            HubError: It does not have the form at the top of this file.
        """
        path, at, revision = text[len(SCHEME) :].rpartition('@')
        if not at:
            path, revision = revision, ''
        owner, _slash, rest = path.partition('/')
        name, slash, file = rest.partition('/')
        if not (_is_repo_part(owner) and _is_repo_part(name)):
            raise HubError(f'{excerpt(text)} does not name a repository: write {_FORM}.')
        if at and (not _REVISION.fullmatch(revision) or '..' in revision):
            raise HubError(f'{excerpt(text)}: {excerpt(repr(revision), 100)} is not a revision: write {_FORM}.')
        if slash and not is_safe_name(file):
            raise HubError(f'{excerpt(text)}: {excerpt(repr(file), 100)} is not the name of a file: write {_FORM}.')
        if slash and not file.lower().endswith(EXTENSIONS):
            raise HubError(f'{excerpt(text)} is not a network file: those end in {", ".join(EXTENSIONS)}.')
        return cls(f'{owner}/{name}', file or None, revision or None)


def is_address(text: Any) -> bool:
    """Return whether a text is to name a network on a hub; it may have the wrong form."""
    return isinstance(text, str) and text.startswith(SCHEME)


def check_repo(repo: str) -> None:
    """Raise ValueError unless a text has the form owner/name."""
    owner, slash, name = repo.partition('/')
    if not (slash and _is_repo_part(owner) and _is_repo_part(name)):
        raise ValueError(
            f'{excerpt(repr(repo), 100)} is not the name of a repository: write owner/name, each of at most 96 letters '
            'A to Z, digits, -, _ and . (neither at an end, nor two in a row).'
        )


def check_branch(name: str) -> None:
    """Raise ValueError unless a text can be the name of a branch."""
    if not _REVISION.fullmatch(name) or '..' in name or '//' in name or name.endswith(('/', '.', '.lock')):
        raise ValueError(f'{excerpt(repr(name), 100)} is not the name of a branch: use letters, digits, -, _, . and /.')


def _is_repo_part(text: str) -> bool:
    return _PART.fullmatch(text) is not None and '..' not in text and '--' not in text


def is_safe_name(name: str) -> bool:
    """Return whether the name of a file in a repository stays inside it, and has no unusual characters."""
    parts = name.split('/')
    return (
        len(name) <= _MAX_FILE_NAME
        and name.isprintable()
        and '\\' not in name
        and all(part not in ('', '.', '..') for part in parts)
    )


def order(names: Iterable[str]) -> list[str]:
    """Return the names of network files, the one first that an address without a file stands for.

    Safetensors come before pickles, files in the top folder before others, then `network.*`, then the newest
    `network-snapshot-*`, then the alphabet.
    """

    def key(name: str) -> tuple[int, int, int, int, str]:
        stem, extension = os.path.splitext(name.lower())
        stem = stem.rsplit('/', 1)[-1]
        snapshot = _SNAPSHOT.fullmatch(stem)
        kind = 0 if stem == 'network' else 1 if snapshot else 2
        newest_first = -int(snapshot[1]) if snapshot else 0
        return EXTENSIONS.index(extension), name.count('/'), kind, newest_first, name

    return sorted((name for name in names if name.lower().endswith(EXTENSIONS) and is_safe_name(name)), key=key)


# ---------------------------------------------------------------------------------------------------------------------
# Opening


def pinned(address: str) -> str:
    """Return the address of a file at a commit for any address, and print on stderr which one it is.

    Raises:
        HubError: The network does not exist, or the hub cannot be reached.
    """
    parsed = Address.parse(address)
    if parsed.file is not None and parsed.revision is not None and _COMMIT.fullmatch(parsed.revision):
        return address
    found = _find(parsed)
    if found.local is not None:
        return str(parsed)
    result = Address(parsed.repo, found.name, found.commit)
    others = f' (also there: {join_excerpts(found.others, 3, 80)})' if parsed.file is None and found.others else ''
    _print(f'Using {excerpt(found.name, 100)} of {SCHEME}{parsed.repo}, commit {found.commit[:12]}{others}')
    return str(result)


def open_file(address: str) -> BinaryIO:
    """Open a network on a hub for binary reading, from the cache if it has been downloaded before.

    Raises:
        HubError: The network does not exist or cannot be downloaded.
        OSError: The file in the cache cannot be opened.
    """
    parsed = Address.parse(address)
    found = _find(parsed)
    if found.local is not None:
        return open_regular(found.local)
    url = f'{_endpoint()}/{parsed.repo}/resolve/{found.commit}/{urllib.parse.quote(found.name)}'
    if _is_offline() and cached_file(url, sha256=found.sha256) is None:
        found = _find_in_hub_cache(parsed)
        assert found.local is not None
        return open_regular(found.local)
    return open_url(url, sha256=found.sha256, size=found.size, authorization=_authorization())


@dataclasses.dataclass(frozen=True)
class _File:
    """A network file in a repository; `local` is its path if it is in the cache of huggingface_hub."""

    name: str
    commit: str = ''
    size: int | None = None
    sha256: str | None = None
    others: tuple[str, ...] = ()
    local: Path | None = None


def _find(address: Address) -> _File:
    """Return what an address stands for.

    Raises:
        HubError: The network does not exist, or the hub cannot be reached.
    """
    listing = _listing(address)
    if listing is None:
        return _find_in_hub_cache(address)
    by_name = {file['name']: file for file in listing['files']}
    name = _choose(address, by_name)
    others = tuple(other for other in order(by_name) if other != name)
    return _File(name, listing['commit'], by_name[name]['size'], by_name[name]['sha256'], others)


def _choose(address: Address, names: Iterable[str]) -> str:
    names = order(names)
    if not names:
        raise HubError(
            f'{address} has no network: there is no file that ends in {", ".join(EXTENSIONS)} in this repository.'
        )
    if address.file is not None and address.file not in names:
        raise HubError(f'{address} does not exist: the networks there are {join_excerpts(names, 5, 100)}.')
    return address.file or names[0]


# ---------------------------------------------------------------------------------------------------------------------
# Which files there are


def _listing(address: Address) -> dict[str, Any] | None:
    """Return the commit and the network files of a repository; None if they must be looked for in the other cache.

    Raises:
        HubError: The repository does not exist, or the hub cannot be reached and its last answer is not stored.
    """
    revision = address.revision or _DEFAULT_REVISION
    stored = _stored_listing(address.repo, revision)
    if stored is not None and _COMMIT.fullmatch(revision):
        return stored
    if _is_offline():
        return stored
    url = f'{_endpoint()}/api/models/{address.repo}/revision/{urllib.parse.quote(revision, safe="")}?blobs=true'
    try:
        answer = get_document(url, _MAX_LISTING_BYTES, _authorization(), {'User-Agent': 'ada-gan'})
        problem = _server_problem(answer)
    except TransferFailed as failure:
        answer, problem = None, str(failure)
    if answer is not None and problem is None:
        return _read_listing(address, answer)
    if stored is None:
        raise HubError(
            f'{address} cannot be looked up at {_endpoint()} ({problem}): check the connection, or download the file '
            'another way.'
        )
    _print(f'{_endpoint()} cannot be reached ({problem}): using commit {stored["commit"][:12]}, which it named before.')
    return stored


def _server_problem(answer: Answer) -> str | None:
    """Return what is wrong with the server itself, or None if it has answered the question."""
    is_trouble = answer.status >= 500 or answer.status in (408, 425, 429) or 200 < answer.status < 400
    return f'the server returned {answer.status}' if is_trouble else None


def _read_listing(address: Address, answer: Answer) -> dict[str, Any]:
    """Return the files in an answer, and store them for the time without a network."""
    _check_status(address, answer)
    where = f'The answer of {_endpoint()} about {address.repo}'
    try:
        content = parse_json(answer.body, where, _MAX_LISTING_BYTES)
        _ANSWER.check(content, where)
    except ValueError as error:
        raise HubError(f'{message_line(error)} Check HF_ENDPOINT.') from error
    siblings = {sibling['rfilename']: sibling for sibling in content['siblings']}
    files = []
    for name in order(siblings)[:_MAX_FILES]:
        lfs = siblings[name].get('lfs') or {}
        files.append({'name': name, 'size': siblings[name].get('size'), 'sha256': lfs.get('sha256')})
    listing = {'commit': content['sha'], 'files': files}
    for revision in {address.revision or _DEFAULT_REVISION, listing['commit']}:
        _store_listing(address.repo, revision, listing)
    return listing


def _check_status(address: Address, answer: Answer) -> None:
    """Raise HubError unless the hub has listed the files."""
    code = answer.headers.get('X-Error-Code', '')
    has_token = _authorization() is not None
    if answer.status == 200:
        return
    if answer.status == 404 and code == 'RevisionNotFound':
        raise HubError(
            f'{SCHEME}{address.repo} has no revision {address.revision!r}: use one of its branches, tags or commits.'
        )
    if answer.status == 403:
        raise HubError(
            f'{SCHEME}{address.repo} is not open to you: ask for access at {_endpoint()}/{address.repo}'
            + (', with the account of your token.' if has_token else f', then log in ({LOG_IN}, or set HF_TOKEN).')
        )
    if answer.status in (401, 404):
        token = 'the token that was sent may be wrong' if has_token else f'log in with {LOG_IN}, or set HF_TOKEN'
        raise HubError(
            f'{SCHEME}{address.repo} does not exist at {_endpoint()}, or is private: check the name; for a private '
            f'repository, {token}.'
        )
    raise HubError(f'{address} cannot be looked up at {_endpoint()}: the server returned {answer.status}.')


def _listing_path(repo: str, revision: str) -> Path:
    text = f'{_endpoint()}/{repo}@{revision}'
    return Path(make_cache_dir_path('hub', f'{hashlib.sha256(text.encode()).hexdigest()[:32]}.json'))


def _stored_listing(repo: str, revision: str) -> dict[str, Any] | None:
    """Return what the hub has answered before, or None."""
    path = _listing_path(repo, revision)
    try:
        listing = read_json(path)
        _STORED.check(listing, str(path))
    except (OSError, ValueError):
        return None
    return listing


def _store_listing(repo: str, revision: str, listing: dict[str, Any]) -> None:
    path = _listing_path(repo, revision)
    try:
        with atomic_file(path) as file:
            file.write(json.dumps(listing).encode())
    except OSError as error:
        raise HubError(
            f'{path} cannot be written ({error.strerror or error}): check free space and permissions there, or set '
            'DNNLIB_CACHE_DIR to another folder'
        ) from error


# ---------------------------------------------------------------------------------------------------------------------
# What huggingface_hub knows


def require_library() -> None:
    """Raise HubError, with the command to install it, if huggingface_hub is missing."""
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise HubError(f'Networks on a hub need the package huggingface_hub: {INSTALL} ({error}).') from error


def _endpoint() -> str:
    """Return the address of the hub, such as https://huggingface.co."""
    require_library()
    from huggingface_hub import constants

    return str(constants.ENDPOINT).rstrip('/')


def _is_offline() -> bool:
    require_library()
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _authorization() -> str | None:
    """Return the header with the user's token, or None without one."""
    require_library()
    from huggingface_hub import utils

    headers = utils.build_hf_headers(library_name='ada-gan')
    value = headers.get('authorization')
    if value is not None and not re.fullmatch(r'[\x21-\x7e]+ [\x21-\x7e]+', value):
        raise HubError(f'The token in HF_TOKEN, or of {LOG_IN}, has characters that no token has: set it again.')
    return value


def _find_in_hub_cache(address: Address) -> _File:
    """Return a file that huggingface_hub has downloaded; the hub may not be asked."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(address.repo, revision=address.revision, local_files_only=True)
    except (OSError, ValueError) as error:
        raise HubError(
            f'{address} has not been downloaded yet, and HF_HUB_OFFLINE is set: unset it to download the network.'
        ) from error
    names = [path.relative_to(folder).as_posix() for path in Path(folder).rglob('*') if path.is_file()]
    name = _choose(address, names)
    return _File(name, local=Path(folder, name))


def _print(text: str) -> None:
    print(message_line(text), file=sys.stderr, flush=True)
