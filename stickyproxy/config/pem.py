"""PEM files that are a part of the configuration: each function raises ValueError that says what is
wrong and how to fix it. Those of ``[[certificates]]`` are not: they may change, and be wrong, while
the configuration stays as it is."""

from __future__ import annotations

import re
import ssl
from typing import NamedTuple

from stickyproxy.base.pem import load_chain
from stickyproxy.base.text import shown
from stickyproxy.config.values import visible_text


class PemFile(NamedTuple):
    """A file that was read."""

    path: str
    """Empty: it was no file."""
    text: str
    """The blocks that were wanted of it, and nothing around them."""


def ca_file(value: object) -> PemFile:
    """A file with certificates of authorities. Raises ValueError."""
    return _authorities(_pem_file(value, _CERTIFICATE, "certificate"))


def ca_text(value: object) -> PemFile:
    """The same, but the text itself and no file: a label may not name one of ours. Raises
    ValueError."""
    found = _blocks(value, _CERTIFICATE) if isinstance(value, str) else ""
    if not found:
        raise ValueError(
            "has no certificate in PEM: write the text itself, from "
            '"-----BEGIN CERTIFICATE-----" on'
        )
    return _authorities(PemFile("", found))


def _authorities(found: PemFile) -> PemFile:
    """If OpenSSL can read them. Raises ValueError."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=found.text)
    except ssl.SSLError as error:
        raise ValueError(
            f"{(shown(found.path) + ' ') if found.path else ''}has a certificate that cannot be "
            f"read ({_openssl(error)}): write it as the authority gave it out"
        ) from None
    return found


def certificate_file(value: object) -> PemFile:
    """A file with a certificate, and those that lead to its authority. Raises ValueError."""
    return _pem_file(value, _CERTIFICATE, "certificate")


def key_file(value: object, certificate: PemFile) -> PemFile:
    """A file with the key of ``certificate``. Raises ValueError."""
    found = _pem_file(value, _KEY, "key")
    try:
        load_chain(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate.text, found.text)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(
                f"{shown(found.path)} has the key of another certificate than "
                f"{shown(certificate.path)}: name the file with its own"
            ) from None
        raise ValueError(
            f"{shown(found.path)} and {shown(certificate.path)} cannot be used "
            f"({_openssl(error)}): name a certificate and its key"
        ) from None
    except ValueError:
        raise ValueError(
            f"{shown(found.path)} is encrypted: write the key without a password (openssl pkey)"
        ) from None
    return found


_PEM_MAX = 1 << 20  # bytes; the authorities that a system knows are a fifth of it
_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_KEY = re.compile("-----BEGIN ([A-Z ]*PRIVATE KEY)-----.+?-----END \\1-----", re.DOTALL)


def _pem_file(value: object, block: re.Pattern[str], what: str) -> PemFile:
    path = visible_text(value, f"/run/secrets/{what}.pem")
    try:
        with open(path, "rb") as file:
            content = file.read(_PEM_MAX + 1)
    except OSError as error:
        raise ValueError(
            f"{shown(path)} cannot be read ({error.strerror}): name a readable file"
        ) from None
    found = _blocks(content.decode("ascii", "replace"), block)
    if not found or len(content) > _PEM_MAX:
        raise ValueError(
            f"{shown(path)} has no {what} in PEM: name a file with "
            f'"-----BEGIN {"PRIVATE KEY" if what == "key" else "CERTIFICATE"}-----"'
        )
    return PemFile(path, found)


def _blocks(text: str, block: re.Pattern[str]) -> str:
    return "\n".join(each[0] for each in block.finditer(text))


def _openssl(error: ssl.SSLError) -> str:
    reason = error.reason or "PEM lib"  # what it says if there is nothing that it can parse
    return "this is not PEM" if reason == "PEM lib" else reason.replace("_", " ").lower()
