"""The recipes of docs/recipes.md, as published: each app is deployed and responds, and a second deploy changes nothing.

RECIPES_FROM is the address of the repositories if they are not on GitHub, e.g. file:///mirror/{owner}/{name}
"""

import os
import re
import subprocess
import sys

import pytest
import yaml
from sites import PROJECT, Site

sys.path.insert(0, str(PROJECT / "collections"))
from ansible_collections.flaskhost.flaskhost.plugins.plugin_utils.names import source_name

TEXT = (PROJECT / "docs/recipes.md").read_text()
BLOCKS = re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```yaml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
# the name that Flaskhost gives the app: its settings
RECIPES = {source_name(settings["app_source"]): settings for settings in (yaml.safe_load(block) for _title, block in BLOCKS)}
FROM = os.environ.get("RECIPES_FROM", "https://github.com/{owner}/{name}")
UV = PROJECT / ".uv/bin/uv"
# app: (host, page, text on that page)
PAGES = {
    "flask": ("newer", "/auth/login", "Log In"),
    "microblog": ("older", "/auth/login?language=es", "Microblog"),
    "httpbin": ("older", "/get", "headers"),
    "flask_socketio": ("newer", "/", "Flask-SocketIO Test"),
    "pybdsite": ("newer", "/", "Python"),
    "ctfd": ("older", "/setup", "<h1>Setup</h1>"),
    "ihatemoney": ("newer", "/", "I Hate Money"),
    "searxng": ("newer", "/config", '"instance_name":"SearXNG"'),
    "changedetection_io": ("older", "/", "Change Detection"),
    "pgadmin": ("newer", "/login", "<title>pgAdmin 4</title>"),
    "mysite": ("newer", "/", "/static/build/main_css.bundle"),
    "zou": ("newer", "/status", '"database-up":true,"key-value-store-up":true'),
    "docker_flask_example": ("newer", "/", "Python 3.13"),
}


def test_every_recipe_is_tested():
    assert set(RECIPES) == set(PAGES)


def test_the_number_of_settings_is_that_of_the_recipes():
    table = dict(re.findall(r"^\| \[([^]]+)\]\([^)]+\) \| (\d+) \|$", TEXT, re.MULTILINE))
    assert table == {title: str(len(yaml.safe_load(block))) for title, block in BLOCKS}


# -- sources that are not repositories ----------------------------------------------------------------------------------------


def generate_mysite(directory):
    """Generate a project, create its first migration and commit both, as its README tells a developer to."""

    def run(*command, cwd=directory, **environment):
        subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, check=True, capture_output=True, timeout=600)

    template, project = directory / "template", directory / "mysite"
    run("git", "clone", "--quiet", "--depth=1", FROM.format(owner="cookiecutter-flask", name="cookiecutter-flask"), template)
    answers = {
        "full_name": "Ann",
        "project_name": "My Site",
        "app_name": "mysite",
        "project_short_description": "A site",
        "email": "ann@example.com",
    }
    answers |= {"github_username": "ann", "use_pipenv": "False", "use_heroku": "False", "python_version": "3.13", "node_version": "22"}
    words = [f"{name}={value}" for name, value in answers.items()]
    run(UV, "run", "--no-project", "--with", "cookiecutter", "cookiecutter", "--no-input", template, *words)
    for step in "init", "migrate":
        flask = [UV, "run", "--no-project", "--with-requirements", "requirements.txt", "flask", "--app", "autoapp", "db", step]
        run(*flask, cwd=project, DATABASE_URL=f"sqlite:///{directory}/site.db")
    run("git", "init", "--quiet", project)
    run("git", "add", "--all", cwd=project)
    run("git", "-c", "user.name=Ann", "-c", "user.email=ann@example.com", "commit", "--quiet", "--message=Start", cwd=project)
    return project


def write_pgadmin(directory):
    """A directory with the file that the page names."""
    source = directory / "pgadmin"
    source.mkdir()
    name, content = re.search(r"with one file,\s+`(\S+)`: `([^`]+)`", TEXT).groups()
    (source / name).write_text(f"{content}\n")
    return source


SOURCES = {"mysite": generate_mysite, "pgadmin": write_pgadmin}


# -- the tests ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=PAGES)
def recipe(request, tmp_path):
    app, settings = request.param, dict(RECIPES[request.param])
    if app in SOURCES:
        source = str(SOURCES[app](tmp_path))
    else:
        owner, name = settings["app_source"].split("/")[-2:]
        source = FROM.format(owner=owner, name=name)
    site = Site(f"recipes-{PAGES[app][0]}", app=app, domain=f"{app.replace('_', '-')}.test")
    site.cookies = str(tmp_path / "cookies")
    if "NODE_EXTRA_CA_CERTS" in os.environ and "npm" in settings.get("app_build_command", ""):
        # behind a proxy that inspects TLS, npm does not use the host's certificate authorities on its own
        settings["app_env"] = settings["app_env"] | {"NODE_EXTRA_CA_CERTS": "/etc/ssl/certs/ca-certificates.crt"}
    yield site, settings | {"app_source": source, "app_domains": [site.domain]}
    # leave the memory to the next app
    site.host.run(f"systemctl stop '{app}@*' '{app}-*@*'")


def test_a_recipe(recipe):
    site, settings = recipe
    run = site.play("deploy.yml", **settings)
    assert run.ok, run.output
    _machine, page, text = PAGES[site.app]
    status, body = site.get(page)
    assert status == 200 and text in body, body
    again = site.play("deploy.yml", **settings)
    assert again.ok and again.changed == 0, again.output
    CHECKS.get(site.app, lambda _site, _settings: None)(site, settings)


class Browser:
    """Requests with cookies and the token of the forms."""

    def __init__(self, site):
        self.site, self.options = site, ["--cookie", site.cookies, "--cookie-jar", site.cookies]

    def get(self, path, *options):
        return self.site.get(path, *self.options, *options)

    def submit(self, page, path, name, token, fields):
        """Send a form with the token of this name, which the regular expression finds on the page."""
        fields = fields | {name: re.search(token, self.get(page)[1])[1]}
        referer = f"https://{self.site.domain}:{self.site.port}{page}"
        return self.get(path, "--referer", referer, *(part for item in fields.items() for part in ("--data-urlencode", "=".join(item))))


def check_that_users_survive_a_release(site, settings):
    """A user can still log in after another release, which prepares the database again."""
    form = ["--data", "username=ann&password=hunter2"]
    assert site.get("/auth/register", *form)[0] == 302
    first = site.live()
    run = site.play("deploy.yml", **settings, app_env={"ANOTHER": "release"})
    assert run.ok and site.live() != first, run.output
    assert site.get("/auth/login", *form)[0] == 302
    assert site.host.check_output("/srv/flask/run printenv STATE_DIRECTORY").strip() == "/var/lib/flask"
    assert site.host.file("/var/lib/flask/instance/flaskr.sqlite").user == "flask"


def check_translations_and_worker(site, _settings):
    """The translations were compiled, and the worker waits for jobs."""
    assert "Ingresar" in site.get("/auth/login", "--header", "Accept-Language: es")[1]
    assert site.host.check_output("systemctl is-active 'microblog-worker.1@*'") == "active"
    assert "Listening on microblog-tasks" in site.host.check_output(
        "journalctl --namespace=+microblog -t microblog --no-pager --output=cat"
    )


def check_websocket(site, _settings):
    """A WebSocket handshake through nginx succeeds."""
    options = [
        "--http1.1",
        "--max-time",
        "3",
        "--output",
        "/dev/null",
        "--dump-header",
        "-",
        "--header",
        "Connection: Upgrade",
        "--header",
        "Upgrade: websocket",
    ]
    options += ["--header", "Sec-WebSocket-Version: 13", "--header", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    assert "101 Switching Protocols" in site.get("/socket.io/?EIO=4&transport=websocket", *options)[1]


def check_the_setup(site, _settings):
    """A competition that was set up is in MariaDB."""
    fields = {
        "ctf_name": "Cup of Ann",
        "ctf_description": "x",
        "user_mode": "teams",
        "name": "ann",
        "email": "ann@example.com",
        "password": "hunter2",
    }
    fields |= {"challenge_visibility": "private", "account_visibility": "public", "score_visibility": "public"}
    fields |= {"registration_visibility": "public", "verify_emails": "false", "ctf_theme": "core", "social_shares": "true"}
    assert Browser(site).submit("/setup", "/setup", "nonce", r'name="nonce" type="hidden" value="(\w+)"', fields)[0] == 302
    assert "Cup of Ann" in site.get("/")[1]
    assert "Cup of Ann" in site.host.check_output("mariadb ctfd --execute 'select value from config'")


def check_a_project_and_translations(site, settings):
    """A project can be opened after another release, and the pages are in the visitor's language."""
    fields = "name=Camp&id=camp&password=hunter2&contact_email=ann@example.com&default_currency=XXX"
    assert site.get("/api/projects", "--data", fields)[0] == 201
    assert "Gestion de comptes" in site.get("/", "--header", "Accept-Language: fr")[1]
    first = site.live()
    run = site.play("deploy.yml", **settings | {"app_env": {**settings["app_env"], "ANOTHER": "release"}})
    assert run.ok and site.live() != first, run.output
    assert '"name": "Camp"' in site.get("/api/projects/camp", "--user", "camp:hunter2")[1]


def check_a_watch(site, _settings):
    """A page to watch is written to the data directory."""
    fields = {"url": "https://watched.test/", "tags": "", "processor": "text_json_diff"}
    token = r'name="csrf_token"[^>]*value="([^"]+)'
    assert Browser(site).submit("/", "/form/add/quickwatch", "csrf_token", token, fields)[0] == 302
    assert "https://watched.test/" in site.get("/")[1]
    assert site.host.run("grep --recursive --quiet https://watched.test/ /var/lib/changedetection_io").rc == 0


def check_the_first_user(site, settings):
    """The first user, who is in pgAdmin's database, can log in."""
    secrets = settings["app_secrets"]
    fields = {"email": secrets["PGADMIN_SETUP_EMAIL"], "password": secrets["PGADMIN_SETUP_PASSWORD"], "internal_button": "Login"}
    browser = Browser(site)
    status, _body = browser.submit("/login", "/authenticate/login", "csrf_token", r'csrfToken": "([^"]+)"', fields)
    assert status == 302 and browser.get("/browser/")[0] == 200
    assert site.host.file("/var/lib/pgadmin/pgadmin4.db").user == "pgadmin"


def check_a_user(site, _settings):
    """A user who registered is in PostgreSQL, and the assets were built."""
    fields = {"username": "ann", "email": "ann@example.com", "password": "hunter22", "confirm": "hunter22"}
    token = r'csrf_token"[^>]*value="([^"]+)'
    assert Browser(site).submit("/register/", "/register/", "csrf_token", token, fields)[0] == 302
    assert "ann" in site.host.check_output("runuser -u postgres -- psql mysite -Atc 'select username from users'")
    bundle = re.search(r"/static/build/main_css\.bundle[^\"]*\.css", site.get("/")[1])[0]
    assert "bootstrap" in site.get(bundle)[1].lower()


def check_assets_and_worker(site, _settings):
    """The database and the queue respond, the assets were built, and the worker replies through the queue."""
    assert site.get("/up/databases")[0] == 200
    stylesheet = re.search(r'href="(/css/app-\w+\.css)"', site.get("/")[1])[1]
    assert "tailwindcss" in site.get(stylesheet)[1]
    assert "pong" in site.host.check_output("/srv/docker_flask_example/run celery --app hello.app.celery_app inspect ping")


CHECKS = {
    "flask": check_that_users_survive_a_release,
    "microblog": check_translations_and_worker,
    "flask_socketio": check_websocket,
    "ctfd": check_the_setup,
    "ihatemoney": check_a_project_and_translations,
    "changedetection_io": check_a_watch,
    "pgadmin": check_the_first_user,
    "mysite": check_a_user,
    "docker_flask_example": check_assets_and_worker,
}
