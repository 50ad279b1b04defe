# Every verb of the project. `make` shows them.
.DEFAULT_GOAL := help
SHELL := /usr/bin/env bash
.PHONY: help build run demo test test-faults clients chart monitoring crash-long fuzz-long sim sim-long sim-mutations sim-shard trace-picture bench images test-compose test-containers test-k8s smoke verify verify-fmt verify-clippy verify-etcd verify-doc verify-tidy verify-deny advisories fix fix-fmt fix-clippy

help: ## Show this
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

build: ## Build the release binary: release/walser in the target directory
	cargo build --release -p walser

run: build ## Run a standalone server in the foreground, data in ./walser-data
	"$$(scripts/target_dir.sh)/release/walser" up

demo: build ## Send real records, read them back, check every byte (KEEP=1 leaves the server running)
	scripts/demo.sh

test: ## Install what the tests need and run them all
	scripts/test.sh

test-faults: ## Rows of the fault matrix on a cluster under load, a verdict each (ROW=n TIMES=10)
	scripts/faults.sh $(ROW)

clients: ## Build the programs in examples/ by the printed commands, and kill what they talk to (LANGS="go java")
	cargo build -p walser
	scripts/clients.sh $(LANGS)

chart: ## Check the Helm chart: lint, the schemas of Kubernetes, and its tests (TESTS="name name")
	scripts/chart.sh $(TESTS)

monitoring: ## Check alerts and dashboard of the chart: promtool, a firing and a quiet test of each alert, the documents
	scripts/monitoring.sh

crash-long: ## 1,000 kills under load instead of 100, and more power losses
	WALSER_KILLS=1000 WALSER_CRASH_SEEDS=50 scripts/test.sh kill_9 power_loss

fuzz-long: ## Fuzz the readers of foreign bytes for a million cases each
	WALSER_FUZZ_CASES=1000000 cargo test -p walser-record-batch --release

sim: ## Break the replication protocol, if it can be broken (SEED=n shows one seed; EVENTS=n)
	cargo run -q --release -p walser-sim -- $(if $(SEED),--seed $(SEED),--events $(or $(EVENTS),100000000))

sim-long: ## The same for HOURS=n, with a summary
	cargo run -q --release -p walser-sim -- --hours $(or $(HOURS),1) --from $(or $(FROM),1)

sim-mutations: ## Switch off the rules of the protocol one by one: some seed must notice (RULE=name shows one)
	cargo run -q --release -p walser-sim -- $(if $(RULE),--without $(RULE),--mutations)

sim-shard: ## Break the log under a storage node's shard, if it can be broken (SEED=n replays one seed; TURNS=n)
	$(if $(SEED),SEED=$(SEED)) WALSER_SHARD_TURNS=$(or $(TURNS),100000000) cargo test -q -p walser-storage-node --lib shard::simulation::acknowledged

trace-picture: ## Draw docs/pictures/trace.svg: the trace of one record, as a cluster tells it to a collector
	cargo build -q --release -p walser
	"$$(scripts/python.sh)" -m pip install -q --disable-pip-version-check 'opentelemetry-proto>=1.27'
	"$$(scripts/python.sh)" scripts/trace_picture.py "$$(scripts/target_dir.sh)/release/walser" docs/pictures/trace.svg

bench: build ## Measure this machine (RUNS=3 DURATION=10 PEER=kafka SCENARIO=rf3|failover|compaction|groups|group-admin)
	scripts/bench.sh

images: ## Build the image walser:dev and check it (BUILD=inside|outside)
	scripts/images.sh walser

test-compose: images ## Run both compose files, and take them down again
	scripts/test_compose.sh

test-containers: ## Run the images as a cluster of containers, and hurt it under load (IMAGES=1 makes them anew)
	scripts/test_containers.sh

test-k8s: ## Run the chart on a real Kubernetes of one node, and disturb it under load (as root; ONLY="standalone cluster tls")
	scripts/test_k8s.sh $(ONLY)

smoke: ## After make test: images, containers, compose files and Kubernetes, each where its tools are there
	scripts/smoke.sh

verify: verify-fmt verify-tidy verify-deny verify-clippy verify-doc ## Check formatting, structure, dependencies, lints and documentation

verify-fmt:
	cargo fmt --all --check

verify-tidy:
	cargo test -q -p walser-tidy

verify-deny:
	scripts/cargo_deny.sh --hide-inclusion-graph bans licenses sources

advisories: ## Check the dependencies against the RustSec advisories, which come from GitHub
	scripts/cargo_deny.sh advisories

verify-clippy:
	cargo clippy -q --workspace --all-targets -- -D warnings

verify-etcd: ## What `verify` leaves out because building it needs protoc
	PROTOC="$${PROTOC:-$(CURDIR)/scripts/protoc.sh}" \
	cargo clippy -q -p walser-metastore -p walser-controller -p walser --features walser/etcd --all-targets -- -D warnings

verify-doc:
	RUSTDOCFLAGS="-D warnings" cargo doc -q --workspace --no-deps

fix: fix-fmt fix-clippy ## The same, writing what can be written

fix-fmt:
	cargo fmt --all

fix-clippy:
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
