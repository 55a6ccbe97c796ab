#!/usr/bin/python
"""Documentation of the action plugin `app_source`, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: app_source
short_description: Identify an app's source and pack it
description:
  - Determines the version of an app's source, and packs the source into an archive on the controller. It does not connect to hosts.
  - The version of a git URL is its commit. The version of a directory is a hash of its content, so the same content always has the same
    version.
  - A git URL is packed like a checkout, with its submodules and, if git-lfs is installed on the controller, the files in Git LFS. The attributes
    C(eol) and C(working-tree-encoding) in C(.gitattributes) take effect, C(export-ignore), C(export-subst), C(ident) and C(filter) do not, and
    the operator's own git settings do not change the content. Submodules on other servers are fetched without the operator's credentials.
  - A directory is packed as it is. In a git working copy, files that git ignores are left out, and tracked files are never left out. Other files
    are left out if they belong to a virtual environment or a cache (a directory with C(pyvenv.cfg) or C(CACHEDIR.TAG), C(__pycache__),
    C(node_modules)), or if their name is C(.env) or C(.venv). Sockets, FIFOs and devices are skipped with a warning.
  - During one Ansible run, the same URL and version resolve to the same commit on every host, even if the branch moves in the meantime.
  - The source is not trusted. None of its code runs on the controller, git ignores configuration in it that names programs, and each member
    of the archive is checked. Messages contain no credentials.
author: The Flaskhost authors (@flaskhost)
options:
  source:
    description: A git URL, or a directory on the controller. A relative path is looked up from the inventory's directory and the working
      directory.
    type: str
    required: true
  version:
    description: The branch, tag or commit, for a git URL. If empty, the default branch is used.
    type: str
    default: ''
  directory:
    description: The directory in the source that contains the app. If empty, the whole source is the app.
    type: str
    default: ''
  cache:
    description: A directory on the controller for clones and archives.
    type: path
    required: true
  detect:
    description:
      - Whether to also detect the settings that the source determines, such as C(app_module). The source is read, but not imported.
      - The settings C(app_module), C(app_server), C(app_runtime) and C(app_shared) of the host influence what is detected.
    type: bool
    default: false
  procfile_settings:
    description:
      - The settings C(app_processes), C(app_server) and C(app_release_command). The module fails if they use process types that the
        source's C(Procfile) does not define, and if the dependencies have a problem.
      - If not set, the C(Procfile) is not checked.
    type: dict
  dependencies:
    description:
      - "The operator's settings for the venv: the dependency C(file), or an empty string to detect it; C(extras), C(groups), C(overrides)
        and C(extra) requirements."
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Pack the source
  flaskhost.flaskhost.app_source:
    source: https://git.example.com/you/mysite.git
    version: v1.4
    cache: ~/.cache/flaskhost/source
  register: source
"""

RETURN = r"""
version:
  description: The short commit, or the hash of the content. With O(directory), the version of that directory.
  type: str
  returned: success
  sample: 1a2b3c4d5e
commit:
  description: The full commit. Empty if the source is a directory.
  type: str
  returned: success
directory:
  description: The directory that contains the app.
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
  description: The file of the source that lists the app's dependencies. Empty if there is none.
  type: str
  returned: success
dependencies:
  description:
    - What the role C(python_venv) needs to build the venv. Sources with the same C(digest) use the same venv.
    - C(problems) lists what is wrong, C(ignored) other files that list dependencies, C(git) whether a package comes from a git server, and
      C(python) what the source says about its Python version.
  type: dict
  returned: success
procfile:
  description: The content of the C(Procfile), or null if there is none.
  type: str
  returned: success
detected:
  description:
    - The detected settings, with C(module), C(server), C(static), C(shared), C(release_command) and C(health_path) if the source determines them.
    - C(found_in) names the file of some of them, C(hints) has advice in words, and C(problem) explains why no app was found.
  type: dict
  returned: when O(detect) is true
commands:
  description: The commands of the C(Procfile) by process type.
  type: dict
  returned: when O(procfile_settings) is set
"""
