from datetime import datetime, timezone

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import event
from sqlalchemy.engine import Engine

db = SQLAlchemy()


class Entry(db.Model):
    id = db.Column(db.Integer, primary_key=True)
    text = db.Column(db.String(200), nullable=False)
    picture = db.Column(db.String(40))
    written = db.Column(db.DateTime, nullable=False, default=lambda: datetime.now(timezone.utc))


@event.listens_for(Engine, "connect")
def configure_sqlite(connection, record):
    """Use SQLite's write-ahead log, so that the previous and the new release can use the database at the same time."""
    if type(connection).__module__.startswith("sqlite3"):
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA busy_timeout=5000")
        connection.execute("PRAGMA synchronous=NORMAL")
