"""A database elsewhere: what its URL says, and whether it is there."""

import contextlib
import socket
import threading

import pytest
from conftest import plugin

urls, reach = plugin("module_utils/urls"), plugin("modules/reach")


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("postgresql://u:p@db.example/shop", {"kind": "postgresql", "host": "db.example", "port": 5432}),
        ("postgres://u:p%40@db.example:25060/shop?sslmode=require", {"kind": "postgresql", "host": "db.example", "port": 25060}),
        ("postgresql+psycopg://db.example/shop", {"kind": "postgresql", "host": "db.example", "port": 5432}),
        ("mysql+pymysql://u@[2001:db8::1]/shop", {"kind": "mysql", "host": "2001:db8::1", "port": 3306}),
        ("postgresql:///shop?host=/run/postgresql", {}),
        ("sqlite:////var/lib/shop/shop.db", {}),
        ("", {}),
        ("nonsense", {}),
        # who looks them up otherwise sees whether they are there
        ("mongodb+srv://u:p@cluster.example/shop", {}),
        ("postgresql://u:p@h1:5432,h2:5432/shop", {}),
        ("postgresql://u:p@%2Frun%2Fpostgresql/shop", {}),
    ],
)
def test_where_a_url_leads(url, wanted):
    assert urls.database_address(url) == wanted


@pytest.mark.parametrize(
    "url", ["sqlite:///x.db", "mongodb+srv://u:p@h/d", "postgresql://u:p@h1:5432,h2:5433/d", "postgresql://?service=shop", "redis://h"]
)
def test_a_url_that_may_be_right_is_left_alone(url):
    assert urls.database_problem(url) == ""


@pytest.fixture
def server():
    """Says one thing to whoever comes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(answer):
        def accept():
            with contextlib.suppress(OSError), listener.accept()[0] as connection:
                asked.append(connection.recv(8))
                connection.sendall(answer)

        asked = []
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        return asked, listener.getsockname()[1]

    yield serve
    listener.close()


@pytest.mark.parametrize(
    ("answer", "why"),
    [(b"S", ""), (b"N", ""), (b"HTTP/1.1 400", "what answers there is no PostgreSQL"), (b"", "what answers there is no PostgreSQL")],
)
def test_what_answers_is_asked_whether_it_is_one(server, answer, why):
    asked, port = server(answer)
    assert reach.why("127.0.0.1", port, "postgresql") == why
    assert asked == [b"\x00\x00\x00\x08\x04\xd2\x16\x2f"]


def test_why_it_can_not_be_reached_is_told(server):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert reach.why("127.0.0.1", port) == "connection refused"
    assert reach.why("db.invalid", 5432) == "no address is known for this name"
    _asked, port = server(b"")
    assert reach.why("127.0.0.1", port, "mysql") == ""
