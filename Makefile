# The four commands of this project. See README.md.
.PHONY: demo test check bench deb sim model chaos fuzz

# The kill test on loopback with real servers; DEMO_ONCE=1 exits afterwards, DEMO_KILLS=20 kills twenty times.
demo:
	@tests/install-packages demo
	cargo build --workspace --bins
	@cargo run --quiet -p albireo-tests --bin demo

# Every test, real servers included; ends with the number of tests skipped and why.
test:
	@tests/install-packages test
	@tests/run-tests

# Format, lints, documentation, licences.
check:
	@tests/check

# A Debian package with the programs, their services and the documentation.
deb:
	@tests/install-packages demo
	@conf/deb/build

# Random runs of the protocol under virtual time; tests/README.md. FROM=n begins at another seed.
SEEDS ?= 100000
FROM ?= 0
sim:
	SIM_SEEDS=$(SEEDS) SIM_FROM=$(FROM) cargo test -p albireo-tests --test simulation random_runs -- --nocapture

# The protocol in the small, every state; further than `make test` goes.
model:
	cargo test -p albireo-tests --test model -- --include-ignored --nocapture --test-threads 1

# Real faults on hosts of their own (network namespaces; root), and a table of what clients saw; tests/README.md.
# Redis Sentinel is hurt, too, to compare with. ONLY=name,... runs some of the scenarios; SEED, ROUNDS of each, SECONDS of
# random faults in a round.
SEED ?= 1
ROUNDS ?= 2
SECONDS ?= 30
ONLY ?=
chaos:
	@tests/install-packages test
	CHAOS_SEED=$(SEED) CHAOS_ROUNDS=$(ROUNDS) CHAOS_SECONDS=$(SECONDS) CHAOS_ONLY=$(ONLY) \
		cargo test -p albireo-tests --test chaos all_scenarios -- --ignored --nocapture

# Bytes that no parser may break at; tests/README.md. ONLY=name,... runs some of the targets, each for SECONDS; KEEP=1 adds
# what was reached for the first time to the inputs that the tests replay.
KEEP ?=
fuzz: SECONDS = 600
fuzz:
	@FUZZ_TIME=$(SECONDS) FUZZ_ONLY=$(ONLY) FUZZ_KEEP=$(KEEP) tests/fuzz/run

# Side by side in one run, ratios first; bench/README.md. ONLY="name ..." runs some of the benchmarks.
bench:
	@tests/install-packages bench
	cargo build --release --workspace --bins
	@cargo run --release --quiet --bin bench -- $(ONLY)
