"""Serve one bundle on loopback by the Open Inference Protocol v2 (REST)."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import milonga_agent
from milonga_agent.errors import BadRequest
from milonga_agent.served import Served
from milonga_agent.tensors import encode, parse

_MAX_BODY_BYTES = 64 << 20
# A client that sends nothing for this long is gone.
_IDLE_SECONDS = 60
_MOST_DIGITS = 19


class Server(ThreadingHTTPServer):
    """Answers on a socket that listens already, so that two of them can share it while one takes over."""

    daemon_threads = True

    def __init__(self, listening: socket.socket, served: Served) -> None:
        super().__init__(listening.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.served = served
        self.draining = False
        self._busy = 0
        self._idle = threading.Condition()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        # Answers are small and awaited: do not hold them back to fill a packet.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, address

    def drain(self, seconds: float) -> None:
        """Accept no more, and return when what was accepted is answered, or after so many seconds."""
        self.draining = True
        self.shutdown()
        with self._idle:
            self._idle.wait_for(lambda: self._busy == 0, seconds)

    def handle_one(self, work: Any) -> None:
        """Run the work of one request, counted for `drain`."""
        with self._idle:
            self._busy += 1
        try:
            work()
        finally:
            with self._idle:
                self._busy -= 1
                self._idle.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


def _is_size(text: str) -> bool:
    # "²" is a digit, too, and 5,000 of them are a number that int() refuses.
    return text.isascii() and text.isdigit() and len(text) < _MOST_DIGITS


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = f"milonga-agent/{milonga_agent.__version__}"
    timeout = _IDLE_SECONDS
    server: Server

    def do_GET(self) -> None:
        self.server.handle_one(self._get)

    def do_POST(self) -> None:
        self.server.handle_one(self._post)

    def _get(self) -> None:
        path = self.path.partition("?")[0].rstrip("/")
        served = self.server.served
        model = f"/v2/models/{served.project}"
        if path in ("/v2/health/live", "/v2/health/ready"):
            self._send(200, {path.rpartition("/")[2]: True})
        elif path == "/v2":
            about = {"name": "milonga-agent", "version": milonga_agent.__version__}
            self._send(200, {**about, "extensions": ["binary_tensor_data"]})
        elif path in (model, f"{model}/versions/{served.version}"):
            self._send(200, self._metadata())
        elif path in (f"{model}/ready", f"{model}/versions/{served.version}/ready"):
            self._send(200, {"name": served.project, "ready": True})
        else:
            self._not_found()

    def _metadata(self) -> dict[str, Any]:
        served = self.server.served
        shape = [-1, *served.input_shape]
        return {
            "name": served.project,
            "versions": [served.version],
            "platform": f"{served.manifest['engine']}_{served.manifest['precision']}",
            "inputs": [
                {"name": "picture", "datatype": "BYTES", "shape": [-1]},
                {"name": "image", "datatype": "FP32", "shape": shape},
            ],
            "outputs": [
                {"name": one.name, "datatype": one.datatype, "shape": list(one.shape)} for one in served.outputs
            ],
        }

    def _post(self) -> None:
        body = self._body()
        if body is None:
            return
        served = self.server.served
        model = f"/v2/models/{served.project}"
        if self.path.rstrip("/") not in (f"{model}/infer", f"{model}/versions/{served.version}/infer"):
            self._not_found()
            return
        try:
            self._infer(body)
        except BadRequest as error:
            served.window.failed()
            self._send(400, {"error": str(error)})
        except Exception as error:  # An engine that fails must not take the server with it.
            served.window.failed()
            self._send(500, {"error": f"the engine failed: {error}"})

    def _infer(self, body: bytes) -> None:
        served = self.server.served
        length = self.headers.get("Inference-Header-Content-Length")
        if length is not None and not _is_size(length):
            raise BadRequest(f"Inference-Header-Content-Length is {length!r}, not a number")
        request = parse(body, None if length is None else int(length), tuple(one.name for one in served.outputs))
        if request.pictures is not None:
            answer = served.of_pictures(request.pictures)
        else:
            assert request.image is not None
            answer = served.of_tensor(request.image)
        head = {"model_name": served.project, "model_version": served.version}
        if request.id:
            head["id"] = request.id
        data, json_length = encode(head, answer.values, request.outputs)
        headers = {} if json_length is None else {"Inference-Header-Content-Length": str(json_length)}
        self._send_bytes(200, data, "application/json" if json_length is None else "application/octet-stream", headers)
        copier = served.copier
        if copier is not None:
            copier.offer(body, None if length is None else int(length), answer)

    def _body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "")
        if not _is_size(length):
            self.close_connection = True
            self._send(411, {"error": "the request needs a Content-Length"})
            return None
        if int(length) > _MAX_BODY_BYTES:
            self.close_connection = True
            self._send(413, {"error": f"the request has {length} bytes; at most {_MAX_BODY_BYTES} are taken"})
            return None
        return self.rfile.read(int(length))

    def _not_found(self) -> None:
        self._send(
            404, {"error": f"there is no {self.path}; this device serves /v2/models/{self.server.served.project}"}
        )

    def _send(self, status: int, body: dict[str, Any]) -> None:
        self._send_bytes(status, json.dumps(body).encode(), "application/json", {})

    def _send_bytes(self, status: int, body: bytes, content_type: str, headers: dict[str, str]) -> None:
        if self.server.draining:
            self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of single requests: telemetry counts them."""
