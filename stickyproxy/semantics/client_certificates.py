"""What endpoints are told of the certificate that a client has shown.

Client-Cert                 the certificate itself, as RFC 9440 section 2.2 has it
X-Client-Cert-Subject       its subject, as RFC 4514 writes it, in ASCII
X-Client-Cert-Fingerprint   SHA-256 of the whole certificate, in hexadecimal digits
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable

Subject = Iterable[Iterable[tuple[str, str]]]
"""As ``ssl.SSLSocket.getpeercert`` gives it: relative names, each of (type, value) pairs."""

# RFC 4514 section 3; the other types go by the names that OpenSSL has for them.
_TYPES = {
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}
_ESCAPED = re.compile(r"[^ !#$%&'()*\-./0-9:?@A-Z\[\]^_`a-z{|}~]|^[# ]| $")


def certificate_lines(certificate: bytes, subject: Subject) -> bytes:
    """The header lines, each with its end. ``certificate``: DER."""
    return (
        b"Client-Cert: :%b:\r\nX-Client-Cert-Subject: %b\r\nX-Client-Cert-Fingerprint: %b\r\n"
        % (
            base64.b64encode(certificate),
            distinguished_name(subject).encode("ascii"),
            hashlib.sha256(certificate).hexdigest().encode("ascii"),
        )
    )


def distinguished_name(subject: Subject) -> str:
    """The subject as RFC 4514 writes it: the most specific part first. What is not printable ASCII
    is escaped, so that it can stand in a header field."""
    return ",".join(
        "+".join(
            f"{_TYPES.get(kind, kind)}={_ESCAPED.sub(_escape, value)}" for kind, value in parts
        )
        for parts in reversed([list(parts) for parts in subject])
    )


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if character in ' "#+,;<=>\\':
        return "\\" + character
    return "".join(f"\\{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))
