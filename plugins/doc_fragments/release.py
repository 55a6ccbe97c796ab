"""The options that the modules of a release share."""


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  app:
    description: The app. The unit of a release is C(APP@ID.service).
    type: str
    required: true
  root:
    description: The app's directory on the host, such as C(/srv/APP). C(plugins/module_utils/layout.py) describes what is in it.
    type: path
    required: true
"""

    PAGE = r"""
options:
  host:
    description: The Host header, and the TLS server name.
    type: str
    default: localhost
  path:
    description: The path of the health page. An answer is healthy if its status is from 200 to 399.
    type: str
    default: /
  port:
    description: The port on which nginx serves the site.
    type: int
    default: 443
  answer_seconds:
    description: How many seconds one answer may take.
    type: float
    default: 5
"""

    HEALTH = r"""
options:
  successes:
    description: How many healthy answers in a row make the release healthy.
    type: int
    default: 3
  timeout_seconds:
    description: Within how many seconds they must come.
    type: float
    default: 60
"""

    HOLDER = r"""
options:
  holder:
    description: This run, as a holder of the deploy lock. The action plugin fills it in.
    type: dict
    default: {}
"""

    LOCK = r"""
options:
  lock_expires_seconds:
    description:
      - The age in seconds from which another run's lock is taken over, since that run has died.
      - A run on the same controller is known to have died when its process is gone; its lock is taken over at any age.
    type: int
    default: 1800
  dead_holder:
    description: The token of a holder that is known to have died. The action plugin fills it in.
    type: str
    default: ''
"""
