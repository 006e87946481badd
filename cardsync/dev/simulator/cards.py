"""A card of the stand-in: a frozen value, and the functions that invent one.

Rules: pure. A printed card does not show its token; logs and live lines use its ``label``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Literal

Environment = Literal["sandbox", "production"]

_BRANDS: Final = ("VISA", "MASTERCARD", "AMEX", "MADA", None)
_HOLDERS: Final = ("FAKE HOLDER ONE", "FAKE HOLDER TWO", "FÄKE HÖLDER", "فلان الفلاني", None)
_GATEWAYS: Final = (("mpgs-fake", "mpgs"), ("cyber-fake", "cybersource"), ("ottu-fake", "ottu_sandbox"))

FACTS: Final = frozenset(
    {"brand", "name_on_card", "number", "expiry_month", "expiry_year", "pg_code", "pg_name", "is_preferred"}
    | {"is_expired", "will_expire_soon", "cvv_required"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimCard:
    """A card at Ottu. ``label`` is the stand-in's own name for it, fit for a log; the token is not printed."""

    environment: Environment
    customer_id: str
    token: str = field(repr=False)
    label: str
    brand: str | None
    name_on_card: str | None
    number: str | None
    expiry_month: str
    expiry_year: str
    pg_code: str
    pg_name: str
    is_preferred: bool = False
    is_expired: bool = False
    will_expire_soon: bool = False
    cvv_required: bool = True
    agreements: tuple[str, ...] = ()

    def as_listed(self) -> dict[str, Any]:
        """The card as the list shows it: the fields of Ottu's schema ``Card``, in their order."""
        names = (
            *(
                "brand",
                "customer_id",
                "cvv_required",
                "expiry_month",
                "expiry_year",
                "is_expired",
                "is_preferred",
            ),
            *("name_on_card", "number", "pg_code", "pg_name", "token"),
        )
        return {**{name: getattr(self, name) for name in names}, "agreements": list(self.agreements)}

    def as_hint(self) -> dict[str, Any]:
        """The card as a webhook's ``token`` object shows it."""
        return {**self.as_listed(), "pg": self.pg_name, "will_expire_soon": self.will_expire_soon}


def draw_token(draws: Random) -> str:
    """A token of 16 digits that begins with 9999: no card scheme issues such numbers."""
    return f"9999{draws.randrange(10**12):012d}"


def draw_facts(draws: Random) -> dict[str, Any]:
    """The facts of an invented card. It expires in a distant year, so that a run does not depend on the date."""
    pg_code, pg_name = draws.choice(_GATEWAYS)
    return {
        "brand": draws.choice(_BRANDS),
        "name_on_card": draws.choice(_HOLDERS),
        "number": f"**** {draws.randrange(10_000):04d}",
        "expiry_month": f"{draws.randrange(1, 13):02d}",
        "expiry_year": str(draws.randrange(40, 60)),
        "pg_code": pg_code,
        "pg_name": pg_name,
        "cvv_required": draws.random() < 0.5,
    }


def refuse_unknown(facts: dict[str, Any]) -> None:
    """Raise ``TypeError`` for a name that is no fact: an identity cannot change, and agreements have methods of their own."""
    for name in facts:
        if name not in FACTS:
            raise TypeError(f"a card has no fact named {name!r}")
