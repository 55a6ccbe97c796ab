"""Every package that a role can install exists in each distribution. docs/packages.json lists their indexes (see docs/packages.py)."""

import json

import pytest
from conftest import LOCAL, PROJECT, evaluate, role_settings

TABLE = json.loads((PROJECT / "docs/packages.json").read_text())
ROLES = sorted(path.parents[1].name for path in PROJECT.glob("roles/*/defaults/main.yml"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """For each distribution, all packages that the roles can install, and the nginx version that they expect."""
    hosts = {}
    for distribution in TABLE["sources"]:
        name, version = distribution.split()
        facts = {"distribution": name, "distribution_version": version, "distribution_major_version": version.split(".")[0]}
        hosts[distribution.replace(" ", "")] = {"facts": facts}
    settings = role_settings(*ROLES) | LOCAL | {"app_name": "shop", "app_domains": ["shop.test"]}
    settings |= {"tls_source": "letsencrypt", "backup_database_url": "postgresql://shop@db.test/shop"}
    names = sorted(name for name in settings if name.endswith("_packages") and not name.startswith("base_extra"))
    shown = {"packages": "{{ (" + " + ".join(names) + ") | unique }}", "nginx": "{{ __nginx_version }}"}
    facts = [{"ansible.builtin.set_fact": {"ansible_facts": "{{ facts }}"}}]
    return evaluate(tmp_path_factory.mktemp("packages"), facts, shown, hosts, settings=settings)


@pytest.mark.parametrize("distribution", TABLE["sources"])
def test_every_package_is_in_the_distribution(installed, distribution):
    packages = installed[distribution.replace(" ", "")]["packages"]
    assert {"nginx", "ufw", "certbot", "postgresql-client", "restic", "redis-server", "podman"} <= {*packages}
    missing = [name for name in packages if distribution not in TABLE["packages"].get(name, {})]
    assert missing == [], f"not in {TABLE['sources'][distribution]}; if a role's packages have changed, run docs/packages.py"


@pytest.mark.parametrize("distribution", TABLE["sources"])
def test_the_expected_nginx_version_is_the_distribution_s(installed, distribution):
    found = TABLE["packages"]["nginx"][distribution].split()[1]
    assert found.startswith(f"{installed[distribution.replace(' ', '')]['nginx']}.")
