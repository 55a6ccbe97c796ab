from conftest import plugin

names_of_machine = plugin("filter/inventory").names_of_machine


def test_apps_share_a_machine_if_they_have_its_address_and_port():
    hosts = {
        "shop": {"ansible_host": "192.0.2.7"},
        "blog": {"ansible_host": "192.0.2.7", "ansible_port": 22},
        "jail": {"ansible_host": "192.0.2.7", "ansible_port": "2222"},
        "jail-too": {"ansible_host": "192.0.2.7", "ansible_port": 2222},
        "192.0.2.8": {},
    }
    assert names_of_machine("blog", list(hosts), hosts) == ["shop", "blog"]
    assert names_of_machine("jail", list(hosts), hosts) == ["jail", "jail-too"]
    assert names_of_machine("192.0.2.8", list(hosts), hosts) == ["192.0.2.8"]
