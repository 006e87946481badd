"""``cardsync customers import``: which lines become customers, and what is said of the others."""

from __future__ import annotations

import json

from cardsync.stories.import_customers import BAD_LINES_KEPT


def known(engine):
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT environment, customer_id FROM registry.customers").all()
    return {tuple(row) for row in rows}


def test_customers_are_imported_from_csv_in_any_order_of_columns(cardsync, engine, tmp_path):
    file = tmp_path / "customers.csv"
    text = '\ufeffcustomer_id,since,environment\r\n"a,""b",2020,sandbox\r\nkhālid/%,x,production\r\n\r\n'
    file.write_bytes(text.encode())
    result = cardsync("customers", "import", str(file))
    assert (result.exit_code, result.stdout) == (0, "2 customers, 2 of them new; 0 bad lines.\n")
    assert known(engine) == {("sandbox", 'a,"b'), ("production", "khālid/%")}


def test_importing_again_changes_nothing(cardsync, engine):
    lines = '{"environment": "sandbox", "customer_id": "a\\nb"}\n' * 2
    first = json.loads(cardsync("customers", "import", "-", "--json", stdin=lines).stdout)
    second = json.loads(cardsync("customers", "import", "-", "--json", stdin=lines).stdout)
    assert (first["new"], second["new"], second["customers"]) == (1, 0, 2)
    assert known(engine) == {("sandbox", "a\nb")}


def test_bad_lines_are_named_by_number_and_cost_only_themselves(cardsync, engine):
    lines = [
        b"environment,customer_id",
        b"test,one",
        b'sandbox,"open',
        b"sandbox,\xff",
        b"sandbox",
        b"sandbox," + b"x" * 65,
        b"sandbox," + b"y" * 300_000,
        b"sandbox,good",
    ]
    result = cardsync("customers", "import", "-", "--json", stdin=b"\n".join(lines))
    summary = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [bad["line"] for bad in summary["bad_lines"]] == [2, 3, 4, 5, 6, 7]
    assert (summary["lines"], summary["bad"], summary["new"]) == (7, 6, 1)
    assert "6 of 7 lines were bad" in result.stderr
    assert known(engine) == {("sandbox", "good")}


def test_the_list_of_bad_lines_is_bounded_and_their_count_is_not(cardsync):
    lines = "environment,customer_id\n" + "sandbox,\n" * 1_000
    summary = json.loads(cardsync("customers", "import", "-", "--json", stdin=lines).stdout)
    assert summary["bad"] == 1_000
    assert len(summary["bad_lines"]) == BAD_LINES_KEPT


def test_a_file_without_a_header_is_wrong_usage(cardsync, engine):
    assert cardsync("customers", "import", "-", stdin="sandbox,one\n").exit_code == 2
    assert known(engine) == set()


def test_more_than_one_batch_is_imported(cardsync, engine):
    lines = "environment,customer_id\n" + "".join(f"sandbox,cust-{n}\n" for n in range(20_001))
    assert cardsync("customers", "import", "-", stdin=lines).exit_code == 0
    assert len(known(engine)) == 20_001
