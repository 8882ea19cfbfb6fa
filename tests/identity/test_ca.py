"""The certificate is believed by strict verifiers, for our names and no others, and renewed in time."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from rekindle.clock import wall_ms
from rekindle.core.errors import Invalid
from rekindle.identity import ca
from rekindle.identity.ca import Files

DAY_MS = 86_400_000


@contextmanager
def tls_server(files: Files) -> Iterator[int]:
    """A listener that shakes hands with each caller in turn and hangs up."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.server_pem, files.server_key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return  # closed: the test is over
                with peer:
                    try:
                        context.wrap_socket(peer, server_side=True).close()
                    except OSError:
                        continue  # the client did not believe us, which it reports itself

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def shake_hands(port: int, name: str, ca_pem: Path) -> None:
    context = ssl.create_default_context(cafile=str(ca_pem))
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # Python 3.13's default
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as sock,
        context.wrap_socket(sock, server_hostname=name),
    ):
        pass


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", "a.vms.example.test", "vms.example.test"])
def test_strict_clients_accept_our_names(tmp_path: Path, name: str) -> None:
    files = ca.ensure(tmp_path, domain="vms.example.test", now_ms=wall_ms())
    with tls_server(files) as port:
        shake_hands(port, name, files.ca_pem)


@pytest.mark.parametrize("name", ["example.test", "127.0.0.2", "a.b.vms.example.test"])
def test_no_other_name_is_accepted(tmp_path: Path, name: str) -> None:
    files = ca.ensure(tmp_path, domain="vms.example.test", now_ms=wall_ms())
    with tls_server(files) as port, pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(port, name, files.ca_pem)


def test_the_ca_cannot_speak_for_other_names(tmp_path: Path) -> None:
    """A server certificate for another name, signed with our CA's own key, is refused by the name constraints."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    ca.ensure(ours, domain="", now_ms=wall_ms())
    authority = ca._read(ours / "ca.pem", ours / "ca.key")
    assert authority is not None
    ca._write(
        theirs / "s.pem",
        theirs / "s.key",
        ca._new_server(authority, "bank.example", datetime.fromtimestamp(wall_ms() / 1000, UTC)),
    )
    files = Files(ours / "ca.pem", theirs / "s.pem", theirs / "s.key")
    with tls_server(files) as port, pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree"):
        shake_hands(port, "bank.example", files.ca_pem)


def test_openssl_verifies_the_chain(tmp_path: Path) -> None:
    files = ca.ensure(tmp_path, domain="", now_ms=wall_ms())
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", "localhost"]
    ran = subprocess.run(
        [*command, "-CAfile", files.ca_pem, files.server_pem], capture_output=True, text=True, timeout=20
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_files_are_private_and_kept(tmp_path: Path) -> None:
    first = contents(tmp_path, domain="", now_ms=wall_ms())
    assert contents(tmp_path, domain="", now_ms=wall_ms() + 300 * DAY_MS) == first
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    assert {path.name for path in tmp_path.iterdir()} == {"ca.pem", "ca.key", "server.pem", "server.key"}


def contents(folder: Path, *, domain: str, now_ms: int) -> dict[str, bytes]:
    ca.ensure(folder, domain=domain, now_ms=now_ms)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_server_certificate_is_renewed_before_it_ends(tmp_path: Path) -> None:
    first = contents(tmp_path, domain="", now_ms=wall_ms())
    certificate = x509.load_pem_x509_certificate(first["server.pem"])
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days < 398
    later = contents(tmp_path, domain="", now_ms=wall_ms() + 370 * DAY_MS)
    assert later["server.pem"] != first["server.pem"]
    assert later["ca.pem"] == first["ca.pem"]


def test_a_new_domain_makes_a_new_ca(tmp_path: Path) -> None:
    first = contents(tmp_path, domain="", now_ms=wall_ms())
    later = contents(tmp_path, domain="vms.example.test", now_ms=wall_ms())
    assert later["ca.pem"] != first["ca.pem"]
    assert b"" not in later.values()


def test_a_crash_between_key_and_certificate_heals(tmp_path: Path) -> None:
    contents(tmp_path, domain="", now_ms=wall_ms())
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "server.key").write_bytes(contents(other, domain="", now_ms=wall_ms())["server.key"])
    files = ca.ensure(tmp_path, domain="", now_ms=wall_ms())
    with tls_server(files) as port:
        shake_hands(port, "localhost", files.ca_pem)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    files = ca.ensure(tmp_path, domain="", now_ms=wall_ms())
    files.ca_pem.write_text("nonsense")
    with pytest.raises(Invalid, match=r"ca\.pem"):
        ca.ensure(tmp_path, domain="", now_ms=wall_ms())
