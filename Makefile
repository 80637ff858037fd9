# Every developer task. `make help` lists them. Each installs what it needs and does not find (Debian 12, root).
SHELL := /bin/bash
.DEFAULT_GOAL := help

SET_UP := integration/set-up
# Static binaries: see .cargo/config.toml.
BUILT := $(or $(CARGO_TARGET_DIR),target)/x86_64-unknown-linux-gnu
# What images and lab consist of.
PARTS := $(addprefix --package ,weft-router weft-ipam weft-dns weft-docker-proxy weft weft-images weft-lab)
LAB := $(BUILT)/release/weft-lab

.PHONY: help
help: ## List all targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build all programs, for developing
	@$(SET_UP) build
	# With the tests, because their dependencies' features would otherwise have everything compiled twice.
	cargo build --workspace --bins --tests

.PHONY: release
release: ## Build all programs, for running
	@$(SET_UP) build
	cargo build --release $(PARTS)

.PHONY: images
images: release ## Write weft's images to weft-images.tar, for `docker load`
	$(BUILT)/release/weft-images --binaries $(BUILT)/release --output weft-images.tar

.PHONY: demo
demo: ## Show weft at work on three Docker hosts made on this machine
	@$(SET_UP) lab
	@$(MAKE) --no-print-directory release
	@$(LAB) demo

.PHONY: demo-down
demo-down: ## Take the demo's hosts down
	@if [ -x $(LAB) ]; then $(LAB) down; else echo "nothing was built, so no demo is up"; fi

.PHONY: test
test: ## Check and test everything; CI runs this
	@$(SET_UP) lint test lab monitoring
	$(MAKE) lint deny test-fast lab

.PHONY: test-fast
test-fast: ## Test what needs no hosts
	@$(SET_UP) test monitoring
	cargo nextest run --workspace

.PHONY: lab
lab: build ## Test on lab hosts with real engines
	@$(SET_UP) test lab monitoring
	cargo nextest run --workspace --profile lab

.PHONY: lab-long
lab-long: build ## Test on lab hosts what takes too long for every day: 500 containers on one, every alert
	@$(SET_UP) test lab monitoring
	cargo nextest run --workspace --profile lab --run-ignored only --no-capture

.PHONY: clients
clients: build ## Drive Docker's own clients at the engine and through weft, compare, and write docs/docker.md
	@$(SET_UP) clients
	$(BUILT)/debug/weft-clients

.PHONY: sim
sim: ## Test many seeds of the simulation
	@$(SET_UP) test
	WEFT_SIM_SEEDS=$(or $(SEEDS),3000) cargo nextest run --package weft-sim --no-capture

.PHONY: fuzz
fuzz: ## Look for inputs that break a parser: SECONDS (60) for each of TARGETS (all)
	@$(SET_UP) fuzz
	integration/fuzz/run $(or $(SECONDS),60) $(TARGETS)

.PHONY: bench-quick
bench-quick: ## Compare the overlay with plain VXLAN and a userspace WireGuard, in one run
	@$(SET_UP) bench
	cargo build --release $(PARTS) --package weft-bench
	@$(BUILT)/release/weft-bench overlay

.PHONY: bench-docker
bench-docker: ## Compare the Docker API through weft with the engine's own socket
	@$(SET_UP) lab
	cargo build --release $(PARTS) --package weft-bench
	@$(BUILT)/release/weft-bench docker

.PHONY: bench-commands
bench-commands: ## Time the command on a host with 200 containers in a mesh of 40 peers
	@$(SET_UP) lab
	cargo build --release $(PARTS) --package weft-bench
	@$(BUILT)/release/weft-bench commands

.PHONY: proto
proto: ## Generate the code of the contracts anew
	WEFT_WRITE_GENERATED=1 cargo test -q -p weft-proto-generate

.PHONY: docs
docs: ## Write the pages that are made from definitions anew
	WEFT_WRITE_GENERATED=1 cargo test -q -p weft-docs
	WEFT_WRITE_GENERATED=1 cargo test -q -p weft-monitoring --test definitions grafanas

.PHONY: fmt
fmt: ## Format all code
	cargo fmt --all

.PHONY: lint
lint: ## Check formatting and lints, warnings denied
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

.PHONY: deny
deny: ## Check licences, bans and sources of all dependencies
	@$(SET_UP) lint
	cargo deny check licenses bans sources

.PHONY: clean
clean: ## Remove what was built, and what is left of labs
	@if [ -x $(LAB) ]; then $(LAB) down && $(LAB) clean; fi
	cargo clean
	rm -f weft-images.tar
