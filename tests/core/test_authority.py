"""What the authority signs, and what it says to everything else."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st
from milonga_hub.authority import Authority, presented, requested_key
from milonga_hub.errors import FailedPrecondition, InvalidInput

from tests.certificates import Key, Tls

REQUEST = Key().request()


def test_a_device_gets_a_certificate_for_clients_alone_and_with_the_name_that_the_hub_chose(tmp_path: Path) -> None:
    key = Key()
    issued = Authority(tmp_path).issue(key.request(), "pi-1", timedelta(days=7))
    certificate = x509.load_pem_x509_certificate(issued.certificate.encode())
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.not_valid_after_utc == issued.expires_at
    shown = presented(issued.certificate.encode())
    assert (shown.device, shown.key_fingerprint) == ("pi-1", key.fingerprint)


def test_a_key_of_another_kind_is_refused() -> None:
    key = rsa.generate_private_key(65537, 2048)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    with pytest.raises(InvalidInput, match="P-256"):
        requested_key(request.public_bytes(serialization.Encoding.DER))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Return the request with some of its bytes changed, lost or added."""
    request = bytearray(REQUEST)
    for _ in range(draw(st.integers(1, 4))):
        position = draw(st.integers(0, len(request) - 1))
        request[position : position + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(request)


@given(damaged() | st.binary(max_size=300))
def test_no_bytes_break_the_reader_of_requests(request_: bytes) -> None:
    try:
        requested_key(request_)
    except InvalidInput:
        return
    assert request_ == REQUEST, "only what its key signed is taken"


def test_the_authority_outlives_the_hub_and_damage_is_named(tmp_path: Path) -> None:
    first, again = Tls(tmp_path).authority, Tls(tmp_path).authority
    assert first.fingerprint == again.fingerprint
    (tmp_path / "authority.key").write_bytes(b"")
    with pytest.raises(FailedPrecondition, match="restore it from a backup"):
        Authority(tmp_path)
