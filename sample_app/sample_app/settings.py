"""Settings for development, staging and production. The environment variable APP_STAGE selects the stage."""

import os
import re


def state():
    # systemd gives the app a persistent data directory; in development, it is the current directory
    return os.path.abspath(os.environ.get("STATE_DIRECTORY", "."))


def database():
    url = os.environ.get("DATABASE_URL") or f"sqlite:///{state()}/sample.db"
    # SQLAlchemy needs the name of the driver in the URL, which platforms leave out
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url)


class Settings:
    def __init__(self):
        self.STAGE = type(self).__name__.lower()
        self.SECRET_KEY = self.secret_key()
        self.SQLALCHEMY_DATABASE_URI = database()
        # if it is empty, there is no queue, and jobs are skipped
        self.REDIS_URL = os.environ.get("REDIS_URL", "")
        # if it is empty, pictures are stored in a directory
        self.S3_BUCKET = os.environ.get("S3_BUCKET", "")
        self.PICTURES = f"{state()}/pictures"

    def secret_key(self):
        return os.environ["SECRET_KEY"]


class Development(Settings):
    DEBUG = True

    def secret_key(self):
        return os.environ.get("SECRET_KEY", "only for this laptop")


class Staging(Settings):
    SESSION_COOKIE_SECURE = True


class Production(Staging):
    pass


STAGES = {"development": Development, "staging": Staging, "production": Production}


def settings_of_this_stage():
    stage = os.environ.get("APP_STAGE", "development")
    if stage not in STAGES:
        raise RuntimeError(f"APP_STAGE is '{stage}'; it must be one of {', '.join(STAGES)}")
    return STAGES[stage]()
