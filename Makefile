# `make demo` and `make test` work on a bare machine: they make .venv and install into it first.
PYTHON ?= python3
BIN := .venv/bin
# Without its notice that a successor of the theme is made.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: demo test docs quick soak zoo lvis-size results audit gpu-kit gpu clean

demo: .venv/.installed
	$(BIN)/bacl demo

test: .venv/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MKDOCS)
	$(BIN)/pytest -q -n 2 --dist loadgroup -m "not gpu"

# The site, into site/: every link and anchor is checked, and nothing may come from the internet.
docs: .venv/.installed
	$(MKDOCS)

quick: .venv/.installed
	$(BIN)/pytest -q -n 2 -m "not ray and not slow and not gpu"

# Known vulnerabilities of what constraints.txt pins, asked of a service on the internet. Strict,
# because pip-audit otherwise finds no vulnerability where the service knows no package.
audit: .venv/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[audit]"
	$(BIN)/pip-audit --strict --disable-pip --no-deps --timeout 15 -r constraints.txt

# About half an hour; SOAK="--faults worker,driver --rounds 1" makes it shorter.
soak: .venv/.installed
	$(BIN)/python tests/soak/soak.py $(SOAK)

# Every configuration of MMDetection's as a bank: half an hour. ZOO="'cascade-*'" tries some of them.
zoo: .venv/.installed
	$(BIN)/python tests/zoo/walk.py $(ZOO)

# What each step takes at LVIS v1's size: half an hour, 15 GB of disk. LVIS_SIZE="--folder DIR" keeps the files.
lvis-size: .venv/.installed
	$(BIN)/python tests/lvis_size/walk.py $(LVIS_SIZE)

# docs/results.md: the paper's tables, trained where the store lacks them. RESULTS="STORE --only embedded"
results: .venv/.installed
	$(BIN)/python tests/results/make.py $(or $(RESULTS),bacl_store)

# What a CUDA machine without internet lacks, as wheels; docs/benchmarks/gpu.md. KIT="--python 3.11" is for another.
gpu-kit: .venv/.installed
	$(BIN)/python tests/gpu/kit.py build $(KIT)

# On a CUDA machine, with its own Python and without .venv: GPU="--device cpu --small" needs no GPU.
gpu:
	$(PYTHON) tests/gpu/prove.py $(GPU)

clean:
	rm -rf .venv .gpu-kit .gpu-proof build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache

# Three OpenCV packages arrive (mmcv asks for one, imaug for two, BACL for one) and write to the same
# folder. Should the one that landed last need a libGL that the machine lacks, BACL's is put on top.
.venv/.installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) > /dev/null || { echo "bacl needs Python 3.10 to 3.13, and there is no '$(PYTHON)': install one, or name yours with 'make PYTHON=...'." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; (3, 10) <= sys.version_info[:2] <= (3, 13) or sys.exit("bacl needs Python 3.10 to 3.13, and $(PYTHON) is %d.%d: name another with \"make PYTHON=python3.11\"." % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	$(BIN)/python -c "import cv2" 2> /dev/null || $(BIN)/python -m pip install --quiet --force-reinstall --no-deps -c constraints.txt opencv-contrib-python-headless
	@touch $@
