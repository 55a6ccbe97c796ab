"""Write what was detected in a source: as a line for preflight, and as settings to paste."""

import yaml
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.names import name_of_app

# in the order in which they are shown
SETTINGS = ("module", "server", "static", "shared", "release_command", "health_path")


def lines_of_hosts(hosts, hostvars):
    """Return a line for each app, and a line for each hint. Hosts with the same lines share them."""
    lines = {}
    for host in hosts:
        settings = hostvars[host]
        for line in lines_of(settings, settings.get("app_source_found") or {}):
            lines.setdefault(line, []).append(host)
    return [line if len(affected) == len(hosts) else f"{line} (host {', '.join(affected)})" for line, affected in lines.items()]


def lines_of(settings, source):
    """Yield what was found and is not set, and then the hints."""
    detected, where = source.get("detected") or {}, (source.get("detected") or {}).get("found_in", {})
    found = {name: detected[name] for name in SETTINGS if name in detected and f"app_{name}" not in settings}
    words = [] if "app_name" in settings else [f"name {name_of_app(settings)}"]
    if "module" in found:
        words.append(f"module {found['module']} ({where.get('module', 'source')})")
    if "server" in found:
        web = "the web command of app_processes" if where.get("server") == "app_processes" else "the web line of the Procfile"
        words.append(web if found["server"] == "procfile" else found["server"])
    if source.get("dependency_file"):
        words.append(f"dependencies from {source['dependency_file']}")
    words += [f"static {url} from {directory}" for url, directory in found.get("static", {}).items()]
    if "shared" in found:
        words.append(f"data in {', '.join(found['shared'])} (kept in /var/lib/{name_of_app(settings)})")
    if command := found.get("release_command"):
        what = "the release line of the Procfile" if command == "procfile" else f"`{command}`"
        words.append(f"migrations by {what}" + ("" if command == "procfile" else f" ({where.get('release_command', 'source')})"))
    if "health_path" in found:
        words.append(f"health page {found['health_path']}")
    python = (source.get("dependencies") or {}).get("python") or {}
    if python.get("version") and "app_python" not in settings:
        words.append(f"Python {python['version']} from {python['version_file']}")
    if found or "app_name" not in settings:
        yield f"Found: {', '.join(words)}. Set app_… to change."
    ignored = (source.get("dependencies") or {}).get("ignored", [])
    if ignored and "app_requirements" not in settings and settings.get("app_runtime") != "container":
        yield f"Ignored: {', '.join(ignored)}. Set app_requirements to install the dependencies from another file than {source['dependency_file']}."
    for name, hint in detected.get("hints", []):
        if not is_decided(name, settings):
            yield f"Not set up: {hint}"


def is_decided(name, settings):
    """Return whether the operator has set what a hint is about."""
    if name == "processes":
        return "app_processes" in settings
    given = [value for key in ("app_env", "app_secrets") if isinstance(value := settings.get(key), dict)]
    variables = {
        "postgresql": "DATABASE_URL",
        "mariadb": "DATABASE_URL",
        "redis": "REDIS_URL",
        "memcached": "MEMCACHED",
        "secret": "SECRET_KEY",
    }
    return (name != "secret" and "app_services" in settings) or any(
        variable.startswith(variables[name]) for value in given for variable in value
    )


def as_settings(source, name):
    """Return the detected settings as YAML, with the problem and the hints as comments."""
    detected = source["detected"]
    found = {"app_name": name} | {f"app_{key}": detected[key] for key in SETTINGS if key in detected}
    text = yaml.safe_dump(plain(found), sort_keys=False, width=10_000, allow_unicode=True)
    notes = [f"# app_module: {detected['problem']}"] if detected["problem"] else []
    if source.get("dependency_file"):
        notes.append(f"# dependencies from {source['dependency_file']}")
    return "\n".join([text.rstrip(), *notes, *(f"# {hint}" for _name, hint in detected["hints"])])


def plain(value):
    """Return a copy without Ansible's own types, which YAML can't represent."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list) else str(value)
