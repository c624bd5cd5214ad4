"""Mutual TLS towards dcmtk's storescp (PS3.15 section B.12, BCP 195)."""

from __future__ import annotations

import certificates
import peers
import pytest
import small_ct

from calcium.errors import ArchiveUnavailableError, SettingsError
from service import scu


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return certificates.Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def archive(authority, tmp_path_factory):
    """A storescp that wants a certificate of the authority."""
    pair = authority.issue("archive")
    options = ("+tls", str(pair.key), str(pair.certificate), "+cf", str(authority.certificate))
    with peers.storescp(tmp_path_factory.mktemp("in"), *options) as running:
        yield running


def peer_of(archive, context):
    return scu.Peer(archive.aet, "127.0.0.1", archive.port, context)


def test_with_our_certificate_files_are_stored(authority, archive, tmp_path):
    ours = authority.issue("node")
    context = scu.tls_context(ca=authority.certificate, certificate=ours.certificate, key=ours.key)
    path = tmp_path / "slice.dcm"
    small_ct.write_ct(path)
    scu.echo(peer_of(archive, context))
    assert scu.store(peer_of(archive, context), [path])[0].stored


def test_without_a_certificate_the_archive_lets_nobody_in(authority, archive):
    context = scu.tls_context(ca=authority.certificate)
    with pytest.raises(ArchiveUnavailableError):
        scu.echo(peer_of(archive, context), timeout=5)


def test_an_archive_of_another_authority_is_not_trusted(archive, tmp_path):
    stranger = certificates.Authority(tmp_path / "stranger")
    with pytest.raises(ArchiveUnavailableError):
        scu.echo(peer_of(archive, scu.tls_context(ca=stranger.certificate)), timeout=5)


def test_plain_text_to_a_tls_port_is_unavailable(archive):
    with pytest.raises(ArchiveUnavailableError):
        scu.echo(peer_of(archive, None), timeout=3)


def test_files_that_are_no_certificates_are_a_fault_of_the_settings(tmp_path):
    path = tmp_path / "ca.pem"
    path.write_text("no certificate")
    with pytest.raises(SettingsError, match="cannot be loaded"):
        scu.tls_context(ca=path)
