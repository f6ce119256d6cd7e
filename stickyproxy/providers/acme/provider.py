"""The ACME provider: it orders certificates for the services that others publish, renews them, and
publishes them.

What is kept is in a store that several processes may use. They agree by its compare-and-swap: who
writes into a holding that it is at it, places the order, and the others wait for what comes of it.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from hashlib import sha256

from stickyproxy.base.backoff import Backoff
from stickyproxy.base.errors import OrderFailed, ProviderError
from stickyproxy.config.certificates import make_certificate
from stickyproxy.config.settings import AcmeSettings
from stickyproxy.model.service import ServiceSpec
from stickyproxy.model.snapshot import Problem, Snapshot
from stickyproxy.model.tls import Certificate
from stickyproxy.providers.acme import holdings
from stickyproxy.providers.acme.authority import Issued, Order, new_account_key, thumbprint
from stickyproxy.providers.acme.holdings import (
    KEPT,
    Account,
    Holding,
    Names,
    Pace,
    Pause,
    T,
    decoded,
    encoded,
    fraction,
    plan,
    unfit,
    wanted,
)
from stickyproxy.providers.acme.keys import validity
from stickyproxy.providers.acme.storage import Store, Stored
from stickyproxy.providers.contact import Contact
from stickyproxy.providers.threads import CallThreads

log = logging.getLogger("stickyproxy")

ORDERS = 4
"""Orders under way at a time."""
LOOK = 30.0
"""Seconds from one look at the store to the next."""
LOOK_OFTEN = 1.0
"""The same while an order is under way, perhaps in another process."""
SPREAD_SECONDS = 3.0
"""How long those who share the store get to learn of a new service, or of a challenge."""
UNUSED_AFTER = 600.0
"""Seconds after which a certificate that no service needs is taken for unused: those services may
not have been found yet, or be replaced just now."""
ASK = 6 * 3600.0
"""Seconds from one question for when to renew to the next, unless the authority says
otherwise (RFC 9773 section 4.3)."""

MIN_ASK = 60.0
"""The least that it may say."""
_BACKOFF = (0.5, 30.0)
"""Seconds before the store is tried again: the first time, and at most."""

_ELSEWHERE = ("acme", "controller")
"""Providers whose services are not ours to order for: a controller does it itself."""


@dataclass(frozen=True, slots=True)
class _Advice:
    """What the authority said about a certificate. Times are Unix time."""

    chain: str
    renew_at: float
    ask_at: float
    """When to ask again."""


class AcmeProvider:
    """Publishes certificates for the services that it is told of."""

    name = "acme"

    _storing: CallThreads
    _calls: CallThreads

    def __init__(
        self,
        settings: AcmeSettings,
        publish: Callable[[Snapshot], None],
        store: Store,
        settled: Callable[[], Awaitable[None]],
        pace: Pace = Pace(),  # noqa: B008  # frozen
    ) -> None:
        """``settled`` waits until what was published is in force wherever the authority may
        ask."""
        self.ready = asyncio.Event()
        """Set when what is kept has been published."""
        self._settings = settings
        self._publish = publish
        self._store = store
        self._settled = settled
        self._pace = pace
        self._me = uuid.uuid4().hex
        self._services: dict[str, tuple[ServiceSpec, ...]] = {}
        """By the provider that they come from."""
        self._needed: dict[Names, list[str]] = {}
        self._kept: dict[str, Stored] = {}
        """As read or written last, by name."""
        self._holdings: dict[Names, Holding] = {}
        self._account: Account | None = None
        self._pause = Pause()
        self._advised: dict[Names, _Advice] = {}
        self._asking: asyncio.Task[None] | None = None
        self._unsaved: dict[Names, Holding] = {}
        """Those that have been issued and not yet been written."""
        self._told: Snapshot | None = None
        self._unneeded: dict[Names, float] = {}
        """Since when, as far as this process has seen."""
        self._orders: dict[Names, asyncio.Task[None]] = {}
        self._registering = asyncio.Lock()
        self._woken = asyncio.Event()
        self._contact = Contact(self.name, "the storage", Backoff(*_BACKOFF, jitter=0.5))

    @property
    def trouble(self) -> str:
        """Why the store cannot be used; empty: all is well."""
        return self._contact.trouble

    @property
    def confirmed(self) -> float | None:
        """See ``Contact``."""
        return self._contact.confirmed

    def see(self, snapshot: Snapshot) -> None:
        """Learn of services."""
        if snapshot.provider in _ELSEWHERE:
            return
        before = self._needed
        self._services[snapshot.provider] = tuple(each for each in snapshot.services if each.acme)
        self._needed = wanted(each for found in self._services.values() for each in found)
        if self.ready.is_set():
            self._tell()
        if before != self._needed:
            self._woken.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        self._storing = CallThreads("acme storage")
        self._calls = CallThreads("acme", ORDERS)
        try:
            while True:
                pause = await self._step()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._woken.wait()
                self._woken.clear()
        finally:
            tasks = [*self._orders.values(), *([self._asking] if self._asking else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            closing = asyncio.create_task(self._storing.run(self._store.close), name="acme storage")
            await asyncio.wait((closing,), timeout=1)
            self._storing.stop()
            self._calls.stop()

    async def _step(self) -> float:
        """Look at the store, publish, and order what is due; returns the seconds until that is due
        again."""
        try:
            self._take(await self._storing.run(self._store.read))
            if self._account is None:
                await self._write(self._name_of("account"), Account(new_account_key()))
            await self._tidy()
        except ProviderError as error:
            return self._contact.lost(error, has_routes=self.ready.is_set())
        self._contact.restored()
        if self._account is None:
            return 0.0  # another process has one
        self._tell()
        self.ready.set()
        now = time.time()
        advised = {
            names: advice.renew_at
            for names, advice in self._advised.items()
            if names in self._holdings and self._holdings[names].chain == advice.chain
        }
        due = plan(self._needed, self._holdings, self._pause, advised, now)
        for names in due.order[: ORDERS - len(self._orders)]:
            self._begin(names)
        self._ask_when_due(now)
        return max(0.05, min(LOOK_OFTEN if due.moving else LOOK, due.wake_at - now))

    # --- the store ---

    def _take(self, kept: Mapping[str, Stored]) -> None:
        """What the store holds now."""
        self._kept = dict(kept)
        found = [each for name in kept if (each := self._read(Holding, name)) is not None]
        self._holdings = {each.names: each for each in found} | self._unsaved
        self._account = self._read(Account, self._name_of("account"))
        self._pause = self._read(Pause, self._name_of("pause")) or Pause()

    def _read(self, kind: type[T], name: str) -> T | None:
        """A record of ours; None: there is none of this kind by that name."""
        record = self._kept.get(name)
        if record is None or (kind is Holding and not name.startswith("names-")):
            return None
        try:
            found = decoded(kind, record.data)
            if isinstance(found, Holding) and found.chain:
                _certificate(found.names[0], found.chain, found.key)
        except ValueError as error:
            log.warning("acme: what is stored as %s is not used: %s", name, error)
            return None
        if isinstance(found, Holding) and name != self.record_of(found.names):
            return None  # it is of another authority
        return found

    def _name_of(self, kind: str, names: Names = ()) -> str:
        """Of a record. Each authority has its own, so that trying another one loses nothing."""
        digest = sha256("\0".join((self._settings.directory, *names)).encode()).hexdigest()
        return f"{kind}-{digest[:16]}"

    async def _write(self, name: str, kept: Holding | Account | Pause) -> bool:
        """Write a record in place of what was read; False if there is another one by now. Raises
        ProviderError."""
        data, before = encoded(kept), self._kept.get(name)
        known = "" if before is None else before.version
        version = await self._storing.run(lambda: self._store.write(name, data, known))
        if not version:
            self._woken.set()
            return False
        self._kept[name] = Stored(data, version)
        match kept:
            case Holding():
                self._holdings[kept.names] = kept
            case Account():
                self._account = kept
            case Pause():
                self._pause = kept
        return True

    def record_of(self, names: Names) -> str:
        """The name of the record of these names."""
        return self._name_of("names", names)

    async def _hold(self, holding: Holding) -> bool:
        """Write a holding. Raises ProviderError."""
        return await self._write(self.record_of(holding.names), holding)

    async def _tidy(self) -> None:
        """Note what is no longer needed, and remove what has not been needed for long. Raises
        ProviderError."""
        now = time.time()
        for names, holding in [*self._holdings.items()]:
            unused = holding.unused_since
            if names in self._needed:
                self._unneeded.pop(names, None)
                if unused:
                    await self._hold(replace(holding, unused_since=0.0))
            elif not unused:
                if now - self._unneeded.setdefault(names, now) > UNUSED_AFTER:
                    await self._hold(replace(holding, unused_since=now))
            elif now - unused > KEPT or not holding.holds(now):
                name = self.record_of(names)
                await self._storing.run(partial(self._store.remove, name))
                del self._holdings[names]
                self._kept.pop(name, None)

    # --- orders ---

    def _begin(self, names: Names) -> None:
        if names in self._orders:
            return
        task = asyncio.create_task(self._order(names), name=f"order for {names[0]}")
        self._orders[names] = task

        def ended(task: asyncio.Task[None]) -> None:
            del self._orders[names]
            self._woken.set()
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("acme: an order failed: this is a bug in stickyproxy", exc_info=error)

        task.add_done_callback(ended)

    async def _order(self, names: Names) -> None:
        """Order a certificate, unless somebody else does."""
        holding = self._holdings.get(names) or Holding(names)
        try:
            if not await self._hold(holding.ordered(self._me, time.time())):
                return
            log.info("acme: ordering a certificate for %s", ", ".join(names))
            try:
                issued = await self._obtain(names, holding.chain)
            except OrderFailed as error:
                log.warning("acme: no certificate for %s: %s", ", ".join(names), error)
                await self._failed(holding, error)
            except asyncio.CancelledError:
                await self._hold(holding.let_go())
                raise
            else:
                log.info("acme: a certificate for %s has been issued", ", ".join(names))
                await self._keep(holding.issued(issued))
        except ProviderError as error:
            log.warning("acme: %s", error)
        self._tell()

    async def _obtain(self, names: Names, replaced: str) -> Issued:
        """A new certificate. Raises OrderFailed, ProviderError."""
        async with self._registering:
            account = self._account
            assert account is not None
            order = Order(self._settings, account.key, account.url)
            if not account.url:
                await self._calls.run(order.register)
                await self._write(self._name_of("account"), Account(account.key, order.account))
        try:
            answers = await self._calls.run(lambda: order.begin(names, replaced))
            if order.account != account.url and account.url:
                await self._write(self._name_of("account"), Account(account.key, order.account))
            if answers:
                await self._hold(replace(self._holdings[names], answers=tuple(answers)))
                self._tell()
            await self._settled()
            if self._store.shared and (answers or not replaced):
                await asyncio.sleep(SPREAD_SECONDS)
            issued = await self._calls.run(order.finish)
        finally:
            order.close()
        try:
            _certificate(names[0], issued.chain, issued.key)
        except ValueError as error:
            message = f"what {self._settings.directory} has issued cannot be used: {error}"
            raise OrderFailed(message) from error
        return issued

    async def _failed(self, holding: Holding, error: OrderFailed) -> None:
        """Note when to try again. Raises ProviderError."""
        now = time.time()
        if error.all_after is not None:
            pause = self._pause.failed(error, now, self._pace)
            await self._write(self._name_of("pause"), pause)
        if error.all_after is None or error.retry_after:
            await self._hold(holding.failed(error, now, self._pace))
        else:
            await self._hold(holding.let_go())

    async def _keep(self, holding: Holding) -> None:
        """Keep a certificate. It has been issued, and is used whether it can be written or not."""
        self._unsaved[holding.names] = self._holdings[holding.names] = holding
        self._tell()
        backoff = Backoff(*_BACKOFF)
        while True:
            try:
                if await self._hold(holding):
                    break
                self._take(await self._storing.run(self._store.read))
            except ProviderError as error:
                log.error("acme: the new certificate could not be stored: %s", error)
            await asyncio.sleep(backoff.next())
        del self._unsaved[holding.names]
        if self._pause.failures:
            await self._write(self._name_of("pause"), Pause())

    # --- when to renew, as the authority sees it ---

    def _ask_when_due(self, now: float) -> None:
        """Ask the authority about certificates that it has not been asked about for a while."""
        due = [
            holding
            for names in self._needed
            if (holding := self._holdings.get(names)) is not None and holding.holds(now)
            if now >= (self._advised[names].ask_at if names in self._advised else 0.0)
            or self._advised[names].chain != holding.chain
        ]
        busy = self._asking is not None and not self._asking.done()
        if due and not busy and not self._pause.failures and self._account is not None:
            asking = self._ask(due, self._account)
            self._asking = asyncio.create_task(asking, name="when to renew")

    async def _ask(self, due: Iterable[Holding], account: Account) -> None:
        order = Order(self._settings, account.key, account.url)
        try:
            for holding in due:
                self._advised[holding.names] = await self._ask_about(order, holding)
        finally:
            order.close()
        self._woken.set()

    async def _ask_about(self, order: Order, holding: Holding) -> _Advice:
        window, chain = None, holding.chain
        try:
            window = await self._calls.run(lambda: order.renewal_window(chain))
        except OrderFailed as error:
            log.info("acme: when to renew is not known: %s", error)
        now = time.time()
        if window is None:
            return _Advice(chain, holding.renew_at(), now + ASK)
        # The same instant in all processes, and spread over the window (RFC 9773 section 4.2).
        renew_at = window.start + (window.end - window.start) * fraction((chain,))
        if window.explanation and renew_at < holding.renew_at():
            log.warning("acme: %s is renewed early: %s", holding.names[0], window.explanation)
        pause = min(max(window.ask_after or ASK, MIN_ASK), holdings.DAY)
        return _Advice(chain, renew_at, now + pause)

    # --- what is published ---

    def _tell(self) -> None:
        """Publish what there is, if it is news."""
        if self._account is None:
            return
        now = time.time()
        snapshot = Snapshot(
            self.name,
            (),
            tuple(self._problems(now)),
            certificates=(*self._certificates(now), *self._answers(now)),
            acme_thumbprints=(thumbprint(self._account.key),),
        )
        if snapshot != self._told:
            self._told = snapshot
            self._publish(snapshot)

    def _certificates(self, now: float) -> Iterator[Certificate]:
        for holding, hosts in holdings.shown(self._needed, self._holdings, now):
            yield replace(_certificate(holding.names[0], holding.chain, holding.key), hosts=hosts)

    def _answers(self, now: float) -> Iterator[Certificate]:
        for holding in self._holdings.values():
            if holding.is_ordered(now):
                for answer in holding.answers:
                    name = f"ACME challenge for {answer.host}"
                    yield Certificate(
                        name, (answer.host,), answer.chain, answer.key, challenge=True
                    )

    def _problems(self, now: float) -> Iterator[Problem]:
        for services in self._services.values():
            for service in services:
                if reason := unfit(service):
                    yield Problem(service.name, reason, fatal=True, partial=True)
        covered = {
            host
            for holding, hosts in holdings.shown(self._needed, self._holdings, now)
            if holding.holds(now)
            for host in hosts
        }
        for names, wanting in sorted(self._needed.items()):
            holding = self._holdings.get(names) or Holding(names)
            error, retry_at = holding.error, holding.retry_at
            if self._pause.failures and not error and now >= holding.renew_at():
                error, retry_at = self._pause.error, self._pause.retry_at
            if not error:
                continue
            held = holding.holds(now)
            lacking = [host for host in names if host not in covered]
            if held:
                state = f"its certificate stays in use until {_utc(validity(holding.chain).ends)}"
            elif not lacking:
                state = "the certificate before it stays in use"
            elif len(lacking) < len(names):
                state = f"it has no certificate for {', '.join(lacking)} yet"
            else:
                state = "it has no certificate yet"
            reason = f"{error}; {state}, and the next attempt is at {_utc(retry_at)}"
            for name in wanting:
                yield Problem(name, reason, fatal=bool(lacking), partial=bool(lacking))


@lru_cache(maxsize=1024)
def _certificate(name: str, chain: str, key: str) -> Certificate:
    """One that has been issued. Raises ValueError."""
    return make_certificate(f"ACME certificate for {name}", chain, key)


def _utc(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))
