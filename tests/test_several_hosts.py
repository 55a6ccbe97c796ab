"""A release on several hosts: either all of them activate it, or none."""

import json

import pytest
import yaml
from conftest import LOCAL, PROJECT, READ_APP, evaluate, run_playbook, with_modules

# Replaces a module of the release: it writes down its call, and moves a link as the module does. A host whose root has the file
# `unhealthy` can't activate the release; one with `lost` is unreachable from then on.
STUB = """#!/usr/bin/python
import os
from ansible.module_utils.basic import AnsibleModule
names = ("app", "root", "id", "to", "by", "host", "path", "mark_bad", "mark_previous_bad", "restart", "successes", "timeout_seconds")
names += ("answer_seconds", "settle_seconds", "watch_seconds")
module = AnsibleModule(argument_spec={name: {} for name in names})
root, verb = module.params["root"], "VERB"
assert "reverted" not in (module.params["by"] or ""), "the module itself writes this to the history"
with open(f"{root}/calls", "a") as calls:
    calls.write(f"{verb} {module.params['mark_bad'] or ''}".strip() + "\\n")
if verb == "activate" and os.path.exists(f"{root}/unhealthy"):
    module.fail_json(msg="/ returned 500", reason="/ returned 500", reverted=bool(os.path.exists(f"{root}/live")))
if verb == "activate":
    open(f"{root}/live", "w").write(module.params["id"])
if verb == "revert":
    open(f"{root}/live", "w").write(module.params["to"])
if verb == "start" and os.path.exists(f"{root}/will_be_lost"):
    os.rename(f"{root}/will_be_lost", f"{root}/lost")
module.exit_json(changed=True, log="", cause="")
"""
VERBS = ("start", "activate", "revert", "stop")


class Hosts:
    def __init__(self, directory, live):
        self.directory, self.live = directory, live
        self.roots = {name: directory / name for name in ("web1", "web2", "web3")}
        for root in self.roots.values():
            root.mkdir()
            if live:
                (root / "live").write_text(live)

    def switch(self, **options):
        """Run the tasks that release and rollback share, on all hosts at once."""
        collections = with_modules(self.directory, **{f"release_{verb}": STUB.replace("VERB", verb) for verb in VERBS})
        switch = {"ansible.builtin.include_role": {"name": "flaskhost.flaskhost.release", "tasks_from": "switch"}}
        play = {"hosts": "all", "gather_facts": False, "any_errors_fatal": True, "tasks": [READ_APP, switch]}
        play["vars"] = {
            "release_id": "r2",
            "release_plan": {"activate": True, "build": False, "migrate": False},
            "release_host": {"live": self.live, "releases": {}},
            "release_server": {},
            "python_venv_python": "3.13",
        }
        (self.directory / "book.yml").write_text(json.dumps([play]))
        # a host with the file `lost` cannot be reached
        connection = f"{{{{ 'ssh' if ('{self.directory}/' ~ inventory_hostname ~ '/lost') is exists else 'local' }}}}"
        settings = {
            **LOCAL,
            "app_name": "shop",
            "app_domains": ["shop.example"],
            "app_source": ".",
            "app_root": f"{self.directory}/{{{{ inventory_hostname }}}}",
            "ansible_connection": connection,
            "ansible_host": "127.0.0.1",
            "ansible_port": 9,
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        environment = {"ANSIBLE_COLLECTIONS_PATH": str(collections)}
        return run_playbook(
            self.directory,
            self.directory / "book.yml",
            {name: {} for name in self.roots},
            settings=settings,
            environment=environment,
            **options,
        )

    def calls(self, name):
        return (self.roots[name] / "calls").read_text().splitlines()

    def live_releases(self):
        return {name: (root / "live").read_text() if (root / "live").exists() else "" for name, root in self.roots.items()}


@pytest.fixture
def hosts(tmp_path):
    return lambda live="r1": Hosts(tmp_path, live)


def test_a_release_becomes_live_on_all_hosts(hosts):
    hosts = hosts()
    hosts.switch()
    assert set(hosts.live_releases().values()) == {"r2"}
    assert hosts.calls("web1") == ["start", "activate"]


def test_if_one_host_cannot_activate_the_release_all_others_revert(hosts):
    hosts = hosts()
    (hosts.roots["web2"] / "unhealthy").touch()
    run = hosts.switch(succeeds=False)
    assert set(hosts.live_releases().values()) == {"r1"}
    assert hosts.calls("web1") == hosts.calls("web3") == ["start", "activate", "revert", "stop"]
    assert hosts.calls("web2") == ["start", "activate", "stop Activate the release and watch the site: / returned 500"]
    for name in "web1", "web2", "web3":
        assert "Release r2 was activated, but the activation was reverted." in run.failures[name], run.output
        assert "Release r1 keeps serving." in run.failures[name]
    assert "Another host failed" in run.failures["web1"] and "/ returned 500" in run.failures["web2"]


def test_a_live_release_is_not_stopped_if_its_repair_fails_on_another_host(hosts):
    """The release was live before, and some of its units were missing."""
    hosts = hosts(live="r2")
    (hosts.roots["web2"] / "unhealthy").touch()
    run = hosts.switch(succeeds=False)
    assert hosts.calls("web1") == ["start", "activate", "stop"] and set(hosts.live_releases().values()) == {"r2"}
    assert "Release r2 was live before and still is, but it could not be repaired." in run.failures["web1"]


def test_if_a_host_is_lost_all_others_revert(hosts):
    hosts = hosts()
    (hosts.roots["web3"] / "will_be_lost").touch()
    run = hosts.switch(succeeds=False)
    assert hosts.live_releases() == {"web1": "r1", "web2": "r1", "web3": "r1"}
    assert hosts.calls("web1") == ["start", "activate", "revert", "stop"] and hosts.calls("web3") == ["start"]
    assert "Release r2 was activated, but the activation was reverted." in run.failures["web1"]


def test_a_first_release_stays_live_where_it_is_healthy(hosts):
    """There is nothing to revert to, and the next run completes the release on the other host."""
    hosts = hosts(live="")
    (hosts.roots["web2"] / "unhealthy").touch()
    run = hosts.switch(succeeds=False)
    assert hosts.live_releases() == {"web1": "r2", "web2": "", "web3": "r2"}
    assert "Release r2 is live here, because this host has no previous release." in run.failures["web1"]
    assert "Release r2 keeps serving." in run.failures["web1"] and "No release is live yet." in run.failures["web2"]


@pytest.mark.parametrize("playbook", ["preflight", "provision", "release", "rollback"])
def test_a_failure_on_one_host_ends_the_run_on_all_hosts(playbook):
    """Otherwise, the next playbook of deploy.yml would go on without that host."""
    plays = yaml.safe_load((PROJECT / f"playbooks/{playbook}.yml").read_text())
    assert all(play["any_errors_fatal"] for play in plays if play["hosts"] == "app_servers")


def test_the_first_host_in_the_inventory_runs_the_scheduled_jobs(tmp_path):
    """Also if --limit excludes it. Hosts of another app don't count."""
    settings = {**LOCAL, "app_domains": ["shop.example"], "app_source": "."}
    hosts = {"other": {"app_name": "other"}, **{name: {"app_name": "shop"} for name in ("web1", "web2")}}
    probe = tmp_path / "roles/probe"
    (probe / "tasks").mkdir(parents=True)
    (probe / "vars").symlink_to(PROJECT / "roles/release/vars")
    (probe / "tasks/main.yml").write_text("[]")
    tasks = [READ_APP, {"ansible.builtin.include_role": {"name": "probe", "public": True}}]
    expression = "{{ __release_schedule_is_elsewhere }}"
    assert evaluate(tmp_path, tasks, expression, hosts, settings=settings) == {"other": False, "web1": False, "web2": True}
    assert evaluate(tmp_path, tasks, expression, hosts, "--limit", "web2", settings=settings) == {"web2": True}
