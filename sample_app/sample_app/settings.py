"""What differs between development, staging and production; which one holds, the environment says (APP_STAGE)."""

import os
import re


def state():
    # systemd gives the app a folder of its own, which outlives releases; on a laptop it is the current one
    return os.path.abspath(os.environ.get("STATE_DIRECTORY", "."))


def database():
    url = os.environ.get("DATABASE_URL") or f"sqlite:///{state()}/sample.db"
    # as platforms write it; SQLAlchemy wants the driver's name too
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url)


class Settings:
    def __init__(self):
        self.STAGE = type(self).__name__.lower()
        self.SECRET_KEY = self.secret_key()
        self.SQLALCHEMY_DATABASE_URI = database()
        # without it, there is no queue, and what a worker would do is done at once
        self.REDIS_URL = os.environ.get("REDIS_URL", "")
        # without it, pictures are in a folder
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
