"""What the types in argument_specs.yml can't express; plugin_utils/rules.py explains it."""

from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils import source_directories

release_shared, release_static = source_directories.shared, source_directories.static
