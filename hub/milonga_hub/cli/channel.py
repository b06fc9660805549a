"""A channel to a hub, whose authority is known."""

from __future__ import annotations

import grpc
from milonga.pinning import HUB_NAME

_MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_OPTIONS = [
    # A proxy of the environment is for the web; hubs are on the local network.
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    # Every hub's certificate bears this name; the authority tells hubs apart.
    ("grpc.ssl_target_name_override", HUB_NAME),
]


def open_channel(address: str, authority: str, key: str = "") -> grpc.Channel:
    """Return a channel to the hub with this authority (PEM), whose calls all bear the key."""
    credentials = grpc.ssl_channel_credentials(authority.encode())
    if key:
        # Sent as `authorization: Bearer KEY`.
        credentials = grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials(key))
    return grpc.secure_channel(address, credentials, _OPTIONS)
