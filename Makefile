# The four commands of this project. See README.md.
.PHONY: demo test check bench sim model

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

# Random runs of the protocol under virtual time; tests/README.md. FROM=n begins at another seed.
SEEDS ?= 100000
FROM ?= 0
sim:
	SIM_SEEDS=$(SEEDS) SIM_FROM=$(FROM) cargo test -p albireo-tests --test simulation random_runs -- --nocapture

# The protocol in the small, every state; further than `make test` goes.
model:
	cargo test -p albireo-tests --test model -- --include-ignored --nocapture --test-threads 1

bench:
	@echo "There are no benchmarks yet. 'DEMO_KILLS=20 make demo' shows the gaps of twenty kills." >&2
	@exit 1
