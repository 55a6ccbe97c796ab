#!/usr/bin/python
"""The documentation of the action plugin `app_source`, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: app_source
short_description: Identify an app's source and pack it
description:
  - Finds the version of an app's source and packs the source into an archive on the controller. It connects to no host.
  - A git URL is known by its commit. A directory is known by the hash of its content, so the same content is always the same version. In a git
    work tree, files that git ignores are left out.
  - In one run of Ansible, the same URL and version give the same commit on every host, even if the branch moves meanwhile.
  - The source is not trusted. Nothing of it runs on the controller, git reads no configuration of it that names a program, and each member of the
    archive is checked. Messages contain no credentials.
author: The Flaskhost authors (@flaskhost)
options:
  source:
    description: A git URL, or a directory on the controller. A relative path is relative to the inventory or the working directory.
    type: str
    required: true
  version:
    description: Of a git URL, the branch, tag or commit. If it is empty, the default branch.
    type: str
    default: ''
  folder:
    description: The directory of the source that holds the app. If it is empty, the whole source is the app.
    type: str
    default: ''
  cache:
    description: A directory on the controller for clones and archives.
    type: path
    required: true
  needs:
    description:
      - The settings C(app_processes), C(app_server) and C(app_release_command). The module fails if they name process types that the source's C(Procfile)
        does not have.
      - If it is not set, the C(Procfile) is not checked.
    type: dict
"""

EXAMPLES = r"""
- name: Find the source
  flaskhost.flaskhost.app_source:
    source: https://git.example.com/you/mysite.git
    version: v1.4
    cache: ~/.cache/flaskhost/source
  register: source
"""

RETURN = r"""
version:
  description: The short commit, or the hash of the content. With O(folder), it is the version of that directory.
  type: str
  returned: success
  sample: 1a2b3c4d5e
commit:
  description: The whole commit. It is empty if the source is a directory.
  type: str
  returned: success
folder:
  description: The directory that holds the app.
  type: str
  returned: when the source is a directory
archive:
  description: The path of the archive, a C(tar.gz) file on the controller.
  type: str
  returned: success
files:
  description: All paths in the archive.
  type: list
  elements: str
  returned: success
links:
  description: The target of each symbolic link in the archive.
  type: dict
  returned: success
dependency_file:
  description: The first of C(uv.lock), C(requirements.txt), C(pyproject.toml) and C(setup.py) that the source has. It is empty if there is none.
  type: str
  returned: success
dependencies:
  description: A digest. Two sources with the same digest need the same venv.
  type: str
  returned: success
procfile:
  description: The text of the C(Procfile), or null if there is none.
  type: str
  returned: success
commands:
  description: The commands of the C(Procfile) by process type.
  type: dict
  returned: when O(needs) is set
"""
