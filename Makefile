# `make` prints this list. Everything runs from a fresh clone on Linux with Go;
# what touches the network runs in network namespaces and needs root.
.DEFAULT_GOAL := help
SHELL := /bin/bash

TOOL := go tool -modfile=hack/tools/go.mod
VERSION ?= $(shell cat VERSION)
COMMIT := $(shell git describe --match= --always --abbrev=12 --dirty=+dirty 2>/dev/null || echo unknown)
DAEMON := github.com/belfrylb/belfry/internal/daemon
LDFLAGS := -s -w -X $(DAEMON).version=$(VERSION) -X $(DAEMON).commit=$(COMMIT)
# Without it, gRPC's request tracing (gobgp has gRPC, which we never serve)
# keeps the linker from leaving unused methods out: 20 MB in the speaker.
TAGS := grpcnotrace
# Modules of their own, whose dependencies are none of the product's.
APART := hack/image hack/manifests hack/monitoring
LAB := go run ./hack/lab/cmd/lab
# What is tested on the wire goes one after the other, as its timings want the
# machine for themselves; what waits for API servers goes beside it.
WIRE := /hack/lab|/internal/(layer2/link|election/membership|bgp|bfd)

.PHONY: help
help: ## Print this help
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build all binaries, static and stripped, into bin/
	CGO_ENABLED=0 go build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' -o bin/belfry-controller ./cmd/controller
	CGO_ENABLED=0 go build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' -o bin/belfry-speaker ./cmd/speaker
	CGO_ENABLED=0 go build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' -o bin/kubectl-belfry ./cmd/kubectl-belfry

.PHONY: image
image: ## Write the container image for all platforms as dist/belfry.tar, and those for the lab (no Docker needed)
	go -C hack/image run . --version $(VERSION) --output $(CURDIR)/dist

.PHONY: release
release: ## Make all files of a release in dist/release: programs, image, chart, bills of materials, checksums (SNAPSHOT=1: of any tree)
	go run ./hack/release $(if $(SNAPSHOT),--snapshot)

.PHONY: reproducible
reproducible: ## Make a release of HEAD twice, the second elsewhere and without anything built before, and compare every byte
	@dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; set -e; \
	git clone --quiet . "$$dir/one"; git clone --quiet . "$$dir/elsewhere/two"; \
	$(MAKE) -C "$$dir/one" release SNAPSHOT=1; \
	GOCACHE="$$dir/cache" $(MAKE) -C "$$dir/elsewhere/two" release SNAPSHOT=1 >/dev/null; \
	diff -r "$$dir/one/dist/release" "$$dir/elsewhere/two/dist/release"; \
	echo "both are the same"

.PHONY: vuln
vuln: ## Look for known vulnerabilities in what is called; asks vuln.go.dev, or a copy of it (GOVULNDB=file:///...)
	@$(TOOL) govulncheck $(if $(GOVULNDB),-db $(GOVULNDB)) ./cmd/...; status=$$?; \
	if [ $$status -eq 1 ]; then \
		echo "make vuln could not look: it needs the vulnerability database at https://vuln.go.dev."; \
		echo "Where that cannot be reached, take https://vuln.go.dev/vulndb.zip there from elsewhere, unpack it,"; \
		echo "and say where it is: make vuln GOVULNDB=file:///path/of/the/directory"; \
	fi >&2; exit $$status

.PHONY: demo
demo: ## Bring up a cluster of namespaces, expose a Service, kill its owner, show the timeline (KEEP=1 leaves it up)
	$(LAB) demo $(if $(KEEP),--keep)

.PHONY: e2e
e2e: ## Install the image and manifests on nodes with kubelets; use, update, drain, break and remove it, and tell what was lost
	$(LAB) e2e $(if $(KEEP),--keep)

.PHONY: planned
planned: ## Make N rounds of planned changes on one cluster, after a power cut, and tabulate what each lost (default 5)
	$(LAB) e2e --planned $(or $(N),5)

.PHONY: test
test: deps lint check ## Install what the tests need, then run all of them with the race detector
	go build -race ./...
	@$(MAKE) --no-print-directory --keep-going --jobs=2 wire rest

.PHONY: wire
wire: ## Of `make test`, what is tested on the wire (needs root)
	go test -race -p 1 -timeout 30m $$(go list ./... | grep -E '$(WIRE)')

.PHONY: rest
rest: ## Of `make test`, the rest; then ten thousand seeds of the simulation (the race detector leaves time for a thousand)
	@failed=; \
	go test -race -p 1 -timeout 30m $$(go list ./... | grep -vE '$(WIRE)') || failed=1; \
	for dir in $(APART); do echo "go -C $$dir test ./..."; go -C $$dir test -count=1 -timeout 10m ./... || failed=1; done; \
	go test ./internal/sim || failed=1; \
	[ -z "$$failed" ]

.PHONY: unit
unit: ## Run the tests that need neither root nor the lab
	go test -race -short ./...

.PHONY: deps
deps: ## Install the Debian packages and build the Kubernetes programs that the lab needs (once)
	$(LAB) deps
	$(LAB) build

.PHONY: bench
bench: ## Measure what docs/performance.md reports, in one run
	go run ./hack/bench

.PHONY: soak
soak: ## Look for takeovers without a cause: busy processors, 5 % loss, stopped speakers (SOAK='--for 2m')
	go run ./hack/soak $(SOAK)

.PHONY: fuzz
fuzz: ## Fuzz every parser for FUZZTIME each (default 20s)
	hack/fuzz.sh $(or $(FUZZTIME),20s)

.PHONY: mutants
mutants: ## Count the small errors in the packages that decide that their short tests do not notice (MUTANTS='--sample 200')
	go run ./hack/mutants $(MUTANTS)

.PHONY: lint
lint: ## gofumpt, go vet, staticcheck, deadcode, and actionlint of the workflows
	@out=$$($(TOOL) gofumpt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "not formatted (make format):"; echo "$$out"; exit 1; fi
	$(TOOL) actionlint -shellcheck= -pyflakes= .github/workflows/*.yaml
	go vet ./...
	$(TOOL) staticcheck ./...
	@echo deadcode; out=$$($(TOOL) deadcode -test ./...) || exit; if [ -n "$$out" ]; then echo "no program and no test calls these:"; echo "$$out"; exit 1; fi
	@for dir in $(APART); do (cd $$dir && go vet ./... && go tool -modfile=$(CURDIR)/hack/tools/go.mod staticcheck ./...) || exit; done

.PHONY: format
format: ## Format all Go code
	$(TOOL) gofumpt -w $$(git ls-files '*.go')

.PHONY: generate
generate: ## Regenerate deepcopy, clients, CRDs, manifests/belfry.yaml and the chart's copies, and the list of licenses
	hack/generate.sh
	go run ./hack/release --licenses

.PHONY: check
check: ## Check that generated files and go.mod are current
	hack/generate.sh --check
	go mod tidy -diff
	@for dir in $(APART); do go -C $$dir mod tidy -diff || exit; done

.PHONY: clean
clean: ## Remove build results and what dead lab runs left behind
	rm -rf bin dist
	$(LAB) down --all
