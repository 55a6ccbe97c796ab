#!/usr/bin/python
"""The ssh session by which Ansible came to this host, as a fact."""

DOCUMENTATION = r"""
module: session_info
short_description: The ssh session by which Ansible came to the host
description:
  - Finds the session also where sudo has removed C(SSH_CONNECTION) from the environment, so that roles which change sshd or the firewall
    never shut it out. It changes nothing.
"""

EXAMPLES = r"""
- name: Identify this ssh session
  flaskhost.flaskhost.session_info:
"""

RETURN = r"""
ansible_facts:
  description: The fact RV(ansible_facts.ssh_session).
  type: dict
  returned: always
  contains:
    ssh_session:
      description: The session.
      type: dict
      returned: always
      contains:
        address: {description: The client's address as this host sees it; empty if this is no ssh session., type: str, returned: always}
        port: {description: The port of this host that it uses; 0 if this is no ssh session., type: int, returned: always}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.session import ssh_session


def main():
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    address, port = ssh_session()
    module.exit_json(changed=False, ansible_facts={"ssh_session": {"address": address, "port": port}})


if __name__ == "__main__":
    main()
