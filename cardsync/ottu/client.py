"""The three calls to Ottu: list a customer's cards, delete one card, ask about one payment.

The rules: ``before_call`` is asked before every single request (the call budget) and may raise; nothing is
retried and no redirect is followed; a call ends within ``OTTU_TIMEOUT_S`` and a list, with all its pages,
within its deadline; nothing is logged. One client serves a process and all its threads.
"""

from __future__ import annotations

import datetime as dt
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final
from urllib.parse import quote

import httpx
from ottu import urls
from ottu.auth import APIKeyAuth, BasicAuth
from ottu.enums import HTTPMethod

from cardsync import metrics, traces
from cardsync.core.call_budget import COMMIT_SECONDS
from cardsync.core.cards import ENVIRONMENTS, Environment, ListedCard, Token, is_customer_id
from cardsync.core.oddities import Oddity
from cardsync.errors import InvalidAnswer, Misconfigured, OttuUnavailable, UnreadableAnswer, UnusableCard
from cardsync.ottu.handler import NOT_JSON, QuietOttu
from cardsync.ottu.inquiry import INQUIRY, Inquired, read_inquired
from cardsync.ottu.listing import Listing, united
from cardsync.ottu.statuses import check_deleted, check_inquired, check_listed, reason_of
from cardsync.ottu.transport import open_transport, seconds_left, within
from cardsync.settings import Settings

# These loggers write URLs, and so tokens: ottu-py at INFO and ERROR, httpx at INFO. httpcore logs the headers of answers at
# DEBUG, and a Location may repeat the URL. The level is set on these loggers, so that no level of the root brings the lines back.
_TALKATIVE: Final = ("ottu-py", "httpx", "httpcore")


# What spans say of a call's path: the real one of a deletion has the token in it, that of a later page its query.
LIST: Final = urls.USER_CARDS
DELETE: Final = urls.USER_CARDS + "{token}/"


@dataclass(frozen=True, slots=True)
class CardList:
    """A customer's list, how many requests it took (one a page), and what was odd about its entries (``core.oddities``)."""

    cards: tuple[ListedCard, ...]
    calls: int
    oddities: tuple[Oddity, ...] = ()

    def united_with(self, other: CardList) -> CardList:
        """Return the cards that at least one of two lists shows, with the oddities of both."""
        cards = united(self.cards, other.cards)
        return CardList(cards, self.calls + other.calls, self.oddities + other.oddities)


@dataclass(frozen=True, slots=True)
class DeleteAnswer:
    """What Ottu said to a deletion.

    2xx and 404: the card is gone, says Ottu (a list has to prove it). Another 4xx: Ottu refuses to delete this card. ``reason``
    is Ottu's type, code and field names, if there are any, in at most 300 characters, and never its free text.
    """

    status_code: int
    reason: str | None

    @property
    def gone(self) -> bool:
        """Whether Ottu says that the card does not exist any more."""
        return self.status_code < 300 or self.status_code == 404


def silence_libraries() -> None:
    """Keep the loggers of ottu-py, httpx and httpcore at WARNING, at any level of the other loggers."""
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def _unmetered() -> None:
    """No budget: the default of ``before_call``."""


class OttuClient:
    """Ottu's User Cards API, both environments. Thread-safe; close it at the process's end.

    Raises ``Misconfigured`` if the settings name no instance or no usable credentials.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.ottu_merchant_id is None and settings.ottu_base_url is None:
            raise Misconfigured("OTTU_MERCHANT_ID is missing (the host of the Ottu instance, like acme.ottu.net)")
        silence_libraries()
        self._secrets = tuple(
            secret.get_secret_value() for secret in (settings.ottu_api_key, settings.ottu_password) if secret
        )
        self._http = httpx.Client(
            auth=_auth(settings),
            # A process makes as many calls at once as it has threads; its kind is not known here.
            transport=open_transport(settings.ottu_url, max(settings.web_threads, settings.worker_threads)),
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "cardsync"},
            follow_redirects=False,
            trust_env=False,  # no .netrc; the proxy and the authorities are the transport's
            # Calls share nothing but the connection.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        )
        # A call is counted before it is made, and the count is good for this time (``core.call_budget``).
        self._counted_seconds = settings.ottu_timeout_s + COMMIT_SECONDS
        self._ottu: dict[Environment, QuietOttu] = {
            environment: QuietOttu(
                settings.ottu_url,
                is_sandbox=environment == "sandbox",
                session=self._http,
                timeout_seconds=settings.ottu_timeout_s,
            )
            for environment in ENVIRONMENTS
        }

    def list_cards(
        self,
        environment: Environment,
        customer_id: str,
        *,
        deadline_seconds: float,
        before_call: Callable[[], None] = _unmetered,
    ) -> CardList:
        """Return all cards of a customer; calls Ottu once a page.

        Raises ``ValueError`` for an impossible customer id, and ``OttuUnavailable``, ``OttuThrottled``,
        ``OttuFault``, ``InvalidAnswer``, ``CredentialsRefused``, ``OttuRejected``
        (``ListNotFound`` for 404), and what ``before_call`` raises.
        """
        return self._pages("list", environment, customer_id, {}, deadline_seconds, before_call)

    def list_gateway(
        self,
        environment: Environment,
        customer_id: str,
        pg_code: str,
        *,
        deadline_seconds: float,
        before_call: Callable[[], None] = _unmetered,
    ) -> CardList:
        """Return a customer's cards of one payment gateway; calls Ottu once a page.

        The list is filtered, so that it says nothing of cards of other gateways. Raises ``ValueError`` for an impossible id,
        and what ``list_cards`` raises.
        """
        if not pg_code:
            raise ValueError("a gateway's code must have a character")
        only = {"pg_codes": [pg_code]}
        return self._pages("list_gateway", environment, customer_id, only, deadline_seconds, before_call)

    def list_agreement(
        self,
        environment: Environment,
        customer_id: str,
        agreement_id: str,
        *,
        before_call: Callable[[], None] = _unmetered,
    ) -> ListedCard | None:
        """Return the card of a customer that was used last for an agreement; ``None`` if none was. One call.

        The list is filtered, so that it says nothing of any other card. Raises ``ValueError`` for an impossible id,
        ``InvalidAnswer`` also for more than one card (then it was not filtered), and what ``list_cards`` raises.
        """
        _check_customer(customer_id)
        if not agreement_id:
            raise ValueError("an agreement id must have a character")
        listing = Listing(customer_id)
        with within(self._counted_seconds):
            before_call()
            with _timed("list_agreement", LIST):
                answer = self._ottu[environment].cards.list(customer_id=customer_id, agreement_id=agreement_id)
                content = _listed(answer)
            listing.take(content)
        cards = () if listing.next is not None else listing.complete()
        if listing.next is not None or len(cards) > 1:
            raise InvalidAnswer("the list filtered by an agreement has more than one card")
        return cards[0] if cards else None

    def _pages(
        self,
        operation: str,
        environment: Environment,
        customer_id: str,
        only: Mapping[str, list[str]],
        deadline_seconds: float,
        before_call: Callable[[], None],
    ) -> CardList:
        """Ask for all pages of one list; ``only`` is its filter, in the words of Ottu's API and of its SDK."""
        _check_customer(customer_id)
        ottu, listing, calls = self._ottu[environment], Listing(customer_id), 0
        with within(deadline_seconds):
            while calls == 0 or listing.next is not None:
                _check_time()
                with within(self._counted_seconds):
                    before_call()
                    with _timed(operation, LIST):
                        content = _listed(_page(ottu, customer_id, listing, only))
                listing.take(content)
                calls += 1
        cards = listing.complete()
        return CardList(cards, calls, listing.oddities)

    def delete_card(
        self,
        environment: Environment,
        customer_id: str,
        token: Token,
        *,
        before_call: Callable[[], None] = _unmetered,
    ) -> DeleteAnswer:
        """Ask Ottu to delete one card; one call.

        Raises ``ValueError`` for an impossible customer id, ``UnusableCard`` for a token that would name
        another path, and ``OttuUnavailable``, ``OttuThrottled``, ``OttuFault``, ``InvalidAnswer``,
        ``CredentialsRefused`` (401), ``OttuRejected`` (405, 415), and what ``before_call`` raises.
        """
        _check_customer(customer_id)
        segment = _path_segment(token)
        with within(self._counted_seconds):
            before_call()
            with _timed("delete", DELETE, method="DELETE"):
                answer = self._ottu[environment].cards.delete(segment, customer_id=customer_id)
        status_code: int = answer["status_code"]
        if check_deleted(status_code, answer["headers"], dt.datetime.now(dt.UTC)):
            return DeleteAnswer(status_code, None)
        secrets = (token.reveal(), segment, *self._secrets)
        return DeleteAnswer(status_code, reason_of(answer["error"], secrets))

    def inquire(self, session_id: str, *, before_call: Callable[[], None] = _unmetered) -> Inquired | None:
        """Ask about one payment; one call. ``None`` if Ottu knows no such payment.

        Raises ``OttuUnavailable``, ``OttuThrottled``, ``OttuFault``, ``InvalidAnswer``, ``CredentialsRefused`` (401),
        ``OttuRejected``, or whatever ``before_call`` raises.
        """
        with within(self._counted_seconds):
            before_call()
            # The endpoint takes no environment: a session is of one. Either of our two senders serves.
            with _timed("inquiry", INQUIRY):
                answer = self._ottu["production"].send_request(
                    path=INQUIRY, method=HTTPMethod.POST, json={"session_id": session_id}
                )
        if not check_inquired(answer.status_code, answer.headers, dt.datetime.now(dt.UTC)):
            return None
        if answer.response is NOT_JSON:
            raise InvalidAnswer("Ottu's answer to the inquiry is not JSON in plain UTF-8")
        return read_inquired(answer.response, session_id)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def _page(ottu: QuietOttu, customer_id: str, listing: Listing, only: Mapping[str, list[str]]) -> dict[str, Any]:
    """Fetch the first page as the SDK does, a later one from the same path with paging parameters alone."""
    answer: dict[str, Any]
    if listing.next is None:
        answer = ottu.cards.list(customer_id=customer_id, **only)
    else:
        answer = ottu.send_request(
            path=f"{urls.USER_CARDS}?{listing.next.query}",
            method=HTTPMethod.POST,
            json={"type": ottu.env_type, "customer_id": customer_id, **only},
        ).as_dict()
    return answer


def _listed(answer: dict[str, Any]) -> object:
    check_listed(answer["status_code"], answer["headers"], answer["error"], dt.datetime.now(dt.UTC))
    if answer["response"] is NOT_JSON:
        raise UnreadableAnswer("Ottu's list is not JSON in UTF-8")
    content: object = answer["response"]
    return content


def _auth(settings: Settings) -> httpx.Auth:
    auth: httpx.Auth
    if settings.ottu_api_key is not None:
        key = settings.ottu_api_key.get_secret_value()
        # It goes into a header as it is; what a header cannot hold would fail each call with a text that
        # quotes it.
        if not key or not key.isascii() or not key.isprintable():
            raise Misconfigured("OTTU_API_KEY must be printable ASCII")
        auth = APIKeyAuth(key)
    elif settings.ottu_username is not None and settings.ottu_password is not None:
        auth = BasicAuth(settings.ottu_username, settings.ottu_password.get_secret_value())
    else:
        raise Misconfigured("OTTU_API_KEY is missing (or OTTU_USERNAME and OTTU_PASSWORD)")
    return auth


def _check_customer(customer_id: str) -> None:
    # ottu-py leaves empty values out of its payload: an empty id would ask for the cards of no customer in particular.
    if not is_customer_id(customer_id):
        raise ValueError("a customer id must be 1 to 64 storable characters")


def _check_time() -> None:
    """Raise ``OttuUnavailable`` if there is no time for a call, before budget is spent on it."""
    if seconds_left() <= 0:
        raise OttuUnavailable("no answer from Ottu: the time is over")


def _path_segment(token: Token) -> str:
    """Return the token as one segment of a path; ottu-py puts it there as it is.

    Raises ``UnusableCard`` for dot segments, also between slashes: httpx resolves plain ones, and some
    proxies escaped ones.
    """
    text = token.reveal()
    if any(part in (".", "..") for part in re.split(r"[/\\]", text)):
        raise UnusableCard("a token that would name another path")
    return quote(text, safe="")


@contextmanager
def _timed(operation: str, template: str, method: str = "POST") -> Iterator[None]:
    """Count how long one call takes, however it ends, and trace it; its real path has a token in it."""
    began = time.perf_counter()
    try:
        with traces.span(f"ottu {operation}", {"http.request.method": method, "url.template": template}, kind="client"):
            yield
    finally:
        metrics.CALL_SECONDS.labels(operation).observe(time.perf_counter() - began)
