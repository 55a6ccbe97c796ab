#!/usr/bin/python
"""The documentation of the action plugin `stage_before`, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stage_before
short_description: Warn about a version that the previous stage never ran
description:
  - Asks the hosts of another stage, such as staging, whether they ever ran a version, and warns if they did not.
  - It never fails. An operator who can't reach staging may still need to repair production.
author: The Flaskhost authors (@flaskhost)
options:
  stage:
    description: The stage to ask. It is the name of a directory beside the inventory.
    type: str
    required: true
  version:
    description: The version, as M(flaskhost.flaskhost.app_source) returns it.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Warn about a version that staging never ran
  flaskhost.flaskhost.stage_before:
    stage: staging
    version: "{{ source.version }}"
  run_once: true
"""

RETURN = r"""
word:
  description: The warning. It is empty if there is none.
  type: str
  returned: always
"""
