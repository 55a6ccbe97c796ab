"""Work that a visitor need not wait for: with REDIS_URL a worker does it (`worker` in the Procfile), without it is left out."""

from flask import current_app
from redis import Redis
from rq import Queue, Retry

from .models import Entry, db

WORDS = "sample:words"


def count_words(entry_id):
    """What the worker does, in a process of its own. It may be done twice, as any job that must not be lost."""
    entry = db.session.get(Entry, entry_id)
    if entry:
        redis().hset(WORDS, entry_id, len(entry.text.split()))


def enqueue(entry_id):
    if current_app.config["REDIS_URL"]:
        Queue(connection=redis()).enqueue(count_words, entry_id, retry=Retry(max=3), result_ttl=60)


def words(entry_ids):
    """How many words each entry has, as far as a worker has counted."""
    if not current_app.config["REDIS_URL"]:
        return {}
    counted = redis().hmget(WORDS, entry_ids) if entry_ids else []
    return {entry_id: int(count) for entry_id, count in zip(entry_ids, counted, strict=True) if count is not None}


def counted():
    return redis().hlen(WORDS) if current_app.config["REDIS_URL"] else 0


def redis():
    return Redis.from_url(current_app.config["REDIS_URL"])
