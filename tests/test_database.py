"""An external database: parsing its URL, and probing its address."""

import contextlib
import socket
import threading

import pytest
from conftest import plugin

urls, probe = plugin("module_utils/urls"), plugin("modules/probe")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@db.example/shop", {"kind": "postgresql", "host": "db.example", "port": 5432}),
        ("postgres://u:p%40@db.example:25060/shop?sslmode=require", {"kind": "postgresql", "host": "db.example", "port": 25060}),
        ("postgresql+psycopg://db.example/shop", {"kind": "postgresql", "host": "db.example", "port": 5432}),
        ("mysql+pymysql://u@[2001:db8::1]/shop", {"kind": "mysql", "host": "2001:db8::1", "port": 3306}),
        ("postgresql:///shop?host=/run/postgresql", {}),
        ("sqlite:////var/lib/shop/shop.db", {}),
        ("", {}),
        ("nonsense", {}),
        # several servers, or not a TCP address: not probed
        ("mongodb+srv://u:p@cluster.example/shop", {}),
        ("postgresql://u:p@h1:5432,h2:5432/shop", {}),
        ("postgresql://u:p@%2Frun%2Fpostgresql/shop", {}),
    ],
)
def test_the_address_is_parsed_from_the_url(url, expected):
    assert urls.database_address(url) == expected


@pytest.mark.parametrize(
    "url", ["sqlite:///x.db", "mongodb+srv://u:p@h/d", "postgresql://u:p@h1:5432,h2:5433/d", "postgresql://?service=shop", "redis://h"]
)
def test_a_url_that_may_be_valid_is_accepted(url):
    assert urls.database_problem(url) == ""


@pytest.fixture
def server():
    """A server that sends the same response to each client, and records what it receives."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(answer):
        def accept():
            with contextlib.suppress(OSError), listener.accept()[0] as connection:
                received.append(connection.recv(8))
                connection.sendall(answer)

        received = []
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        return received, listener.getsockname()[1]

    yield serve
    listener.close()


@pytest.mark.parametrize(
    ("answer", "why"),
    [(b"S", ""), (b"N", ""), (b"HTTP/1.1 400", "the service is not PostgreSQL"), (b"", "the service is not PostgreSQL")],
)
def test_a_probe_checks_that_the_server_is_postgresql(server, answer, why):
    received, port = server(answer)
    assert probe.problem("127.0.0.1", port, "postgresql") == why
    assert received == [b"\x00\x00\x00\x08\x04\xd2\x16\x2f"]


def test_the_reason_why_a_database_is_unreachable_is_reported(server):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert probe.problem("127.0.0.1", port) == "connection refused"
    assert probe.problem("db.invalid", 5432) == "no address found for this name"
    _received, port = server(b"")
    assert probe.problem("127.0.0.1", port, "mysql") == ""
