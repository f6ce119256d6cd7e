"""providers/certificates.py: certificates in files, as they are renewed. What clients then see:
tests/runtime/test_https.py."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stickyproxy.config.settings import CertificateFiles
from stickyproxy.config.validity import SELF_MADE
from stickyproxy.model.snapshot import Problem, Snapshot
from stickyproxy.model.tls import Certificate
from stickyproxy.providers.certificates import CertificatesProvider, Known, examined, read
from tests.certificates import make_ca, make_certificate

ROOT = make_ca()
OLD = make_certificate(["shop.example"], ROOT)
NEW = make_certificate(["shop.example"], ROOT)
NOW = datetime.now(UTC).timestamp()
DAY = timedelta(days=1)


def write(folder: Path, certificate: Certificate, name: str = "shop") -> CertificateFiles:
    """The files of a certificate, which its owner alone can read."""
    files = CertificateFiles(f"{folder}/{name}.pem", f"{folder}/{name}.key")
    write_text(files.cert, certificate.chain)
    write_text(files.key, certificate.key)
    return files


def write_text(path: str, text: str) -> None:
    Path(path).write_text(text)
    Path(path).chmod(0o600)


class Published:
    """What a provider publishes."""

    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []
        self._news = asyncio.Event()

    def __call__(self, published: Snapshot) -> None:
        self.snapshots.append(published)
        self._news.set()

    @property
    def keys(self) -> list[str]:
        """Of the certificates that are not self-made."""
        return [each.key for each in self.snapshots[-1].certificates if each.name != SELF_MADE]

    @property
    def problems(self) -> list[str]:
        return [problem.reason for problem in self.snapshots[-1].problems]

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def running(
    *files: CertificateFiles, published: Published
) -> AsyncIterator[CertificatesProvider]:
    provider = CertificatesProvider(files, published, interval=0.005)
    task = asyncio.create_task(provider.run())
    try:
        async with asyncio.timeout(20):
            await provider.ready.wait()
        yield provider
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class TestRenewal:
    """Files change as those tools change them that renew certificates."""

    @pytest.fixture
    def published(self) -> Published:
        return Published()

    async def test_in_place(self, published: Published, tmp_path: Path) -> None:
        files = write(tmp_path, OLD)
        async with running(files, published=published):
            assert published.keys == [OLD.key]
            write(tmp_path, NEW)
            await published.until(lambda: published.keys == [NEW.key])
        assert published.problems == []

    async def test_certbot_swaps_a_link_for_each_file(
        self, published: Published, tmp_path: Path
    ) -> None:
        (archive := tmp_path / "archive").mkdir()
        (live := tmp_path / "live").mkdir()
        ends = (".pem", ".key")
        for name, certificate in (("shop1", OLD), ("shop2", NEW)):
            write(archive, certificate, name)
        for end in ends:
            (live / f"shop{end}").symlink_to(archive / f"shop1{end}")
        files = CertificateFiles(f"{live}/shop.pem", f"{live}/shop.key")
        async with running(files, published=published):
            for end in ends:
                (live / f"next{end}").symlink_to(archive / f"shop2{end}")
                os.replace(live / f"next{end}", live / f"shop{end}")
            await published.until(lambda: published.keys == [NEW.key])

    async def test_kubernetes_swaps_one_link_for_all(
        self, published: Published, tmp_path: Path
    ) -> None:
        for name, certificate in (("1", OLD), ("2", NEW)):
            (tmp_path / name).mkdir()
            write(tmp_path / name, certificate)
        (tmp_path / "data").symlink_to("1")
        files = CertificateFiles(f"{tmp_path}/data/shop.pem", f"{tmp_path}/data/shop.key")
        async with running(files, published=published):
            (tmp_path / "next").symlink_to("2")
            os.replace(tmp_path / "next", tmp_path / "data")
            await published.until(lambda: published.keys == [NEW.key])

    async def test_what_does_not_fit_changes_nothing_and_is_told(
        self, published: Published, tmp_path: Path
    ) -> None:
        files = write(tmp_path, OLD)
        async with running(files, published=published):
            write_text(files.cert, NEW.chain)
            await published.until(lambda: bool(published.problems))
            assert published.keys == [OLD.key]
            [reason] = published.problems
            assert reason.startswith("the key does not fit the certificate: ")
            assert f'(the key is in "{files.key}")' in reason
            assert reason.endswith("; until then clients are shown the one before")
            write_text(files.key, NEW.key)
            await published.until(lambda: published.keys == [NEW.key])
        assert published.problems == []

    async def test_a_file_that_goes_and_comes_back(
        self, published: Published, tmp_path: Path
    ) -> None:
        files = write(tmp_path, OLD)
        async with running(files, published=published):
            os.rename(files.cert, f"{tmp_path}/elsewhere")
            await published.until(lambda: bool(published.problems))
            [reason] = published.problems
            assert reason.startswith("the certificate cannot be read (No such file or directory)")
            assert published.keys == [OLD.key]
            os.rename(f"{tmp_path}/elsewhere", files.cert)
            await published.until(lambda: not published.problems)

    async def test_one_that_is_missing_at_the_start(
        self, published: Published, tmp_path: Path
    ) -> None:
        missing = CertificateFiles(f"{tmp_path}/shop.pem", f"{tmp_path}/shop.key")
        async with running(missing, published=published):
            [problem] = published.snapshots[-1].problems
            assert (problem.certificate, problem.fatal) == (missing.cert, True)
            write(tmp_path, NEW)
            await published.until(lambda: published.keys == [NEW.key])

    async def test_nothing_is_published_while_nothing_changes(
        self, published: Published, tmp_path: Path
    ) -> None:
        files = write(tmp_path, OLD)
        async with running(files, published=published) as provider:
            os.utime(files.cert)
            await provider.use([files])
        assert len(published.snapshots) == 1

    async def test_other_files_from_a_reload(self, published: Published, tmp_path: Path) -> None:
        files = write(tmp_path, OLD)
        more = write(tmp_path, NEW, "more")
        async with running(files, published=published) as provider:
            await provider.use([files, more])
            assert published.keys == [OLD.key, NEW.key]
            await provider.use([more])
            assert published.keys == [NEW.key]


class TestTheDefault:
    async def test_is_made_where_there_is_none_and_stays(self, tmp_path: Path) -> None:
        published = Published()
        async with running(published=published) as provider:
            [made] = published.snapshots[-1].certificates
            assert (made.name, made.hosts) == (SELF_MADE, ())
            await provider.use([write(tmp_path, OLD)])
        assert [each.hosts for each in published.snapshots[-1].certificates] == [
            ("shop.example",),
            (),
        ]
        assert published.snapshots[-1].certificates[1] == made

    async def test_is_not_made_if_nobody_wants_it(self) -> None:
        published = Published()
        provider = CertificatesProvider([], published, makes_default=False)
        task = asyncio.create_task(provider.run())
        await published.until(lambda: bool(published.snapshots))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert published.snapshots == [Snapshot("certificates", ())]

    async def test_is_one_of_the_files(self, tmp_path: Path) -> None:
        published = Published()
        files = write(tmp_path, OLD)
        default = CertificateFiles(files.cert, files.key, default=True)
        async with running(default, published=published):
            pass
        found = published.snapshots[-1].certificates
        assert [(each.hosts, each.key) for each in found] == [
            (("shop.example",), OLD.key),
            ((), OLD.key),
        ]

    async def test_needs_no_host(self, tmp_path: Path) -> None:
        anonymous = make_certificate(["192.0.2.1"], common_name="not a host")
        files = write(tmp_path, anonymous)
        default = CertificateFiles(files.cert, files.key, default=True)
        [certificate] = examined([default], NOW).certificates
        assert certificate.hosts == ()
        [problem] = examined([files], NOW).problems
        assert "names no host" in problem.reason


async def test_files_that_take_too_long_hold_nothing_up(tmp_path: Path) -> None:
    """Clients get the default certificate meanwhile."""
    published = Published()
    provider = CertificatesProvider([write(tmp_path, OLD)], published, interval=0.005, patience=0.0)
    task = asyncio.create_task(provider.run())
    await published.until(lambda: bool(published.snapshots) and published.keys == [OLD.key])
    assert provider.ready.is_set()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [each.name for each in published.snapshots[0].certificates] == [SELF_MADE]


class TestWhatIsKept:
    def test_the_valid_one_when_the_new_one_is_not(self, tmp_path: Path) -> None:
        expired = make_certificate(["shop.example"], ROOT, expires=datetime.now(UTC) - DAY)
        files = write(tmp_path, expired)
        known = read(files, Known(certificate=OLD), NOW)
        assert known.certificate == OLD
        [problem] = known.problems
        assert problem.fatal
        assert problem.reason.startswith("the new certificate expired at ")

    def test_the_one_that_is_not_valid_yet_is_shown_when_it_is(self, tmp_path: Path) -> None:
        files = write(tmp_path, NEW)
        long_ago = NOW - 50 * DAY.total_seconds()  # it begins 30 days before now
        older = Certificate("", ("shop.example",), "", "", expires=NOW)
        known = read(files, Known(certificate=older), long_ago)
        assert known.certificate == older
        assert known.read is None, "it is read again, though its files stay as they are"
        later = read(files, known, NOW + 1)
        assert later.certificate is not None
        assert later.certificate.key == NEW.key

    def test_an_expired_one_where_there_is_no_other(self, tmp_path: Path) -> None:
        expired = make_certificate(["shop.example"], ROOT, expires=datetime.now(UTC) - DAY)
        found = examined([write(tmp_path, expired)], NOW)
        assert [each.key for each in found.certificates] == [expired.key]


class TestFiles:
    def refusal(self, files: CertificateFiles) -> str:
        [problem] = examined([files], NOW).problems
        assert problem.fatal
        return problem.reason

    def test_one_that_is_a_directory(self, tmp_path: Path) -> None:
        files = write(tmp_path, OLD)
        assert "Is a directory" in self.refusal(CertificateFiles(str(tmp_path), files.key))

    def test_one_that_is_a_pipe_without_a_writer(self, tmp_path: Path) -> None:
        files = write(tmp_path, OLD)
        os.unlink(files.cert)
        os.mkfifo(files.cert)
        assert "is not PEM" in self.refusal(files)

    def test_one_that_is_too_large(self, tmp_path: Path) -> None:
        files = write(tmp_path, OLD)
        Path(files.cert).write_bytes(b"x" * (1 << 20))
        assert self.refusal(files).startswith("the certificate is too large: ")

    def test_one_that_is_not_text(self, tmp_path: Path) -> None:
        files = write(tmp_path, OLD)
        Path(files.cert).write_bytes(bytes(range(256)))
        assert "openssl x509 -inform DER" in self.refusal(files)

    def test_certificate_and_key_in_one(self, tmp_path: Path) -> None:
        both = tmp_path / "both.pem"
        both.write_text(OLD.key + OLD.chain)
        both.chmod(0o640)
        found = examined([CertificateFiles(str(both), str(both))], NOW)
        assert [each.key for each in found.certificates] == [OLD.key]
        assert found.problems == ()

    def test_a_key_that_everybody_can_read(self, tmp_path: Path) -> None:
        files = write(tmp_path, OLD)
        Path(files.key).chmod(0o644)
        found = examined([files], NOW)
        assert len(found.certificates) == 1
        reason = (
            f'every user of this machine can use its key (the mode of "{files.key}" is 0644): let '
            "nobody do so but its owner, and its group if need be"
        )
        remedy = f"chmod o= {files.key}"
        assert found.problems == (Problem("", reason, remedy=remedy, certificate=files.cert),)
