# tarn: `make help` lists the targets.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --warn-undefined-variables --no-builtin-rules --no-print-directory

# Pinned tools. They live in .tools/bin and never in go.mod.
BUF_VERSION         := v1.75.0
PROTOC_GEN_GO       := v1.36.12
PROTOC_GEN_CONNECT  := v1.21.1
STATICCHECK_VERSION := v0.8.2
GOVULNCHECK_VERSION := v1.9.0
# Newer ones need modules that proxies do not serve.
NFPM_VERSION        := v2.45.0
TOOLS := $(CURDIR)/.tools/bin
TARN  := bin/tarn

# KEEP=1 leaves the demo's cluster running; SCRAPE=dir saves every /metrics of it;
# STORAGE=zfs gives its hosts real pools, as root (packages: see deploy/README.md);
# PACE=10 makes all its times ten times as long, for slow machines.
KEEP    ?=
SCRAPE  ?=
PACE    ?=
STORAGE ?= dir
# How long a fuzz target runs.
FUZZTIME ?= 20s
# How long the chaos test writes and kills.
CHAOS ?= 60s
# How long make chaos begins schedules of faults, how long it uses the API while leaders
# die, and what it draws from (default: something new each time).
CHAOS_TIME ?= 10m
CHAOS_API  ?= 5m
CHAOS_TIMEOUT ?= 24h
SEED ?=
GOTESTFLAGS ?=
# Where make deb puts the package, and as which version.
DIST        ?= bin
DEB_VERSION ?= 0.0~$(shell git log -1 --date=format:%Y%m%d%H%M%S --format=%cd.%h 2>/dev/null || echo dev)

.PHONY: help
help: ## Print this list.
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-15s %s\n", $$1, $$2}'

.PHONY: build
build: ## Build bin/tarn.
	go build -trimpath -o $(TARN) ./cmd/tarn

.PHONY: deb
deb: build $(TOOLS)/nfpm-$(NFPM_VERSION) ## Build the Debian package into DIST.
	@mkdir -p $(DIST)
	VERSION='$(DEB_VERSION)' ARCH=$$(go env GOARCH) SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || echo 0) \
	  $(TOOLS)/nfpm package --config deploy/package/nfpm.yaml --packager deb --target $(DIST)

.PHONY: demo
demo: build ## Start a cluster of real processes and walk through what tarn does.
	./$(TARN) demo --storage $(STORAGE) $(if $(KEEP),--keep) $(if $(SCRAPE),--scrape $(SCRAPE)) $(if $(PACE),--pace $(PACE))

.PHONY: test
test: deps vet lint arch $(TOOLS)/nfpm-$(NFPM_VERSION) ## All checks and tests with the race detector.
	go test -race -timeout 30m $(GOTESTFLAGS) $$(go list ./... | grep -v '^tarn/test') ./test/adoption ./test/divergence ./test/deploy

.PHONY: shorttest
shorttest: ## Tests in short mode, without the race detector.
	go test -short $(GOTESTFLAGS) ./...

.PHONY: test-kernel
test-kernel: ## The tests of test/vm/suites on a kernel with OpenZFS, in a virtual machine.
	@test/install kernel
	test/vm/test

.PHONY: demo-kernel
demo-kernel: ## The demo on the kernel's ZFS, in a virtual machine: 12 to 17 minutes.
	@test/install kernel
	test/vm/demo

.PHONY: e2e
e2e: build ## Real binaries on loopback: CLI scripts, 200 shares, chaos, lost control nodes.
	TARN_E2E=1 go test -count=1 -timeout 30m -v ./test/e2e $(GOTESTFLAGS) -args -chaos $(CHAOS)

.PHONY: chaos
chaos: build ## Real processes in network namespaces, and every fault at random, as root: CHAOS_TIME=10m SEED=n.
	@test/install chaos || true
	TARN_CHAOS=1 TARN_BINARY=$(CURDIR)/$(TARN) go test -count=1 -timeout $(CHAOS_TIMEOUT) -v ./test/chaos $(GOTESTFLAGS) -args -chaos $(CHAOS_TIME) -api $(CHAOS_API) $(if $(SEED),-seed $(SEED))

.PHONY: slow
slow: e2e ## Everything that takes minutes: e2e, then the large property tests.
	TARN_SLOW=1 go test -count=1 -timeout 45m ./raftfsm/... ./controlplane/... ./zfs/... ./agent/...

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME.
	@go list ./... | while read -r pkg; do \
	  { go test -list '^Fuzz' "$$pkg" || true; } | { grep '^Fuzz' || true; } | while read -r target; do \
	    echo "== $$pkg $$target"; go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$pkg"; \
	  done; done

.PHONY: bench
bench: ## The figures of docs/benchmarks.md.
	go test -run "^$$" -bench . -benchtime 1x -timeout 60m ./zfs/dirzfs ./agent/replicate ./controlplane/schedule ./controlplane/reconcile ./controlplane/api ./raftfsm ./controlplane/consensus ./controlplane

.PHONY: bench-zfs
bench-zfs: ## The figures of real ZFS beside the plain pipe, syncoid and zrepl.
	@test/install kernel
	test/bench/zfs

.PHONY: vet
vet: ## go vet.
	go vet ./...

.PHONY: lint
lint: $(TOOLS)/staticcheck ## Formatting and staticcheck.
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "gofmt:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(TOOLS)/staticcheck ./...

# Not part of CI: it needs the vulnerability database, which a machine without a way to the
# Internet does not reach. VULNDB names a copy, as in VULNDB=file:///srv/vulndb.
VULNDB ?= https://vuln.go.dev
.PHONY: vulncheck
vulncheck: $(TOOLS)/govulncheck-$(GOVULNCHECK_VERSION) ## Known vulnerabilities in what tarn calls; says so if the database cannot be reached.
	@out=$$($(TOOLS)/govulncheck -db $(VULNDB) ./... 2>&1) && code=0 || code=$$?; printf '%s\n' "$$out"; \
	  if [[ $$out == *"fetching vulnerabilities"* ]]; then echo "vulncheck: did NOT run: $(VULNDB) cannot be reached"; exit 0; fi; exit $$code

$(TOOLS)/govulncheck-$(GOVULNCHECK_VERSION):
	GOBIN=$(TOOLS) go install golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION)
	@touch $@

.PHONY: arch
arch: ## Import arrows and forbidden calls.
	go test -count=1 ./test

.PHONY: dash
dash: ## Check dashboards, alert rules and metric names.
	go test -count=1 ./metrics/...

.PHONY: generate
generate: tools-proto ## Regenerate the protobuf and Connect code.
	PATH=$(TOOLS):$$PATH buf format -w
	PATH=$(TOOLS):$$PATH buf lint
	PATH=$(TOOLS):$$PATH buf generate

.PHONY: checkgenerate
checkgenerate: generate ## Fail if the generated code is not what the .proto files say.
	@test -z "$$(git status --porcelain -- proto)" || { git --no-pager diff --stat -- proto; git status --short -- proto; \
	  echo "generated code differs: run make generate and commit"; exit 1; }

# The Debian packages that tests use stand in test/packages. What stays missing is
# skipped by its tests, which say so.
.PHONY: deps
deps:
	@test/install test || true

.PHONY: tools-proto
tools-proto: $(TOOLS)/buf-$(BUF_VERSION) $(TOOLS)/gen-$(PROTOC_GEN_GO)-$(PROTOC_GEN_CONNECT)

$(TOOLS)/buf-$(BUF_VERSION):
	GOBIN=$(TOOLS) go install github.com/bufbuild/buf/cmd/buf@$(BUF_VERSION)
	@touch $@

$(TOOLS)/gen-$(PROTOC_GEN_GO)-$(PROTOC_GEN_CONNECT):
	GOBIN=$(TOOLS) go install google.golang.org/protobuf/cmd/protoc-gen-go@$(PROTOC_GEN_GO)
	GOBIN=$(TOOLS) go install connectrpc.com/connect/cmd/protoc-gen-connect-go@$(PROTOC_GEN_CONNECT)
	@touch $@

$(TOOLS)/nfpm-$(NFPM_VERSION):
	GOBIN=$(TOOLS) go install github.com/goreleaser/nfpm/v2/cmd/nfpm@$(NFPM_VERSION)
	@touch $@

$(TOOLS)/staticcheck:
	GOBIN=$(TOOLS) go install honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK_VERSION)

.PHONY: clean
clean: ## Remove what was built; the tools stay.
	rm -rf bin
