"""Rules for settings that the types in argument_specs.yml can't express. plugin_utils/rules.py documents the format."""

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import source_paths

RENAMED = {
    "release_source_folder": "release_source_directory",
    "release_after_stage": "release_previous_stage",
    "release_uses": "release_services",
}

release_shared, release_static, release_files = source_paths.shared, source_paths.static, source_paths.files
