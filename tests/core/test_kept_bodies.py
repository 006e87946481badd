"""A kept body: byte for byte what came, bounded when it is opened, bound to its notification."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardsync.core import kept_bodies
from cardsync.core.kept_bodies import TYPE_MAX, KeptBody, about, is_media_type, packed, unpacked
from cardsync.errors import MalformedBody


@given(st.binary(max_size=5_000))
def test_every_body_comes_back_byte_for_byte(body: bytes) -> None:
    assert unpacked(packed(body)) == body


@given(st.binary(max_size=5_000), st.data())
def test_a_cut_body_is_refused_and_not_passed_on_in_part(body: bytes, data: st.DataObject) -> None:
    content = packed(body)
    end = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(MalformedBody):
        unpacked(content[:end])


@given(st.binary(max_size=100).filter(lambda content: not content.startswith(b"x")))
def test_what_is_no_body_is_refused(content: bytes) -> None:
    with pytest.raises(MalformedBody):
        unpacked(content)


def test_a_small_text_that_unpacks_to_far_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_bodies, "UNPACKED_MAX", 1_000)
    assert unpacked(packed(b"x" * 1_000)) == b"x" * 1_000
    with pytest.raises(MalformedBody):
        unpacked(packed(b"x" * 10_000))


@pytest.mark.parametrize("text", ["application/json", "application/json; charset=utf-8", "a" * TYPE_MAX])
def test_a_type_that_can_be_sent_on_is_kept(text: str) -> None:
    assert KeptBody(text, "content").content_type == text


@pytest.mark.parametrize("text", ["", "a" * (TYPE_MAX + 1), "text/plain\r\nX-Evil: 1", "text/\u00e9", "a\tb"])
def test_a_type_that_could_break_a_header_is_never_sent_on(text: str) -> None:
    assert not is_media_type(text)
    with pytest.raises(ValueError, match="media type"):
        KeptBody(text, "content")


def test_a_body_is_bound_to_its_own_notification_and_prints_no_content() -> None:
    one, other = uuid.UUID(int=1), uuid.UUID(int=2)
    assert about(one) == about(uuid.UUID(int=1)) != about(other)
    assert "secret" not in repr(KeptBody(None, "secret"))
