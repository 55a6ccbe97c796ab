"""Options that the release modules share."""


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  app:
    description: The name of the app. The systemd unit of a release is C(APP@ID.service).
    type: str
    required: true
  root:
    description: The app's directory on the host, such as C(/srv/APP). C(plugins/module_utils/layout.py) describes its content.
    type: path
    required: true
"""

    PAGE = r"""
options:
  host:
    description: The Host header and TLS server name to send.
    type: str
    default: localhost
  path:
    description: The path of the health page. A response with a status from 200 to 399 is healthy, so a redirect is.
    type: str
    default: /
  port:
    description: The port on which nginx serves the site.
    type: int
    default: 443
  answer_seconds:
    description: Seconds to wait for each response.
    type: float
    default: 5
"""

    HEALTH = r"""
options:
  successes:
    description: Number of consecutive healthy responses after which the release counts as healthy.
    type: int
    default: 3
  timeout_seconds:
    description: Seconds to wait for the release to become healthy.
    type: float
    default: 60
"""

    HOLDER = r"""
options:
  holder:
    description: Identifies this run as a holder of the deploy lock. The action plugin sets it.
    type: dict
    default: {}
"""

    LOCK = r"""
options:
  lock_expires_seconds:
    description:
      - Age in seconds at which the lock of another run is taken over, because that run is assumed to have died.
      - If a run on the same controller holds the lock and its process no longer exists, the lock is taken over at any age.
    type: int
    default: 1800
  dead_holder:
    description: The token of a holder that has died. The action plugin sets it.
    type: str
    default: ''
"""
