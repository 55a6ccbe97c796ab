#!/usr/bin/python
"""Documentation of the action plugin `container_image`, which runs on the controller and on the host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_image
short_description: Build an app's image and copy it to a host
description:
  - Builds an image with podman on the controller, once for all hosts, and copies it to each host that does not have it. Only the layers
    that are missing on the host are copied.
  - With O(pulled), uses an image that the host has already pulled.
  - The directories in O(shared) become symbolic links in the image that point to the app's data.
  - C(ROOT/venvs/KEY/) describes the image. C(image.json) is its configuration, C(image) its ID, and C(complete) marks it as complete.
  - The Dockerfile is not trusted. Its build has a time limit, cannot run git, and cannot use the controller's own network.
author: The Flaskhost authors (@flaskhost)
options:
  root:
    description: The app's directory, such as C(/srv/APP).
    type: path
    required: true
  group:
    description: The group that can read C(ROOT/venvs/KEY).
    type: str
    required: true
  key:
    description: The name of the directory in C(ROOT/venvs) that describes the image.
    type: str
    required: true
  image:
    description: The name of the image on the host.
    type: str
    required: true
  pulled:
    description: The ID of an image that the host has pulled. If empty, the image is built.
    type: str
    required: true
  archive:
    description: The archive of the source on the controller, as returned by M(flaskhost.flaskhost.app_source).
    type: path
    required: true
  file:
    description: The path of the Dockerfile in the source.
    type: str
    required: true
  build_args:
    description: Build arguments and their values.
    type: dict
    required: true
  build_options:
    description: Additional options for C(podman build).
    type: list
    elements: str
    required: true
  cache:
    description: A directory on the controller for temporary files.
    type: path
    required: true
  shared:
    description: Directories in the image's C(WORKDIR) that the app writes to.
    type: list
    elements: str
    required: true
  state:
    description: The directory of the app's data, on the host and in the container.
    type: path
    required: true
"""

EXAMPLES = r"""
- name: Copy the image to the host
  flaskhost.flaskhost.container_image:
    root: /srv/shop
    group: shop
    key: 0123456789ab
    image: localhost/shop:0123456789ab
    pulled: ''
    archive: "{{ source.archive }}"
    file: Dockerfile
    build_args: {}
    build_options: []
    cache: ~/.cache/flaskhost/images
    shared: [instance]
    state: /var/lib/shop
"""

RETURN = r"""
msg:
  description: Why the image could not be built or copied, without credentials.
  type: str
  returned: failure
"""
