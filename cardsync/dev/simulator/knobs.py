"""What can be set about the stand-in: one frozen object, one field for each thing that Ottu leaves open or
gets wrong at times.

The rule: every default is Ottu's documented behaviour on a good day. The command line makes one option of
each field, so a new knob needs a description and nothing else.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
]
Scheme = Literal["standard", "subscription"]

Rate = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=3_600)]


class Knobs(BaseModel):
    """All knobs. ``turned(...)`` gives a changed copy; values out of range raise
    ``pydantic.ValidationError``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    list_shape: ListShape = Field("array", description="What a list looks like; Ottu's three sources disagree.")
    page_size: int = Field(10, ge=1, le=100, description="Cards on a page, where lists are pages.")
    list_lag_seconds: Seconds = Field(0, description="A new card shows in the list only after this.")
    delete_lag_seconds: Seconds = Field(0, description="A deleted card still shows in the list for this long.")
    locked_status: Literal[400, 403] = Field(400, description="The refusal to delete a card that serves an agreement.")
    transient_404_rate: Rate = Field(0, description="Deletions answered 404 although the card is there, and stays.")
    extra_fields: bool = Field(False, description="Cards carry fields that nobody documents.")
    sparse_hints: bool = Field(False, description="The card in a webhook is its token, its customer and no more.")
    save_card_state: str = Field("paid", max_length=32, description="The state in the webhook of a saved card.")

    latency_seconds: Seconds = Field(0, description="Every answer takes this long.")
    latency_jitter_seconds: Seconds = Field(0, description="... and up to this much longer.")
    error_rate: Rate = Field(0, description="Calls answered with the error status.")
    error_status: Literal[500, 502, 503, 504] = Field(500, description="The error status.")
    hang_rate: Rate = Field(0, description="Calls that are not answered; the connection is cut in the end.")
    hang_seconds: Seconds = Field(60, description="How long such a call hangs.")
    cut_rate: Rate = Field(0, description="Calls whose connection is cut without an answer.")
    truncated_rate: Rate = Field(0, description="Lists whose body ends before its announced length.")
    invalid_rate: Rate = Field(0, description="Lists whose body is complete and not to be believed.")
    invalid_body: InvalidBody = Field("any", description="What such a body is; `any` is each but `huge` at random.")
    faults_after_effect: bool = Field(
        False, description="An error, hang or cut strikes after the card is deleted, instead of before."
    )
    throttle_rate: Rate = Field(0, description="Calls answered 429.")
    retry_after_seconds: int | None = Field(None, ge=0, description="The Retry-After of a 429; without it, none.")
    daily_calls: int | None = Field(None, ge=0, description="Calls of the last 24 hours; beyond it, 429.")
    credentials: Literal["check", "refuse_401", "refuse_403"] = Field(
        "check", description="Whether right credentials are accepted."
    )

    signature_scheme: Scheme = Field("standard", description="How webhooks are signed.")
    webhook_drop_rate: Rate = Field(0, description="Webhooks that are never sent.")
    webhook_duplicate_rate: Rate = Field(0, description="Webhooks that are sent twice, byte for byte.")
    webhook_reorder_rate: Rate = Field(0, description="Webhooks that are held back, so that later ones overtake them.")
    webhook_reorder_seconds: Seconds = Field(2, description="How long they are held back at most.")
    webhook_timeout_seconds: Annotated[float, Field(gt=0, le=120)] = Field(
        15, description="How long the receiver has to answer a webhook."
    )
    webhook_attempts: int = Field(3, ge=1, le=10, description="Attempts at a webhook that times out.")
    webhook_retry_seconds: Seconds = Field(5, description="Time between two such attempts.")

    @model_validator(mode="after")
    def _rates_share_one_whole(self) -> Knobs:
        """A call has at most one fault, so their rates must leave room for each other."""
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

    def turned(self, **changes: Any) -> Knobs:
        """Return a copy with ``changes``, validated as a whole. Raises ``pydantic.ValidationError``."""
        return Knobs.model_validate({**self.model_dump(), **changes})
