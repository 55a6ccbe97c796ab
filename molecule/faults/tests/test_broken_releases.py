"""Releases that can't work: the run reports the cause and the fix, stops the release and marks it as bad. The previous release keeps
serving, and visitors notice nothing."""

import time

import pytest

pytestmark = pytest.mark.usefixtures("load")

PAGES = "sample_app/pages.py"
FACTORY = "sample_app/__init__.py"
CHECK = "    db.session.execute(db.select(Entry.id).limit(1))"
# true in /healthz if the request came through nginx, and not over the release's own socket
ONCE_LIVE = "    if request.headers.get('X-Real-IP'):\n"


def test_a_syntax_error(fault):
    """The code has a syntax error: the run shows the error."""
    fault.append(PAGES, "\ndef broken(:\n")
    fault.is_rejected("SyntaxError: invalid syntax", app_release_command="")


@pytest.mark.sample
def test_a_missing_module(fault):
    """The code imports a module that doesn't exist: the run names the module and points to the dependencies."""
    fault.append(PAGES, "\nimport nothing_of_this_name\n")
    fault.is_rejected("ModuleNotFoundError: No module named 'nothing_of_this_name'", "dependencies", app_release_command="")


@pytest.mark.venv
def test_an_undeclared_dependency(fault):
    """The code imports a package that the app's requirements don't list: the run names the package."""
    fault.edit("requirements.txt", new="Flask\n")
    fault.is_rejected("No module named 'flask_migrate'")


@pytest.mark.venv
def test_an_unsatisfiable_requirement(fault):
    """The requirements ask for a version that doesn't exist: the build of the venv fails, and the run shows the conflict."""
    fault.append("requirements.txt", "Flask>=99\n")
    fault.is_rejected("Build the venv", "flask>=99", "your requirements are unsatisfiable", "Fix the app's dependencies")


@pytest.mark.venv
def test_a_package_that_does_not_build(fault):
    """The build of a package fails: the run shows its output."""
    fault.edit("broken-package/setup.py", new="raise SystemExit('this package needs a compiler')\n")
    fault.append("requirements.txt", "./broken-package\n")
    fault.is_rejected("Build the venv", "this package needs a compiler")


@pytest.mark.venv
def test_an_unreachable_package_index(fault):
    """The package index is down: the run names its URL."""
    fault.append("requirements.txt", "# another venv\n")
    fault.is_rejected(
        "Build the venv",
        "https://127.0.0.1:9/simple",
        "Check that the host can connect to the server in this message",
        python_venv_index_url="https://127.0.0.1:9/simple",
    )


def test_an_app_that_exits_at_startup(fault):
    """The app exits each time it starts: the run shows its final log lines."""
    fault.append(FACTORY, "\nraise SystemExit('no licence found')\n")
    fault.is_rejected("/healthz did not respond", "no licence found", app_release_command="", release_health_timeout_seconds=6)


def test_an_app_that_fails_for_visitors(fault):
    """The app is healthy on its own socket, and fails through nginx: the public check detects it, and the previous release is activated
    again."""
    fault.edit(PAGES, CHECK, f"{ONCE_LIVE}        abort(500)\n{CHECK}")
    fault.is_rejected("/healthz returned 500", live="was activated, but the activation was reverted")


def test_an_app_that_fails_after_its_activation(fault):
    """The app is healthy at first, and answers 500 some seconds after its activation: the previous release is activated again."""
    fault.edit(PAGES, "import os\n", "import os\nimport time\n\nLIVE_SINCE = []\n")
    fault.edit(
        PAGES,
        CHECK,
        f"{ONCE_LIVE}        LIVE_SINCE.append(time.time())\n        if time.time() > LIVE_SINCE[0] + 3:\n            abort(500)\n{CHECK}",
    )
    run = fault.is_rejected("/healthz returned 500; it was healthy before", live="but the activation was reverted", release_watch_seconds=9)
    assert run.reports("Activate the release and watch the site")


def test_an_app_that_exits_after_its_activation(fault, load):
    """The app is healthy at first, and exits some seconds after its activation: the previous release is activated again. Only POST requests
    that the app was processing fail, because nginx must not repeat them."""
    load.may_lose = load.posts_at_once
    fault.edit(PAGES, "import os\n", "import os\nimport threading\n")
    fault.edit(PAGES, CHECK, f"{ONCE_LIVE}        threading.Timer(2, lambda: os.kill(os.getppid(), 9)).start()\n{CHECK}")
    fault.is_rejected(
        "was activated, but the activation was reverted",
        live="the activation was reverted",
        app_release_command="",
        release_watch_seconds=8,
    )


def test_an_app_that_hangs_at_startup(fault):
    """The app hangs before it can answer a request: the health check fails after its time limit."""
    fault.append(PAGES, "\nimport time\ntime.sleep(3600)\n")
    fault.is_rejected("/healthz did not respond within 5 seconds", app_release_command="", release_health_timeout_seconds=6)


@pytest.mark.sample
def test_a_health_page_that_answers_500(fault):
    """The health page answers 500: the run shows the status and the app's log lines."""
    fault.edit(PAGES, CHECK, "    raise RuntimeError('the mail server is down')")
    fault.is_rejected("/healthz returned 500", "RuntimeError: the mail server is down", release_health_timeout_seconds=10)


def test_a_missing_health_page(fault):
    """The app has no page at app_health_path: the run shows the status and names the setting."""
    fault.append(PAGES, "\n# another release\n")
    fault.is_rejected("/health-check returned 404", "app_health_path", app_health_path="/health-check", release_health_timeout_seconds=10)


def test_a_slow_health_page(fault):
    """The health page takes longer than release_health_answer_seconds: the run reports that it gave no answer in this time."""
    fault.edit(PAGES, CHECK, f"    import time; time.sleep(3)\n{CHECK}")
    fault.is_rejected("/healthz did not respond within 1 second", release_health_answer_seconds=1, release_health_timeout_seconds=10)


@pytest.mark.venv
def test_a_missing_app_factory(fault):
    """app_module names a function that the module doesn't have: the run names the function."""
    fault.append(PAGES, "\n# another release\n")
    fault.is_rejected("the app exited", "make_app", app_module="sample_app:make_app()", app_release_command="")


def test_a_release_command_that_fails(fault):
    """The release command fails: the run shows its output."""
    fault.append(PAGES, "\n# another release\n")
    fault.is_rejected("Run the release command", "the schema is not ready", app_release_command="echo the schema is not ready; exit 3")


@pytest.mark.sample
def test_a_migration_that_fails_halfway(fault):
    """A migration fails at its second step, and the first one can't be undone: the previous release keeps serving with the partly migrated
    schema."""
    fault.edit(
        "migrations/versions/a1_halfway.py",
        new=f"""revision = "a1"
down_revision = "2c1e5d7a9b40"

import sqlalchemy as sa
from alembic import op


def upgrade():
    op.create_table("halfway_{time.time_ns()}", sa.Column("id", sa.Integer, primary_key=True))
    op.execute("insert into nowhere values (1)")
""",
    )
    fault.is_rejected("Run the release command", "no such table: nowhere", "Check that app_release_command migrates the database")


@pytest.mark.venv
def test_a_memory_limit_that_is_too_low(fault):
    """The app needs more memory than its limit: the run recommends more memory."""
    fault.append(PAGES, "\nBALLAST = bytearray(2**30)\n")
    # this limit also works on the lab's kernels, and has the same effect on the app as others
    fault.is_rejected("the app", "Give the app more memory", systemd_service_lines=["LimitAS=800M"], app_release_command="")


def test_an_app_that_the_kernel_kills(fault):
    """The app is killed when it starts, as by the kernel when memory runs out: the run names the signal and recommends more memory."""
    fault.append(FACTORY, "\nimport os\nos.kill(os.getppid(), 9)\n")
    fault.is_rejected("the app was killed by signal 9", "Give the app more memory", app_release_command="")


def test_an_unknown_line_in_the_unit(fault):
    """systemd_service_lines has a typing error: the run names the line, which systemd itself would ignore."""
    fault.change()
    fault.is_rejected("systemd does not understand", "MemoryMaxx", systemd_service_lines=["MemoryMaxx=512M"])


@pytest.mark.venv
def test_a_python_that_is_too_old(fault):
    """The app requires a newer Python than the distribution has: the run names the required version."""
    fault.edit("requirements.txt", new="")
    (fault.source / "requirements.txt").unlink()
    fault.edit(
        "pyproject.toml",
        new='[project]\nname = "sample-app"\nversion = "1"\nrequires-python = ">=3.99"\n[tool.setuptools]\npackages = ["sample_app"]\n',
    )
    fault.is_rejected("Build the venv", ">=3.99")
