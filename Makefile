# The task list. `make` alone runs the bundled system; `make test` is what CI runs.

# CI builds without debug information, which halves its target directory and its link times.
PROFILE ?= $(if $(CI),ci,dev)
CARGO ?= cargo
RUN := $(CARGO) --locked

# What the conformance suites find goes here; the table has these columns.
VERDICTS := $(CURDIR)/target/guarantees
SUBJECTS := memory memory_retry_topics sqlite files amqp mqtt mqtt_3_1_1 kafka kinesis pubsub
TABLE := $(RUN) run -q -p msgkit-testing --profile $(PROFILE) --example guarantees --

# What is fuzzed, and for how many minutes each.
FUZZED := structured attributes trace names config url ingest stored
MINUTES ?= 1

.PHONY: demo test lint fmt clippy docs unit deny dashboard tools brokers foreign
.PHONY: bench bench-brokers bench-gate bench-build valgrind certify guarantees guarantees-check conformance mutants simulate \
	fuzz fuzz-check fuzz-tools $(FUZZED:%=fuzz-%)

## Runs the device platform; it prints its address.
demo:
	$(CARGO) run -p device-platform

## Everything: style, lints, documentation, all tests. Installs what is missing; fails where something did not run.
test: brokers foreign lint unit guarantees-check fuzz-check bench-gate dashboard
	@echo "make test: all ran"

## Style, lints, documentation, licences.
lint: fmt clippy docs deny

fmt:
	$(CARGO) fmt --all --check

clippy:
	$(RUN) clippy --workspace --all-targets --all-features --profile $(PROFILE) -- -D warnings

docs:
	RUSTDOCFLAGS="-D warnings" $(RUN) doc --workspace --no-deps --all-features --profile $(PROFILE)

# The suites write what they find for `guarantees-check`.
unit:
	MSGKIT_REQUIRE_BROKERS=1 MSGKIT_GUARANTEES=$(VERDICTS) CARGO="$(CARGO)" .ci/unit --locked --no-fail-fast --all-features --profile $(PROFILE)

## The table of guarantees, from what the conformance suites have found.
guarantees: conformance
	$(TABLE) $(VERDICTS) docs/guarantees.md $(SUBJECTS)

conformance:
	MSGKIT_REQUIRE_BROKERS=1 MSGKIT_GUARANTEES=$(VERDICTS) $(RUN) test --workspace --all-features --profile $(PROFILE) --test conformance

## Broken transports and pipelines, every one of which the suite must reject.
mutants:
	$(RUN) test -q -p msgkit-testing --profile $(PROFILE) --test mutants

## A system under seeded faults, crashes and restarts; `make simulate SEED=n` runs one seed again.
SEEDS ?= 10000
simulate:
	$(RUN) run -q --release -p msgkit-testing --example simulate -- $(if $(SEED),--seed $(SEED),$(SEEDS))

# After `unit`, which has run the suites.
guarantees-check:
	$(TABLE) --check $(VERDICTS) docs/guarantees.md $(SUBJECTS)

## Licences and advisories, where cargo-deny and its data are there.
deny:
	@if command -v cargo-deny >/dev/null 2>&1; then \
		cargo deny --offline check licenses bans sources; \
	else \
		echo "deny: not run, cargo-deny is not installed (cargo install cargo-deny)"; \
	fi

## The dashboard in headless Chromium, with an accessibility check. Screenshots go to target/dashboard.
dashboard: tools
	$(RUN) build -p device-platform --profile $(PROFILE)
	examples/device-platform/tests/dashboard/run.sh target/$(if $(filter ci,$(PROFILE)),ci,debug)/device-platform target/dashboard

## What the dashboard test needs besides Rust: Chromium (Debian package) and two npm packages.
tools:
	@command -v chromium >/dev/null 2>&1 || { apt-get update -q && apt-get install -y -q --no-install-recommends chromium; }
	@cd examples/device-platform/tests/dashboard && { [ -d node_modules ] || npm install --no-audit --no-fund --no-package-lock; }

## The brokers that the tests start (Debian packages, Kafka by Maven, the stand-ins for Kinesis and DynamoDB by npm, that for Pub/Sub by Go), without the services that come with them.
brokers:
	@.ci/brokers

## The libraries of others that the tests talk to: Python (venv) and npm packages, below target/foreign.
FOREIGN := target/foreign
foreign: $(FOREIGN)/python/installed $(FOREIGN)/node/installed

$(FOREIGN)/python/installed: certification/foreign/requirements.txt | brokers
	@python3 -c 'import ensurepip, venv' 2>/dev/null || { apt-get update -q && apt-get install -y -q --no-install-recommends python3-venv; }
	python3 -m venv $(@D)
	$(@D)/bin/pip install -q -r $<
	@touch $@

$(FOREIGN)/node/installed: certification/foreign/package.json | brokers
	@mkdir -p $(@D)
	cp $< $(@D)/
	npm install --prefix $(@D) --no-audit --no-fund --no-package-lock
	@touch $@

## The brokers killed, restarted and cut off, members killed and exchanged, under MESSAGES messages: a ledger for each fault.
## `make certify BROKER=rabbitmq FAULT=broker_killed SEED=7` is one of them. Each fault happens TIMES times; OUTAGE is in seconds.
MESSAGES ?= 20000
TIMES ?= 5
OUTAGE ?= 30
certify: brokers
	$(RUN) run -q -p msgkit-certification --profile $(PROFILE) --bin certify -- run --messages $(MESSAGES) --times $(TIMES) \
		--outage $(OUTAGE) $(if $(BROKER),--broker $(BROKER)) $(if $(FAULT),--fault $(FAULT)) $(if $(SEED),--seed $(SEED))

## msgkit beside its peer: instructions, allocations, wall time, the SQLite transport, and the transports beside their raw clients
## on real brokers; into target/bench/report.json.
bench: bench-build
	cd benchmarks && $(BENCHED)/bench-report messages
	$(RUN) build -q --release -p msgkit-transport-sqlite --example throughput
	cd benchmarks && $(BENCHED)/bench-report sqlite --example $(BENCHED)/examples/throughput
	$(MAKE) bench-brokers

## Only the last of these; `make bench-brokers ONLY=amqp/consume` only the scenarios that begin so, ROUNDS=3 fewer rounds.
ROUNDS ?= 7
bench-brokers: brokers
	cd benchmarks && CARGO_TARGET_DIR=$(dir $(BENCHED)) $(CARGO) build --profile shipped --locked --features brokers --bin bench-brokers
	cd benchmarks && $(dir $(BENCHED))shipped/bench-brokers --only "$(ONLY)" --rounds $(ROUNDS)

## Fails where msgkit takes more instructions per message, beside its peer's in the same run, than benchmarks/gate.toml allows.
bench-gate: bench-build
	cd benchmarks && $(BENCHED)/bench-report gate

BENCHED := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/release
bench-build: valgrind
	cd benchmarks && CARGO_TARGET_DIR=$(dir $(BENCHED)) $(CARGO) build --release --locked

valgrind:
	@command -v valgrind >/dev/null 2>&1 || { apt-get update -q && apt-get install -y -q --no-install-recommends valgrind libc6-dbg; }


## Fuzzes every decoder, MINUTES each, one after the other; `make fuzz-trace` one of them. Fails where a promise does not hold:
## the input is then in fuzz/artifacts.
fuzz: $(FUZZED:%=fuzz-%)

# Without a sanitizer a stable toolchain will do, and there is no `unsafe` of ours to watch. What it finds to be new ground
# goes to fuzz/found, which the next run continues from.
$(FUZZED:%=fuzz-%): fuzz-%: fuzz-tools
	@mkdir -p fuzz/found/$*
	$(CARGO) fuzz run --fuzz-dir fuzz -s none $* fuzz/found/$* fuzz/corpus/$* -- -dict=fuzz/words/$*.dict \
		-max_total_time=$$((60 * $(MINUTES))) -max_len=16384 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0

fuzz-tools:
	@$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-fuzz

## The corpus of the fuzzer and a few thousand mutations of it, the same in every run; needs no fuzzer.
fuzz-check:
	cd fuzz && $(CARGO) fmt --check
	cd fuzz && CARGO_TARGET_DIR=../target $(RUN) clippy --all-targets --profile $(PROFILE) -- -D warnings
	cd fuzz && CARGO_TARGET_DIR=../target $(RUN) test --profile $(PROFILE)
