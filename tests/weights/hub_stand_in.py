"""A local stand-in of the Hugging Face hub: what huggingface_hub asks of it, from memory."""

import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse

from huggingface_hub import constants

COMMIT = "c" * 40
RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
INFO = re.compile(r"/api/models/([^/]+/[^/]+?)(?:/revision/([^/]+))?")


class Hub:
    """What is served, and how.

    Attributes:
        files: the content of files, by repository and name.
        announced: hashes that are announced in place of the right ones, by file.
        gated: repositories that ask to accept a licence.
        status: an HTTP status that every request gets, or None.
        cut: after how many bytes each file's first download breaks off, or None.
        requests: the method, path and `Range` of every request for files or lists of them.
    """

    def __init__(self):
        self.files = {}
        self.announced = {}
        self.gated = set()
        self.status = None
        self.cut = None
        self.requests = []

    def add(self, repository, **paths):
        """Adds files, by the names that they have with "__" for a dot."""
        files = self.files.setdefault(repository, {})
        files.update({name.replace("__", "."): path.read_bytes() for name, path in paths.items()})

    @property
    def downloads(self):
        """The names of the files whose content was asked for."""
        found = [RESOLVE.fullmatch(path) for method, path, _ in self.requests if method == "GET"]
        return [match[3] for match in found if match]


def point_to(address, cache, monkeypatch):
    """Makes huggingface_hub take an address for the real hub's, and a folder for its cache."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


@contextlib.contextmanager
def serving(hub):
    """Serves a hub, and gives its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_HEAD(self):
            self.answer(is_head=True)

        def do_GET(self):
            self.answer(is_head=False)

        def answer(self, is_head):
            path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
            info, found = INFO.fullmatch(path), RESOLVE.fullmatch(path)
            if info is None and found is None:  # huggingface_hub asks for other things too
                return self.send(404, b"", {}, is_head)
            hub.requests.append((self.command, path, self.headers.get("Range")))
            if hub.status is not None:
                return self.send(hub.status, b"", {}, is_head)
            if info is not None:
                return self.send_info(info[1], is_head)
            if found[1] not in hub.files:
                return self.refuse(404, "RepoNotFound", is_head)
            if found[1] in hub.gated:
                return self.refuse(403, "GatedRepo", is_head)
            if found[2] not in ("main", COMMIT):
                return self.refuse(404, "RevisionNotFound", is_head)
            content = hub.files[found[1]].get(found[3])
            if content is None:
                return self.refuse(404, "EntryNotFound", is_head)
            return self.send_file(found[3], content, is_head)

        def send_file(self, name, content, is_head):
            digest = hub.announced.get(name, hashlib.sha256(content).hexdigest())
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
            headers["X-Linked-Size"] = str(len(content))
            start = self.headers.get("Range")
            if is_head or start is None:
                return self.send(200, content, headers, is_head, hub.cut)
            first = int(re.match(r"bytes=(\d+)-", start)[1])
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            return self.send(206, content[first:], headers, is_head)

        def send_info(self, repository, is_head):
            if repository not in hub.files:
                return self.refuse(404, "RepoNotFound", is_head)
            siblings = [
                {
                    "rfilename": name,
                    "size": len(content),
                    "lfs": {
                        "size": len(content),
                        "sha256": hashlib.sha256(content).hexdigest(),
                        "pointerSize": 134,
                    },
                }
                for name, content in hub.files[repository].items()
            ]
            info = {"id": repository, "sha": COMMIT, "siblings": siblings}
            content = json.dumps(info).encode()
            return self.send(200, content, {"Content-Type": "application/json"}, is_head)

        def refuse(self, status, code, is_head):
            self.send(status, b"", {"X-Error-Code": code, "X-Error-Message": code}, is_head)

        def send(self, status, content, headers, is_head, cut=None):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if is_head:
                return
            self.wfile.write(content[:cut])
            if cut is not None and cut < len(content):
                self.close_connection = True

    server = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
