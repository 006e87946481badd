"""Deletions and erasures: lists by state; one deletion with its way through the transition table, and its receipt."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue

from cardsync.core import deletion as core
from cardsync.store.console import lists
from cardsync.store.console.lists import Facts
from cardsync.web.console import keyset, regions, rendering
from cardsync.web.console.pages.operations import dry_run

blueprint: Final = Blueprint("deletions", __name__)

# The way without a refusal; a phase beside it is shown where a deletion is in it.
USUAL_WAY: Final[tuple[core.Phase, ...]] = ("asked", "calling", "proving", "done")


@dataclass(frozen=True, slots=True)
class Stage:
    """A phase as the drawing shows it: whether the deletion is in it now, was in it, and what may come of it by the table."""

    phase: core.Phase
    is_now: bool
    is_past: bool
    leads_to: tuple[core.Phase, ...]


def stages(facts: Facts, steps: Sequence[Facts]) -> list[Stage]:
    """The phases of a deletion, from the transition table and from where it is."""
    now: core.Phase = facts["phase"]
    way = list(USUAL_WAY) if now in USUAL_WAY else [*USUAL_WAY[:2], now]
    past = {"asked"} | ({"calling"} if any(one["step"] == "called" for one in steps) else set())
    past |= {"proving"} if any(one["step"] in ("answered", "absent") for one in steps) else set()
    return [
        Stage(
            phase,
            phase == now,
            phase != now and phase in past,
            tuple(dict.fromkeys(core.TABLE[phase].values())),
        )
        for phase in way
    ]


@blueprint.get("/deletions")
def show() -> ResponseReturnValue:
    """The newest deletions, all of them or those in one state."""
    state, after = request.args.get("state", "all"), keyset.asked()
    if state not in lists.DELETION_STATES:
        abort(404)
    page = regions.read(lambda connection: lists.deletions(connection, state=state, after=after))
    return rendering.page(
        "deletions.html", page=page, state=state, states=lists.DELETION_STATES, is_first=after is None
    )


@blueprint.get("/deletions/<uuid:deletion_id>")
def show_one(deletion_id: uuid.UUID) -> ResponseReturnValue:
    """One deletion, its steps and its receipt."""
    found = regions.read(lambda connection: lists.deletion(connection, deletion_id))
    if found.value is None and found.missing is None:
        abort(404)
    drawn = [] if found.value is None else stages(found.value.facts, found.value.steps)
    status = 200 if found.value else 503
    return rendering.page("deletion.html", status=status, deletion_id=deletion_id, found=found, stages=drawn)


@blueprint.get("/deletions/replay-all")
def replay_all() -> ResponseReturnValue:
    """The dry run of replaying all that failed, or all that are blocked."""
    phase = request.args.get("phase", "failed")
    if phase not in ("failed", "blocked"):
        abort(404)
    return dry_run("replay_deletions", {"phase": phase, "error": None}, back=url_for("deletions.show", state=phase))


@blueprint.get("/erasures")
def show_erasures() -> ResponseReturnValue:
    """Erasures, the newest first, all of them or those in one state."""
    state, after = request.args.get("state", "all"), keyset.asked()
    if state not in lists.ERASURE_STATES:
        abort(404)
    page = regions.read(lambda connection: lists.erasures(connection, state=state, after=after))
    return rendering.page("erasures.html", page=page, state=state, states=lists.ERASURE_STATES, is_first=after is None)


@blueprint.get("/erasures/<uuid:erasure_id>")
def show_erasure(erasure_id: uuid.UUID) -> ResponseReturnValue:
    """One erasure: what is in its way, its deletions, and its receipt."""
    found = regions.read(lambda connection: lists.erasure(connection, erasure_id))
    if found.value is None and found.missing is None:
        abort(404)
    status = 200 if found.value else 503
    return rendering.page(
        "erasure.html", status=status, erasure_id=erasure_id, found=found, shown_max=lists.OF_ERASURE_MAX
    )


@blueprint.get("/erasures/<int:customer>/new")
def erase(customer: int) -> ResponseReturnValue:
    """What erasing a person means, and the form that asks for it."""
    return rendering.page("erase.html", customer=customer)
