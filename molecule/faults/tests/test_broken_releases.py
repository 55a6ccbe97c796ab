"""Releases that can't work: the run says what is wrong and what to do, the release is stopped and marked as bad, the one that
was live serves on, and visitors notice nothing.
"""

import time

import pytest

pytestmark = pytest.mark.usefixtures("load")

PAGES = "sample_app/pages.py"
FACTORY = "sample_app/__init__.py"
CHECK = "    db.session.execute(db.select(Entry.id).limit(1))"
# in /healthz: asked through nginx, not on the release's own socket
ONCE_LIVE = "    if request.headers.get('X-Real-IP'):\n"


def test_a_syntax_error(fault):
    """The code doesn't compile."""
    fault.append(PAGES, "\ndef broken(:\n")
    fault.is_refused("SyntaxError: invalid syntax", app_release_command="")


@pytest.mark.sample
def test_an_import_that_is_nowhere(fault):
    """A module is imported that isn't there."""
    fault.append(PAGES, "\nimport nothing_of_this_name\n")
    fault.is_refused("ModuleNotFoundError: No module named 'nothing_of_this_name'", "dependencies", app_release_command="")


@pytest.mark.venv
def test_a_dependency_that_was_forgotten(fault):
    """A package is used that the app's requirements don't name."""
    fault.edit("requirements.txt", new="Flask\n")
    fault.is_refused("No module named 'flask_migrate'")


@pytest.mark.venv
def test_a_requirement_that_can_not_be_met(fault):
    """The requirements ask for a version that doesn't exist."""
    fault.append("requirements.txt", "Flask>=99\n")
    fault.is_refused("Build the venv", "flask>=99", "your requirements are unsatisfiable", "Fix the app's dependencies")


@pytest.mark.venv
def test_a_package_that_can_not_be_built(fault):
    """A package's own build fails."""
    fault.edit("broken-package/setup.py", new="raise SystemExit('this package needs a compiler that is not here')\n")
    fault.append("requirements.txt", "./broken-package\n")
    fault.is_refused("Build the venv", "this package needs a compiler that is not here")


@pytest.mark.venv
def test_a_package_index_that_does_not_answer(fault):
    """The package index is down."""
    fault.append("requirements.txt", "# another venv\n")
    fault.is_refused(
        "Build the venv", "https://127.0.0.1:9/simple", "See that the host can reach it", python_venv_index_url="https://127.0.0.1:9/simple"
    )


def test_an_app_that_exits_at_boot(fault):
    """The app ends itself when it starts, again and again."""
    fault.append(FACTORY, "\nraise SystemExit('no licence found')\n")
    fault.is_refused("/healthz gave no answer", "no licence found", app_release_command="", release_health_timeout_seconds=6)


def test_a_site_that_fails_for_visitors(fault):
    """The app does well on its own socket, and badly through nginx: the public check fails, and the link goes back by itself."""
    fault.edit(PAGES, CHECK, f"{ONCE_LIVE}        abort(500)\n{CHECK}")
    fault.is_refused("/healthz answered 500", live="was live for a moment and is not any more")


def test_an_app_that_fails_after_a_while(fault):
    """The app answers well, and with 500 some seconds after it was activated: the link goes back by itself."""
    fault.edit(PAGES, "import os\n", "import os\nimport time\n\nLIVE_SINCE = []\n")
    fault.edit(
        PAGES,
        CHECK,
        f"{ONCE_LIVE}        LIVE_SINCE.append(time.time())\n        if time.time() > LIVE_SINCE[0] + 3:\n            abort(500)\n{CHECK}",
    )
    run = fault.is_refused("/healthz answered 500, after it had been healthy", live="and is not any more", release_watch_seconds=9)
    assert run.tells("Activate the release and watch the site")


def test_an_app_that_exits_a_little_later(fault, load):
    """The app answers well, and dies some seconds after it was activated: the link goes back by itself. Nobody else can answer a POST
    request that it had begun to process."""
    load.may_lose = load.posts_at_once
    fault.edit(PAGES, "import os\n", "import os\nimport threading\n")
    fault.edit(PAGES, CHECK, f"{ONCE_LIVE}        threading.Timer(2, lambda: os.kill(os.getppid(), 9)).start()\n{CHECK}")
    fault.is_refused("was live for a moment and is not any more", live="is not any more", app_release_command="", release_watch_seconds=8)


def test_an_app_that_hangs_at_boot(fault):
    """The app never gets as far as to answer."""
    fault.append(PAGES, "\nimport time\ntime.sleep(3600)\n")
    fault.is_refused("/healthz gave no answer within 5 seconds", app_release_command="", release_health_timeout_seconds=6)


@pytest.mark.sample
def test_a_health_page_that_says_500(fault):
    """The health page says that the app can't do its work."""
    fault.edit(PAGES, CHECK, "    raise RuntimeError('the mail server is not there')")
    fault.is_refused("/healthz answered 500", "RuntimeError: the mail server is not there", release_health_timeout_seconds=10)


def test_a_health_page_that_is_not_there(fault):
    """The app has no page at app_health_path."""
    fault.append(PAGES, "\n# another release\n")
    fault.is_refused("/health-check answered 404", "app_health_path", app_health_path="/health-check", release_health_timeout_seconds=10)


def test_a_health_page_that_is_too_slow(fault):
    """The health page takes longer than release_health_answer_seconds."""
    fault.edit(PAGES, CHECK, f"    import time; time.sleep(3)\n{CHECK}")
    fault.is_refused("/healthz gave no answer within 1 second", release_health_answer_seconds=1, release_health_timeout_seconds=10)


@pytest.mark.venv
def test_a_factory_that_is_not_there(fault):
    """app_module names a function that the module hasn't got."""
    fault.append(PAGES, "\n# another release\n")
    fault.is_refused("the app exited", "make_app", app_module="sample_app:make_app()", app_release_command="")


@pytest.mark.sample
def test_a_release_command_that_fails(fault):
    """The release command says no."""
    fault.append(PAGES, "\n# another release\n")
    fault.is_refused("Run the release command", "the schema is not ready", app_release_command="echo the schema is not ready; exit 3")


@pytest.mark.sample
def test_a_migration_that_fails_halfway(fault):
    """A migration fails at its second step, and the first can't be undone: the previous release goes on with what is there."""
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
    fault.is_refused("Run the release command", "no such table: nowhere", "See that app_release_command migrates it")


@pytest.mark.venv
def test_a_memory_limit_that_is_too_low(fault):
    """The app gets less memory than it needs."""
    fault.append(PAGES, "\nBALLAST = bytearray(2**30)\n")
    # a limit that the lab's kernels know too; the app meets it as it would meet any other
    fault.is_refused("the app", "Give it more memory", systemd_service_lines=["LimitAS=800M"], app_release_command="")


def test_an_app_that_the_kernel_kills(fault):
    """The app is killed when it starts, as the kernel does when memory runs out."""
    fault.append(FACTORY, "\nimport os\nos.kill(os.getppid(), 9)\n")
    fault.is_refused("the app was killed by signal 9", "Give it more memory", app_release_command="")


@pytest.mark.sample
def test_a_line_of_the_unit_that_systemd_does_not_know(fault):
    """systemd_service_lines has a typing error: systemd itself would pass over it in silence."""
    fault.change()
    fault.is_refused("systemd does not understand", "MemoryMaxx", systemd_service_lines=["MemoryMaxx=512M"])


@pytest.mark.venv
def test_a_python_that_is_too_old(fault):
    """The app asks for a newer Python than the distribution has."""
    fault.edit("requirements.txt", new="")
    (fault.source / "requirements.txt").unlink()
    fault.edit(
        "pyproject.toml",
        new='[project]\nname = "sample-app"\nversion = "1"\nrequires-python = ">=3.99"\n[tool.setuptools]\npackages = ["sample_app"]\n',
    )
    fault.is_refused("Build the venv", ">=3.99")
