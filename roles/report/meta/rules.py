"""Old names of this role's settings. plugin_utils/rules.py documents the format."""

RENAMED = {"report_certificate_folder": "report_certificate_directory"}
