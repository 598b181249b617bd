# make demo | accuracy | test | lint | parity | rtx-table | kernels | schema; each sets up .venv first, if it is not there.
PYTHON ?= python3
BACKEND ?= onnxruntime
FAMILY ?= sam3
BIN := .venv/bin
DEMO := demo/work/$(if $(filter sam3,$(FAMILY)),,$(FAMILY)-)$(BACKEND)
DEMO_OF_sam3 := demo/run.py
DEMO_OF_classifier := -m demo.classifier
SNAKEMAKE := $(BIN)/python -m snakemake
INSTALLED := .venv/.installed
SHELL := bash
.SHELLFLAGS := -o pipefail -ec

.PHONY: install demo accuracy test lint parity rtx-table kernels schema clean-demo
.DELETE_ON_ERROR:

install: $(INSTALLED)

# Of what pip reports: each file of a megabyte or more when its download begins, and when all of them are being unpacked.
SHOWN := sed -unE -e 's/^ *(Downloading|Using cached) ([^ -]+)[^ ]* \(([0-9.]+ [MG]B)\).*/  \2: \3/p' \
  -e 's/^Installing collected packages.*/  unpacking all of them: one or two minutes the first time/p'

# TrackEval measures tracks. Of what it requires, opencv-python would overwrite opencv-python-headless, and no other is
# missing here that it needs.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Error: the workflow needs Python 3.11 or newer. Hint: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv || { rm -rf .venv; echo "Hint: apt install python3-venv"; exit 1; }
	@echo "Installing PyTorch, transformers, Snakemake and more into .venv; the first time 3 to 4 GB to download, 7 GB on disk, 2 to 4 minutes."
	@export PYTHONUNBUFFERED=1 PIP_PROGRESS_BAR=off PIP_DISABLE_PIP_VERSION_CHECK=1; \
	  (while sleep 20 >&- 2>&-; do echo "  .venv has $$(du -sm .venv | cut -f1) MB"; done) & trap "kill $$!" EXIT; \
	  $(BIN)/pip install --editable '.[workflow,media,dev]' | $(SHOWN); \
	  $(BIN)/pip install --quiet --no-deps 'trackeval==1.3.0'
	@touch $@

# Of a family: make demo FAMILY=classifier.
demo: $(INSTALLED)
	@test -n "$(DEMO_OF_$(FAMILY))" || { echo "Error: there is no demo of FAMILY=$(FAMILY). Hint: sam3 or classifier"; exit 1; }
	@$(BIN)/python $(DEMO_OF_$(FAMILY)) --backend $(BACKEND) --folder $(DEMO)

# docs/accuracy.md: the demo's checkpoint on 500 scenes, every resolution, number of queries and precision.
accuracy: $(INSTALLED)
	@$(BIN)/python -m demo.accuracy --backend $(BACKEND)

test: $(INSTALLED)
	$(BIN)/python -m pytest -m "not gpu" -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile rules
	$(SNAKEMAKE) --lint

# The parity table of docs/parity.md, on the small checkpoint; FULL=--full measures full-size exports too.
parity: $(INSTALLED)
	$(BIN)/python -m sam3_runtime.families.sam3.export.parity --checkpoint demo/checkpoint --output docs/parity.md $(FULL)

# docs/results/rtx.md: full-size exports and TensorRT-RTX builds, one after the other; an hour on two cores, no GPU.
RTX_FOLDER ?= demo/work/rtx-table
rtx-table: $(INSTALLED)
	$(BIN)/python -m sam3_runtime.families.sam3.export.builds --folder $(RTX_FOLDER)

# The GPU kernels, shipped as PTX. The PTX version is that of the first driver for Turing, so every later one accepts it.
KERNELS := sam3_runtime/engines/running/kernels/steps
kernels:
	nvcc -ptx -arch=compute_75 -O3 -o $(KERNELS).tmp $(KERNELS).cu
	sed -e 's/^\.version .*/.version 6.3/' -e 's/[ \t]*$$//' $(KERNELS).tmp > $(KERNELS).ptx && rm $(KERNELS).tmp

schema: $(INSTALLED)
	$(BIN)/sam3-runtime schema > variants.schema.json
	$(BIN)/sam3-runtime schema --project > project.schema.json

clean-demo:
	rm -rf demo/work
