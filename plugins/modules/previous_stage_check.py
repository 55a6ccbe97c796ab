#!/usr/bin/python
"""Documentation of the action plugin `previous_stage_check`, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: previous_stage_check
short_description: Warn about a version that the previous stage never ran
description:
  - Checks on the hosts of another stage, such as staging, whether they ever ran a version, and prints a warning if they did not.
  - It never fails, because an operator may have to repair production while staging is unreachable.
author: The Flaskhost authors (@flaskhost)
options:
  stage:
    description: The stage to check. It is the name of a directory next to the inventory.
    type: str
    required: true
  version:
    description: The version, as M(flaskhost.flaskhost.app_source) returns it.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Warn about a version that staging never ran
  flaskhost.flaskhost.previous_stage_check:
    stage: staging
    version: "{{ source.version }}"
  run_once: true
"""

RETURN = r"""
word:
  description: The warning, or an empty string if there is none.
  type: str
  returned: always
"""
