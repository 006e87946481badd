"""The knobs of the stand-in: one field for each thing that Ottu's documentation leaves open, or that sometimes fails.

Rule: every default is Ottu's documented behaviour when nothing fails. The command line makes an option of each field, so a new
knob needs a description and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

ListShape = Literal["array", "object", "pages"]
InvalidBody = Literal[
    "any",
    "html",
    "half",
    "empty",
    "null",
    "text",
    "unknown_object",
    "no_token",
    "other_customer",
    "wrong_count",
    "huge",
    "empty_list",
]
Scheme = Literal["standard", "subscription"]
STATES_OF_A_LIMIT: Final = ("paid", "failed", "authorized", "canceled")  # to which a plugin can be limited

Rate = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=3_600)]


class Knobs(BaseModel):
    """All knobs. ``turned(...)`` returns a changed copy; values out of range raise ``pydantic.ValidationError``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    list_shape: ListShape = Field("array", description="The shape of a list; Ottu's three sources disagree.")
    page_size: int = Field(10, ge=1, le=100, description="Cards on a page, if lists are pages.")
    list_lag_seconds: Seconds = Field(0, description="The list shows a new card only after this time.")
    delete_lag_seconds: Seconds = Field(0, description="The list still shows a deleted card for this time.")
    locked_status: Literal[400, 403] = Field(
        400, description="The status that refuses to delete a card that serves an agreement."
    )
    transient_404_rate: Rate = Field(
        0, description="Share of deletions answered 404 although the card exists; it stays."
    )
    extra_fields: bool = Field(False, description="Cards have undocumented fields.")
    sparse_hints: bool = Field(False, description="The card in a webhook has only its token and its customer.")
    save_card_state: str = Field("paid", max_length=32, description="The state in the webhook of a saved card.")
    first_payment: Literal["verify", "charge"] = Field(
        "verify", description="The first payment of an agreement: a verify, which charges nothing, or a charge."
    )
    verify_state: str = Field("authorized", max_length=32, description="The state in the webhook of a verify.")
    agreement_terms: Literal["all", "some", "none"] = Field(
        "all", description="What a webhook says of an agreement beside its id; `some`: its type and its frequency."
    )
    listed_agreements: Literal["serving", "former_too", "none"] = Field(
        "serving", description="The cards on which a list shows an agreement: its card, its former ones too, or none."
    )

    latency_seconds: Seconds = Field(0, description="Every answer takes this long.")
    latency_jitter_seconds: Seconds = Field(0, description="Every answer takes up to this much longer, at random.")
    error_rate: Rate = Field(0, description="Share of calls answered with the error status.")
    error_status: Literal[500, 502, 503, 504] = Field(500, description="The error status.")
    hang_rate: Rate = Field(0, description="Share of calls that get no answer; after a time the connection is cut.")
    hang_seconds: Seconds = Field(60, description="The time after which a call without an answer is cut.")
    cut_rate: Rate = Field(0, description="Share of calls whose connection is cut at once, without an answer.")
    truncated_rate: Rate = Field(0, description="Share of lists whose body is shorter than its Content-Length.")
    invalid_rate: Rate = Field(0, description="Share of lists whose body is complete and invalid.")
    invalid_body: InvalidBody = Field(
        "any",
        description="What an invalid body is; `any`: one of them at random, but not `huge` or `empty_list`.",
    )
    faults_after_effect: bool = Field(
        False, description="An error, hang or cut comes after the card is deleted, not before."
    )
    throttle_rate: Rate = Field(0, description="Share of calls answered 429.")
    retry_after_seconds: int | None = Field(
        None, ge=0, description="The Retry-After of a 429; if not set, a 429 has none."
    )
    daily_calls: int | None = Field(None, ge=0, description="At most this many calls in 24 hours; the rest get 429.")
    inquiry_after_seconds: Seconds = Field(600, description="No payment may be asked about sooner than this.")
    inquiry_apart_seconds: Seconds = Field(1_800, description="Time between two inquiries about one payment.")
    inquiries_a_day: int = Field(3, ge=1, le=1_000, description="Inquiries about one payment in 24 hours.")
    inquiries_a_minute: int = Field(30, ge=0, le=10_000, description="Inquiries in a minute, about all payments.")
    credentials: Literal["check", "refuse_401", "refuse_403"] = Field(
        "check", description="Whether right credentials are accepted."
    )

    notifications: bool = Field(True, description="Webhooks are switched on in the merchant's dashboard.")
    notified_states: str = Field(
        "",
        description="Webhooks of payments in these states only, comma-separated: paid, failed, authorized, canceled.",
    )
    notify_later_charges: bool = Field(
        False, description="The later charges of an agreement, without the payer, have webhooks too."
    )
    signature_scheme: Scheme = Field("standard", description="How webhooks are signed.")
    webhook_drop_rate: Rate = Field(0, description="Share of webhooks that are never sent.")
    webhook_duplicate_rate: Rate = Field(0, description="Share of webhooks that are sent twice, byte for byte.")
    webhook_reorder_rate: Rate = Field(
        0, description="Share of webhooks that are delayed, so that later ones arrive first."
    )
    webhook_reorder_seconds: Seconds = Field(2, description="The longest such delay.")
    webhook_timeout_seconds: Annotated[float, Field(gt=0, le=120)] = Field(
        15, description="The receiver must answer a webhook within this time."
    )
    webhook_attempts: int = Field(3, ge=1, le=10, description="Attempts at a webhook that times out.")
    webhook_retry_seconds: Seconds = Field(5, description="Time between two such attempts.")

    @field_validator("notified_states")
    @classmethod
    def _states_are_known(cls, states: str) -> str:
        """Ottu lets a merchant choose among four states."""
        unknown = [state for state in states.split(",") if states and state not in STATES_OF_A_LIMIT]
        if unknown:
            raise ValueError(f"must be some of {','.join(STATES_OF_A_LIMIT)}, or empty for all states")
        return states

    @model_validator(mode="after")
    def _rates_share_one_whole(self) -> Knobs:
        """A call has at most one fault, so the sum of the rates is at most 1."""
        rates = (
            self.throttle_rate,
            self.error_rate,
            self.hang_rate,
            self.cut_rate,
            self.truncated_rate,
            self.invalid_rate,
        )
        if sum(rates) > 1 + 1e-9:
            raise ValueError("the rates of 429, error, hang, cut, truncated and invalid add up to more than 1")
        return self

    def tells_of(self, event: Mapping[str, Any], *, later_charge: bool = False) -> bool:
        """Whether this event has a webhook. The limit to some states is one of payments: operation events have none."""
        if not self.notifications or (later_charge and not self.notify_later_charges):
            return False
        limit = self.notified_states.split(",") if self.notified_states else None
        return limit is None or "operation" in event or event.get("state") in limit

    def turned(self, **changes: Any) -> Knobs:
        """Return a copy with ``changes``, validated as a whole. Raises ``pydantic.ValidationError``."""
        return Knobs.model_validate({**self.model_dump(), **changes})
