"""A channel to a hub, whose authority is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from milonga.client.retries import Retries
from milonga.pinning import HUB_NAME

_MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_OPTIONS: list[tuple[str, Any]] = [
    # A proxy of the environment is for the web; hubs are on the local network.
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    # Every hub's certificate bears this name; the authority tells hubs apart.
    ("grpc.ssl_target_name_override", HUB_NAME),
    # A watch may be silent for days: a hub that is gone without a word is found out within a minute and a half.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Calls are tried again for some seconds; gRPC's own default connects anew only after up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
]


def open_channel(
    address: str, authority: str, key: Callable[[], str] | None = None, retries: Retries = Retries(attempts=1)
) -> grpc.Channel:
    """Return a channel to the hub with this authority (PEM), whose calls bear the key that it has by then, None for none."""
    return grpc.secure_channel(address, _credentials(authority, key), _options(retries))


def open_async_channel(
    address: str, authority: str, key: Callable[[], str] | None = None, retries: Retries = Retries(attempts=1)
) -> grpc.aio.Channel:
    """Return a channel as open_channel does, for the running loop."""
    return grpc.aio.secure_channel(address, _credentials(authority, key), _options(retries))


def _options(retries: Retries) -> list[tuple[str, Any]]:
    return [*_OPTIONS, ("grpc.service_config", retries.service_config())]


def _credentials(authority: str, key: Callable[[], str] | None) -> grpc.ChannelCredentials:
    credentials = grpc.ssl_channel_credentials(authority.encode())
    if key is None:
        return credentials
    return grpc.composite_channel_credentials(credentials, grpc.metadata_call_credentials(_Bearer(key)))


class _Bearer(grpc.AuthMetadataPlugin):
    """Sends `authorization: Bearer KEY`."""

    def __init__(self, key: Callable[[], str]) -> None:
        self._key = key

    def __call__(self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        key = self._key()
        callback((("authorization", f"Bearer {key}"),) if key else (), None)
