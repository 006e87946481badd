"""From the JSON of Ottu's list to cards, purely. An answer that is no list of cards raises ``InvalidAnswer``.

Ottu's SDK, its OpenAPI file and its documentation disagree on the shape (an array, one card, pages), so all three are read. Any
other answer is a failed call, never an empty list: what is taken for an empty list wipes valid cards. A list that is not empty
is one only if at least one entry is a card of this customer (``entries``); an object that reports an error is none. Beside a
card, an odd entry spoils nothing but what absence from the list means: it is named in ``oddities`` (``core.oddities``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Final
from urllib.parse import parse_qs, urlencode, urlsplit

from cardsync.core.cards import CardFacts, ListedCard, Token
from cardsync.core.fields import read_count
from cardsync.core.oddities import Oddity
from cardsync.errors import InvalidAnswer
from cardsync.ottu.entries import has_error, read_entry

MAX_PAGES: Final = 100
MAX_CARDS: Final = 1_000  # of one customer; a shopper has a handful
MAX_POSITION_DIGITS: Final = 6


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page begins: the paging parameters of a ``next`` link, and nothing else of it."""

    kind: str  # "offset" or "page"
    value: int
    limit: int | None

    @property
    def query(self) -> str:
        """The parameters as a query string."""
        limit = {} if self.limit is None else {"limit": self.limit}
        return urlencode({**limit, self.kind: self.value})


_FIRST: Final = {"offset": 0, "page": 1}


class Listing:
    """One customer's list, taken page by page; ``next`` is where to go on, ``None`` when all is taken."""

    def __init__(self, customer_id: str) -> None:
        self.next: Position | None = None
        self._customer_id = customer_id
        self._cards: dict[Token, ListedCard] = {}
        self._oddities: Counter[Oddity] = Counter()
        self._entries = 0
        self._without_token = 0
        self._on_earlier_pages = 0  # entries whose card an earlier page had shown
        self._shows_a_card = False
        self._count: int | None = None
        self._pages = 0

    def take(self, content: object) -> None:
        """Take one answer's content. Raises ``InvalidAnswer`` if it is no list or contradicts the others."""
        self._pages += 1
        if isinstance(content, dict) and has_error(content, is_card="token" in content and "results" not in content):
            raise InvalidAnswer("the answer reports an error")
        if isinstance(content, dict) and "results" in content:
            self._take_page(content)
        elif self._pages > 1:
            raise InvalidAnswer("the list's pages change their shape")
        elif isinstance(content, list):
            self._take_entries(content)
        elif isinstance(content, dict) and "token" in content:
            self._take_entries([content])
            self._oddities["single_object"] += 1
        else:
            raise InvalidAnswer("the answer is not a list of cards")

    def complete(self) -> tuple[ListedCard, ...]:
        """Return all cards, each once. Raises ``InvalidAnswer`` if no entry is a card, or if pages promised another number."""
        if self._entries and not self._shows_a_card:
            raise InvalidAnswer("no entry of the list is a card of this customer")
        distinct = len(self._cards) + self._without_token
        if self._count not in (None, distinct):
            # A page may count a card as often as it shows it. A card that comes back on a later page may hide another one.
            if self._count != self._entries or self._on_earlier_pages:
                raise InvalidAnswer(f"the list's pages hold {distinct} cards and promise {self._count}")
            self._oddities["listed_twice"] = max(1, self._oddities["listed_twice"])
        return tuple(self._cards.values())

    @property
    def oddities(self) -> tuple[Oddity, ...]:
        """What was odd about the entries, one for each time; ask after ``complete``."""
        return tuple(sorted(self._oddities.elements()))

    def _take_page(self, page: dict[str, object]) -> None:
        count, results = read_count(page.get("count")), page["results"]
        if not isinstance(results, list) or count is None:
            raise InvalidAnswer("a page of the list lacks its results or their count")
        if count > MAX_CARDS:
            raise InvalidAnswer(f"a page of the list promises more than {MAX_CARDS} cards")
        if self._count not in (None, count):
            raise InvalidAnswer("the list's pages promise different numbers of cards")
        self._count = count
        self._take_entries(results)
        following = _position(page.get("next"))
        if following is not None:
            self._check_progress(following, results)
        self.next = following

    def _check_progress(self, following: Position, results: list[object]) -> None:
        here = self.next
        if here is not None and here.kind != following.kind:
            raise InvalidAnswer("the list's pages change how they count")
        if not results or following.value <= (_FIRST[following.kind] if here is None else here.value):
            raise InvalidAnswer("the list's pages do not go on")
        if self._pages >= MAX_PAGES:
            raise InvalidAnswer(f"the list has more than {MAX_PAGES} pages")

    def _take_entries(self, items: list[object]) -> None:
        self._entries += len(items)
        if self._entries > MAX_CARDS:
            raise InvalidAnswer(f"the list has more than {MAX_CARDS} cards")
        earlier = frozenset(self._cards)
        for item in items:
            entry = read_entry(item, self._customer_id)
            self._shows_a_card = self._shows_a_card or entry.is_card
            self._oddities.update(entry.oddities)
            if entry.card is None:
                self._without_token += 1
            else:
                self._on_earlier_pages += entry.card.token in earlier
                self._add(entry.card)

    def _add(self, card: ListedCard) -> None:
        before = self._cards.get(card.token)
        if before is not None and before != card:
            self._oddities["listed_twice"] += 1
        self._cards[card.token] = card if before is None else agreed(before, card)


def agreed(one: ListedCard, other: ListedCard) -> ListedCard:
    """Return what two entries of one card agree on; a fact in which they differ is not said."""
    both = {f.name: (getattr(one.facts, f.name), getattr(other.facts, f.name)) for f in fields(CardFacts)}
    differ = {name for name, (first, second) in both.items() if first != second}
    return replace(
        one,
        facts=replace(one.facts, **dict.fromkeys(differ)),
        unsaid=one.unsaid | other.unsaid | differ,
        only_if_known=one.only_if_known and other.only_if_known,
    )


def united(one: Iterable[ListedCard], other: Iterable[ListedCard]) -> tuple[ListedCard, ...]:
    """Return the cards that at least one of two lists shows; of a card that both show, what the second one says."""
    return tuple({card.token: card for card in (*one, *other)}.values())


def _position(link: object) -> Position | None:
    """Read a page's ``next``. Its host and path are never followed: they may be a stranger's."""
    if link is None or link is False or (isinstance(link, str) and not link.strip()):
        return None
    if not isinstance(link, str):
        raise InvalidAnswer("the list's next page is not a link")
    try:
        query = parse_qs(urlsplit(link).query, max_num_fields=50)
    except ValueError:
        query = {}
    for kind in _FIRST:
        value = _number(query.get(kind))
        if value is not None:
            return Position(kind, value, _number(query.get("limit")))
    raise InvalidAnswer("the list's next page does not say where it begins")


def _number(values: list[str] | None) -> int | None:
    if values is None:
        return None
    text = values[0]
    if len(values) != 1 or len(text) > MAX_POSITION_DIGITS or not (text.isascii() and text.isdigit()):
        raise InvalidAnswer("the list's next page begins at no number")
    return int(text)
