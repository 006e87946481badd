"""What an operator does with a customer."""

from __future__ import annotations

from typing import Final

from flask import Blueprint
from flask.typing import ResponseReturnValue

from cardsync.store.console import actions
from cardsync.web.console.actions.forms import act, carry_out

blueprint: Final = Blueprint("customer_actions", __name__)


@blueprint.post("/customers/<int:customer>/look-now")
def look_now(customer: int) -> ResponseReturnValue:
    """Ask Ottu for this customer's list as soon as a call may be made."""
    who = act()
    return carry_out(
        lambda connection: actions.look_now(connection, who, customer),
        done="look_now",
        endpoint="customers.show",
        customer=customer,
    )
