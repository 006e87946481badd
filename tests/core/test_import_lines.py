"""What a line of a file names, and what no line may say of itself."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardsync.core.cards import is_customer_id
from cardsync.core.import_lines import BadLine, NoHeader, WrongFile, is_blank, reader_for

HEADER = "environment,customer_id"


def test_columns_stand_in_any_order_beside_others():
    read, is_header = reader_for("Since, customer_id ,ENVIRONMENT")
    assert is_header
    assert read('2020,"a,""b",sandbox') == ("sandbox", 'a,"b')


def _ends_invisibly(text: str) -> bool:
    return any(unicodedata.category(end) in ("Zs", "Zl", "Zp", "Cc", "Cf") for end in (text[0], text[-1]))


@given(st.text(max_size=70))
def test_json_names_whom_it_names_or_nobody(customer_id):
    line = json.dumps({"environment": "production", "customer_id": customer_id, "more": [1]})
    read, is_header = reader_for(line)
    assert not is_header
    if is_customer_id(customer_id) and customer_id.strip() == customer_id and not _ends_invisibly(customer_id):
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


@pytest.mark.parametrize("header", ["environment,customer_id", "environment;customer_id", "environment\tcustomer_id"])
@pytest.mark.parametrize("value", ["abc", " abc", "abc  ", '"abc"', ' "abc"', "abc\xa0", "\u2003abc\u202f"])
def test_blanks_and_quotes_around_a_value_make_no_other_customer(header, value):
    read, _ = reader_for(header)
    assert read(f"sandbox{header[11]}{value}") == ("sandbox", "abc")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('sandbox,"abc', "a quote is not closed on its line"),
        ('sandbox,"abc"d', "behind a closing quote"),
        ('sandbox,ab"c', "a quote stands inside a value"),
        ("sandbox,'abc'", "single or typographic quotes"),
        ("sandbox,\u201cabc\u201d", "typographic quotes"),
        ("sandbox,\\N", "no value"),
        ("sandbox,NULL", "no value"),
        ("sandbox,1.23457E+15", "rounded"),
        ("sandbox,a\tb", "another control character"),
        ("sandbox,abc\u200b", "invisible"),
        ("sandbox,\ufeffabc", "invisible"),
        ("sandbox,caf\udce9", "not UTF-8"),
        ("sandbox,a,b", "3 fields where the header has 2"),
        ("Sandbox,a", "environment must be"),
        ("sandbox,", "1 to 64"),
    ],
)
def test_what_could_make_a_customer_up_is_refused_with_its_reason(line, why):
    read, _ = reader_for(HEADER)
    with pytest.raises(BadLine, match=why):
        read(line)


def test_an_identifier_in_json_may_be_a_whole_number_and_nothing_like_one():
    read, _ = reader_for("{")
    assert read('{"environment": "sandbox", "customer_id": 1200}') == ("sandbox", "1200")
    for value in ("1200.0", "1e3", "true", "null", "[1]", '" a"', '"a "'):
        with pytest.raises(BadLine):
            read(f'{{"environment": "sandbox", "customer_id": {value}}}')


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"PK\x03\x04", "ZIP"),
        (HEADER.encode("utf-16"), "UTF-16"),
        (HEADER.encode("utf-16-be"), "UTF-16"),
        (b'[{"environment": "sandbox"}]', "JSON array"),
        (b"environment,customer_id\rsandbox,a", "CR alone"),
        (b"environment|customer_id", "comma, a semicolon or a tab"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_its_name(content, kind):
    with pytest.raises(WrongFile, match=kind):
        reader_for(content.decode("utf-8", "surrogateescape"))


def test_rows_that_a_spreadsheet_left_behind_are_blank():
    assert all(is_blank(line) for line in ("", "  ", ",", ";;", "\t\t", '"",""', ", \xa0,"))
    assert not any(is_blank(line) for line in ("a", ",a", "{}"))
