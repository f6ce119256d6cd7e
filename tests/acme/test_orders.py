"""Certificates from pebble, which looks at the proxy as Let's Encrypt would: by name, on its
ports."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stickyproxy.base.addresses import Address
from stickyproxy.config.settings import AcmeSettings, Config
from stickyproxy.model.listener import ListenerSpec
from stickyproxy.model.service import ServiceSpec
from stickyproxy.model.settings import AccessLogSettings, ProxySettings
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.model.tls import Certificate, ListenerTls
from stickyproxy.providers.acme.holdings import Pace
from stickyproxy.providers.acme.provider import AcmeProvider
from stickyproxy.providers.acme.storage import DirectoryStore
from stickyproxy.runtime.app import App
from stickyproxy.runtime.supervisor import Supervisor
from tests.acme.authorities import TIMEOUT, Caddy, Pebble, free_port
from tests.conftest import MakeEndpoint, service
from tests.scripted import get

HOST = "shop.example.com"


def shop(*hosts: str) -> ServiceSpec:
    """A service without endpoints: a certificate does not need one."""
    return ServiceSpec("shop", hosts or (HOST,), acme=True)


async def settled() -> None:
    """There is nobody to wait for."""


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something that nobody tells of."""
    try:
        async with asyncio.timeout(TIMEOUT):
            while not condition():  # noqa: ASYNC110  # there is no event
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"waited in vain: {what}") from None


class Site:
    """A proxy and its authority, which finds it on its ports."""

    def __init__(self, folder: Path, **authority: Any) -> None:
        self.http_port, self.tls_port = free_port(), free_port()
        self.authority = Pebble(folder, self.http_port, self.tls_port, **authority)
        self.settings = AcmeSettings(
            self.authority.url,
            str(folder / "store"),
            terms_agreed=True,
            ca_file=str(self.authority.identity.certificate),
        )
        self.pace = Pace()
        self.apps: list[App] = []
        self._providers: list[asyncio.Task[None]] = []

    def config(self, *services: ServiceSpec, acme: bool = True) -> Config:
        """Of the proxy."""
        return Config(
            listeners=(
                ListenerSpec(Address("127.0.0.1", self.http_port)),
                ListenerSpec(Address("127.0.0.1", self.tls_port), ListenerTls()),
            ),
            proxy=ProxySettings(workers=1, probe_new_endpoints=False, grace_period=1),
            access_log=AccessLogSettings(format="off"),
            services=services,
            acme=self.settings if acme else None,
        )

    async def proxy(self, *services: ServiceSpec, acme: bool = True) -> App:
        """Start the proxy. Without ``acme``, it orders nothing by itself."""
        app = App(self.config(*services, acme=acme))
        self.apps.append(app)
        await app.start()
        return app

    def provider(self, *services: ServiceSpec, publish: Callable[[Snapshot], None]) -> AcmeProvider:
        """One that publishes elsewhere."""
        store = DirectoryStore(self.settings.storage)
        made = AcmeProvider(self.settings, publish, store, settled, self.pace)
        made.see(Snapshot("static", services))
        self._providers.append(asyncio.create_task(made.run(), name="provider acme"))
        return made

    async def stop_providers(self) -> None:
        """As if their process ended."""
        for task in self._providers:
            task.cancel()
        await asyncio.gather(*self._providers, return_exceptions=True)
        self._providers = []

    async def stop(self) -> None:
        """End all of it."""
        await self.stop_providers()
        for app in self.apps:
            await app.stop(grace=0)
        await self.authority.stop()

    async def https(self, host: str = HOST) -> bytes:
        """What is answered over TLS to those who trust the authority. Raises ssl.SSLError."""
        trusting = await asyncio.to_thread(self.authority.trusting)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.tls_port, ssl=trusting, server_hostname=host
        )
        writer.write(get(host=host, Connection="close"))
        answer = await reader.read()
        writer.close()
        return answer

    def certificate(self, app: App) -> Certificate | None:
        """The one that is published."""
        found = [each for s in app.registry.snapshots() for each in s.certificates if each.hosts]
        found = [each for each in found if not each.challenge]
        return found[0] if found else None


class MakeSite:
    """What the fixture ``site`` is."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._folder, self._stack = folder, stack

    async def __call__(self, *, running: bool = True, **authority: Any) -> Site:
        made = Site(self._folder, **authority)
        self._stack.push_async_callback(made.stop)
        if running:
            await made.authority.start()
        return made


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[MakeSite]:
    """Makes sites; at the end stops them."""
    async with AsyncExitStack() as stack:
        yield MakeSite(tmp_path, stack)


def problems(app: App) -> str:
    return "\n".join(map(str, app.registry.problems))


class TestIssue:
    @pytest.mark.parametrize("challenge", ["http-01", "tls-alpn-01"])
    async def test_a_certificate_is_ordered_and_shown(
        self, site: MakeSite, endpoint: MakeEndpoint, challenge: Any
    ) -> None:
        place = await site()
        place.settings = replace(place.settings, challenge=challenge, email="a@example.com")
        peer = await endpoint()
        hosts = (HOST, "www.example.org")
        app = await place.proxy(service(peer, name="shop", hosts=hosts, acme=True))
        await until(lambda: place.certificate(app), "a certificate")
        for host in hosts:
            assert (await place.https(host)).endswith(b"hello")
        assert place.authority.issued == 1
        assert place.certificate(app).hosts == hosts  # type: ignore[union-attr]
        assert problems(app) == ""

    @pytest.mark.parametrize("kind", ["ec384", "rsa2048"])
    async def test_other_keys(self, site: MakeSite, kind: Any) -> None:
        place = await site()
        place.settings = replace(place.settings, key_type=kind)
        app = await place.proxy(shop())
        await until(lambda: place.certificate(app), "a certificate")
        assert b" 503 " in await place.https()

    async def test_nonces_may_be_refused(self, site: MakeSite) -> None:
        place = await site(WFE_NONCEREJECT=50)
        app = await place.proxy(shop())
        await until(lambda: place.certificate(app), "a certificate")

    async def test_what_has_been_checked_is_not_checked_again(self, site: MakeSite) -> None:
        place = await site(AUTHZREUSE=100)
        app = await place.proxy(shop())
        await until(lambda: place.certificate(app), "a certificate")
        app.registry.publish(Snapshot("acme", ()))
        await app.stop(grace=0)
        place.apps.clear()
        other = await place.proxy(shop(), shop(HOST, "www.example.org"))
        await until(lambda: place.authority.issued == 2, "one for both names")
        assert place.certificate(other)

    async def test_an_external_account(self, site: MakeSite) -> None:
        key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
        place = await site(
            externalAccountBindingRequired=True, externalAccountMACKeys={"kid-1": key}
        )
        app = await place.proxy(shop())
        await until(lambda: "set eab_key_id and eab_key in [acme]" in problems(app), "a problem")
        await app.stop(grace=0)
        place.apps.clear()
        # Another directory: the first attempt has to wait.
        folder = place.settings.storage + "-2"
        place.settings = replace(place.settings, eab_key_id="kid-1", eab_key=key, storage=folder)
        other = await place.proxy(shop())
        await until(lambda: place.certificate(other), "a certificate")


class TestProblems:
    async def test_terms_that_nobody_has_agreed_to(self, site: MakeSite) -> None:
        place = await site()
        place.settings = replace(place.settings, terms_agreed=False)
        app = await place.proxy(shop())
        await until(lambda: "terms_agreed = true in [acme]" in problems(app), "a problem")
        assert "read data:text/plain,Do%20what%20thou%20wilt" in problems(app)
        assert place.authority.orders == 0

    async def test_the_authority_is_quoted(self, site: MakeSite) -> None:
        """Nobody answers on the port that it looks at."""
        place = await site()
        place.http_port = free_port()
        app = await place.proxy(shop())
        await until(lambda: "no certificate yet" in problems(app), "a problem")
        said = problems(app)
        assert f"could not check {HOST}: " in said
        assert "connection refused (connection)" in said
        assert "see that these names lead to the proxies, and that port 80 there is open" in said
        assert "the next attempt is at 20" in said

    async def test_hosts_that_no_certificate_can_be_ordered_for(self, site: MakeSite) -> None:
        place = await site()
        wild = ServiceSpec("wild", ("*.example.com",), acme=True)
        app = await place.proxy(wild, shop())
        await until(lambda: place.certificate(app), "a certificate for the other one")
        assert "no certificate is ordered for *.example.com" in problems(app)
        assert place.authority.issued == 1

    async def test_an_authority_that_is_not_known(self, site: MakeSite) -> None:
        place = await site()
        place.settings = replace(place.settings, ca_file=None)
        app = await place.proxy(shop())
        await until(lambda: "who issued its certificate is not known" in problems(app), "a problem")

    async def test_a_directory_that_cannot_be_written(self, site: MakeSite, tmp_path: Path) -> None:
        place = await site()
        (tmp_path / "file").write_text("")
        place.settings = replace(place.settings, storage=str(tmp_path / "file" / "store"))
        seen: list[Snapshot] = []
        provider = place.provider(shop(), publish=seen.append)
        await until(lambda: provider.trouble, "trouble")
        assert "name it as storage in [acme]" in provider.trouble
        assert seen == []


class TestAfterwards:
    async def test_a_restart_orders_nothing(self, site: MakeSite) -> None:
        place = await site()
        app = await place.proxy(shop())
        await until(lambda: place.certificate(app), "a certificate")
        await app.stop(grace=0)
        place.apps.clear()
        again = await place.proxy(shop())
        assert place.certificate(again), "it is there before clients are"
        assert b" 503 " in await place.https()
        assert (place.authority.orders, place.authority.issued) == (1, 1)

    async def test_two_processes_order_once(self, site: MakeSite) -> None:
        place = await site()
        other = replace(shop("other.example.com"), name="other")
        app = await place.proxy(shop(), other, acme=False)
        both: list[dict[str, Snapshot]] = [{}, {}]

        def publish(number: int) -> Callable[[Snapshot], None]:
            def take(snapshot: Snapshot) -> None:
                both[number]["acme"] = snapshot
                app.registry.publish(snapshot)

            return take

        first = place.provider(shop(), publish=publish(0))
        second = place.provider(shop(), publish=publish(1))
        await until(lambda: all("acme" in each for each in both), "the same account")
        assert both[0]["acme"].acme_thumbprints == both[1]["acme"].acme_thumbprints
        await until(lambda: any(each["acme"].certificates for each in both), "a certificate")
        for provider in (first, second):
            provider.see(Snapshot("static", (shop(), other)))  # and looks again
        await until(lambda: all(len(each["acme"].certificates) == 2 for each in both), "in both")
        assert place.authority.issued == 2

    async def test_renewal_under_load(self, site: MakeSite, endpoint: MakeEndpoint) -> None:
        """Certificates are valid for a few seconds, of which a third is left when they are renewed.
        Every request has a connection of its own."""
        place = await site(certificateValidityPeriod=9)
        peer = await endpoint()
        app = await place.proxy(service(peer, name="shop", hosts=(HOST,), acme=True))
        await until(lambda: place.certificate(app), "a certificate")
        trusting = await asyncio.to_thread(place.authority.trusting)
        served = 0
        async with asyncio.timeout(TIMEOUT):
            while place.authority.issued < 3:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", place.tls_port, ssl=trusting, server_hostname=HOST
                )
                writer.write(get(host=HOST, Connection="close"))
                assert (await reader.read()).endswith(b"hello")
                writer.close()
                served += 1
        assert served > 10
        assert problems(app) == ""

    async def test_an_authority_that_has_forgotten_us(self, site: MakeSite) -> None:
        place = await site(certificateValidityPeriod=20)  # it is back long before a renewal is due
        app = await place.proxy(shop())
        await until(lambda: place.certificate(app), "a certificate")
        await place.authority.stop()
        await place.authority.start()
        assert place.authority.issued == 0
        await until(lambda: place.authority.issued, "a renewal")

    async def test_an_authority_that_comes_back(self, site: MakeSite) -> None:
        place = await site(running=False)
        place.pace = Pace(first=0.2, factor=1)
        app = await place.proxy(shop(), acme=False)
        place.provider(shop(), publish=app.registry.publish)
        await until(lambda: "cannot be asked: connection refused" in problems(app), "a problem")
        await place.authority.start()
        await until(lambda: place.certificate(app), "a certificate")
        await until(lambda: problems(app) == "", "no problem any more")

    async def test_the_old_certificate_stays_while_the_authority_refuses(
        self, site: MakeSite
    ) -> None:
        place = await site(certificateValidityPeriod=30)
        app = await place.proxy(shop(), acme=False)
        provider = place.provider(shop(), publish=app.registry.publish)
        await until(lambda: place.certificate(app), "a certificate")
        first = place.certificate(app)
        await place.authority.stop()
        # One host more: another certificate is due, and the old one is good for its own.
        provider.see(Snapshot("static", (shop(HOST, "www.example.org"),)))
        await until(lambda: "cannot be asked" in problems(app), "a problem")
        after = place.certificate(app)
        assert first is not None
        assert after is not None
        assert (after.chain, after.hosts) == (first.chain, (HOST,))
        assert "it has no certificate for www.example.org yet, and the next" in problems(app)

    async def test_a_certificate_with_all_hosts_is_no_lack(self, site: MakeSite) -> None:
        """One for a host less is due, and the old one has the others: nothing is missing."""
        place = await site()
        both = shop(HOST, "www.example.org")
        app = await place.proxy(both, acme=False)
        provider = place.provider(both, publish=app.registry.publish)
        await until(lambda: place.certificate(app), "a certificate")
        await place.authority.stop()
        provider.see(Snapshot("static", (shop(),)))
        await until(lambda: "cannot be asked" in problems(app), "a problem")
        assert "the certificate before it stays in use, and the next" in problems(app)
        [problem] = [each for each in app.registry.problems if "cannot be asked" in str(each)]
        assert not problem.fatal


async def test_a_client_that_trusts_another_authority_does_not_trust_this_one(
    site: MakeSite,
) -> None:
    """What ``Site.https`` proves."""
    place = await site()
    app = await place.proxy(shop())
    await until(lambda: place.certificate(app), "a certificate")
    other = place.authority.identity.client_context()
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.open_connection("127.0.0.1", place.tls_port, ssl=other, server_hostname=HOST)


async def test_a_second_opinion(tmp_path: Path, endpoint: MakeEndpoint) -> None:
    """Caddy checks and issues in its own way."""
    authority = Caddy(tmp_path)
    settings = AcmeSettings(
        authority.url,
        str(tmp_path / "store"),
        terms_agreed=True,
        ca_file=str(authority.identity.certificate),
    )
    tls_port, peer = free_port(), await endpoint()
    app = App(
        Config(
            listeners=(
                ListenerSpec(Address("127.0.0.1", 80)),
                ListenerSpec(Address("127.0.0.1", tls_port), ListenerTls()),
            ),
            proxy=ProxySettings(workers=1, probe_new_endpoints=False),
            access_log=AccessLogSettings(format="off"),
            services=(service(peer, name="shop", hosts=("localhost",), acme=True),),
            acme=settings,
        )
    )
    try:
        await authority.start()
        await app.start()
        snapshots = app.registry.snapshots
        await until(
            lambda: [each for s in snapshots() if s.provider == "acme" for each in s.certificates],
            f"a certificate: {problems(app)}",
        )
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", tls_port, ssl=authority.trusting(), server_hostname="localhost"
        )
        writer.write(get(host="localhost", Connection="close"))
        assert (await reader.read()).endswith(b"hello")
        writer.close()
    finally:
        await app.stop(grace=0)
        await authority.stop()


async def test_workers_answer_from_the_start(site: MakeSite) -> None:
    """The authority is told to look when all of them accept connections, and not before: the first
    order succeeds, and any worker has the certificate."""
    place = await site()
    proxy = Supervisor(place.config(shop()), None, 2)
    try:
        await proxy.start()
        await until(
            lambda: [
                each for s in proxy.registry.snapshots() for each in s.certificates if each.hosts
            ],
            "a certificate",
        )
        assert (place.authority.orders, place.authority.issued) == (1, 1)
        for _ in range(8):
            assert b" 503 " in await place.https()
    finally:
        await proxy.stop(grace=0)
