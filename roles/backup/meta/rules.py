"""What the types in argument_specs.yml can't express; plugin_utils/rules.py explains it."""

import re


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
