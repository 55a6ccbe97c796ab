#!/usr/bin/python
"""The documentation of the action plugin `settings_check`, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: settings_check
short_description: Check the settings of all hosts before any host is touched
description:
  - Checks the settings of all hosts of the play at once and reports all problems in one message. Each has the variable, its value, what is allowed,
    and the file and line to change.
  - Types and choices come from the roles' argument specs. It also reports placeholders that were not replaced, unknown names, values that do not fit
    together, and settings that do not fit the app's source.
  - It runs on the controller and connects to no host. Values of secrets are not shown.
author: The Flaskhost authors (@flaskhost)
options:
  facts:
    description:
      - Names of variables that are no settings, and that the rules read, such as what an earlier task has registered.
      - The rule of V(app_source) reads C(preflight_source), the return value of M(flaskhost.flaskhost.app_source).
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Find the source
  flaskhost.flaskhost.app_source:
    source: "{{ app_source }}"
    cache: ~/.cache/flaskhost/source
  register: preflight_source
  failed_when: false

- name: Check the settings
  flaskhost.flaskhost.settings_check:
    facts: [preflight_source]
  run_once: true
"""

RETURN = r"""
msg:
  description: All problems.
  type: str
  returned: failure
"""
