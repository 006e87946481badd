"""From the JSON of Ottu's list to cards, purely; what is not wholly believable raises ``InvalidAnswer``.

Ottu's SDK, its OpenAPI file and its documentation disagree on the shape (an array, one card, pages), so all
three are read. Everything else, down to one card without a token or of another customer, spoils the whole
answer: what is taken for an empty list wipes valid cards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, urlencode, urlsplit

from cardsync.core.cards import ListedCard, Token, read_card
from cardsync.errors import InvalidAnswer, UnusableCard

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
        self._count: int | None = None
        self._pages = 0

    def take(self, content: object) -> None:
        """Take one answer's content. Raises ``InvalidAnswer`` if it is no list or contradicts the others."""
        self._pages += 1
        if isinstance(content, dict) and "results" in content:
            self._take_page(content)
        elif self._pages > 1:
            raise InvalidAnswer("the list's pages change their shape")
        elif isinstance(content, list):
            self._take_cards(content)
        elif isinstance(content, dict) and "token" in content:
            self._take_cards([content])
        else:
            raise InvalidAnswer("the answer is not a list of cards")

    def complete(self) -> tuple[ListedCard, ...]:
        """Return all cards, each once. Raises ``InvalidAnswer`` if pages promised another number."""
        if self._count is not None and self._count != len(self._cards):
            raise InvalidAnswer(f"the list's pages hold {len(self._cards)} cards and promise {self._count}")
        return tuple(self._cards.values())

    def _take_page(self, page: dict[str, object]) -> None:
        count, results = page.get("count"), page["results"]
        if not isinstance(results, list) or isinstance(count, bool) or not isinstance(count, int):
            raise InvalidAnswer("a page of the list lacks its results or their count")
        if not 0 <= count <= MAX_CARDS:
            raise InvalidAnswer(f"a page of the list promises more than {MAX_CARDS} cards")
        if self._count not in (None, count):
            raise InvalidAnswer("the list's pages promise different numbers of cards")
        self._count = count
        self._take_cards(results)
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

    def _take_cards(self, items: list[object]) -> None:
        for item in items:
            card = self._read(item)
            if self._cards.setdefault(card.token, card) != card:
                raise InvalidAnswer("the list has one token twice, with different facts")
            if len(self._cards) > MAX_CARDS:
                raise InvalidAnswer(f"the list has more than {MAX_CARDS} cards")

    def _read(self, item: object) -> ListedCard:
        if not isinstance(item, dict):
            raise InvalidAnswer("the list holds something that is not a card")
        owner = item.get("customer_id")
        if owner is not None and str(owner) != self._customer_id:
            raise InvalidAnswer("the list holds a card of another customer")
        try:
            return read_card(item)
        except UnusableCard as error:
            raise InvalidAnswer(f"the list holds an unusable card: {error}") from None


def _position(link: object) -> Position | None:
    """Read a page's ``next``. Its host and path are never followed: they may be a stranger's."""
    if link is None:
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
