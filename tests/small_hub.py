"""A hub on this machine: a server that speaks the few calls with which networks are found, downloaded and uploaded.

It keeps repositories in memory, redirects the content of files to another host as the real one does, and misbehaves
where a test asks it to: `answers` has functions by path that take the place of the usual answer.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import sys
import threading
import urllib.parse
from dataclasses import dataclass, field

TOKEN = 'hf_' + 'SecretTokenOfTheTests'


@dataclass
class Repo:
    """Branches, each a list of (commit, {file name: content}), the newest last."""

    private: bool = False
    branches: dict = field(default_factory=dict)
    sizes: dict = field(default_factory=dict)  # that the server claims, by file name

    def commit(self, files, branch='main'):
        history = self.branches.setdefault(branch, [])
        content = {**(history[-1][1] if history else {}), **files}
        content = {name: data for name, data in content.items() if data is not None}
        number = sum(map(len, self.branches.values()))
        commit = hashlib.sha1(f'{branch}{number}{sorted(content)}'.encode()).hexdigest()
        history.append((commit, content))
        return commit

    def at(self, revision):
        """(commit, files) of a branch or a commit, or None."""
        if self.branches.get(revision):
            return self.branches[revision][-1]
        commits = {commit: files for history in self.branches.values() for commit, files in history}
        return (revision, commits[revision]) if revision in commits else None


class Request(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does."""

    protocol_version = 'HTTP/1.1'

    def log_message(self, *_args):
        pass

    def do_GET(self):
        self._handle()

    do_POST = do_PUT = do_HEAD = do_GET

    def _handle(self):
        hub = self.server.hub
        self.body = self._read_body()
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        hub.requests.append((self.command, path, self.headers.get('Host'), self.headers.get('Authorization')))
        with contextlib.suppress(ConnectionError):
            if path in hub.answers:
                return hub.answers[path](self)
            for method, pattern, answer in ROUTES:
                match = re.fullmatch(pattern, path)
                if method == self.command and match:
                    return answer(self, hub, *match.groups())
            return self.send_json({'error': 'Not found'}, 404)

    def _read_body(self):
        if 'chunked' not in self.headers.get('Transfer-Encoding', ''):
            return self.rfile.read(int(self.headers.get('Content-Length', 0)))
        body = b''
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def send(self, body=b'', status=200, length=None, **headers):
        self.send_response(status)
        self.send_header('Content-Length', str(len(body) if length is None else length))
        self.send_header('Connection', 'close')
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def send_json(self, content, status=200, **headers):
        self.send(json.dumps(content).encode(), status, Content_Type='application/json', **headers)

    def send_for_ever(self, **headers):
        """A body without an end and without a length."""
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), value)
        self.send_header('Connection', 'close')
        self.end_headers()
        piece = b'[' * (1 << 16)
        while not self.server.hub.released.is_set():
            self.wfile.write(piece)

    @property
    def is_authorized(self):
        return self.headers.get('Authorization') == f'Bearer {TOKEN}'


def _repo(request, hub, name):
    """The repository, or None after the answer of the hub for one that does not exist or may not be seen."""
    repo = hub.repos.get(name)
    if repo is not None and (not repo.private or request.is_authorized):
        return repo
    status = 404 if request.is_authorized else 401
    request.send_json({'error': 'Repository not found'}, status, X_Error_Code='RepoNotFound')
    return None


def list_files(request, hub, name, revision='main'):
    repo = _repo(request, hub, name)
    if repo is None:
        return None
    found = repo.at(revision)
    if found is None:
        return request.send_json({'error': 'Invalid rev id'}, 404, X_Error_Code='RevisionNotFound')
    siblings = []
    for file, content in found[1].items():
        sibling = {'rfilename': file, 'size': repo.sizes.get(file, len(content)), 'blobId': '0' * 40}
        if not file.endswith(('.md', '.json')):
            sibling['lfs'] = {'sha256': hashlib.sha256(content).hexdigest(), 'size': sibling['size'], 'pointerSize': 9}
        siblings.append(sibling)
    answer = {'_id': '1', 'id': name, 'modelId': name, 'sha': found[0], 'private': repo.private, 'siblings': siblings}
    return request.send_json(answer)


def list_tree(request, hub, name, revision):
    repo = _repo(request, hub, name)
    if repo is None:
        return None
    files = repo.at(revision)[1]
    return request.send_json([{'type': 'file', 'path': f, 'size': len(c), 'oid': '0' * 40} for f, c in files.items()])


def resolve(request, hub, name, revision, file):
    """The content of a large file is on another host."""
    repo = _repo(request, hub, name)
    if repo is None:
        return None
    content = repo.at(revision)[1].get(file)
    if content is None:
        return request.send_json({'error': 'Entry not found'}, 404, X_Error_Code='EntryNotFound')
    digest = hashlib.sha256(content).hexdigest()
    hub.objects[digest] = content
    return request.send(status=302, Location=f'{hub.other_host}/objects/{digest}')


def send_object(request, hub, digest):
    request.send(hub.objects[digest], Content_Type='application/octet-stream')


def create_repo(request, hub):
    if not request.is_authorized:
        return request.send_json({'error': 'Invalid token'}, 401)
    wanted = json.loads(request.body)
    name = '/'.join(filter(None, [wanted.get('organization'), wanted['name']]))
    if name.split('/')[0] != 'me':
        return request.send_json({'error': f'No right to write. {request.headers["Authorization"]}'}, 403)
    if name in hub.repos:
        return request.send_json({'error': 'You already created this', 'url': f'{hub.url}/{name}'}, 409)
    private = bool(wanted.get('private')) or wanted.get('visibility') == 'private'
    hub.repos[name] = Repo(private)
    hub.repos[name].commit({'.gitattributes': b''})
    return request.send_json({'url': f'{hub.url}/{name}', 'name': name, 'id': '1'})


def create_branch(request, hub, name, branch):
    repo = _repo(request, hub, name)
    if repo is None:
        return None
    if branch in repo.branches:
        return request.send_json({'error': 'Reference already exists'}, 409)
    repo.branches[branch] = list(repo.branches['main'])
    return request.send_json({})


def validate_yaml(request, _hub):
    wanted = json.loads(request.body)
    hub_reads = re.match(r'---\n(.*?)\n---\n', wanted['content'], re.DOTALL)
    license_of = re.search(r'^license: (.*)$', hub_reads[1], re.MULTILINE) if hub_reads else None
    if license_of and json.loads(license_of[1]) == 'my-own':
        errors = [{'message': '"license" must be one of [apache-2.0, mit, other]'}]
        return request.send_json({'errors': errors, 'warnings': [], 'error': errors[0]['message']}, 400)
    return request.send_json({'errors': [], 'warnings': []})


def preupload(request, _hub, _name, _revision):
    files = [file['path'] for file in json.loads(request.body)['files']]
    large = ('.safetensors', '.pkl', '.png')
    modes = [('lfs' if file.endswith(large) else 'regular') for file in files]
    answer = [{'path': f, 'uploadMode': mode, 'shouldIgnore': False} for f, mode in zip(files, modes)]
    request.send_json({'files': answer, 'commitOid': '0' * 40})


def lfs_batch(request, hub, _name):
    objects = json.loads(request.body)['objects']
    for wanted in objects:
        wanted['actions'] = {'upload': {'href': f'{hub.url}/objects/{wanted["oid"]}', 'header': {}}}
    request.send_json({'objects': objects, 'transfer': 'basic'})


def put_object(request, hub, digest):
    assert hashlib.sha256(request.body).hexdigest() == digest
    hub.objects[digest] = request.body
    request.send()


def commit(request, hub, name, revision):
    repo = _repo(request, hub, name)
    if repo is None or not request.is_authorized:
        return None
    files = {}
    for line in request.body.splitlines():
        item = json.loads(line)
        value = item['value']
        if item['key'] == 'file':
            files[value['path']] = base64.b64decode(value['content'])
        elif item['key'] == 'lfsFile':
            files[value['path']] = hub.objects[value['oid']]
        elif item['key'] == 'deletedFile':
            files[value['path']] = None
        elif item['key'] == 'header':
            hub.messages.append(value['summary'])
    oid = repo.commit(files, revision)
    return request.send_json({'success': True, 'commitOid': oid, 'commitUrl': f'{hub.url}/{name}/commit/{oid}'})


_NAME = r'([^/]+/[^/]+)'
ROUTES = [
    ('GET', rf'/api/models/{_NAME}', list_files),
    ('GET', rf'/api/models/{_NAME}/revision/(.+)', list_files),
    ('GET', rf'/api/models/{_NAME}/tree/([^/]+)', list_tree),
    ('GET', rf'/{_NAME}/resolve/([0-9a-f]+)/(.+)', resolve),
    ('GET', r'/objects/([0-9a-f]+)', send_object),
    ('POST', r'/api/repos/create', create_repo),
    ('POST', rf'/api/models/{_NAME}/branch/(.+)', create_branch),
    ('POST', r'/api/validate-yaml', validate_yaml),
    ('POST', rf'/api/models/{_NAME}/preupload/(.+)', preupload),
    ('POST', rf'/{_NAME}\.git/info/lfs/objects/batch', lfs_batch),
    ('PUT', r'/objects/([0-9a-f]+)', put_object),
    ('POST', rf'/api/models/{_NAME}/commit/(.+)', commit),
]


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_args):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # the client may leave
            super().handle_error(*_args)


class Hub:
    """Context manager that runs the server.

    Attributes:
        url: Its address, for HF_ENDPOINT.
        other_host: The same server under another name, where content comes from.
        repos: Repositories by 'owner/name'.
        answers: Functions of a request by path, which take the place of the usual answer.
        requests: (method, path, host, Authorization) of all requests.
        messages: Messages of all commits.
    """

    def __enter__(self):
        self.repos, self.answers, self.requests, self.messages, self.objects = {}, {}, [], [], {}
        self.released = threading.Event()  # ends answers without an end
        self._server = _Server(('127.0.0.1', 0), Request)
        self._server.hub = self
        self.url = f'http://127.0.0.1:{self._server.server_port}'
        self.other_host = f'http://localhost:{self._server.server_port}'
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={'poll_interval': 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_exception):
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def repo(self, name, private=False, **files):
        """A new repository with one commit; '__' in a name stands for a dot."""
        self.repos[name] = Repo(private)
        self.repos[name].commit({file.replace('__', '.'): content for file, content in files.items()})
        return self.repos[name]

    def environment(self, folder, token=None, **others):
        """Variables with which programs use this hub, with caches in a folder."""
        settings = {
            'HF_ENDPOINT': self.url,
            'HF_HOME': str(folder / 'hf'),
            'HF_HUB_DISABLE_XET': '1',
            'HF_HUB_DISABLE_TELEMETRY': '1',
            'HF_TOKEN': token or '',
            'DNNLIB_CACHE_DIR': str(folder / 'cache'),
            'http_proxy': '',
            'no_proxy': '*',
        }
        return {**settings, **others}

    def use_in_this_process(self, folder, monkeypatch, token=None):
        """Set everything as if this process had been started with `environment`."""
        from huggingface_hub import constants

        for name, value in self.environment(folder, token).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(constants, 'ENDPOINT', self.url)
        monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(folder / 'hf' / 'hub'))
        monkeypatch.setattr(constants, 'HF_TOKEN_PATH', str(folder / 'hf' / 'token'))
        monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
        monkeypatch.setattr(constants, 'HF_HUB_DISABLE_XET', True, raising=False)
