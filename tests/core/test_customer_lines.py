"""What a line of a file names, and what no line may say of itself."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardsync.core.cards import is_customer_id
from cardsync.core.customer_lines import BadLine, NoHeader, reader_for

HEADER = "environment,customer_id"


def test_columns_stand_in_any_order_beside_others():
    read, is_header = reader_for("Since, customer_id ,ENVIRONMENT")
    assert is_header
    assert read('2020,"a,""b",sandbox') == ("sandbox", 'a,"b')


@given(st.text(max_size=70))
def test_json_names_whom_it_names_or_nobody(customer_id):
    line = json.dumps({"environment": "production", "customer_id": customer_id, "more": [1]})
    read, is_header = reader_for(line)
    assert not is_header
    if is_customer_id(customer_id):
        assert read(line) == ("production", customer_id)
    else:
        with pytest.raises(BadLine):
            read(line)


@given(st.text(max_size=30))
def test_any_line_is_a_customer_or_a_bad_line_that_quotes_nothing(line):
    for first in (HEADER, "{}"):
        read, _ = reader_for(first)
        try:
            environment, customer_id = read(line)
        except BadLine as bad:
            said = str(bad)
        else:
            said = ""
            assert environment in ("sandbox", "production")
            assert is_customer_id(customer_id)
        assert len(line) < 12 or line not in said


@pytest.mark.parametrize("line", ["[]", "1", '{"environment": ["sandbox"], "customer_id": "a"}', "[" * 100_000, "{"])
def test_what_is_no_object_that_names_a_customer_is_bad(line):
    read, _ = reader_for("{}")
    with pytest.raises(BadLine):
        read(line)


@pytest.mark.parametrize("first", ["", "sandbox,a", "environment", "environment,customer_id,customer_id", '"open'])
def test_a_first_line_that_names_no_columns_is_no_header(first):
    with pytest.raises(NoHeader):
        reader_for(first)
