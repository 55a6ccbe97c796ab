"""RQ's worker, with the app loaded once, before it forks for each job: `python -m sample_app.worker`."""

from rq import Queue, Worker

from . import create_app
from .jobs import redis


def main():
    with create_app().app_context():
        Worker([Queue(connection=redis())]).work(logging_level="WARNING")


if __name__ == "__main__":
    main()
