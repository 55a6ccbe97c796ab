#!/usr/bin/python
"""The documentation of the action plugin `container_image`, which runs on the controller and on the host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_image
short_description: Bring an app's image to a host
description:
  - Builds an image with podman on the controller, once for all hosts, and copies it to each host that does not have it. Only layers that the host does
    not have are copied.
  - With O(pulled), it uses an image that the host has pulled.
  - The directories of O(shared) become links in the image, which lead to the app's data.
  - C(ROOT/venvs/KEY/) describes the image. C(image.json) is its configuration, C(image) its ID, and C(complete) exists when the image is complete.
  - The Dockerfile is not trusted. Its build has a time limit, no git, and not the controller's own network.
author: The Flaskhost authors (@flaskhost)
options:
  root:
    description: The app's directory, such as C(/srv/APP).
    type: path
    required: true
  group:
    description: The group that may read the description of the image.
    type: str
    required: true
  key:
    description: The name of the description in C(ROOT/venvs).
    type: str
    required: true
  image:
    description: The name of the image on the host.
    type: str
    required: true
  pulled:
    description: The ID of an image that the host has pulled. If it is empty, the image is built.
    type: str
    required: true
  archive:
    description: The packed source, on the controller. M(flaskhost.flaskhost.app_source) returns it.
    type: path
    required: true
  file:
    description: The path of the Dockerfile in the source.
    type: str
    required: true
  build_args:
    description: Build arguments by name.
    type: dict
    required: true
  build_options:
    description: More options of C(podman build).
    type: list
    elements: str
    required: true
  cache:
    description: A directory on the controller for images on their way.
    type: path
    required: true
  shared:
    description: Directories of the image's C(WORKDIR) that the app writes to.
    type: list
    elements: str
    required: true
  state:
    description: The directory of the app's data, on the host and in the container.
    type: path
    required: true
"""

EXAMPLES = r"""
- name: Bring the image to the host
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
