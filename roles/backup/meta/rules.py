"""What the types in argument_specs.yml can't express; plugin_utils/rules.py explains it."""

import re

# a service: this setting may name the role
CHOSEN_BY = "app_services"


def backup_folder(value, settings):
    return None if value or settings.get("backup_s3_url") else "backups need a place: this one, or backup_s3_url."


def backup_keep_days(value, _settings):
    return None if int(value) > 0 else "keep them for a day at least; without backup in app_services there are none."


def backup_s3_url(value, settings):
    if value and not re.fullmatch(r"https?://[^/\s]+/[^/\s].*", str(value)):
        return "it must be the URL of a bucket, and of a folder in it, such as https://fra1.digitaloceanspaces.com/BUCKET/mysite."
    missing = [name for name in ("backup_s3_access_key", "backup_s3_secret_key", "backup_password") if not settings.get(name)]
    if value and missing:
        why = ", for one that was made on the host would be lost with the host" if missing[0] == "backup_password" else ""
        return f"it needs {missing[0]} too{why}."
    return None


def combined(settings):
    if "backup" not in (settings.get("app_services") or []) or settings.get("backup_database_url") == "":
        return
    given = [settings[name] for name in ("app_env", "app_secrets") if isinstance(settings.get(name), dict)]
    url = next((str(values["DATABASE_URL"]) for values in reversed(given) if "DATABASE_URL" in values), "")
    kind = url.partition(":")[0].partition("+")[0]
    if kind not in ("", "postgres", "postgresql", "sqlite"):
        text = f"backup knows PostgreSQL and SQLite, and no {kind}: set backup_database_url to '', and see to that database otherwise."
        yield "app_services", settings["app_services"], text
