# One command each; every target runs what the README names.
PYTHON := .venv/bin/python

.PHONY: setup check quick quick-checks quick-halves-1 quick-halves-2 fuzz mutants bench lock artifacts demo

setup:            ## make the checkout ready (Python packages, Node.js, Kubo)
	scripts/setup --kubo

check:            ## everything CI checks
	scripts/test

quick:            ## the one-minute loop on a checkout that is set up: format, lint, types, layers, unit tests
	@$(MAKE) --no-print-directory --output-sync=target -j 2 quick-checks quick-halves-1 quick-halves-2

# Two halves of the unit tests, which take about as long as each other.
HALF := basemodel engine services training audit
quick-checks:
	scripts/test --no-setup format lint types layers
quick-halves-1:
	.venv/bin/pytest $(HALF:%=tests/unit/%) -m 'not compiles'
quick-halves-2:
	.venv/bin/pytest tests/unit $(HALF:%=--ignore=tests/unit/%) -m 'not compiles'

fuzz:             ## the long runs: forge invariants by the million calls, 1,000 Hypothesis histories
	cd contracts && FOUNDRY_PROFILE=fuzz node_modules/@foundry-rs/forge-*/bin/forge test
	VIZ_HYPOTHESIS=fuzz .venv/bin/pytest tests/properties --timeout=7200

mutants:          ## mutate the contracts and report which mutants the tests kill
	$(PYTHON) scripts/mutants.py

# Not here: what needs a GPU (gpu_check) or the works to look at (teaching, wordings).
bench:            ## the committed benchmarks, printed as tables
	for file in $(filter-out %/gpu_check.py %/teaching.py %/wordings.py,$(wildcard benchmarks/*.py)); do \
	  echo "== $$file"; $(PYTHON) $$file || exit 1; done

lock:             ## resolve requirements/*.txt again from pyproject.toml
	scripts/lock

artifacts:        ## compile the contracts into node/viz/chain/artifacts
	$(PYTHON) scripts/compile_contracts.py

demo:             ## the whole main job on real parts
	scripts/demo
