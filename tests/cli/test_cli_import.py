"""``cardsync customers import`` as a process that is interrupted and run again."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest
from sqlalchemy import text

from cardsync.stories.import_customers import BATCH_LINES
from tests.cli.conftest import COMMAND, SECONDS
from tests.waiting import until

CUSTOMERS = 80_000
BAD = CUSTOMERS // 10_000
HELD = f"cust-{CUSTOMERS * 3 // 4 + 1}"  # in one of the last batches
# As a restart of the server does, for the command alone.
CUT_OFF = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name = 'cardsync cli'"
)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "customers.csv"
    lines = (f"sandbox,cust-{n}\n" if n % 10_000 else "sandbox,\n" for n in range(CUSTOMERS))
    path.write_text("environment,customer_id\n" + "".join(lines), encoding="utf-8")
    return path


def _heed_ctrl_c():
    """Also where the tests run in the background of a shell, which lets all that it starts ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupted(shop, file, kind, *options):
    """Interrupt the command by a signal, or by cutting it off the database, once two batches are committed; what it wrote.

    It waits for another transaction's customer then, so that it cannot come to its end before.
    """
    command = [*COMMAND, "customers", "import", str(file), *options]
    with (
        shop.engine.connect() as other,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_heed_ctrl_c
        ) as running,
    ):
        other.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))  # a busy machine takes its time
        other.execute(text(f"INSERT INTO cardsync.customers (environment, customer_id) VALUES ('sandbox', '{HELD}')"))
        done = "SELECT coalesce(max(line), 0) FROM cardsync.imports"
        # Two, since the command counts what was done a moment after its commit.
        until(lambda: shop.execute(done)[0][0] > 1.5 * BATCH_LINES, "two batches are committed", seconds=SECONDS)
        if kind is None:
            shop.execute(CUT_OFF)
        else:
            running.send_signal(kind)
        output, errors = running.communicate(timeout=SECONDS)
    return running.returncode, output, errors


def test_a_killed_import_goes_on_and_its_bad_lines_are_whole(process, shop, file, tmp_path):
    kept = tmp_path / "bad.jsonl"
    assert interrupted(shop, file, signal.SIGKILL, "--bad-lines", str(kept))[0] == -signal.SIGKILL
    stored = shop.execute("SELECT count(*) FROM cardsync.customers")[0][0]
    assert 0 < stored < CUSTOMERS
    with kept.open("a", encoding="utf-8") as half_written:
        half_written.write('{"line": 999')
    result = process("customers", "import", str(file), "--json", "--bad-lines", str(kept))
    summary = json.loads(result.stdout)
    assert result.returncode == 1
    assert "Going on after line" in result.stderr
    assert (summary["lines"], summary["customers"], summary["bad"]) == (CUSTOMERS, CUSTOMERS - BAD, BAD)
    assert summary["new"] == CUSTOMERS - BAD
    numbers = [json.loads(line)["line"] for line in kept.read_text(encoding="utf-8").splitlines()]
    assert numbers == [2 + n for n in range(0, CUSTOMERS, 10_000)] == [bad["line"] for bad in summary["bad_lines"]]


def test_ctrl_c_ends_an_import_with_what_was_done_and_how_to_go_on(shop, file, settings):
    status, output, errors = interrupted(shop, file, signal.SIGINT, "--json")
    assert status == 1
    assert 0 < json.loads(output)["customers"] < CUSTOMERS
    assert "the same command goes on there" in errors
    assert "Traceback" not in errors


def test_a_lost_database_ends_an_import_that_goes_on_afterwards(process, shop, file, settings):
    status, _, errors = interrupted(shop, file, None)
    assert status == 1
    assert "the same command goes on there" in errors
    assert "Traceback" not in errors
    result = process("customers", "import", str(file), "--json")
    assert "Going on after line" in result.stderr
    assert json.loads(result.stdout)["new"] == CUSTOMERS - BAD


def test_a_pipe_says_that_it_cannot_be_resumed(cardsync):
    result = cardsync("customers", "import", "-", stdin='{"environment": "sandbox", "customer_id": "a"}\n')
    assert result.exit_code == 0
    assert "cannot be resumed" in result.stderr


def test_a_file_that_holds_something_else_is_not_written_over(cardsync, shop, file, settings):
    interrupted(shop, file, signal.SIGINT)
    other = file.with_name("other")
    other.write_text("something else\n", encoding="utf-8")
    assert cardsync("customers", "import", str(file), "--bad-lines", str(other)).exit_code == 2
    assert other.read_text(encoding="utf-8") == "something else\n"
    begun_anew = cardsync("customers", "import", str(file), "--restart", "--bad-lines", str(file))
    assert begun_anew.exit_code == 2
    assert file.stat().st_size > CUSTOMERS
