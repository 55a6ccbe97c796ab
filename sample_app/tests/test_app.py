import pytest
from sample_app.jobs import count_words
from sample_app.models import db
from sample_app.settings import Development, settings_of_this_stage

from sample_app import create_app


@pytest.fixture
def client(tmp_path, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/test.db")
    monkeypatch.delenv("REDIS_URL", raising=False)
    app = create_app(Development())
    with app.app_context():
        db.create_all()
    return app.test_client()


def test_an_entry_is_shown_after_it_was_written(client):
    assert client.post("/entries", data={"text": "hello there"}).status_code == 303
    assert "hello there" in client.get("/").text
    assert client.get("/entries.json").json["count"] == 1


def test_an_empty_entry_is_rejected(client):
    assert client.post("/entries", data={"text": "  "}).status_code == 400


def test_the_page_names_its_release_and_stage(client, monkeypatch):
    monkeypatch.setenv("APP_RELEASE", "abc-123")
    page = client.get("/").text
    assert "abc-123" in page and "development" in page


def test_pages_load_only_resources_of_the_app(client):
    policy = client.get("/").headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_the_health_check_fails_without_the_schema(tmp_path, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/empty.db")
    app = create_app(Development())
    app.config["PROPAGATE_EXCEPTIONS"] = False
    assert app.test_client().get("/healthz").status_code == 500


def test_production_has_no_default_secret_key(monkeypatch):
    monkeypatch.setenv("APP_STAGE", "production")
    monkeypatch.delenv("SECRET_KEY", raising=False)
    with pytest.raises(KeyError):
        settings_of_this_stage()


def test_an_unknown_stage_is_reported(monkeypatch):
    monkeypatch.setenv("APP_STAGE", "prod")
    with pytest.raises(RuntimeError, match=r"'prod'.*development, staging, production"):
        settings_of_this_stage()


def test_the_database_url_of_a_platform_is_accepted(monkeypatch):
    for scheme in "postgres", "postgresql":
        monkeypatch.setenv("DATABASE_URL", f"{scheme}:///sample?host=/run/postgresql")
        assert Development().SQLALCHEMY_DATABASE_URI == "postgresql+psycopg:///sample?host=/run/postgresql"


def test_tidy_deletes_old_entries(client):
    for number in range(5):
        client.post("/entries", data={"text": f"entry {number}"})
    done = client.application.test_cli_runner().invoke(args=["tidy", "--keep", "2"])
    assert done.output == "Deleted 3 entries.\n"
    assert [entry["text"] for entry in client.get("/entries.json").json["newest"]] == ["entry 4", "entry 3"]


def test_a_worker_counts_words_if_there_is_a_queue(client, monkeypatch):
    enqueued, stored = [], {}

    class Queue:
        def __init__(self, connection):
            pass

        def enqueue(self, job, *arguments, **options):
            enqueued.append((job, *arguments))

    class Redis:
        def hset(self, name, key, value):
            stored[key] = value

        def hlen(self, name):
            return len(stored)

        def hmget(self, name, keys):
            return [stored.get(key) for key in keys]

    monkeypatch.setattr("sample_app.jobs.Queue", Queue)
    monkeypatch.setattr("sample_app.jobs.redis", Redis)
    monkeypatch.setitem(client.application.config, "REDIS_URL", "unix:///run/redis.sock")
    client.post("/entries", data={"text": "three short words"})
    assert enqueued == [(count_words, 1)]
    assert client.get("/entries.json").json["counted"] == 0
    with client.application.app_context():
        count_words(1)
    assert client.get("/entries.json").json["counted"] == 1
    assert "3 words" in client.get("/").text
