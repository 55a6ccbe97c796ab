#!/usr/bin/python
"""Documentation of the action plugin `collections_check`, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: collections_check
short_description: Check that the required collections are installed
description:
  - Compares the collections that are installed on the controller with the C(requirements.yml) of this collection.
  - Fails with one message that lists all missing and outdated collections, and the command that installs them.
  - It runs on the controller and does not connect to hosts.
author: The Flaskhost authors (@flaskhost)
options: {}
"""

EXAMPLES = r"""
- name: Check the required collections
  flaskhost.flaskhost.collections_check:
  run_once: true
"""

RETURN = r"""
missing:
  description: Names of collections that are not installed.
  type: list
  elements: str
  returned: always
  sample: [community.postgresql]
outdated:
  description: Names of collections whose version is too old.
  type: list
  elements: str
  returned: always
  sample: []
"""
