"""The endpoints over HTTP: refusals, faults, pages, the log of calls, the gates and the control API."""

from __future__ import annotations

import threading

import httpx
import pytest
from ottu import Ottu as OttuSDK
from ottu.auth import APIKeyAuth

from cardsync.dev.simulator import Knobs, Simulator
from tests.simulator.peers import API_KEY, LIST, SECONDS, Ottu
from tests.waiting import until

OWNER = ("sandbox", "customer 1/ü%?#")


def test_ottus_own_sdk_lists_and_deletes(simulator):
    card = simulator.world.save_card(*OWNER)
    sdk = OttuSDK(merchant_id="stand.in", auth=APIKeyAuth(API_KEY), is_sandbox=True)
    sdk.host_url = simulator.base_url
    listed = sdk.cards.list(customer_id=OWNER[1])
    assert (listed["status_code"], listed["response"]) == (200, [card.as_listed()])
    assert sdk.cards.delete(card.token, customer_id=OWNER[1])["status_code"] == 204
    assert sdk.cards.list(customer_id=OWNER[1])["response"] == []


@pytest.mark.parametrize("header", [None, "Api-Key wrong", "Bearer x", "Basic !!", "Basic dTp3cm9uZw==", "x"])
def test_wrong_credentials_are_refused(started, header):
    simulator = started(username="u", password="right")
    headers = {} if header is None else {"Authorization": header}
    answer = httpx.post(f"{simulator.base_url}{LIST}", json={}, headers=headers, timeout=SECONDS)
    assert (answer.status_code, set(answer.json())) == (401, {"detail"})


def test_a_name_and_a_password_are_accepted(started):
    simulator = started(username="u", password="right")
    body = {"type": "sandbox", "customer_id": "c"}
    answer = httpx.post(f"{simulator.base_url}{LIST}", json=body, auth=("u", "right"), timeout=SECONDS)
    assert (answer.status_code, answer.json()) == (200, [])


@pytest.mark.parametrize("status", [401, 403])
def test_right_credentials_can_be_refused(simulator, ottu, status):
    simulator.turn(credentials=f"refuse_{status}")
    assert ottu.list("c").status_code == status
    assert ottu.delete("c", "9999000000000000").status_code == status
    simulator.turn(credentials="check")
    assert ottu.list("c").status_code == 200


def test_a_throttled_call_names_when_to_come_back_if_it_is_told_to(simulator, ottu):
    simulator.script_list("throttle", "throttle")
    assert "Retry-After" not in ottu.list("c").headers
    simulator.turn(retry_after_seconds=7)
    answer = ottu.list("c")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")


def test_the_calls_of_a_day_are_counted(simulator, ottu):
    simulator.turn(daily_calls=2)
    assert [ottu.list("c").status_code for _ in range(3)] == [200, 200, 429]


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_errors_have_the_status_of_the_knob(simulator, ottu, status):
    simulator.turn(error_rate=1, error_status=status)
    assert ottu.list("c").status_code == status


def test_a_hanging_call_gets_no_answer_and_is_recorded(simulator, ottu):
    simulator.script_list("hang")
    with pytest.raises(httpx.ReadTimeout):
        ottu.http.post(LIST, json={"type": "sandbox", "customer_id": "c"}, timeout=httpx.Timeout(SECONDS, read=0.2))
    (call,) = until(lambda: simulator.calls("list"), "the call is recorded")
    assert (call.customer_id, call.fault, call.status) == ("c", "hang", None)


def test_a_hanging_call_is_cut_in_the_end(simulator, ottu):
    simulator.turn(hang_seconds=0.1, hang_rate=1)
    with pytest.raises(httpx.RemoteProtocolError):
        ottu.list("c")


def test_a_cut_call_gets_no_answer(simulator, ottu):
    simulator.script_list("cut")
    with pytest.raises(httpx.RemoteProtocolError):
        ottu.list("c")


def test_a_truncated_list_ends_before_its_length(simulator, ottu):
    simulator.world.save_card(*OWNER)
    simulator.script_list("truncated")
    with pytest.raises(httpx.RemoteProtocolError):
        ottu.list(OWNER[1])


@pytest.mark.parametrize("shape", ["array", "object", "pages"])
@pytest.mark.parametrize(
    "kind",
    ["html", "half", "empty", "null", "text", "unknown_object", "no_token", "other_customer", "wrong_count"],
)
def test_an_invalid_list_is_complete_and_never_what_it_should_be(simulator, ottu, shape, kind):
    simulator.world.save_card(*OWNER)
    simulator.turn(list_shape=shape)
    right = ottu.list(OWNER[1])
    simulator.turn(invalid_rate=1, invalid_body=kind)
    answer = ottu.list(OWNER[1])
    assert answer.status_code == 200
    assert answer.content != right.content


def test_a_huge_list_is_huge(simulator, ottu):
    simulator.turn(invalid_rate=1, invalid_body="huge")
    assert len(ottu.list("c").content) > 30_000_000


@pytest.mark.parametrize("fault", ["error", "hang", "cut"])
@pytest.mark.parametrize("after", [False, True])
def test_a_deletion_fails_before_or_after_its_effect(simulator, ottu, fault, after):
    card = simulator.world.save_card(*OWNER)
    simulator.turn(faults_after_effect=after, hang_seconds=0)
    simulator.script_delete(fault)
    if fault == "error":
        assert ottu.delete(OWNER[1], card.token).status_code == 500
    else:
        with pytest.raises(httpx.RemoteProtocolError):
            ottu.delete(OWNER[1], card.token)
    assert simulator.world.truth(*OWNER) == (set() if after else {card.token})


def test_a_transient_404_leaves_the_card(simulator, ottu):
    card = simulator.world.save_card(*OWNER)
    simulator.script_delete("transient_404")
    assert ottu.delete(OWNER[1], card.token).status_code == 404
    assert ottu.delete(OWNER[1], card.token).status_code == 204


def test_pages_add_up_to_the_whole_list(simulator, ottu):
    simulator.turn(list_shape="pages", page_size=3)
    saved = [simulator.world.save_card(*OWNER).token for _ in range(8)]
    page = ottu.list(OWNER[1]).json()
    assert page["previous"] is None
    seen = [card["token"] for card in page["results"]]
    while page["next"]:
        page = ottu.http.post(page["next"], json={"type": OWNER[0], "customer_id": OWNER[1]}).json()
        assert page["count"] == 8
        assert page["previous"]
        seen += [card["token"] for card in page["results"]]
    assert seen == saved


def test_one_object_is_answered_for_one_card_only(simulator, ottu):
    simulator.turn(list_shape="object")
    assert ottu.list(OWNER[1]).json() == []
    card = simulator.world.save_card(*OWNER)
    assert ottu.list(OWNER[1]).json() == card.as_listed()
    simulator.world.save_card(*OWNER)
    assert len(ottu.list(OWNER[1]).json()) == 2


def test_latency_is_how_long_a_call_takes(simulator, ottu):
    simulator.turn(latency_seconds=0.2)
    ottu.list("c")
    (call,) = simulator.calls("list")
    assert call.ended_at - call.began_at >= 0.19


def test_a_token_with_odd_signs_can_be_deleted_when_it_is_quoted(simulator, ottu):
    simulator.world.save_card(*OWNER, token="a b/ü%")
    assert ottu.delete(OWNER[1], "a%20b%2F%C3%BC%25").status_code == 204


def test_calls_are_found_by_endpoint_customer_and_time_and_hold_no_token(simulator, ottu):
    card = simulator.world.save_card(*OWNER)
    ottu.list(OWNER[1])
    ottu.list("other")
    ottu.delete(OWNER[1], card.token)
    assert [c.status for c in simulator.calls(customer_id=OWNER[1])] == [200, 204]
    assert len(simulator.calls("list")) == 2
    assert len(simulator.calls("list", customer_id=OWNER[1], environment="sandbox")) == 1
    assert simulator.calls(since=simulator.calls()[-1].ended_at + 1) == []
    assert card.token not in str(simulator.calls())


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_held_call_waits_with_its_answer_made_or_not(simulator, ottu, side):
    answers = []
    with simulator.held(f"list:{side}") as gates:
        caller = threading.Thread(target=lambda: answers.append(ottu.list(OWNER[1]).json()))
        caller.start()
        gates.wait_until_waiting(f"list:{side}", timeout_seconds=SECONDS)
        simulator.world.save_card(*OWNER)
        assert answers == []
        assert len(simulator.calls("list")) == 1
    caller.join(SECONDS)
    assert [len(cards) for cards in answers] == [1 if side == "before" else 0]


def test_waiting_for_a_call_that_never_comes_ends(simulator):
    with pytest.raises(TimeoutError):
        simulator.gates.wait_until_waiting("list:before", timeout_seconds=0.05)


def test_it_can_go_away_and_come_back_at_the_same_address(simulator, ottu):
    address = simulator.base_url
    card = simulator.world.save_card(*OWNER)
    simulator.go_away()
    with pytest.raises(httpx.ConnectError):
        ottu.list(OWNER[1])
    simulator.come_back()
    assert simulator.base_url == address
    assert [c["token"] for c in ottu.list(OWNER[1]).json()] == [card.token]


def test_stopping_ends_calls_that_hang_or_are_held(started):
    simulator = started()
    simulator.gates.hold("list:before")
    errors = []

    def call():
        try:
            Ottu(simulator.base_url).list("c")
        except httpx.HTTPError as error:
            errors.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    simulator.gates.wait_until_waiting("list:before", timeout_seconds=SECONDS)
    simulator.stop()
    caller.join(SECONDS / 2)
    assert not caller.is_alive()


def test_a_state_file_keeps_the_cards_and_goes_on_with_new_actions(started, tmp_path):
    state = tmp_path / "kept" / "simulator.json"
    first = started(state_file=state)
    for _ in range(60):
        first.shoppers.step()
    visited = first.checkout().save_card(*OWNER)
    first.stop()
    assert state.stat().st_mode & 0o777 == 0o600
    second = started(state_file=state)
    assert second.world.snapshot() == first.world.snapshot()
    assert second.shoppers.step().number == 61
    assert second.checkout().save_card(*OWNER).card.token != visited.card.token


class TestControl:
    """``/_simulator/``."""

    def test_knobs_are_read_and_turned(self, simulator, ottu):
        put = ottu.http.put("/_simulator/knobs", json={"list_shape": "pages"})
        assert put.json() == ottu.http.get("/_simulator/knobs").json() == Knobs(list_shape="pages").model_dump()

    @pytest.mark.parametrize("wrong", [{"page_size": 0}, {"unknown": 1}, {"error_rate": 0.6, "hang_rate": 0.6}])
    def test_wrong_knobs_are_refused(self, simulator, ottu, wrong):
        assert ottu.http.put("/_simulator/knobs", json=wrong).status_code == 400
        assert simulator.knobs == Knobs()

    def test_a_shopper_acts(self, simulator, ottu):
        owner = {"environment": "sandbox", "customer_id": "c"}

        def act(action, **more):
            return ottu.http.post("/_simulator/actions", json={"action": action, **owner, **more}).json()

        token = act("save_card", brand="VISA")["token"]
        assert ottu.list("c").json()[0]["brand"] == "VISA"
        assert act("agree", token=token, agreement_id="A")["agreement_id"] == "A"
        assert act("delete_card", token=token)["status"] == 400
        body = {"action": "end_agreement", "environment": "sandbox", "agreement_id": "A"}
        assert ottu.http.post("/_simulator/actions", json=body).json()["status"] == 200
        assert act("delete_card", token=token)["status"] == 204
        truth = ottu.http.get("/_simulator/truth", params=owner).json()
        assert truth == [{**owner, "tokens": []}]

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            ({}, 400),
            ({"action": "fly", "environment": "sandbox"}, 400),
            ({"action": "save_card", "environment": "moon"}, 400),
            ({"action": "save_card", "environment": "sandbox"}, 400),
            ({"action": "save_card", "environment": "sandbox", "customer_id": "c", "colour": "x"}, 400),
            (
                {
                    "action": "agree",
                    "environment": "sandbox",
                    "customer_id": "c",
                    "token": "t",
                    "agreement_id": "A",
                },
                404,
            ),
            ([], 400),
        ],
    )
    def test_a_wrong_action_is_refused(self, simulator, ottu, body, status):
        assert ottu.http.post("/_simulator/actions", json=body).status_code == status

    def test_calls_and_deliveries_are_told_without_tokens(self, started, receiver):
        simulator = started(webhook_url=receiver.url)
        ottu = Ottu(simulator.base_url)
        visit = simulator.checkout().save_card(*OWNER)
        visit.delivery.result(timeout=SECONDS)
        ottu.delete(OWNER[1], visit.card.token)
        calls = ottu.http.get("/_simulator/calls", params={"endpoint": "delete", "customer_id": OWNER[1]})
        deliveries = ottu.http.get("/_simulator/deliveries")
        assert calls.json()["count"] == 1
        assert deliveries.json()[0]["outcome"] == "delivered"
        assert visit.card.token not in calls.text + deliveries.text

    def test_faults_are_scripted_and_calls_are_held(self, simulator, ottu):
        script = {"endpoint": "list", "faults": ["error"]}
        assert ottu.http.post("/_simulator/script", json=script).status_code == 204
        assert [ottu.list("c").status_code for _ in range(2)] == [500, 200]
        unfit = {"endpoint": "delete", "faults": ["truncated"]}
        assert ottu.http.post("/_simulator/script", json=unfit).status_code == 400
        assert ottu.http.post("/_simulator/hold", json={"point": "list:after"}).status_code == 204
        assert ottu.http.get("/_simulator/held").json()["list:after"] == 0
        assert ottu.http.post("/_simulator/release", json={}).status_code == 204
        assert ottu.list("c").status_code == 200

    def test_a_payload_is_signed_and_sent(self, started, receiver):
        simulator = started(webhook_url=receiver.url)
        answer = Ottu(simulator.base_url).http.post("/_simulator/webhooks", json={"result": "success"})
        assert answer.status_code == 202
        assert simulator.courier.drain(SECONDS)
        assert b"signature" in receiver.bodies[0]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 401),
        ("127.0.0.1:8100", 401),
        ("[::1]:8100", 401),
        ("simulator", 401),
        ("rebound.example", 421),
        ("localhost.rebound.example:8100", 421),
        ("127.0.0.1.rebound.example", 421),
    ],
)
def test_it_answers_to_its_own_names_alone(host, status):
    with Simulator(hosts=["simulator"]) as simulator:
        answer = httpx.post(
            f"{simulator.base_url}/b/pbl/v2/card/",
            json={"type": "sandbox", "customer_id": "a"},
            headers={"Host": host, "Authorization": "Api-Key wrong"},
            timeout=SECONDS,
        )
    assert answer.status_code == status
