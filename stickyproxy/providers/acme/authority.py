"""A certificate authority, spoken to by ACME (RFC 8555). All of it blocks.

An order has two halves: ``begin`` says which challenges there are, and ``finish`` has them checked
and fetches the certificate; in between, whoever may be asked gets what it takes to answer them.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

from acme import crypto_util, errors, messages
from acme.client import ClientNetwork, ClientV2
from cryptography.hazmat.primitives import hashes, serialization
from josepy import b64, json_util, jwa, jwk
from josepy import errors as josepy_errors
from josepy.interfaces import JSONDeSerializable
from requests import Response
from requests.exceptions import RequestException

from stickyproxy.base import build_info
from stickyproxy.base.errors import OrderFailed
from stickyproxy.config.settings import AcmeSettings
from stickyproxy.providers.acme import keys

TIMEOUT = 20
"""Seconds that the authority may take to respond."""
ORDER_SECONDS = 90.0
"""How long it may take to check the challenges and to issue."""
_NONCES = 8
"""How many fresh nonces may be refused (RFC 8555 section 6.5) before a request counts as failed."""

_ERRORS = (
    *(errors.Error, josepy_errors.Error, RequestException, OSError),
    *(KeyError, TypeError, ValueError),
)
"""What the library raises."""


@dataclass(frozen=True, slots=True)
class ChallengeAnswer:
    """A certificate that answers a challenge of tls-alpn-01."""

    host: str
    chain: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class Issued:
    """What an order came to, in PEM."""

    chain: str
    key: str


@dataclass(frozen=True, slots=True)
class RenewalWindow:
    """When the authority wants a certificate to be renewed (RFC 9773), in Unix time."""

    start: float
    end: float
    explanation: str
    ask_after: float
    """Seconds until it wants to be asked again."""


class _NewOrder(messages.NewOrder):
    """Says, too, which certificate it replaces (RFC 9773 section 5)."""

    replaces: str = json_util.field("replaces", omitempty=True)


class _NotingNetwork(ClientNetwork):
    """Notes how long the authority wants to be left alone, which its errors do not say."""

    def __init__(self, key: jwk.JWK, account: messages.RegistrationResource | None) -> None:
        agent = build_info.server_info()
        super().__init__(key, account, alg=jwa.ES256, user_agent=agent, timeout=TIMEOUT)
        self.retry_after = 0.0
        self.out_of_order = False
        """It said 5xx."""
        self.session.hooks["response"].append(self._note)

    def post(self, *args: Any, **options: Any) -> Response:
        """As inherited, which tries one more nonce."""
        for _ in range(_NONCES):
            try:
                return super().post(*args, **options)
            except messages.Error as error:
                if error.code != "badNonce":
                    raise
        return super().post(*args, **options)

    def _note(self, response: Response, **_: Any) -> None:
        self.retry_after = 0.0 if response.ok else _seconds(response.headers.get("Retry-After"))
        self.out_of_order = response.status_code >= 500


def _moment(text: str) -> float:
    """A time as RFC 3339 has it, in Unix time. Raises ValueError."""
    return datetime.datetime.fromisoformat(text).timestamp()


def _seconds(text: str | None) -> float:
    """A value of Retry-After (RFC 9110 section 10.2.3) in seconds; 0: none."""
    if text is None:
        return 0.0
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        left = parsedate_to_datetime(text) - datetime.datetime.now(datetime.UTC)
    except (TypeError, ValueError):
        return 0.0
    return max(0.0, left.total_seconds())


# --- the account ----------------------------------------------------------------------------------


def new_account_key() -> str:
    """In PEM."""
    return keys.new_key("ec256")


def thumbprint(account_key: str) -> str:
    """Of an account's key (RFC 7638), which key authorizations are made with."""
    return b64.b64encode(_jwk(account_key).thumbprint(hash_function=hashes.SHA256)).decode()


def _jwk(account_key: str) -> jwk.JWKEC:
    return jwk.JWKEC(key=serialization.load_pem_private_key(account_key.encode(), None))


# --- orders ---------------------------------------------------------------------------------------


class Order:
    """One order; or whatever else the authority is asked, once. Methods raise OrderFailed."""

    def __init__(self, settings: AcmeSettings, account_key: str, account: str) -> None:
        """``account``: its URL; empty: it is not known yet."""
        self.account = account
        self._settings = settings
        self._key = _jwk(account_key)
        self._thumbprint = thumbprint(account_key)
        self._network = _NotingNetwork(self._key, _registration(account) if account else None)
        self._network.verify_ssl = settings.ca_file or True  # type: ignore[assignment]
        self._directory: messages.Directory | None = None
        self._order: messages.OrderResource | None = None
        self._to_answer: list[messages.ChallengeBody] = []
        self._private_key = ""
        self._closed = False

    def register(self) -> str:
        """Have an account for our key, a new one or the one that there is; returns its URL."""
        with self._asking(of_all=True):
            self.account = self._register()
            return self.account

    def begin(self, names: Sequence[str], replaced: str) -> list[ChallengeAnswer]:
        """Order a certificate for these names. Returns what has to be shown to whoever asks for
        tls-alpn-01, before ``finish``. ``replaced``: the chain of the one that it replaces;
        empty: none."""
        with self._asking():
            return self._begin(names, replaced)

    def finish(self) -> Issued:
        """Have the challenges checked, and fetch the certificate."""
        with self._asking():
            return self._finish()

    def renewal_window(self, chain: str) -> RenewalWindow | None:
        """When the authority wants this certificate to be renewed; None: it does not say."""
        with self._asking():
            url = self._feature("renewalInfo")
            if not url:
                return None
            response = self._network.get(f"{url}/{keys.renewal_id(chain)}")
            said = response.json()
            start, end = (_moment(said["suggestedWindow"][key]) for key in ("start", "end"))
            pause = _seconds(response.headers.get("Retry-After"))
            return RenewalWindow(start, end, str(said.get("explanationURL", "")), pause)

    def close(self) -> None:
        """Close the connections, now and when a method returns that is still under way."""
        self._closed = True
        self._network.session.close()

    @contextmanager
    def _asking(self, *, of_all: bool = False) -> Iterator[None]:
        """Whatever goes wrong becomes OrderFailed; ``of_all``: it is not about names."""
        try:
            yield
        except _ERRORS as error:
            self._fail(error, of_all=of_all)
        finally:
            if self._closed:
                self._network.session.close()

    def _checks(self) -> Iterator[str]:
        """What has become of checks that the authority would try again; nothing if it does not
        answer."""
        order = self._order
        with suppress(*_ERRORS):
            for known in () if order is None else order.authorizations:
                yield from _failed_checks(self._client().poll(known)[0])

    def _client(self) -> ClientV2:
        if self._directory is None:
            self._directory = ClientV2.get_directory(self._settings.directory, self._network)
        return ClientV2(self._directory, self._network)

    def _register(self) -> str:
        client, settings = self._client(), self._settings
        terms = client.directory.meta.terms_of_service
        if terms and not settings.terms_agreed:
            raise OrderFailed(
                f"{settings.directory} issues certificates to those who agree to its terms of "
                f"service: read {terms}, and set terms_agreed = true in [acme]",
                all_after=0.0,
            )
        binding = None
        if settings.eab_key_id:
            binding = messages.ExternalAccountBinding.from_data(
                self._key.public_key(), settings.eab_key_id, settings.eab_key, client.directory
            )
        elif client.external_account_required():
            raise OrderFailed(
                f"{settings.directory} issues certificates to its customers alone: set eab_key_id "
                "and eab_key in [acme] to what it gave you",
                all_after=0.0,
            )
        self._network.account = None
        try:
            account = client.new_account(
                messages.NewRegistration.from_data(
                    email=settings.email or None,
                    terms_of_service_agreed=True,
                    external_account_binding=binding,
                )
            )
            return str(account.uri)
        except errors.ConflictError as known:
            self._network.account = _registration(known.location)
            return str(known.location)

    def _begin(self, names: Sequence[str], replaced: str) -> list[ChallengeAnswer]:
        client = self._client()
        self._private_key = keys.new_key(self._settings.key_type)
        csr = crypto_util.make_csr(self._private_key.encode(), domains=list(names))
        # Said to those alone who know what it means.
        known = replaced and self._feature("renewalInfo") and keys.renewal_id(replaced)
        response = self._place(names, known or None)
        body = messages.Order.from_json(response.json())
        found = [
            client.poll(messages.AuthorizationResource(uri=url, body=messages.Authorization()))[0]
            for url in body.authorizations
        ]
        self._order = messages.OrderResource(
            body=body, uri=response.headers.get("Location"), authorizations=found, csr_pem=csr
        )
        pending = [each for each in found if each.body.status == messages.STATUS_PENDING]
        return [*self._prepared(pending)]

    def _place(self, names: Sequence[str], replaced: str | None) -> Response:
        """Place an order, whatever the authority has forgotten or knows better."""
        identifiers = [
            messages.Identifier(typ=messages.IDENTIFIER_FQDN, value=name) for name in names
        ]
        order = _NewOrder(identifiers=identifiers, replaces=replaced)
        url = self._client().directory["newOrder"]
        try:
            return self._post(url, order)
        except errors.ConflictError:
            # That certificate has been replaced already (RFC 9773 section 5), by one that was lost.
            if replaced is None:
                raise
            return self._place(names, None)
        except messages.Error as error:
            if error.code != "accountDoesNotExist":
                raise
            self.account = self._register()  # the authority has forgotten us
            return self._post(url, order)

    def _post(self, url: str, said: JSONDeSerializable) -> Response:
        new_nonce = self._client().directory["newNonce"]
        return self._network.post(url, said, new_nonce_url=new_nonce)

    def _feature(self, name: str) -> str:
        """The URL of what not every authority has; empty: this one has not."""
        found: str = self._client().directory.to_partial_json().get(name, "")
        return found

    def _prepared(
        self, pending: Sequence[messages.AuthorizationResource]
    ) -> Iterator[ChallengeAnswer]:
        asked = self._settings.challenge
        for authorization in pending:
            host = authorization.body.identifier.value
            offered = {_kind(each): each for each in authorization.body.challenges}
            if asked not in offered:
                raise OrderFailed(
                    f"{self._settings.directory} does not offer {asked} for {host}, but "
                    f"{', '.join(sorted(offered)) or 'nothing'}: set challenge in [acme]"
                )
            self._to_answer.append(offered[asked])
            if asked == "tls-alpn-01":
                token = _token(offered[asked])
                certificate = keys.challenge_certificate(host, f"{token}.{self._thumbprint}")
                yield ChallengeAnswer(host, *certificate)

    def _finish(self) -> Issued:
        client, order = self._client(), self._order
        assert order is not None
        # By the local clock without a zone, as the library has it.
        deadline = datetime.datetime.now() + datetime.timedelta(seconds=ORDER_SECONDS)
        for challenge in self._to_answer:
            self._post(challenge.uri, _Ready())
        order = client.poll_and_finalize(order, deadline)
        return Issued(order.fullchain_pem, self._private_key)

    def _fail(self, error: Exception, *, of_all: bool = False) -> NoReturn:
        """Say what went wrong, in the words of the authority if it has any. ``of_all``: it is not
        about names."""
        url, pause = self._settings.directory, self._network.retry_after
        match error:
            case OrderFailed():
                raise error
            case errors.ValidationError():
                found = (said for each in error.failed_authzrs for said in _failed_checks(each))
                failed = "; ".join(found) or "it does not say what"
                raise OrderFailed(
                    f"{url} could not check {failed}: {_REMEDIES[self._settings.challenge]}",
                    retry_after=pause,
                ) from error
            case errors.IssuanceError(error=messages.Error() as said):
                raise OrderFailed(f"{url} refuses: {_said(said)}", retry_after=pause) from error
            case messages.Error(code="rateLimited"):
                # Perhaps only for these names: others may try, but not all at once.
                message = f"{url} refuses: {_said(error)}"
                raise OrderFailed(message, retry_after=pause, all_after=0.0) from error
            case messages.Error():
                general = of_all or self._network.out_of_order or error.code in _OF_ALL
                whole = pause if general else None
                message = f"{url} refuses: {_said(error)}"
                raise OrderFailed(message, retry_after=pause, all_after=whole) from error
            case errors.TimeoutError():
                message = f"{url} has not issued within {ORDER_SECONDS:g} s"
                raise OrderFailed("; ".join((message, *self._checks()))) from error
            case errors.ClientError(args=[Response() as response, *_]):
                message = f"{url} answers {response.status_code} {response.reason}"
                raise OrderFailed(message, all_after=pause) from error
            case RequestException() | OSError():
                message = f"{url} cannot be asked: {_why(error)}"
                raise OrderFailed(message, all_after=0.0) from error
            case _:
                message = f"what {url} says is not understood: {error!r}"[:500]
                raise OrderFailed(message, all_after=pause) from error


_OF_ALL = frozenset(
    (
        *("accountDoesNotExist", "externalAccountRequired", "serverInternal"),
        *("unauthorized", "userActionRequired", "badNonce"),
    )
)
"""Errors that do not depend on the names in an order."""

_REMEDIES = {
    "http-01": "see that these names lead to the proxies, and that port 80 there is open",
    "tls-alpn-01": "see that these names lead to the proxies, and that port 443 there is open",
}


class _Ready(JSONDeSerializable):
    """An empty object: the challenge may be checked (RFC 8555 section 7.5.1). Not one of the
    library's: what is empty there is not sent at all."""

    def to_partial_json(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_json(cls, _: Any) -> _Ready:
        return cls()


def _registration(account: str) -> messages.RegistrationResource:
    return messages.RegistrationResource(uri=account, body=messages.Registration())


def _raw(challenge: messages.ChallengeBody) -> dict[str, Any]:
    """As the authority sent it: the library does not know tls-alpn-01 any more."""
    return dict(challenge.chall.to_partial_json())


def _kind(challenge: messages.ChallengeBody) -> str:
    return str(_raw(challenge).get("type", challenge.chall.typ))


def _token(challenge: messages.ChallengeBody) -> str:
    return str(_raw(challenge)["token"])


def _failed_checks(authorization: messages.AuthorizationResource) -> Iterator[str]:
    for challenge in authorization.body.challenges:
        if challenge.error is not None:
            yield f"{authorization.body.identifier.value}: {_said(challenge.error)}"


def _said(error: messages.Error) -> str:
    """An error in the authority's words, in one line."""
    words = " ".join(str(error.detail or error.title or error.typ).split())
    parts = [
        f"{each.identifier.value}: {each.detail}"
        for each in error.subproblems or ()
        if each.identifier
    ]
    code = f" ({error.code})" if error.code else ""
    return "; ".join((words, *parts))[:500] + code


def _why(error: Exception) -> str:
    """The last of a chain of errors, which says it best."""
    text = " ".join(str(error).split())
    for sign, meaning in _MEANINGS.items():
        if sign in text:
            return meaning
    return text[:300]


_MEANINGS = {
    "CERTIFICATE_VERIFY_FAILED": "who issued its certificate is not known here: set ca_file in "
    "[acme] if that is meant",
    "Connection refused": "connection refused",
    "NameResolutionError": "its name does not resolve",
    "timed out": "it does not answer in time",
}
