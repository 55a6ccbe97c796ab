#!/usr/bin/python
"""Documentation of the action plugin `settings_check`, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: settings_check
short_description: Check the settings of all hosts before any host is touched
description:
  - Checks the settings of all hosts in the play, and reports all problems in one message. Each problem has the setting, its value, what is
    allowed, and the file and line to change.
  - Types and choices come from the roles' argument specs. The module also reports placeholders that were not replaced, unknown names,
    settings that conflict with each other, and settings that do not match the app's source.
  - It runs on the controller and does not connect to hosts. Values of secrets are not shown.
author: The Flaskhost authors (@flaskhost)
options:
  facts:
    description:
      - Names of variables that are not settings, but that the rules use, such as the registered result of an earlier task.
      - The rule of V(app_source) uses C(app_source_found), the return value of M(flaskhost.flaskhost.app_source).
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Pack the source
  flaskhost.flaskhost.app_source:
    source: "{{ app_source }}"
    cache: ~/.cache/flaskhost/source
  register: app_source_found
  failed_when: false

- name: Check the settings
  flaskhost.flaskhost.settings_check:
    facts: [app_source_found]
  run_once: true
"""

RETURN = r"""
msg:
  description: A list of all problems.
  type: str
  returned: failure
"""
