"""The summary at the end of a deploy: the site, its release, what was detected, what is not yet safe, and the next command."""

import json
import re

import pytest
import yaml
from conftest import LOCAL, PROJECT, run_playbook

# the facts of the role release
RELEASED = {"release_id": "3f2a91c0de-7b1d22aa", "release_host": {"live": ""}, "release_plan": {"activate": True}}
UPDATED = RELEASED | {"release_host": {"live": "0123456789-01234567"}}
UNCHANGED = UPDATED | {"release_plan": {"activate": False}}
# what the role app found in the source; the operator set another health page
DETECTED = {
    "app_source_found": {
        "detected": {
            "module": "wsgi:app",
            "static": {"/static/": "shop/static"},
            "shared": ["shop.db"],
            "health_path": "/",
            "found_in": {"module": "wsgi.py"},
            "hints": [],
            "problem": "",
        }
    },
    "app_health_path": "/healthz",
}
SAFE = {"tls_source": "letsencrypt"}
HOSTS = {
    "plain": RELEASED,
    "detected": {**UPDATED, **DETECTED},
    "unchanged": {**UNCHANGED, **SAFE, "release_url": "https://www.shop.example/shop/"},
    "staging_ca": {**RELEASED, **SAFE, "tls_acme_staging": True},
    "data": {
        **RELEASED,
        **SAFE,
        "app_services": ["redis", "postgresql"],
        "app_shared": ["uploads"],
        "app_secrets": {"URI": "sqlite:////s3cret"},
    },
    "local": {**RELEASED, **SAFE, "app_services": ["backup"], "app_shared": ["uploads"]},
    "remote": {**RELEASED, **SAFE, "app_services": ["backup"], "app_shared": ["uploads"], "backup_s3_url": "https://s3.example/bucket"},
    "everything": {**RELEASED, "app_services": ["backup", "postgresql"]},
    "without_release": {},
}
SELF_SIGNED = "The certificate is self-signed, so browsers warn. Set tls_source: letsencrypt once the domain resolves to the host."
LOCAL_BACKUP = "Backups are stored only on the host and are lost with it. Set backup_s3_url."
NO_BACKUP = "No backup was made yet. The first one starts at backup_at. Make one now: ansible-playbook -i hosts.json playbooks/backup.yml"
NEXT = "next          ansible-playbook -i hosts.json playbooks/release.yml, after each change of the app"


def summarize(directory, inventory, *arguments, **options):
    """Run the last play of deploy.yml. Return what it prints before the recap, without indentation."""
    (play,) = (play for play in yaml.safe_load((PROJECT / "playbooks/deploy.yml").read_text()) if "hosts" in play)
    (directory / "book.yml").write_text(json.dumps([play]))
    settings = {**LOCAL, "ansible_python_interpreter": "/usr/bin/python3", "ansible_become": False}
    settings |= {"app_name": "shop", "app_domains": ["shop.example"], "app_source": "."}
    output = run_playbook(directory, directory / "book.yml", inventory, *arguments, settings=settings, **options).stdout
    text = re.sub(r"  still running after .*\n", "", output.partition("\nPLAY RECAP")[0])
    return re.sub(r"-i \S*hosts.json", "-i hosts.json", re.sub("^  ", "", text, flags=re.MULTILINE))


@pytest.fixture(scope="module")
def summaries(tmp_path_factory):
    """The lines of each host's summary."""
    text = summarize(tmp_path_factory.mktemp("summary"), HOSTS).partition("\n")[2]
    blocks = [block.splitlines() for block in text.strip().split("\n\n")]
    return {re.fullmatch(r"hosts +(\w+)", block.pop())[1]: block for block in blocks}


def test_the_summary_shows_the_site_its_release_and_the_next_command(summaries):
    assert summaries["plain"] == [
        "site          https://shop.example/",
        "release       3f2a91c0de-7b1d22aa",
        f"not yet safe  {SELF_SIGNED}",
        NEXT,
    ]
    assert summaries["unchanged"] == ["site          https://www.shop.example/shop/", "release       3f2a91c0de-7b1d22aa", NEXT]


def test_the_summary_shows_the_detected_settings_that_are_in_effect(summaries):
    assert summaries["detected"][1:5] == [
        "release       3f2a91c0de-7b1d22aa, which replaces 0123456789-01234567",
        "detected      app_module: wsgi:app (wsgi.py)",
        '              app_static: {"/static/": "shop/static"}',
        '              app_shared: ["shop.db"]',
    ]
    assert "health" not in str(summaries["detected"])


@pytest.mark.parametrize(
    "host, expected",
    {
        "staging_ca": ["The certificate is from the staging CA of Let's Encrypt, so browsers warn. Set tls_acme_staging: false."],
        "detected": [SELF_SIGNED, "There is no backup of the SQLite database. Add backup to app_services."],
        "data": [
            "There is no backup of the PostgreSQL database, the SQLite database, the files of app_shared. Add backup to app_services."
        ],
        "local": [LOCAL_BACKUP, NO_BACKUP],
        "remote": [NO_BACKUP],
        "everything": [SELF_SIGNED, LOCAL_BACKUP, NO_BACKUP],
    }.items(),
)
def test_the_summary_shows_what_is_not_yet_safe(summaries, host, expected):
    lines = "\n".join(summaries[host][:-1]).partition("not yet safe  ")[2].splitlines()
    assert [line.removeprefix(" " * 14) for line in lines] == expected
    assert "s3cret" not in str(summaries)


def test_a_run_without_a_release_has_no_summary(summaries, tmp_path):
    assert "without_release" not in summaries
    assert summarize(tmp_path, {"shop": RELEASED}, "--check") == ""


def test_hosts_with_the_same_summary_share_it(tmp_path):
    text = summarize(tmp_path, {"web1": RELEASED, "web2": RELEASED})
    assert text.startswith("Summary: web1, web2\nsite ") and text.count("site ") == 1 and "hosts " not in text


@pytest.mark.parametrize("stage, argument", [("production", ""), ("demo", " STAGE=demo")])
def test_the_next_command_in_a_clone_uses_make(tmp_path, stage, argument):
    variables = {**LOCAL, "ansible_become": False, "app_name": "shop", "app_domains": ["shop.example"], **RELEASED}
    text = summarize(tmp_path, f"inventories/{stage}", "--extra-vars", json.dumps(variables))
    assert f"next          make release{argument}, after each change of the app\n" in text


def test_the_next_command_outside_a_clone_uses_the_collection(tmp_path):
    """The directory has a Makefile of its own."""
    (tmp_path / "Makefile").write_text("release:\n")
    environment = {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg")}
    text = summarize(tmp_path, {"shop": RELEASED}, cwd=tmp_path, environment=environment)
    assert "next          ansible-playbook -i hosts.json flaskhost.flaskhost.release, after each change of the app\n" in text
