"""What a caller needs to tell whose trouble an answer is: a page of something in front of Ottu, an odd list, a 404 in JSON."""

from __future__ import annotations

import pytest

from cardsync.errors import InvalidAnswer, ListNotFound, UnreadableAnswer


def list_cards(client):
    return client.list_cards("sandbox", "cust-1", deadline_seconds=60)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, b"<html>Down for maintenance</html>", UnreadableAnswer),
        (200, b'[{"token": ', UnreadableAnswer),
        (204, None, UnreadableAnswer),
        (302, [], UnreadableAnswer),
        (200, {"status": "well"}, InvalidAnswer),
        (200, [{"token": "9999000000000001", "customer_id": "somebody else"}], InvalidAnswer),
    ],
)
def test_what_is_no_whole_answer_in_json_is_told_from_an_odd_list(ottu, client, status, body, error):
    ottu.answers(status, body)
    with pytest.raises(InvalidAnswer) as raised:
        list_cards(client)
    assert type(raised.value) is error


@pytest.mark.parametrize(
    ("body", "in_json"), [({"detail": "Not found."}, True), ([], False), (b"<html>404</html>", False), (b"", False)]
)
def test_a_404_says_whether_its_body_is_an_object_in_json(ottu, client, body, in_json):
    ottu.answers(404, body)
    with pytest.raises(ListNotFound) as raised:
        list_cards(client)
    assert (raised.value.status_code, raised.value.says_why) == (404, in_json)
