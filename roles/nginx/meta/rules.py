"""Rules for settings that the types in argument_specs.yml can't express. plugin_utils/rules.py documents the format."""

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import checks

RENAMED = {"nginx_certificate_folder": "nginx_certificate_directory"}

nginx_headers = nginx_app_headers = checks.texts
nginx_trusted_proxies = nginx_unlimited = checks.networks
nginx_site_template = nginx_error_page_template = nginx_server_template = checks.file_on_controller
nginx_hsts = checks.matches(
    r"max-age=\d+(; includeSubDomains)?(; preload)?",
    "it must be the value of a Strict-Transport-Security header, such as max-age=63072000; includeSubDomains, or empty.",
    or_empty=True,
)
