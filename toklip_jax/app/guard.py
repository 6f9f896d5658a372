"""What stands before every request: where it comes from, how large it is, what the page may do."""

import ipaddress
import json
import socket
import urllib.parse
from typing import Any

from starlette.exceptions import HTTPException

# Nothing but what this server sends is loaded, and no other page may hold this one in a frame.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
READS = ("GET", "HEAD")
MAX_DIGITS = 20  # of a length; Python refuses to read thousands


class Guard:
    """An ASGI application around another.

    A name that is neither this machine's nor an address is refused, as a page elsewhere may have
    its own name lead here; so is whatever another page sends. A browser always says which page it
    is (`Origin`).
    """

    def __init__(self, app: Any, host: str, max_bytes: int):
        self.app, self.max_bytes = app, max_bytes
        self.names = {"localhost", host.lower(), socket.gethostname().lower()}

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":  # nothing but HTTP is served
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refusal(scope["method"], headers)
        if refused:
            status, line = refused
            body = json.dumps({"error": line}).encode()
            kind = (b"content-type", b"application/json")
            send = _with_headers(send)
            await send({"type": "http.response.start", "status": status, "headers": [kind]})
            await send({"type": "http.response.body", "body": body})
            return
        await self.app(scope, self._counted(receive), _with_headers(send))

    def _refusal(self, method, headers) -> tuple[int, str] | None:
        host = headers.get(b"host", "")
        if not self._is_ours(host):
            return 421, "expected this app's own address, got another name"
        origin = headers.get(b"origin", "")
        if method not in READS and _address(origin).netloc != host:
            return 403, "expected a request of this app's own page, got one from elsewhere"
        length = headers.get(b"content-length", "0")
        if not length.isdecimal() or len(length) > MAX_DIGITS or int(length) > self.max_bytes:
            return 413, self._too_large
        return None

    @property
    def _too_large(self):
        return f"expected at most {self.max_bytes // 2**20} MB at once, got more"

    def _is_ours(self, host):
        name = _address(f"//{host}").hostname or ""
        if name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _counted(self, receive):
        """`receive` of a body that may not say how long it is."""
        taken = 0

        async def counted():
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.max_bytes:
                raise HTTPException(413, self._too_large)
            return message

        return counted


def _address(text):
    """The parts of an address, empty ones of a text that is none."""
    try:
        return urllib.parse.urlsplit(text)
    except ValueError:
        return urllib.parse.urlsplit("")


def _with_headers(send):
    async def sending(message):
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *HEADERS]}
        await send(message)

    return sending
