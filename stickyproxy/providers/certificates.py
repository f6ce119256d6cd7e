"""The certificates in files, and the self-made one for want of another.

Files are looked at again and again, like the configuration, and read when they have changed and
have been left alone since: whoever renews a certificate writes two files, or swaps two symbolic
links, and between the two they do not fit. What cannot be used is a problem, and the certificate
before it stays.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from stickyproxy.base.text import shown
from stickyproxy.config.certificates import LARGEST, make_certificate, self_made
from stickyproxy.config.settings import CertificateFiles
from stickyproxy.config.validity import dates, is_valid, needs_renewal
from stickyproxy.model.snapshot import Problem, Snapshot
from stickyproxy.model.tls import Certificate
from stickyproxy.providers.threads import CallThreads

log = logging.getLogger("stickyproxy")

WATCH_SECONDS = 1.0
"""How often files are looked at. They must look the same twice before they are read."""

PATIENCE = 3.0
"""Seconds that reading may take before a start or a reload goes on without: the file system may be
one that does not respond."""

Look = tuple[tuple[int, ...] | None, ...]
"""What files look like; None for one that is not there. The time of the last change of a file's
permissions is in it, too."""


class CertificatesProvider:
    """Publishes the certificates of a configuration, and follows their files."""

    name = "certificates"
    confirmed = None
    """Nobody has to be asked."""
    trouble = ""
    """Always: a file that cannot be read is a problem of its certificate."""

    def __init__(
        self,
        files: Sequence[CertificateFiles],
        publish: Callable[[Snapshot], None],
        *,
        makes_default: bool = True,
        interval: float = WATCH_SECONDS,
        patience: float = PATIENCE,
    ) -> None:
        """``makes_default``: make a certificate where none is for everybody. ``interval``: seconds
        from one look to the next; ``patience``: how long ``use`` waits for files, in seconds."""
        self.ready = asyncio.Event()
        """Set when the certificates have been published."""
        self._files = files
        self._publish = publish
        self._makes_default = makes_default
        self._interval = interval
        self._patience = patience
        self._known: dict[CertificateFiles, Known] = {}
        self._own: Certificate | None = None
        """The self-made one; None: it has not been needed yet."""
        self._published: Snapshot | None = None
        self._threads: CallThreads | None = None
        """Where files are read, since that may block; None: it does not run."""
        self._reading = asyncio.Lock()

    async def run(self) -> None:
        """Publish until cancelled."""
        self._threads = CallThreads(self.name)
        try:
            await self.use(self._files)
            while True:
                await asyncio.sleep(self._interval)
                await self._read(at_once=False)
        finally:
            self._threads.stop()
            self._threads = None

    async def use(self, files: Sequence[CertificateFiles]) -> None:
        """Publish these from now on, by what the files are now."""
        self._files = files
        try:
            async with asyncio.timeout(self._patience):
                await self._read(at_once=True)
        except TimeoutError:
            log.warning(
                "files of certificates are not read in time: see whether their file system responds"
            )
            self._tell(time.time())
        self.ready.set()

    async def _read(self, *, at_once: bool) -> None:
        if self._threads is None:
            return
        async with self._reading:
            before = {files: self._known.get(files, Known()) for files in self._files}
            now = time.time()
            self._known = await self._threads.run(lambda: _all_known(before, now, at_once=at_once))
            self._tell(now)

    def _tell(self, now: float) -> None:
        found = snapshot(self._known)
        if self._makes_default and all(each.hosts for each in found.certificates):
            if self._own is None or needs_renewal(self._own, now):
                self._own = self_made(now)
            found = replace(found, certificates=(*found.certificates, self._own))
        if found != self._published:
            self._published = found
            self._publish(found)


# --- what is known of files -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the files of a certificate."""

    seen: Look | None = None
    """What they looked like at last."""
    read: Look | None = None
    """What they looked like when they were read at last; None: they are to be read again."""
    certificate: Certificate | None = None
    """The one that is shown to clients."""
    problems: tuple[Problem, ...] = ()


def snapshot(known: dict[CertificateFiles, Known]) -> Snapshot:
    """What all files come to."""
    return Snapshot(
        CertificatesProvider.name,
        (),
        tuple(problem for each in known.values() for problem in each.problems),
        certificates=tuple(
            certificate
            for files, each in known.items()
            if each.certificate is not None
            for certificate in _shown(each.certificate, default=files.default)
        ),
    )


def examined(files: Iterable[CertificateFiles], now: float) -> Snapshot:
    """What files come to that have never been read before."""
    return snapshot({each: read(each, Known(), now) for each in files})


def _shown(certificate: Certificate, *, default: bool) -> Iterable[Certificate]:
    if certificate.hosts:
        yield certificate
    if default:
        yield replace(certificate, hosts=())


def _all_known(
    before: dict[CertificateFiles, Known], now: float, *, at_once: bool
) -> dict[CertificateFiles, Known]:
    """May block. ``at_once``: do not wait until files have been left alone."""
    return {files: _known(files, before[files], now, at_once=at_once) for files in before}


def _known(files: CertificateFiles, before: Known, now: float, *, at_once: bool) -> Known:
    seen = look(files)
    if seen != before.read and (at_once or seen == before.seen):
        return read(files, before, now)
    return replace(before, seen=seen)


def look(files: CertificateFiles) -> Look:
    """What they look like now: what they are links to, as a rule."""
    return tuple(_look(path) for path in (files.cert, files.key))


def _look(path: str) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read(files: CertificateFiles, before: Known, now: float) -> Known:
    """What is known of the files once they have been read; what was known before, if they were
    being written."""
    seen = look(files)
    made, reason = None, ""
    try:
        chain, key = _text(files.cert, "certificate"), _text(files.key, "key")
        made = make_certificate(files.cert, chain, key, needs_hosts=not files.default)
        problems = tuple(_warnings(files))
    except ValueError as error:
        reason, problems = str(error), ()
    if look(files) != seen:
        return before
    old = before.certificate
    if made is not None and old is not None and is_valid(old, now) and not is_valid(made, now):
        # It may become valid by itself, while its files stay as they are.
        reason, seen_again = f"the new certificate {dates(made, now)}", None
        return Known(seen, seen_again, old, (_refused(files, reason, old),))
    if made is None:
        return Known(seen, seen, old, (_refused(files, reason, old),))
    if old is not None and old != made:
        log.info("certificate %s: replaced by the new one in its file", files.cert)
    return Known(seen, seen, made, problems)


def _refused(files: CertificateFiles, reason: str, old: Certificate | None) -> Problem:
    if reason.startswith("the key ") and files.key != files.cert:
        reason = f"{reason} (the key is in {shown(files.key)})"
    if old is not None:
        reason = f"{reason}; until then clients are shown the one before"
    return Problem("", reason, certificate=files.cert, fatal=True)


def _text(path: str, what: str) -> str:
    """The content of a file. Raises ValueError."""
    try:
        with open(path, "rb", opener=_never_waits) as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise ValueError(
            f"the {what} cannot be read ({error.strerror}): make {shown(path)} a file that the "
            "user of stickyproxy can read"
        ) from None
    if len(data) > LARGEST:
        raise ValueError(f"the {what} is too large: {shown(path)} cannot be the right file")
    return data.decode("utf-8", "surrogateescape")


def _never_waits(path: str, flags: int) -> int:
    """Opens a file, also if it turns out to be a pipe that nobody writes to."""
    return os.open(path, flags | os.O_NONBLOCK)


def _warnings(files: CertificateFiles) -> Iterable[Problem]:
    """What is wrong with files that can be used. Raises ValueError if one is gone."""
    try:
        mode = os.stat(files.key).st_mode
        # Secrets of Docker and Kubernetes are open to all in the container, and read-only.
        fixed = os.statvfs(files.key).f_flag & os.ST_RDONLY
    except OSError as error:
        raise ValueError(f"the key cannot be read ({error.strerror})") from None
    if mode & stat.S_IRWXO and not fixed:
        reason = (
            f"every user of this machine can use its key (the mode of {shown(files.key)} is "
            f"{stat.S_IMODE(mode):04o}): let nobody do so but its owner, and its group if need be"
        )
        remedy = f"chmod o= {files.key}"
        yield Problem("", reason, remedy=remedy, certificate=files.cert)
