# Each target does its own set-up on a fresh Debian or Ubuntu with python3 >= 3.11, git and make.
.DEFAULT_GOAL := help
.PHONY: help demo test bench rehearsal laboratory lint release

help:
	@echo 'MCP Chassis: a template for production MCP servers. Start with `make demo`.'
	@echo
	@echo '  make demo       render a server, start it, talk to it, show what happened'
	@echo '  make bench      measure costs and limits, compare with the goals (about 20 minutes; ARGS=--quick takes a good two)'
	@echo '  make rehearsal  replace replicas under load, lose no call (half an hour; ARGS=--quick takes three minutes)'
	@echo '  make laboratory  update lived-in projects of every release, count every line (a quarter of an hour)'
	@echo '  make lint       style, types, derived files, shell scripts (seconds)'
	@echo '  make test       lint, then every test (installs nginx, Redis, PostgreSQL, Prometheus and what else is missing)'
	@echo '  make release    cut the release VERSION=0.6.0, or say why not (ARGS=--dry-run changes nothing)'
	@echo
	@echo 'One test: scripts/setup.sh pytest tests/render -k slug'

demo:
	@scripts/setup.sh --demo-packages python scripts/demo.py

lint:
	@scripts/setup.sh python scripts/lint.py

bench:
	@scripts/setup.sh --bench-packages python -m bench $(ARGS)

rehearsal:
	@scripts/setup.sh --rehearsal-packages python -m rehearsal --stock $(ARGS)

release:
	@scripts/setup.sh python scripts/release.py '$(VERSION)' $(ARGS)

laboratory:
	@scripts/setup.sh python -m tests.update $(ARGS)

test:
	@scripts/setup.sh --test-packages python scripts/lint.py
	@scripts/setup.sh --test-packages python scripts/test.py
