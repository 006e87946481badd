"""Every error that cardsync raises on purpose, in one tree; each says what its caller should do.

::

    CardsyncError
    ├── Refused                 the caller's input is at fault; the text is safe to show
    │   ├── MalformedBody         not a JSON object (400)
    │   ├── InvalidSignature      no key of ours vouches for it (401)
    │   ├── UnusableCard          a value that is no card, or looks like a full card number
    │   ├── NotFound              no such card, key or event (404)
    │   └── Conflict              what is asked does not go with what is there (409)
    ├── Misconfigured           a setting is missing or wrong: stop, name it (exit status 2)
    ├── Transient               try again later; nothing has changed
    │   ├── OttuUnavailable       no answer: refused, cut, timed out, TLS, over the time we give it
    │   ├── OttuThrottled         429; carries ``retry_after_seconds`` when Ottu named one
    │   ├── OttuFault             5xx
    │   ├── InvalidAnswer         an answer, but not one to believe (shape, size, another customer's card)
    │   ├── CredentialsRefused    401 or 403 on the list itself: our key, not the customer, is the trouble
    │   ├── CallsPaused           the gate before Ottu is closed (429, down, refused credentials); nothing was called
    │   ├── BudgetSpent           the allowance of calls of the last 24 hours is used up; nothing was called
    │   └── SpoolUnusable         the folder where hints wait takes none: full, bound reached, gone, not ours
    ├── Terminal                trying again will not help
    │   └── OttuRejected          any other 4xx
    └── Superseded              somebody newer has the floor: drop what you hold, touch nothing

No text of these ever holds a token, a key, a full card number or a request's URL.
"""

from __future__ import annotations


class CardsyncError(Exception):
    """The root: catch it only at a process's border."""


class Refused(CardsyncError):
    """The input is at fault; the text may be shown to whoever sent it."""


class MalformedBody(Refused):
    """The body is not one JSON object in UTF-8."""


class InvalidSignature(Refused):
    """The signature is missing, malformed, over nothing, or no configured key made it."""


class UnusableCard(Refused):
    """A value that cannot be a card: no token, or something that looks like a full card number."""


class NotFound(Refused):
    """There is no such thing."""


class Conflict(Refused):
    """The same key with another request, or a card that is in no state for what is asked of it."""


class Misconfigured(CardsyncError):
    """A setting is missing or malformed; the text is one line that names it and shows no value of a secret."""


class Transient(CardsyncError):
    """Nothing has changed; the same attempt may succeed later.

    ``retry_after_seconds`` is the other side's wish where it gave one, ``status_code`` its answer's if there was one.
    ``called`` tells whether a call was made, and so whether the attempt counts as a failure of Ottu's.
    """

    called = True

    def __init__(
        self, message: str, *, retry_after_seconds: float | None = None, status_code: int | None = None
    ) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.status_code = status_code


class OttuUnavailable(Transient):
    """No answer arrived within the time we give a call."""


class OttuThrottled(Transient):
    """429: slow down, all of us."""


class OttuFault(Transient):
    """5xx."""


class InvalidAnswer(Transient):
    """Ottu answered, and the answer is not one to believe; never to be read as an empty list."""


class CredentialsRefused(Transient):
    """401, or 403 on the list: our credentials as such are refused."""


class CallsPaused(Transient):
    """The gate before Ottu is closed, or another call's turn comes first (after a 429); nothing was called."""

    called = False


class BudgetSpent(Transient):
    """The allowance of calls in the last 24 hours is used up; nothing was called."""

    called = False


class SpoolUnusable(Transient):
    """The spool cannot make a hint durable; nothing of it is left behind."""

    called = False


class Terminal(CardsyncError):
    """The same attempt will fail again."""


class OttuRejected(Terminal):
    """A 4xx without a meaning of its own; ``status_code`` is Ottu's."""

    def __init__(self, message: str, *, status_code: int) -> None:
        super().__init__(message)
        self.status_code = status_code


class Superseded(CardsyncError):
    """A newer ticket stands, or the lease ran out: what this attempt learnt must not be applied."""
