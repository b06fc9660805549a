"""Keys as devices have them, certificates as hubs give them out, and TLS on both ends for tests."""

from __future__ import annotations

from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from milonga.pinning import HUB_NAME, fingerprint
from milonga_hub.authority import Authority
from milonga_hub.transports.grpc import server_credentials

OPTIONS = [("grpc.ssl_target_name_override", HUB_NAME)]


class Key:
    """The key of one device, and its request for a certificate."""

    def __init__(self) -> None:
        self.private = ec.generate_private_key(ec.SECP256R1())

    @property
    def pem(self) -> bytes:
        return self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def fingerprint(self) -> str:
        public = self.private.public_key()
        return fingerprint(
            public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        )

    def request(self) -> bytes:
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        return builder.sign(self.private, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


class Tls:
    """One hub's authority, with the credentials of its servers and of who calls them."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self._identity = self.authority.server()

    def server(self, devices_only: bool = False) -> grpc.ServerCredentials:
        return server_credentials(self._identity, devices_only=devices_only)

    def channel(self, address: str, key: bytes | None = None, certificate: str | None = None) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(address, self.credentials(key, certificate), options=OPTIONS)

    def credentials(self, key: bytes | None = None, certificate: str | None = None) -> grpc.ChannelCredentials:
        if not certificate:
            return grpc.ssl_channel_credentials(self.authority.certificate)
        return grpc.ssl_channel_credentials(self.authority.certificate, key, certificate.encode())
