"""Rules have the form in which ufw prints them. Otherwise, they would be added again in every run."""

import pytest
from conftest import plugin

ufw = plugin("modules/ufw_rules")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"port": 80}, "allow 80/tcp"),
        ({"port": "6000:6007"}, "allow 6000:6007/tcp"),
        ({"port": 51820, "proto": "udp"}, "allow 51820/udp"),
        ({"port": 22, "rule": "limit"}, "limit 22/tcp"),
        ({"port": 5432, "from": "10.0.0.0/8"}, "allow from 10.0.0.0/8 to any port 5432 proto tcp"),
        ({"port": 5432, "from": "10.1.2.3/8"}, "allow from 10.0.0.0/8 to any port 5432 proto tcp"),
        ({"port": 5432, "from": "10.1.2.3/32"}, "allow from 10.1.2.3 to any port 5432 proto tcp"),
        ({"port": 443, "from": "any"}, "allow 443/tcp"),
        ({"port": 443, "from": "2001:db8::1"}, "allow from 2001:db8::1 to any port 443 proto tcp"),
    ],
)
def test_rules_have_the_form_that_ufw_prints(rule, expected):
    assert ufw.port_rule(rule) == expected


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({}, "is not a valid rule"),
        ({"port": 0}, "port '0'"),
        ({"port": "http"}, "port 'http'"),
        ({"port": 1, "proto": "icmp"}, "must be tcp or udp"),
        ({"port": 1, "rule": "drop"}, "must be one of allow, deny, reject, limit"),
        ({"port": 1, "from": "10.0.0/8"}, "must be an address or network"),
    ],
)
def test_an_invalid_rule_is_reported(rule, message):
    with pytest.raises(ValueError, match=message):
        ufw.port_rule(rule)
