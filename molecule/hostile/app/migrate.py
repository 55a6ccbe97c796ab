"""The release command: a table with a row for each release."""

import os

import psycopg

with psycopg.connect(os.environ["DATABASE_URL"]) as database:
    database.execute("CREATE TABLE IF NOT EXISTS releases (id text, at timestamptz DEFAULT now())")
    database.execute("INSERT INTO releases (id) VALUES (%s)", [os.environ["APP_RELEASE"]])
