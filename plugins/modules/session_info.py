#!/usr/bin/python
"""Return the SSH session that Ansible uses as a fact."""

DOCUMENTATION = r"""
module: session_info
short_description: Return the SSH session that Ansible uses
description:
  - Finds the session even if sudo has removed C(SSH_CONNECTION) from the environment. Roles that change sshd or the firewall use it to
    avoid locking out the operator. It changes nothing.
author: The Flaskhost authors (@flaskhost)
"""

EXAMPLES = r"""
- name: Find the SSH session
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
        address: {description: The client's address as seen by the host. Empty if there is no SSH session., type: str, returned: always}
        port: {description: The port on the host. 0 if there is no SSH session., type: int, returned: always}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flaskhost.flaskhost.plugins.module_utils.session import ssh_session


def main():
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    address, port = ssh_session()
    module.exit_json(changed=False, ansible_facts={"ssh_session": {"address": address, "port": port}})


if __name__ == "__main__":
    main()
