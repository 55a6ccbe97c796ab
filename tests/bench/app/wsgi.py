"""The benchmark's app: one page for each kind of workload."""

import os
import sqlite3
import time

from flask import Flask

DATABASE = os.path.join(os.environ.get("STATE_DIRECTORY", "."), "shop.db")

app = Flask(__name__)


@app.get("/")
def hello():
    return "Hello, world!\n"


@app.get("/json")
def rows():
    database = sqlite3.connect(DATABASE)
    try:
        found = database.execute("SELECT id, name, price FROM items WHERE id > 500 LIMIT 20").fetchall()
    finally:
        database.close()
    return {"items": [{"id": item, "name": name, "price": price} for item, name, price in found]}


@app.get("/wait")
def wait():
    """Sleep like a view that waits for another service."""
    time.sleep(0.05)
    return "done\n"


@app.get("/healthz")
def healthz():
    return {"items": len(rows()["items"])}


def make_database():
    with sqlite3.connect(DATABASE) as database:
        database.execute("CREATE TABLE IF NOT EXISTS items (id INTEGER PRIMARY KEY, name TEXT, price REAL)")
        database.executemany("INSERT OR IGNORE INTO items VALUES (?, ?, ?)", [(n, f"item {n}", n / 4) for n in range(1000)])


if __name__ == "__main__":
    make_database()
