"""The recipes of docs/recipes.md, as published: each app is deployed and responds, and a second deploy changes nothing.

RECIPES_FROM is the address of the repositories if they are not on GitHub, e.g. file:///mirror/{owner}/{name}
"""

import os
import re

import pytest
import yaml
from sites import PROJECT, Site

TEXT = (PROJECT / "docs/recipes.md").read_text()
RECIPES = {
    settings["app_name"]: settings for settings in map(yaml.safe_load, re.findall(r"^```yaml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE))
}
# app: (host, page, text on that page)
PAGES = {
    "flaskr": ("newer", "/auth/login", "Log In"),
    "microblog": ("older", "/auth/login?language=es", "Microblog"),
    "httpbin": ("older", "/get", "headers"),
    "sockets": ("newer", "/", "Flask-SocketIO Test"),
    "pybdsite": ("newer", "/", "Python"),
}


def test_every_recipe_is_tested():
    assert set(RECIPES) == set(PAGES)


@pytest.fixture(params=PAGES)
def recipe(request):
    settings = dict(RECIPES[request.param])
    machine = PAGES[request.param][0]
    template = os.environ.get("RECIPES_FROM", "https://github.com/{owner}/{name}")
    owner, name = settings["app_source"].split("/")[-2:]
    settings |= {"app_source": template.format(owner=owner, name=name), "app_domains": [f"{request.param}.test"]}
    return Site(f"recipes-{machine}", app=request.param, domain=f"{request.param}.test"), settings


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


def check_that_users_survive_a_release(site, settings):
    """A user can still log in after another release, which prepares the database again."""
    form = ["--data", "username=ann&password=hunter2"]
    assert site.get("/auth/register", *form)[0] == 302
    first = site.live()
    run = site.play("deploy.yml", **settings, app_env={"ANOTHER": "release"})
    assert run.ok and site.live() != first, run.output
    assert site.get("/auth/login", *form)[0] == 302
    assert site.host.check_output("/srv/flaskr/run printenv STATE_DIRECTORY").strip() == "/var/lib/flaskr"
    assert site.host.file("/var/lib/flaskr/instance/flaskr.sqlite").user == "flaskr"


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


CHECKS = {"flaskr": check_that_users_survive_a_release, "microblog": check_translations_and_worker, "sockets": check_websocket}
