# The two commands: `make demo` and `make test`. Both need only Python >= 3.11, make and a package index.
.DEFAULT_GOAL := help
.PHONY: help demo test test-chaos test-night lint docs audit format lock clean

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CLASSIC := $(VENV)/.classic-weights
DEMO := build/demo

export RAY_AUTH_MODE ?= disabled
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO ?= 0

help:
	@echo "make demo        package two sample products, draw, score and report their turntables"
	@echo "make test        unit and integration tests"
	@echo "make test-chaos  kills, several nodes, two runs at once, and whole servers and clusters"
	@echo "make test-night  what takes longest, and more kills: when there is time"
	@echo "make lint        ruff, mypy, import-linter"
	@echo "make lock        compile the lock files anew"

# uv is used when it is there, and installed into a small environment of its own when it is not.
UV := $(shell command -v uv 2>/dev/null)
ifeq ($(UV),)
UV := .uv/bin/uv
$(UV):
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check uv
endif

$(STAMP): requirements-cpu.lock pyproject.toml | $(UV)
	$(UV) venv --quiet --allow-existing --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV)
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes --compile-bytecode -r requirements-cpu.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps -e .
	touch $@

$(CLASSIC): $(STAMP)
	$(BIN)/gapray models pull classic
	@echo "compiling what rembg compiles at its first import" && $(BIN)/python -c "import rembg"
	touch $@

demo: $(CLASSIC)
	$(BIN)/gapray run samples/captures --truth samples/held_out --out $(DEMO)/catalog --report $(DEMO)/report
	@echo
	@echo "catalogue:     $(DEMO)/catalog"
	@printf "contact sheet: " && $(BIN)/gapray catalog sheet $(DEMO)/catalog --to $(DEMO)/contact_sheet.png
	@printf "eight frames:  " && $(BIN)/gapray catalog strip $(DEMO)/catalog --to $(DEMO)/turntable.jpg
	@echo "demo reel:" && $(BIN)/gapray reel $(DEMO)/catalog --truth samples/held_out --to $(DEMO)/reel.mp4
	@echo "report:        $(DEMO)/report/index.html"
	@echo "videos:" && ls $(DEMO)/catalog/files/videos/*/*/turntable.mp4

# Two processes of one thread each. What kills and counts processes runs alone.
TWO := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2 --dist loadfile

test: $(CLASSIC)
	$(TWO) -m "not chaos and not long and not gpu and not night"

test-chaos: $(CLASSIC)
	$(TWO) -m "long and not chaos and not gpu and not night" --durations=10
	$(BIN)/python -m pytest -m "chaos and not gpu and not night" --durations=25

test-night: $(CLASSIC)
	GAPRAY_CHAOS_KILLS=10 $(BIN)/python -m pytest -m "night and not gpu" --durations=25

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Broken links and unknown names end it with an error.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "site: build/site/index.html"

# Known vulnerabilities of what the lock installs; skipped with a reason where no database can be reached.
audit: | $(UV)
	$(PYTHON) tools/audit_lock.py requirements-cpu.lock

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

LOCK := $(UV) pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url --no-annotate --extra s3 --extra gcs --extra dev

lock: | $(UV)
	$(LOCK) --extra cpu -o requirements-cpu.lock
	$(LOCK) --extra gpu -o requirements-gpu.lock

clean:
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis
