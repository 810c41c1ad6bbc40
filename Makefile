# Everything one types here. `make` alone says what there is.
# A fresh checkout needs Python 3.11 or 3.12 with pip, bash and make; the rest is installed into it.

BIN := .venv/bin
GATED := gateway/*,dispatcher/*,contract/*,tasks/*,ledger/*

.DEFAULT_GOAL := help
.PHONY: help setup weights demo up test chaos bench check lock audit clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

setup:  ## create the environments and build the models' weights; nothing to do: no time
	@standalone/setup.sh dev triton weights

weights:  ## build the models' weights again
	@standalone/setup.sh app
	@$(BIN)/python -m weights

demo:  ## start everything, classify the photographs of samples/, stay up (ONCE=1: then stop)
	@standalone/setup.sh app triton weights
	@exec $(BIN)/python -m tritonq.command.demo $(if $(ONCE),--once)

up:  ## start everything and stay up until Ctrl-C
	@standalone/setup.sh app triton weights
	@exec $(BIN)/tritonq up

test: setup  ## run all tests, on real servers (ARGS='-k name': some); 90 % of lines covered
	@$(BIN)/python -m pytest --cov --cov-report= $(ARGS)
	@$(if $(ARGS),,$(BIN)/coverage report --skip-covered --fail-under=90 --include=$(GATED))

chaos: setup  ## kill, freeze, cut off and fill up every process (SEED=1 CELLS='nats/kill/*': some)
	@$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(CELLS),--cells '$(CELLS)') \
	  $(if $(DOCUMENT),--document)
	@$(if $(CELLS),,SEED=$(or $(SEED),1) $(BIN)/python -m pytest -s -m chaos tests/chaos)

bench:  ## measure against Triton alone and a peer, write docs/performance.md (ROUNDS=5 ONLY='fp32/*')
	@standalone/setup.sh app triton weights bench
	@$(BIN)/python -m benchmarks $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(ONLY),--only '$(ONLY)') \
	  $(if $(QUICK),--quick)

check: setup  ## formatting, lint, types, layers, sizes and names
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy .
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest tests/house

lock:  ## pin the newest versions that pyproject.toml allows (requirements/*.lock)
	@standalone/lock.sh

audit: setup  ## ask which locked packages have known vulnerabilities (needs the internet)
	@standalone/audit.sh

clean:  ## remove environments, caches and built weights; the state of `up` (.tritonq) stays
	rm -rf .venv .venv-triton .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
	rm -rf model_repository/*/[0-9]*/
