"""Every error that cardsync raises on purpose, in one tree; each says what its caller should do.

::

    CardsyncError
    ├── Refused                 the caller's input is at fault; the text is safe to show
    │   ├── MalformedBody         not a JSON object (400)
    │   ├── InvalidSignature      no key of ours vouches for it (401)
    │   ├── UnusableCard          a value that is no card, or looks like a full card number
    │   ├── NotFound              no such card, key or event (404)
    │   ├── Conflict              what is asked does not go with what is there (409)
    │   ├── NotSignedIn           no session of the console, or one that has ended: sign in
    │   ├── RoleTooLow            the operator's role does not allow it (403)
    │   └── SignInTooOld          this action needs a sign-in of the last minutes: sign in again
    ├── Misconfigured           a setting is missing or wrong: stop, name it (exit status 2)
    │   └── UnknownSecretKey      encrypted with a secret key that the settings do not name
    ├── Transient               try again later; nothing has changed
    │   ├── OttuUnavailable       no answer: refused, cut, timed out, TLS, over the time we give it
    │   ├── OttuThrottled         429; carries ``retry_after_seconds`` when Ottu named one
    │   ├── OttuFault             5xx
    │   ├── InvalidAnswer         a whole answer, but not one to believe (shape, size, another customer's card)
    │   │   └── UnreadableAnswer    no whole answer in JSON: a proxy's page, a redirect
    │   ├── CredentialsRefused    401, or 403 on a list: our key is the trouble, or one customer's list
    │   ├── CallsPaused           the gate before Ottu is closed (429, down, refused credentials, an operator); nothing was called
    │   ├── BudgetSpent           the allowance of calls of the last 24 hours is used up; nothing was called
    │   └── SpoolUnusable         the folder where hints wait takes none: full, bound reached, gone, not ours
    ├── Terminal                trying again will not help
    │   └── OttuRejected          any other 4xx
    │       └── ListNotFound        404 on a list: no such customer, perhaps, or no such address
    └── Superseded              a newer ticket stands: drop what you hold, touch nothing

No text of these ever holds a token, a key, a full card number or a request's URL. Whose trouble an error is, and what follows
from it, stands in one table: ``core.trouble``.
"""

from __future__ import annotations

import traceback
from typing import ClassVar, Final

PLACES: Final = 8  # of the stack at most: enough to find the line, and a log line stays short


class CardsyncError(Exception):
    """The root: catch it only at a process's border."""


def named(error: BaseException) -> str:
    """Return one line that names an error: the text only of an error of ours, since any other's may hold a secret."""
    return f"{type(error).__name__}: {error}" if isinstance(error, CardsyncError) else type(error).__name__


def places(error: BaseException) -> list[str]:
    """Return the innermost places in the code that the error came through: a log may hold these, and not the error's text."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-PLACES:]]


class Refused(CardsyncError):
    """The input is at fault; the text may be shown to its sender.

    ``code`` is the same in a word that stays, for programs: one of ``web.problems``.
    """

    CODE: ClassVar[str] = "invalid_request"

    def __init__(self, message: str = "", *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code or self.CODE


class MalformedBody(Refused):
    """The body is not one JSON object in UTF-8."""

    CODE = "malformed_body"


class InvalidSignature(Refused):
    """The signature is missing, malformed, over nothing, or no configured key made it."""

    CODE = "invalid_signature"


class UnusableCard(Refused):
    """A value that cannot be a card: no token, or something that looks like a full card number."""


class NotFound(Refused):
    """There is no such thing."""

    CODE = "not_found"


class Conflict(Refused):
    """The same key with another request, or a card that is in no state for what is asked of it."""

    CODE = "conflict"


class NotSignedIn(Refused):
    """No session of the console's, or one that has ended."""


class RoleTooLow(Refused):
    """The operator's role does not allow what was asked."""


class SignInTooOld(Refused):
    """The session began too long ago for this action."""


class Misconfigured(CardsyncError):
    """A setting is missing or malformed; the text is one line that names it and shows no value of a secret."""


class UnknownSecretKey(Misconfigured):
    """A ciphertext of a secret key that this process was not given; it can be read once the settings name the key again."""


class Transient(CardsyncError):
    """Nothing has changed; the same attempt may succeed later.

    ``retry_after_seconds`` is the other side's wish where it gave one, ``status_code`` its answer's if there was one.
    """

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


class UnreadableAnswer(InvalidAnswer):
    """What came is not a whole answer of Ottu's in JSON: something in front of Ottu may have spoken."""


class CredentialsRefused(Transient):
    """401, or 403 on the list: our credentials as such are refused, or this one customer's list is."""


class CallsPaused(Transient):
    """The gate before Ottu is closed, or another call's turn comes first (after a 429); nothing was called."""


class BudgetSpent(Transient):
    """The allowance of calls in the last 24 hours is used up; nothing was called."""


class SpoolUnusable(Transient):
    """The spool cannot make a hint durable; nothing of it is left behind."""


class Terminal(CardsyncError):
    """The same attempt will fail again."""


class OttuRejected(Terminal):
    """A 4xx without a meaning of its own; ``status_code`` is Ottu's."""

    def __init__(self, message: str, *, status_code: int) -> None:
        super().__init__(message)
        self.status_code = status_code


class ListNotFound(OttuRejected):
    """404 on a list. What it means of the customer's cards is not documented.

    ``says_why``: the body is a JSON object, as Ottu's own errors are. Without one, a proxy or a wrong address is as likely.
    """

    def __init__(self, message: str, *, says_why: bool) -> None:
        super().__init__(message, status_code=404)
        self.says_why = says_why


class Superseded(CardsyncError):
    """A newer ticket stands, or the lease ran out: what this attempt learnt must not be applied."""
