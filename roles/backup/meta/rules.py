"""Rules for settings that the types in argument_specs.yml can't express. plugin_utils/rules.py documents the format."""

import re

CHOSEN_BY = "app_services"
RENAMED = {"backup_folder": "backup_directory"}


def backup_directory(value, settings):
    return None if value or settings.get("backup_s3_url") else "backups need a destination: set this directory or backup_s3_url."


def backup_keep_days(value, _settings):
    return None if int(value) > 0 else "it must be at least 1. To disable backups, remove backup from app_services."


def backup_s3_url(value, settings):
    if value and not re.fullmatch(r"https?://[^/\s]+/[^/\s].*", str(value)):
        return "it must be the URL of a bucket and a directory in it, such as https://fra1.digitaloceanspaces.com/BUCKET/mysite."
    missing = [name for name in ("backup_s3_access_key", "backup_s3_secret_key", "backup_password") if not settings.get(name)]
    if value and missing:
        why = ", because a password that the host generated would be lost with the host" if missing[0] == "backup_password" else ""
        return f"it also needs {missing[0]}{why}."
    return None


def combined(settings):
    if "backup" not in (settings.get("app_services") or []) or settings.get("backup_database_url") == "":
        return
    given = [settings[name] for name in ("app_env", "app_secrets") if isinstance(settings.get(name), dict)]
    url = next((str(values["DATABASE_URL"]) for values in reversed(given) if "DATABASE_URL" in values), "")
    kind = url.partition(":")[0].partition("+")[0]
    if kind not in ("", "postgres", "postgresql", "mariadb", "mysql", "sqlite"):
        text = (
            f"backup supports PostgreSQL, MariaDB, MySQL and SQLite, not {kind}. "
            "Set backup_database_url to '' and back up that database by other means."
        )
        yield "app_services", settings["app_services"], text
