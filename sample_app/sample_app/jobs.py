"""Background jobs. With REDIS_URL, a worker runs them (`worker` in the Procfile); without it, they are skipped."""

from flask import current_app
from redis import Redis
from rq import Queue, Retry

from .models import Entry, db

WORDS = "sample:words"


def count_words(entry_id):
    """The job that the worker runs in a separate process. It may run twice, like any job that must not be lost."""
    entry = db.session.get(Entry, entry_id)
    if entry:
        redis().hset(WORDS, entry_id, len(entry.text.split()))


def enqueue(entry_id):
    if current_app.config["REDIS_URL"]:
        Queue(connection=redis()).enqueue(count_words, entry_id, retry=Retry(max=3), result_ttl=60)


def words(entry_ids):
    """Return the number of words of each entry that a worker has counted."""
    if not current_app.config["REDIS_URL"]:
        return {}
    counted = redis().hmget(WORDS, entry_ids) if entry_ids else []
    return {entry_id: int(count) for entry_id, count in zip(entry_ids, counted, strict=True) if count is not None}


def counted():
    return redis().hlen(WORDS) if current_app.config["REDIS_URL"] else 0


def redis():
    return Redis.from_url(current_app.config["REDIS_URL"])
