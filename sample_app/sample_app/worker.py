"""RQ's worker, run by `python -m sample_app.worker`. It loads the app once, before it forks a process for each job."""

from rq import Queue, Worker

from . import create_app
from .jobs import redis


def main():
    with create_app().app_context():
        Worker([Queue(connection=redis())]).work(logging_level="WARNING")


if __name__ == "__main__":
    main()
