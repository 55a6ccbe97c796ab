# Every command a person types. `make` alone lists them.

STAGE ?= production
# the distributions of the test hosts: debian12, debian13, ubuntu22.04, ubuntu24.04, ubuntu26.04
OLDER ?= debian12
NEWER ?= debian13
PYTHON3 := $(firstword $(wildcard /usr/bin/python3) python3)
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# the machine's own certificate authorities: behind a proxy that inspects TLS, no others would do
CA_BUNDLE := $(wildcard /etc/ssl/certs/ca-certificates.crt)

# macOS has make 3.81, which looks for a program in its own PATH and not in this one: recipes call tools by their path
BIN := .venv/bin
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export UV_SYSTEM_CERTS := 1
export UV_NO_PROGRESS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
ifneq ($(CA_BUNDLE),)
export PIP_CERT ?= $(CA_BUNDLE)
export SSL_CERT_FILE ?= $(CA_BUNDLE)
endif
# a stage's secrets, and the password that opens them, which is each stage's own and not in the project
VAULT := inventories/$(STAGE)/group_vars/all/vault.yml
OWN_PASSWORD := $(HOME)/.config/flaskhost/vault-$(STAGE)
VAULT_PASSWORD := $(or $(wildcard $(OWN_PASSWORD)),$(ANSIBLE_VAULT_PASSWORD_FILE),$(OWN_PASSWORD))
# it is given to playbooks, and not to tests
WITH_VAULT := $(if $(wildcard $(VAULT_PASSWORD)),ANSIBLE_VAULT_PASSWORD_FILE='$(VAULT_PASSWORD)' )
PLAY := $(WITH_VAULT)$(BIN)/ansible-playbook -i inventories/$(STAGE)
# What was typed after make, as it was typed: an environment may have a NAME or a CMD for another purpose.
TYPED = $(if $(filter command,$(origin $1)),$(value $1))
# an installed uv is as good as our own
UV := $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)
LAB := molecule/lab/lab
LAB_FOLDER := $(or $(FLASKHOST_LAB),$(HOME)/.cache/flaskhost-lab)

.DEFAULT_GOAL := help
.PHONY: linux new sanity changelog help demo develop deploy release rollback certificate run backup restore bucket status doctor secrets test check check-host lint unit molecule test-faults test-containers test-collection test-servers test-hostile test-acme test-app test-recipes test-kills audit bench docs clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  deploy, release, rollback, certificate, run, backup, restore, bucket, status, doctor and secrets take STAGE=staging or any folder of"
	@echo "  inventories/; it is $(STAGE) if not given. ARGS='...' goes to ansible-playbook: make deploy ARGS='--check --diff'."

demo: linux .venv/ready ## a host of your own in a container, with the sample app deployed to it over ssh
	@$(LAB) up flaskhost-demo debian13 10.207.1.10 2222:22 8080:80 8443:443
	@$(BIN)/ansible-playbook -i inventories/demo deploy.yml
	@curl --silent --show-error --fail --insecure --output /dev/null https://localhost:8443/
	@echo
	@echo "  The sample app answers at https://localhost:8443/ (its certificate is self-signed: browsers warn)."
	@echo "  Change something in sample_app/, and run  make release STAGE=demo"
	@echo "  Look around on the host:                  ssh -p 2222 -i ~/.cache/flaskhost-lab/id_ed25519 root@localhost"
	@echo "  Remove all of it:                         make clean"

develop run: export FLASKHOST_RUN = $(call TYPED,CMD)
develop: .venv/ready ## the app on this machine, in the stage development; CMD=... for another process of it
	@$(WITH_VAULT)$(BIN)/ansible-playbook -i inventories/development playbooks/develop.yml
	@UV=$(abspath $(UV)) ~/.cache/flaskhost/develop

new: .venv/ready ## a repository of your own, with inventories, settings and a workflow: make new DIR=../mysite-deploy
	@[ -n "$(DIR)" ] || { echo "Name the directory to write: make new DIR=../mysite-deploy" >&2; exit 1; }
	@$(BIN)/ansible-playbook playbooks/new.yml --extra-vars '{"new_directory": "$(DIR)"}'

deploy: .venv/ready ## check, provision, release
	@$(PLAY) deploy.yml $(ARGS)

release: .venv/ready ## ship the app's current version to a host that is provisioned
	@$(PLAY) playbooks/release.yml $(ARGS)

rollback: .venv/ready ## activate the previous release again
	@$(PLAY) playbooks/rollback.yml $(ARGS)

certificate: .venv/ready ## ask Let's Encrypt for a certificate if one is due, and see that nginx serves it
	@$(PLAY) playbooks/certificate.yml $(ARGS)

run: .venv/ready ## a command in the live release: make run CMD='flask --app mysite db current'
	@$(PLAY) playbooks/run.yml $(ARGS)

backup: .venv/ready ## back up the app's database and files now
	@$(PLAY) playbooks/backup.yml $(ARGS)

restore: export FLASKHOST_RESTORE = $(call TYPED,NAME)
restore: .venv/ready ## bring a backup back: make restore NAME=latest; without a name, tell which there are
	@$(PLAY) playbooks/restore.yml $(ARGS)

bucket: .venv/ready ## a private bucket for the app's uploads, and a key that opens nothing else; with your own AWS key
	@$(PLAY) playbooks/s3_bucket.yml $(ARGS)

status: .venv/ready ## what is live, since when, who shipped it
	@$(PLAY) playbooks/status.yml $(ARGS)

secrets: .venv/ready ## write a stage's secrets, in a file that only its password opens
	@[ -e $(VAULT) ] || [ -e $(VAULT).example ] || { \
	  echo "STAGE is $(STAGE), which has no secrets to begin with: write $(VAULT).example, as inventories/production has it. Nothing was changed." >&2; exit 1; }
	@umask 077; mkdir -p $(dir $(VAULT_PASSWORD)); [ -e $(VAULT_PASSWORD) ] || { \
	  $(BIN)/python -c 'import secrets; print(secrets.token_urlsafe(32))' >$(VAULT_PASSWORD); \
	  echo "The password of $(STAGE)'s secrets is new, in $(VAULT_PASSWORD). Keep a copy: without it they are lost."; }
	@[ -e $(VAULT) ] || $(BIN)/python -c 'import secrets, sys; print(sys.stdin.read().replace("YOUR_SECRET_KEY", secrets.token_hex(32)), end="")' \
	  <$(VAULT).example | ANSIBLE_VAULT_PASSWORD_FILE=$(VAULT_PASSWORD) $(BIN)/ansible-vault encrypt --output $(VAULT) -
	@ANSIBLE_VAULT_PASSWORD_FILE=$(VAULT_PASSWORD) $(BIN)/ansible-vault edit $(VAULT)

doctor: .venv/ready ## what is wrong with a host, or soon will be, and what to do about it
	@$(PLAY) playbooks/doctor.yml $(ARGS)

test: linux lint unit molecule ## all tests (about an hour)

check: linux .venv/ready ## what to run while you work: lint, unit tests, and a bare host that is deployed to (about 5 minutes)
	@$(MAKE) --no-print-directory --jobs --output-sync=target lint unit check-host

check-host: linux .venv/ready
	@FLASKHOST_NEWER=$(NEWER) $(LAB) test check

lint: .venv/ready ## ansible-lint, yamllint, ruff, and whether the generated docs are up to date
	@$(BIN)/yamllint --strict .
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/ansible-lint --offline -q
	@$(BIN)/python docs/generate.py --check

sanity: .cache/sanity/ready ## ansible-test sanity, galaxy-importer and antsibull-docs, on the collection as it is built (a few minutes)
	@.cache/sanity/bin/python tests/sanity/run.py

changelog: .cache/sanity/ready ## move the fragments of changelogs/fragments into CHANGELOG.md, for the version in galaxy.yml
	@.cache/sanity/bin/antsibull-changelog release

# ANSIBLE='ansible==12.*' runs them with that one; `make clean` brings back the pinned one
unit: .venv/ready ## tests that need no host: plugins, templates, the sample app's own
	@$(if $(ANSIBLE),$(UV) pip install --quiet --python $(BIN)/python '$(ANSIBLE)')
	@$(BIN)/pytest -q --numprocesses auto tests
	@cd sample_app && $(abspath $(UV)) run --quiet --no-project --isolated --with pytest --with-requirements requirements.txt python -m pytest -q

molecule: linux .venv/ready ## the roles on bare hosts in containers; samples of faults, servers, attacks, certificates, the installed collection, an app with all that it can have
	@FLASKHOST_OLDER=$(OLDER) FLASKHOST_NEWER=$(NEWER) $(LAB) test default
	@$(MAKE) --no-print-directory sample-faults
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target $(addprefix sample-,servers hostile app acme collection)

# each is one run after another, which leaves half of two processors idle: two at a time, but for faults, which happen at a certain moment
sample-%: linux .venv/ready
	@PYTEST_ADDOPTS='-m sample $(SAMPLE_OF_$*)' FLASKHOST_SAMPLE=-sample FLASKHOST_OLDER=$(OLDER) FLASKHOST_NEWER=$(NEWER) $(LAB) test $*
SAMPLE_OF_app := -k "production or picture"

test-app: linux .venv/ready ## an app with all that it can have: database, queue, workers, schedule, backups, two stages (about half an hour)
	@FLASKHOST_OLDER=$(OLDER) FLASKHOST_NEWER=$(NEWER) $(LAB) test app

test-recipes: linux .venv/ready ## the public apps of docs/recipes.md, from GitHub (about a quarter of an hour)
	@FLASKHOST_OLDER=$(OLDER) FLASKHOST_NEWER=$(NEWER) $(LAB) test recipes

test-faults: linux .venv/ready ## all that can go wrong, under load (about half an hour)
	@FLASKHOST_NEWER=$(NEWER) $(LAB) test faults

test-containers: linux .venv/ready ## the same with the app in a container, and what only a container can do (about an hour)
	@FLASKHOST_RUNTIME=container FLASKHOST_NEWER=$(NEWER) $(LAB) test faults

test-collection: linux .venv/ready ## the installed collection on bare hosts: each role alone, and a site from a repository of its owner's (about half an hour)
	@FLASKHOST_OLDER=$(OLDER) FLASKHOST_NEWER=$(NEWER) $(LAB) test collection

test-servers: linux .venv/ready ## every server on both hosts, and the way from one to another (about 20 minutes)
	@FLASKHOST_OLDER=$(OLDER) FLASKHOST_NEWER=$(NEWER) $(LAB) test servers

test-hostile: linux .venv/ready ## attacks by an app that was taken over, by builds, repositories and visitors (about an hour)
	@FLASKHOST_OLDER=$(OLDER) FLASKHOST_NEWER=$(NEWER) $(LAB) test hostile

test-acme: linux .venv/ready ## certificates from a CA of the lab's own: issued, renewed, refused, replaced; TLS judged by sslyze
	@FLASKHOST_OLDER=$(OLDER) FLASKHOST_NEWER=$(NEWER) $(LAB) test acme

test-kills: linux .venv/ready ## kill a run after every one of its tasks in turn (about two hours)
	@FLASKHOST_NEWER=$(NEWER) $(LAB) run molecule converge -s faults
	@FLASKHOST_NEWER=$(NEWER) $(LAB) run molecule/lab/kill_at_every_task.py release
	@FLASKHOST_NEWER=$(NEWER) $(LAB) run molecule/lab/kill_at_every_task.py first-deploy
	@FLASKHOST_NEWER=$(NEWER) $(LAB) run molecule destroy -s faults

# e.g. make bench BENCH='--deploys 0 --only gunicorn granian'; tests/bench/run.py --help has all
bench: linux .venv/ready ## our stack beside the usual tutorial's: docs/benchmarks.md (about an hour)
	@$(UV) sync --quiet --frozen --inexact --group bench
	@$(LAB) up flaskhost-bench $(NEWER) 10.207.3.20 22030:22
	@FLASKHOST_NEWER=$(NEWER) $(LAB) run tests/bench/run.py $(BENCH)
	@$(LAB) down flaskhost-bench

audit: linux .venv/ready ## others' tools judge a host that was just deployed; what they say goes to docs/security.md (about half an hour)
	@FLASKHOST_NEWER=$(NEWER) $(LAB) test audit
	@cp $(LAB_FOLDER)/audit/report.json docs/audit.json
	@$(BIN)/python docs/generate.py

docs: .venv/ready ## write the roles' READMEs and docs/variables.md anew, from the roles' specs and defaults
	@$(BIN)/python docs/generate.py

clean: ## remove what the commands above made: hosts, images, networks, tools
	@[ "$$(uname -s)" != Linux ] || $(LAB) clean
	@rm -rf .venv .uv .cache .ansible .pytest_cache .ruff_cache ~/.cache/flaskhost

# the lab's hosts are containers with systemd
linux:
	@[ "$$(uname -s)" = Linux ] || { \
	  echo "make $(MAKECMDGOALS) starts hosts in containers, which needs Linux. Run it on Debian or Ubuntu, or in a VM. Nothing was changed." >&2; exit 1; }

# -- the tools, pinned by uv.lock --------------------------------------------------------------------------------

.venv/ready: pyproject.toml uv.lock .python-version $(filter .uv/%,$(UV))
	@echo "Installing the tools that uv.lock names into .venv"
	@$(UV) sync --quiet --frozen --compile-bytecode
	@touch $@

.cache/sanity/ready: pyproject.toml uv.lock .python-version $(filter .uv/%,$(UV))
	@echo "Installing the tools of make sanity that uv.lock names into .cache/sanity"
	@UV_PROJECT_ENVIRONMENT=.cache/sanity $(UV) sync --quiet --frozen --only-group sanity
	@touch $@

.uv/bin/uv:
	@$(PYTHON3) -c 'import ensurepip' 2>/dev/null || command -v apt-get >/dev/null || { \
	  echo "$(PYTHON3) can't make a venv. Install uv (https://docs.astral.sh/uv/), then run this again." >&2; exit 1; }
	@$(PYTHON3) -c 'import ensurepip' 2>/dev/null || { \
	  echo "Installing python3-venv"; \
	  $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null; }
	@$(PYTHON3) -m venv .uv
	@.uv/bin/pip install --quiet uv
