# Every developer task. `make help` lists them.
SHELL := /bin/bash

.DEFAULT_GOAL := help

.PHONY: help
help: ## List all targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: proto
proto: ## Generate the code of the contracts anew
	WEFT_WRITE_GENERATED=1 cargo test -q -p weft-proto-generate

.PHONY: fmt
fmt: ## Format all code
	cargo fmt --all

.PHONY: lint
lint: ## Check formatting and lints, warnings denied
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
