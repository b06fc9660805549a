"""Real servers that alerts are sent to: HTTP, and as much SMTP as a mail program speaks."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class WebReceiver:
    """A webhook that answers with `status`, and keeps what came."""

    url: str
    status: int = 200
    content_type: str = "text/plain"
    bodies: list[bytes] = field(default_factory=list)
    headers: list[Any] = field(default_factory=list)


@contextmanager
def web_receiver() -> Iterator[WebReceiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            found.headers.append(self.headers)
            self.send_response(found.status)
            if found.status in (301, 302, 307):
                self.send_header("Location", found.url)
            self.send_header("Content-Type", found.content_type)
            self.end_headers()
            self.wfile.write(b"thanks" if found.status < 300 else b"out of\norder")

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = WebReceiver(f"http://127.0.0.1:{server.server_port}/hook")
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield found
        finally:
            server.shutdown()


@dataclass
class MailReceiver:
    """A mail server that takes everything, or refuses all recipients."""

    port: int
    refuses: bool = False
    senders: list[str] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    mails: list[str] = field(default_factory=list)


@contextmanager
def mail_receiver() -> Iterator[MailReceiver]:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self._say("220 here")
            while line := self.rfile.readline().decode().strip():
                verb = line.split(":")[0].upper()
                if verb == "DATA":
                    self._say("354 go on")
                    found.mails.append(self._text())
                    self._say("250 taken")
                elif verb == "QUIT":
                    self._say("221 bye")
                    return
                elif verb == "RCPT TO" and found.refuses:
                    self._say("550 no such person")
                else:
                    if verb == "MAIL FROM":
                        found.senders.append(line)
                    if verb == "RCPT TO":
                        found.recipients.append(line)
                    self._say("250 fine")

        def _text(self) -> str:
            lines = []
            while (line := self.rfile.readline().decode().rstrip("\r\n")) != ".":
                lines.append(line)
            return "\n".join(lines)

        def _say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        found = MailReceiver(server.server_address[1])
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield found
        finally:
            server.shutdown()
