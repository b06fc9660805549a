"""The hub's own certificate authority: who is this hub, and who is which device."""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from milonga.pinning import HUB_NAME, fingerprint
from milonga_compiler.files import write_atomically

from milonga_hub.db import utc_now
from milonga_hub.errors import FailedPrecondition, InvalidInput, Unauthenticated

# A device whose clock stands at its beginning must still believe the hub; how old a certificate is protects nobody.
_ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)
_AUTHORITY_LIFETIME = timedelta(days=365 * 20)
_SERVER_LIFETIME = timedelta(days=365 * 5)
# A broker elsewhere may have a clock that is behind.
_ALREADY = timedelta(days=1)
_REVISION = timedelta(seconds=1)
# What a device's certificate says beside its name, which stands alone in the common name: brokers put that into topics.
_DEVICES = "devices"
# Certificates from before said so in the common name.
_EARLIER_PREFIX = f"{_DEVICES}/"
# The common name of the hub's own clients. No device can have it: device names are a-z, 0-9 and "-".
HUB_CLIENT = "milonga_hub"
# A request for a P-256 key has about 250 bytes.
_MAX_REQUEST_BYTES = 4096


@dataclass(frozen=True)
class ServerIdentity:
    """Key and chain (PEM) with which a server shows that it is this hub's."""

    key: bytes = field(repr=False)
    chain: bytes
    authority: bytes


@dataclass(frozen=True)
class Issued:
    """A certificate (PEM) that was just signed."""

    certificate: str
    expires_at: datetime
    # In hexadecimal digits: it has up to 159 bits.
    serial: str


@dataclass(frozen=True)
class Presented:
    """What a client certificate says, once TLS has checked that the authority signed it and that its time is not over."""

    device: str
    key_fingerprint: str


class Authority:
    """Signs certificates with a key that is made at the first start and that only the hub's user may read."""

    def __init__(self, folder: Path, clock: Callable[[], datetime] = utc_now) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._clock = clock
        key_path, certificate_path = folder / "authority.key", folder / "authority.pem"
        if not certificate_path.exists():
            self._create(key_path, certificate_path)
        try:
            self._key = _private_key(key_path.read_bytes())
            self._certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
        except (OSError, ValueError, TypeError) as error:
            raise FailedPrecondition(
                f"the hub's authority in {folder} cannot be read ({error}); restore it from a backup, or remove the"
                " folder, whereupon all devices must join again"
            ) from error
        self._revised_at = self._clock() - _ALREADY
        if self._certificate.public_key() != self._key.public_key():
            raise FailedPrecondition(f"{key_path} is not the key of {certificate_path}; restore both from one backup")
        self._key_identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        # What all certificates have in common: builders do not change, and to begin anew for each costs a third of a certificate.
        self._common = (
            x509.CertificateBuilder()
            .issuer_name(self._certificate.subject)
            .not_valid_before(_ALWAYS)
            .add_extension(_NO_AUTHORITY, critical=True)
            .add_extension(_SIGNS_ITSELF, critical=True)
            .add_extension(self._key_identifier, critical=False)
        )
        self._for_clients = self._common.add_extension(_CLIENT, critical=False)

    @property
    def certificate(self) -> bytes:
        """The authority's own certificate (PEM), for those who have to believe it."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        """What devices and people know this hub by."""
        return fingerprint(self._certificate.public_bytes(serialization.Encoding.DER))

    def server(self, names: Iterable[str] = ()) -> ServerIdentity:
        """Return a fresh identity for this process's servers, made out to HUB_NAME, these names and those of the machine."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HUB_NAME)])
        builder = self._common.add_extension(
            x509.SubjectAlternativeName([*_general_names(names)]), critical=False
        ).add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        certificate = self._signed(builder, subject, key.public_key(), self._clock() + _SERVER_LIFETIME)
        return ServerIdentity(_pem_of(key), _pem(certificate) + self.certificate, self.certificate)

    def issue(self, request: bytes, device: str, lifetime: timedelta) -> Issued:
        """Sign the key of a request (PKCS #10, DER) as this device's, for client use alone. Raises InvalidInput."""
        return self.certify(requested_key(request), device, lifetime)

    def certify(self, key: ec.EllipticCurvePublicKey, device: str, lifetime: timedelta) -> Issued:
        """Sign a key as this device's, for client use alone; see requested_key for whether it is the device's own."""
        expires_at = self._clock() + lifetime
        certificate = self._for_client(_subject(device), key, expires_at)
        return Issued(_pem(certificate).decode(), expires_at.replace(microsecond=0), f"{certificate.serial_number:x}")

    def revocations(self, serials: Iterable[str]) -> bytes:
        """Return the signed list of these certificates (PEM), for brokers that ask a list and not the hub."""
        # Of two lists OpenSSL believes the one that was made later, by whole seconds.
        self._revised_at = max(self._clock() - _ALREADY, self._revised_at + _REVISION)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(self._revised_at)
            .next_update(self._revised_at + _AUTHORITY_LIFETIME)
            .add_extension(x509.CRLNumber(int(self._revised_at.timestamp())), critical=False)
            .add_extension(self._key_identifier, critical=False)
        )
        for serial in serials:
            revoked = x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(self._revised_at)
            builder = builder.add_revoked_certificate(revoked.build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def own_client(self) -> tuple[ssl.SSLContext, str]:
        """Return a TLS context for the hub's own clients of its broker, and the fingerprint of its fresh key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HUB_CLIENT)])
        certificate = self._for_client(subject, key.public_key(), self._clock() + _SERVER_LIFETIME)
        return self._client_context(_pem_of(key), _pem(certificate)), key_fingerprint(key.public_key())

    def stand_in(self, device: str, lifetime: timedelta, *, earlier: bool = False) -> ssl.SSLContext:
        """Return a TLS context in a device's name, with which the hub takes over its session with a broker.

        `earlier` makes it look as certificates did when the common name was more than the device's name.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _EARLIER_PREFIX + device)])
        certificate = self._for_client(
            subject if earlier else _subject(device), key.public_key(), self._clock() + lifetime
        )
        return self._client_context(_pem_of(key), _pem(certificate))

    def _client_context(self, key: bytes, chain: bytes) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.certificate.decode())
        context.check_hostname = (
            False  # The certificate's purpose and authority say all: only hubs get one for servers.
        )
        self.load(context, key, chain)
        return context

    def load(self, context: ssl.SSLContext, key: bytes, chain: bytes) -> None:
        """Give the context a key and chain; the ssl module takes them from files alone."""
        with tempfile.NamedTemporaryFile(dir=self._folder, suffix=".pem") as file:
            file.write(key + chain)
            file.flush()
            context.load_cert_chain(file.name)

    def _create(self, key_path: Path, certificate_path: Path) -> None:
        # The certificate last: while there is none, a start that was cut off begins again.
        key = ec.generate_private_key(ec.SECP256R1())
        write_secret(key_path, _pem_of(key))
        self._key = key
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Milonga hub {secrets.token_hex(4)}")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_ALWAYS)
            .not_valid_after(self._clock() + _AUTHORITY_LIFETIME)
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        write_atomically(certificate_path, _pem(certificate).decode())

    def _for_client(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, expires_at: datetime) -> x509.Certificate:
        return self._signed(self._for_clients, subject, key, expires_at)

    def _signed(
        self,
        builder: x509.CertificateBuilder,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        expires_at: datetime,
    ) -> x509.Certificate:
        own = builder.subject_name(subject).public_key(key).serial_number(x509.random_serial_number())
        return own.not_valid_after(expires_at).sign(self._key, hashes.SHA256())


def requested_key(request: bytes) -> ec.EllipticCurvePublicKey:
    """Return the public key of a request whose sender has the private one. Raises InvalidInput."""
    if len(request) > _MAX_REQUEST_BYTES:
        raise InvalidInput(f"the certificate request has {len(request)} bytes, more than {_MAX_REQUEST_BYTES}")
    try:
        parsed = x509.load_der_x509_csr(request)
        key, proven = parsed.public_key(), parsed.is_signature_valid
    except Exception as error:  # Foreign bytes: the parser and its back end raise errors of many kinds.
        raise InvalidInput("the certificate request is not PKCS #10 in DER; update the agent") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidInput("the certificate request must be of a P-256 key")
    if not proven:
        raise InvalidInput("the certificate request is not signed by its own key")
    return key


def _subject(device: str) -> x509.Name:
    unit = x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, _DEVICES)
    return x509.Name([unit, x509.NameAttribute(NameOID.COMMON_NAME, device)])


def key_fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    return fingerprint(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))


def presented(certificate: bytes) -> Presented:
    """Return what a certificate (PEM or DER) says that TLS has already checked. Raises Unauthenticated for no device's."""
    load = x509.load_pem_x509_certificate if certificate.startswith(b"-----") else x509.load_der_x509_certificate
    try:
        parsed = load(certificate)
        names = parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        key = parsed.public_key()
    except Exception as error:  # As above.
        raise Unauthenticated(f"the client certificate cannot be read: {error}") from error
    units = [str(each.value) for each in parsed.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)]
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Unauthenticated("the client certificate is not one that this hub gives out")
    return Presented(_device(str(names[0].value) if names else "", units), key_fingerprint(key))


def _device(name: str, units: Sequence[str]) -> str:
    if _DEVICES in units:
        return name
    return name.removeprefix(_EARLIER_PREFIX) if name.startswith(_EARLIER_PREFIX) else ""


def _general_names(names: Iterable[str]) -> Iterable[x509.GeneralName]:
    """Agents ask for HUB_NAME; the others are for programs that look at the address, such as grpcurl."""
    for name in dict.fromkeys((HUB_NAME, "localhost", "127.0.0.1", "::1", socket.gethostname(), *names)):
        try:
            yield x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            yield x509.DNSName(name.encode("idna").decode())


def _key_usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


# The same in every certificate that is no authority's.
_NO_AUTHORITY = x509.BasicConstraints(ca=False, path_length=None)
_SIGNS_ITSELF = _key_usage(signs_certificates=False)
_CLIENT = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _private_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an elliptic curve key")
    return key


def write_secret(path: Path, content: bytes) -> None:
    """Replace the file, which only its owner may read at any moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
