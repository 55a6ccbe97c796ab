# All commands for operators and developers. `make` lists them.

STAGE ?= production
# the distributions of the test hosts: debian12, debian13, ubuntu22.04, ubuntu24.04, ubuntu26.04
OLDER ?= debian12
NEWER ?= debian13
PYTHON3 := $(firstword $(wildcard /usr/bin/python3) python3)
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# the controller's certificate authorities, which are required behind a proxy that inspects TLS
CA_BUNDLE := $(wildcard /etc/ssl/certs/ca-certificates.crt)

# make 3.81 on macOS looks for programs in the PATH that it was started with, not in this one: recipes call tools by their path
BIN := .venv/bin
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export UV_SYSTEM_CERTS := 1
export UV_NO_PROGRESS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
ifneq ($(CA_BUNDLE),)
export PIP_CERT ?= $(CA_BUNDLE)
export SSL_CERT_FILE ?= $(CA_BUNDLE)
endif
# Ansible ignores the file in a directory that every user can write to, unless it is named
export ANSIBLE_CONFIG ?= $(CURDIR)/ansible.cfg
# a stage's secrets and their password, which is stored outside the project and is different for each stage
VAULT := inventories/$(STAGE)/group_vars/all/vault.yml
OWN_PASSWORD := $(HOME)/.config/flaskhost/vault-$(STAGE)
VAULT_PASSWORD := $(or $(wildcard $(OWN_PASSWORD)),$(ANSIBLE_VAULT_PASSWORD_FILE),$(OWN_PASSWORD))
# playbooks get the password, tests do not
WITH_VAULT := $(if $(wildcard $(VAULT_PASSWORD)),ANSIBLE_VAULT_PASSWORD_FILE='$(VAULT_PASSWORD)' )
PLAY := $(WITH_VAULT)$(BIN)/ansible-playbook -i inventories/$(STAGE)
# A variable from the command line of make only: the environment may have a NAME or CMD for another purpose.
TYPED = $(if $(filter command,$(origin $1)),$(value $1))
# use the installed uv if there is one
UV := $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)
LAB := molecule/lab/lab
LAB_DIRECTORY := $(or $(FLASKHOST_LAB),$(HOME)/.cache/flaskhost-lab)

.DEFAULT_GOAL := help
.PHONY: linux new sanity changelog help demo detect develop deploy release rollback certificate run backup restore bucket status doctor secrets test check check-host lint unit molecule test-default test-faults test-containers test-collection test-servers test-hostile test-acme test-app test-recipes test-machine test-kills audit bench docs site clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  For deploy, release, rollback, certificate, run, backup, restore, bucket, status, doctor and secrets, STAGE=staging selects a directory of"
	@echo "  inventories/. The default is $(STAGE). ARGS='...' is passed to ansible-playbook: make deploy ARGS='--check --diff'."

demo: linux .venv/ready ## deploy the sample app over ssh to a demo host in a container; with VM=1, to a virtual machine
	@$(LAB) $(if $(call TYPED,VM),vm up flaskhost-demo ubuntu24.04,up flaskhost-demo debian13 10.207.1.10) 2222:22 8080:80 8443:443
	@$(BIN)/ansible-playbook -i inventories/demo deploy.yml
	@curl --silent --show-error --fail --insecure --output /dev/null https://localhost:8443/
	@echo
	@echo "  The sample app runs at https://localhost:8443/ (browsers warn about its self-signed certificate)."
	@echo "  Release a change in sample_app/:          make release STAGE=demo"
	@echo "  Log in to the host:                       ssh -p 2222 -i ~/.cache/flaskhost-lab/id_ed25519 root@localhost"
	@echo "  Remove the demo:                          make clean"

develop run: export FLASKHOST_RUN = $(call TYPED,CMD)
develop: .venv/ready ## run the app on this machine, in the stage development; CMD=... runs another of its processes
	@$(WITH_VAULT)$(BIN)/ansible-playbook -i inventories/development playbooks/develop.yml
	@UV=$(abspath $(UV)) ~/.cache/flaskhost/develop

detect: export FLASKHOST_SOURCE = $(call TYPED,SOURCE)
detect: .venv/ready ## show the settings that Flaskhost detects in an app's source: make detect SOURCE=../mysite
	@[ -n "$$FLASKHOST_SOURCE" ] || { echo "Name the source, a directory or a git URL: make detect SOURCE=../mysite" >&2; exit 1; }
	@ANSIBLE_VARS_ENABLED= $(BIN)/ansible-playbook -i localhost, playbooks/detect.yml $(ARGS)

new: .venv/ready ## write a repository with inventories, settings and a CI workflow: make new DIR=../mysite-deploy
	@[ -n "$(DIR)" ] || { echo "Name the directory to write: make new DIR=../mysite-deploy" >&2; exit 1; }
	@$(BIN)/ansible-playbook playbooks/new.yml --extra-vars '{"new_directory": "$(DIR)"}'

deploy: .venv/ready ## check the settings, provision the host, release the app
	@$(PLAY) deploy.yml $(ARGS)

release: .venv/ready ## release the app's current version to a provisioned host
	@$(PLAY) playbooks/release.yml $(ARGS)

rollback: .venv/ready ## activate the previous release
	@$(PLAY) playbooks/rollback.yml $(ARGS)

certificate: .venv/ready ## request a certificate from Let's Encrypt if one is due, and check that nginx serves it
	@$(PLAY) playbooks/certificate.yml $(ARGS)

run: .venv/ready ## run a command in the live release: make run CMD='flask --app mysite db current'
	@$(PLAY) playbooks/run.yml $(ARGS)

backup: .venv/ready ## back up the app's database and files now
	@$(PLAY) playbooks/backup.yml $(ARGS)

restore: export FLASKHOST_RESTORE = $(call TYPED,NAME)
restore: .venv/ready ## restore a backup: make restore NAME=latest; without NAME, list the backups
	@$(PLAY) playbooks/restore.yml $(ARGS)

bucket: .venv/ready ## create a private S3 bucket for uploads and an access key for it, with your own AWS key
	@$(PLAY) playbooks/s3_bucket.yml $(ARGS)

status: .venv/ready ## show the live release, when it was released and by whom
	@$(PLAY) playbooks/status.yml $(ARGS)

secrets: .venv/ready ## edit a stage's secrets in an encrypted file, which is created if it is missing
	@[ -e $(VAULT) ] || [ -e $(VAULT).example ] || { \
	  echo "STAGE is $(STAGE), but $(VAULT).example is missing. Write it, as in inventories/production. Nothing was changed." >&2; exit 1; }
	@umask 077; mkdir -p $(dir $(VAULT_PASSWORD)); [ -e $(VAULT_PASSWORD) ] || { \
	  $(BIN)/python -c 'import secrets; print(secrets.token_urlsafe(32))' >$(VAULT_PASSWORD); \
	  echo "A password for the secrets of $(STAGE) was generated in $(VAULT_PASSWORD). Keep a copy: without it, the secrets are lost."; }
	@[ -e $(VAULT) ] || $(BIN)/python -c 'import secrets, sys; print(sys.stdin.read().replace("YOUR_SECRET_KEY", secrets.token_hex(32)), end="")' \
	  <$(VAULT).example | ANSIBLE_VAULT_PASSWORD_FILE=$(VAULT_PASSWORD) $(BIN)/ansible-vault encrypt --output $(VAULT) -
	@ANSIBLE_VAULT_PASSWORD_FILE=$(VAULT_PASSWORD) $(BIN)/ansible-vault edit $(VAULT)

doctor: .venv/ready ## show a host's current and upcoming problems, each with its fix
	@$(PLAY) playbooks/doctor.yml $(ARGS)

test: linux lint unit molecule ## run lint, the unit tests and tests on hosts in containers (about an hour)

check: linux .venv/ready ## run lint, the fast unit tests and a deploy to a bare host, for use during development (about 6 minutes)
	@$(MAKE) --no-print-directory --jobs --output-sync=target lint unit check-host UNIT='-m "not slow"'

check-host: linux .venv/ready
	@FLASKHOST_NEWER=$(NEWER) $(LAB) test check

lint: .venv/ready ## run ansible-lint, yamllint, ruff and codespell, and check the language and the generated docs
	@$(BIN)/yamllint --strict .
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/ansible-lint --offline -q
	@$(BIN)/codespell
	@$(BIN)/python docs/language.py
	@$(BIN)/python docs/generate.py --check

sanity: .cache/sanity/ready ## run ansible-test sanity, galaxy-importer and antsibull-docs on the built collection (a few minutes)
	@.cache/sanity/bin/python tests/sanity/run.py

changelog: .cache/sanity/ready ## move changelogs/fragments into CHANGELOG.md, for the version in galaxy.yml
	@.cache/sanity/bin/antsibull-changelog release

# ANSIBLE='ansible==12.*' installs that version for the tests; run `make clean` to return to the pinned version. UNIT='-k backup' selects tests.
unit: .venv/ready ## run the tests that need no host: plugins, templates, the sample app
	@$(if $(ANSIBLE),$(UV) pip install --quiet --python $(BIN)/python '$(ANSIBLE)')
	@$(BIN)/pytest -q --numprocesses auto --dist loadfile $(call TYPED,UNIT) tests
	@cd sample_app && $(abspath $(UV)) run --quiet --no-project --isolated --with pytest --with-requirements requirements.txt python -m pytest -q

molecule: linux .venv/ready ## test the roles on bare hosts in containers: samples of the scenarios default, faults, servers, hostile, app, acme and collection
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target $(addprefix sample-,faults default servers hostile collection app acme)

# A scenario keeps about one of two processors busy, so two run in parallel.
sample-%: linux .venv/ready
	@PYTEST_ADDOPTS='-m sample $(SAMPLE_OF_$*)' FLASKHOST_SAMPLE=-sample FLASKHOST_OLDER=$(OLDER) FLASKHOST_NEWER=$(NEWER) $(LAB) test $*
SAMPLE_OF_app := -k production

test-default: linux .venv/ready ## test a deploy to bare hosts, reruns, releases, access and recovery (about 20 minutes)
	@FLASKHOST_OLDER=$(OLDER) FLASKHOST_NEWER=$(NEWER) $(LAB) test default

test-app: linux .venv/ready ## test an app with a database, a queue, workers, a schedule, backups and two stages (about half an hour)
	@FLASKHOST_OLDER=$(OLDER) FLASKHOST_NEWER=$(NEWER) $(LAB) test app

test-recipes: linux .venv/ready ## test the public apps of docs/recipes.md, from GitHub (about 45 minutes)
	@FLASKHOST_OLDER=$(OLDER) FLASKHOST_NEWER=$(NEWER) $(LAB) test recipes

test-faults: linux .venv/ready ## test the handling of faults, under load (about half an hour)
	@FLASKHOST_NEWER=$(NEWER) $(LAB) test faults

test-containers: linux .venv/ready ## test the handling of faults with the app in a container, and the features of containers (about an hour)
	@FLASKHOST_RUNTIME=container FLASKHOST_NEWER=$(NEWER) $(LAB) test faults

test-collection: linux .venv/ready ## test the installed collection on bare hosts: each role alone, and a site from its own repository (about half an hour)
	@FLASKHOST_OLDER=$(OLDER) FLASKHOST_NEWER=$(NEWER) $(LAB) test collection

test-servers: linux .venv/ready ## test every server on both hosts, and switching between servers (about 20 minutes)
	@FLASKHOST_OLDER=$(OLDER) FLASKHOST_NEWER=$(NEWER) $(LAB) test servers

test-hostile: linux .venv/ready ## test attacks by a compromised app, by builds, repositories and visitors (about an hour)
	@FLASKHOST_OLDER=$(OLDER) FLASKHOST_NEWER=$(NEWER) $(LAB) test hostile

test-acme: linux .venv/ready ## test certificates from a CA in the lab (issued, renewed, rejected, replaced), and TLS with sslyze
	@FLASKHOST_OLDER=$(OLDER) FLASKHOST_NEWER=$(NEWER) $(LAB) test acme

test-machine: linux .venv/ready ## test virtual machines with their own kernel: AppArmor, memory limits, reboots (slow without KVM)
	@FLASKHOST_PATIENCE=10 FLASKHOST_NEWER=$(if $(filter command,$(origin NEWER)),$(NEWER),ubuntu24.04) $(LAB) test machine

test-kills: linux .venv/ready ## kill a run after each of its tasks in turn (about two hours)
	@FLASKHOST_NEWER=$(NEWER) $(LAB) run molecule converge -s faults
	@FLASKHOST_NEWER=$(NEWER) $(LAB) run molecule/lab/kill_at_every_task.py release
	@FLASKHOST_NEWER=$(NEWER) $(LAB) run molecule/lab/kill_at_every_task.py first-deploy
	@FLASKHOST_NEWER=$(NEWER) $(LAB) run molecule destroy -s faults

# example: make bench BENCH='--deploys 0 --only gunicorn granian'; tests/bench/run.py --help lists all options
bench: linux .venv/ready ## compare Flaskhost with a typical tutorial setup: docs/benchmarks.md (about an hour)
	@$(UV) sync --quiet --frozen --inexact --group bench
	@$(LAB) up flaskhost-bench $(NEWER) 10.207.3.20 22030:22
	@FLASKHOST_NEWER=$(NEWER) $(LAB) run tests/bench/run.py $(BENCH)
	@$(LAB) down flaskhost-bench

audit: linux .venv/ready ## run audit tools on a new host, and write their results to docs/security.md (about half an hour)
	@FLASKHOST_NEWER=$(NEWER) $(LAB) test audit
	@cp $(LAB_DIRECTORY)/audit/report.json docs/audit.json
	@$(BIN)/python docs/generate.py

docs: .venv/ready ## generate docs/variables.md and the tables in other docs from the roles' specs and defaults
	@$(BIN)/python docs/generate.py

site: .cache/site/ready ## build the documentation as a site with search, in .cache/site-html
	@.cache/site/bin/python docs/site/build.py

clean: ## remove the hosts, images, networks and tools that these commands created
	@[ "$$(uname -s)" != Linux ] || $(LAB) clean
	@rm -rf .venv .uv .cache .ansible .pytest_cache .ruff_cache ~/.cache/flaskhost

# the lab's hosts are containers that run systemd
linux:
	@[ "$$(uname -s)" = Linux ] || { \
	  echo "make $(MAKECMDGOALS) starts hosts in containers, which needs Linux. Run it on Debian or Ubuntu, or in a VM. Nothing was changed." >&2; exit 1; }

# -- the tools, pinned by uv.lock --------------------------------------------------------------------------------

.venv/ready: pyproject.toml uv.lock .python-version $(filter .uv/%,$(UV))
	@echo "Installing the tools from uv.lock into .venv"
	@$(UV) sync --quiet --frozen --compile-bytecode
	@touch $@

.cache/sanity/ready: pyproject.toml uv.lock .python-version $(filter .uv/%,$(UV))
	@echo "Installing the tools for make sanity from uv.lock into .cache/sanity"
	@UV_PROJECT_ENVIRONMENT=.cache/sanity $(UV) sync --quiet --frozen --only-group sanity
	@touch $@

.cache/site/ready: pyproject.toml uv.lock .python-version $(filter .uv/%,$(UV))
	@echo "Installing the tools for make site from uv.lock into .cache/site"
	@UV_PROJECT_ENVIRONMENT=.cache/site $(UV) sync --quiet --frozen --only-group site
	@touch $@

.uv/bin/uv:
	@$(PYTHON3) -c 'import ensurepip' 2>/dev/null || command -v apt-get >/dev/null || { \
	  echo "$(PYTHON3) can't create a venv. Install uv (https://docs.astral.sh/uv/), then run this again." >&2; exit 1; }
	@$(PYTHON3) -c 'import ensurepip' 2>/dev/null || { \
	  echo "Installing python3-venv"; \
	  $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null; }
	@$(PYTHON3) -m venv .uv
	@.uv/bin/pip install --quiet uv
