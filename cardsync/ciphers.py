"""Encryption of what holds a token: AES-256-GCM with keys that come from ``CARDSYNC_SECRET_KEY``.

Envelope encryption. From a secret key, HKDF makes a *wrapping key*. Each process makes random *data keys*, wraps them with the
wrapping key, and encrypts with them; every ciphertext carries its data key, wrapped. So a ciphertext and the secret key are all
that is needed: the web can write to its disk before it has ever reached the database, and another process reads it.

A ciphertext is ``c1.<id of the secret key, 16 hex digits>.<base64url>``. The base64 holds the wrapped data key (12 bytes of
nonce, 32 of key, 16 of tag), then the nonce, the content and the tag. ``about`` (the customer of a hint, the id of a card) is
authenticated, so that a ciphertext moved elsewhere does not open there. The id names a secret key and tells nothing of it.

Rotation: a ring has one *current* key, which encrypts, and *previous* ones, which only decrypt. ``reencrypted`` moves a
ciphertext to the current key. Rejected: one data key in the database for all; the spool is for the time without a database.

A data key is replaced after ``USES`` messages: with random nonces of 96 bits, 2**32 are safe, and this is far below.
"""

from __future__ import annotations

import base64
import binascii
import os
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cardsync.core import hints, kept_bodies
from cardsync.core.cards import TOKEN_MAX, CardFacts, Token
from cardsync.core.hints import EncryptedHint
from cardsync.core.kept_bodies import KeptBody
from cardsync.core.spool_format import WaitingRow
from cardsync.errors import MalformedBody, UnknownSecretKey

USES: Final = 1 << 20
KEY_BYTES: Final = 32
KEY_ID_BYTES: Final = 8
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_WRAPPED_BYTES: Final = _NONCE_BYTES + KEY_BYTES + _TAG_BYTES
_VERSION: Final = "c1"
_UNWRAPPED_MAX: Final = 256  # data keys remembered, one for each process that wrote lately


@dataclass(frozen=True, slots=True)
class SecretKey:
    """One of the deployment's secret keys, ready for use. ``secret`` is the setting's value."""

    secret: bytes = field(repr=False)
    key_id: bytes
    _wrapping: AESGCM = field(repr=False)

    @classmethod
    def of(cls, secret: bytes) -> SecretKey:
        """Derive the id and the wrapping key. Both are one-way: neither says anything of the secret or of the other."""
        return cls(
            secret, _derived(secret, b"cardsync key id", KEY_ID_BYTES), AESGCM(_derived(secret, b"cardsync wrap", 32))
        )

    def wrap(self, key: bytes, about: bytes) -> bytes:
        """Encrypt a key: nonce, ciphertext and tag."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._wrapping.encrypt(nonce, key, about)

    def unwrap(self, wrapped: bytes, about: bytes) -> bytes:
        """The key again. Raises ``MalformedBody`` if it was changed, or is about something else."""
        return _opened(self._wrapping, wrapped, about)


class KeyRing:
    """The secret keys that this process knows: the current one encrypts, all decrypt. Safe for threads.

    ``encrypts_cards``: a card's token is stored encrypted too, and not only a hint's (``CARDSYNC_TOKENS_AT_REST``).
    """

    def __init__(self, current: bytes, previous: Sequence[bytes] = (), *, encrypts_cards: bool = False) -> None:
        self.encrypts_cards = encrypts_cards
        self.keys = tuple(SecretKey.of(one) for one in dict.fromkeys((current, *previous)))
        self._by_id = {key.key_id: key for key in self.keys}
        self._lock = threading.Lock()
        self._left = 0
        self._data_key = AESGCM(bytes(KEY_BYTES))
        self._wrapped = b""
        self._unwrapped: dict[bytes, AESGCM] = {}

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(key.key_id.hex() for key in self.keys)})"

    @property
    def current(self) -> SecretKey:
        """The key that encrypts."""
        return self.keys[0]

    @property
    def prefix(self) -> str:
        """What every ciphertext of the current key begins with."""
        return f"{_VERSION}.{self.current.key_id.hex()}."

    def encrypt(self, content: bytes, about: bytes) -> str:
        """Encrypt with the current key."""
        data_key, wrapped = self._for_writing()
        nonce = os.urandom(_NONCE_BYTES)
        sealed = wrapped + nonce + data_key.encrypt(nonce, content, about)
        return self.prefix + base64.urlsafe_b64encode(sealed).decode()

    def decrypt(self, text: str, about: bytes) -> bytes:
        """The content again. Raises ``UnknownSecretKey`` if no key of the ring made it, ``MalformedBody`` if it was changed."""
        version, _, rest = text.partition(".")
        name, _, body = rest.partition(".")
        try:
            key_id, sealed = bytes.fromhex(name), base64.urlsafe_b64decode(body)
        except (ValueError, binascii.Error):
            raise MalformedBody("not a ciphertext of ours") from None
        if version != _VERSION or len(key_id) != KEY_ID_BYTES:
            raise MalformedBody("not a ciphertext of ours")
        key = self._by_id.get(key_id)
        if key is None:
            raise UnknownSecretKey(
                f"encrypted with the secret key {name}, which is neither CARDSYNC_SECRET_KEY nor among "
                "CARDSYNC_PREVIOUS_SECRET_KEYS"
            )
        data_key = self._for_reading(key, sealed[:_WRAPPED_BYTES])
        return _opened(data_key, sealed[_WRAPPED_BYTES:], about)

    def _for_writing(self) -> tuple[AESGCM, bytes]:
        with self._lock:
            if self._left == 0:
                key = AESGCM.generate_key(KEY_BYTES * 8)
                self._data_key, self._wrapped = AESGCM(key), self.current.wrap(key, _DATA_KEY)
                self._left = USES
            self._left -= 1
            return self._data_key, self._wrapped

    def _for_reading(self, key: SecretKey, wrapped: bytes) -> AESGCM:
        """The data key of a ciphertext; those unwrapped lately are remembered, since a process uses one for many."""
        with self._lock:
            known = self._unwrapped.get(wrapped)
        if known is None:
            known = AESGCM(key.unwrap(wrapped, _DATA_KEY))
            with self._lock:
                if len(self._unwrapped) >= _UNWRAPPED_MAX:
                    self._unwrapped.clear()
                self._unwrapped[wrapped] = known
        return known


_DATA_KEY: Final = b"cardsync data key"

Whose = tuple[str | None, str | None]  # environment, customer_id


def encrypt_hint(ring: KeyRing, whose: Whose, token: Token, facts: CardFacts) -> EncryptedHint:
    """Encrypt a hint's token and facts, bound to the customer that it names.

    Not to the notification: a row that stands for several altered bodies takes over the newest one's hint (``store.repeats``).
    """
    return EncryptedHint(ring.encrypt(hints.as_bytes(token, facts), _about(whose)))


def decrypt_hint(ring: KeyRing, whose: Whose, stored: str, clear: CardFacts) -> tuple[Token, CardFacts]:
    """The token and the facts of a stored hint; ``clear`` are the facts beside it.

    Also reads what a release before encryption stored. Raises ``UnknownSecretKey``, ``MalformedBody``, ``UnusableCard`` or
    ``ValueError``.
    """
    found = hints.stored_hint(stored)
    if isinstance(found, Token):
        return found, clear
    return hints.from_bytes(ring.decrypt(found.text, _about(whose)), clear)


def encrypted(ring: KeyRing, row: WaitingRow) -> WaitingRow:
    """The row with its hint encrypted, as it may be stored or written to disk. One that is encrypted, or has no hint, stays."""
    if not isinstance(row.token, Token):
        return row
    facts = row.facts or CardFacts()
    hint = encrypt_hint(ring, (row.environment, row.customer_id), row.token, facts)
    return replace(row, token=hint, facts=hints.in_the_clear(facts))


def sealed_body(ring: KeyRing, event_id: str, body: bytes, content_type: str) -> KeptBody:
    """A whole body, encrypted and bound to its notification's id, to be passed on to endpoints of the merchant's."""
    sealed = ring.encrypt(kept_bodies.packed(body), kept_bodies.about(event_id))
    return KeptBody(content_type if kept_bodies.is_media_type(content_type) else None, sealed)


def opened_body(ring: KeyRing, event_id: uuid.UUID, sealed: str) -> bytes:
    """A kept body, byte for byte as it came. Raises ``UnknownSecretKey`` or ``MalformedBody``."""
    return kept_bodies.unpacked(ring.decrypt(sealed, kept_bodies.about(event_id)))


def reencrypted(ring: KeyRing, whose: Whose, stored: str, clear: CardFacts) -> EncryptedHint | None:
    """The same hint under the current key; ``None`` if it is already. Raises as ``decrypt_hint``."""
    if stored.startswith(ring.prefix):
        return None
    return encrypt_hint(ring, whose, *decrypt_hint(ring, whose, stored, clear))


def card_token_to_store(ring: KeyRing, card_id: uuid.UUID, token: Token) -> str:
    """A card's token as ``cards.token`` holds it: in the clear, or encrypted and bound to the card."""
    if not ring.encrypts_cards:
        return token.reveal()
    return ring.encrypt(token.reveal().encode(), _about_card(card_id))


def stored_card_token(ring: KeyRing, card_id: uuid.UUID, stored: str) -> Token:
    """The token of a card, in whichever form it is stored: a ciphertext is longer than any token.

    Raises ``UnknownSecretKey``, or ``MalformedBody`` if it was changed or is another card's.
    """
    if len(stored) <= TOKEN_MAX:
        return Token(stored)
    return Token(ring.decrypt(stored, _about_card(card_id)).decode())


def _about_card(card_id: uuid.UUID) -> bytes:
    return f"card {card_id}".encode()


def _about(whose: Whose) -> bytes:
    environment, customer_id = whose
    return f"hint {environment} {customer_id}".encode()


def _derived(secret: bytes, purpose: bytes, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=purpose).derive(secret)


def _opened(key: AESGCM, sealed: bytes, about: bytes) -> bytes:
    try:
        return key.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], about)
    except (InvalidTag, ValueError):
        raise MalformedBody("the ciphertext was changed, or belongs elsewhere") from None


# An answer for one session of the console: a worker seals it, and only who has the session's secret opens it (ECIES on X25519).


def answer_key(session_secret: bytes, salt: str) -> X25519PrivateKey:
    """The private key for one answer, made from the session's secret: it is kept nowhere."""
    return X25519PrivateKey.from_private_bytes(
        _derived(session_secret, f"cardsync answer to {salt}".encode(), KEY_BYTES)
    )


def answer_address(key: X25519PrivateKey) -> str:
    """The public half of the key, for the worker."""
    return base64.urlsafe_b64encode(key.public_key().public_bytes_raw()).decode()


def sealed_answer(address: str, content: str) -> str:
    """Encrypt for the owner of that address. Raises ``MalformedBody`` if it is none."""
    try:
        receiver = X25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(address))
    except (ValueError, binascii.Error):
        raise MalformedBody("not the address of an answer") from None
    sender, nonce = X25519PrivateKey.generate(), os.urandom(_NONCE_BYTES)
    about = sender.public_key().public_bytes_raw() + receiver.public_bytes_raw()
    key = AESGCM(_derived(sender.exchange(receiver), _ANSWER + about, KEY_BYTES))
    return base64.urlsafe_b64encode(about[:KEY_BYTES] + nonce + key.encrypt(nonce, content.encode(), about)).decode()


def opened_answer(key: X25519PrivateKey, sealed: str) -> str:
    """The answer. Raises ``MalformedBody`` if it was sealed for somebody else."""
    try:
        raw = base64.urlsafe_b64decode(sealed)
        sender = X25519PublicKey.from_public_bytes(raw[:KEY_BYTES])
        about = raw[:KEY_BYTES] + key.public_key().public_bytes_raw()
        opener = AESGCM(_derived(key.exchange(sender), _ANSWER + about, KEY_BYTES))
    except (ValueError, binascii.Error):
        raise MalformedBody("not an answer") from None
    return _opened(opener, raw[KEY_BYTES:], about).decode()


_ANSWER: Final = b"cardsync answer "
