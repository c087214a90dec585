# Commands of the project; `make help` lists them. They need Python 3.10-3.12, git, make and a shell with coreutils, as
# README.md says, and nothing else that is not in the requirements. Windows: docs/install.md has the plain commands.
PYTHON ?= python3
BIN := .venv/bin
JUDGES := .venv-judges
MINI := pretrained_models/CosyVoice-mini
DEMO := output/demo
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo docs check test test-slow test-browser fuzz lint mini eval-mini standin bench bench-growth bench-gpu clean

help: ## list the targets
	@$(PYTHON) -c 'import re; rows = re.findall(r"(?m)^([a-z-]+):.*?## (.*)", open("Makefile", encoding="utf-8").read()); [print(f"  make {name:12} {what}") for name, what in rows]'

setup: .venv/.ready ## make .venv with everything that the scripts and tests need (5.8 GB, about 2 minutes)

.venv/.ready: requirements.txt requirements-dev.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 10) <= sys.version_info < (3, 13) else "Python 3.10-3.12 is needed; use: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements-dev.txt
	touch $@

demo: setup ## train the mini model on 30 example clips on the CPU and speak; leaves wavs and a picture in output/demo
	$(BIN)/python prepare_joint_data.py --input-dir examples/en_allison/raw_audio --output-dir $(DEMO)/data --model-dir $(MINI)
	$(BIN)/python train_joint.py --data-dir $(DEMO)/data --output-dir $(DEMO) --model-dir $(MINI)
	$(BIN)/python inference_joint.py --model-dir $(MINI) --output-dir $(DEMO) --text-file examples/demo_sentences.txt --output $(DEMO)/demo.wav
	$(BIN)/python plot_joint.py --output-dir $(DEMO) --real examples/en_allison/raw_audio/003.flac --spoken $(DEMO)/demo_0001.wav --picture $(DEMO)/demo.png
	@echo
	@echo "Listen to $(DEMO)/demo_0001.wav and demo_0002.wav, look at $(DEMO)/demo.png."
	@echo "The mini model is for trying out: it is robotic and speaks English only. For your own voice"
	@echo "download CosyVoice-300M (docs/install.md), put your clips into raw_audio/, and run the same scripts"
	@echo "without --model-dir."

docs: setup ## write the generated tables of docs/ and the comments of config.py anew
	$(BIN)/python tools/make_docs.py

lint: setup ## ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check: setup ## a fast subset of the tests, about a minute
	$(BIN)/python -m pytest -q -m "not slow and not gpu and not browser and not scripts" $(PARALLEL)

test: lint ## lint and all tests that need neither a GPU nor minutes each
	$(BIN)/python -m pytest -q -m "not slow and not gpu and not browser" $(PARALLEL)

test-slow: setup ## the full-size stand-in (1.7 GB, several minutes)
	$(BIN)/python -m pytest -q -m slow

test-browser: setup ## the two pages in Chromium, where it is installed: they fit a screen and a phone
	$(BIN)/python -m pytest -q -m browser

fuzz: setup ## spoiled files, settings and commands for all that reads them (SECONDS=600 SEED=0); lists what was wrong
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),600) --seed $(or $(SEED),0)

standin: setup ## a full-size model directory with random weights in output/standin
	$(BIN)/python tests/make_standin_model.py output/standin

mini: setup ## train the mini model anew (hours; see build_mini/README.md)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-mini.txt
	$(BIN)/python -m build_mini.build --stage all

eval-mini: $(JUDGES)/.ready ## does the mini model speak, and learn a voice? judged by recognisers from outside (needs flite)
	$(JUDGES)/bin/python -m build_mini.evaluate

$(JUDGES)/.ready: requirements-judges.txt .venv/.ready
	$(BIN)/python -m venv $(JUDGES)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$($(JUDGES)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/product.pth"
	$(JUDGES)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-judges.txt
	touch $@

bench: setup ## time and memory at full size on the CPU, beside the machine's floors (ten minutes, 3 GB of disk)
	$(BIN)/python bench/bench_cpu.py
	$(BIN)/python bench/report.py output/bench.json --picture output/bench.png

bench-growth: setup ## does cost grow faster than the arithmetic? fails where it does (half an hour, 12 GB of memory)
	$(BIN)/python bench/growth.py --picture output/growth.png

bench-gpu: setup ## tests, then time and memory of training and synthesis at full size on a CUDA device (ARGS="--steps 2")
	$(BIN)/python -m pytest -q -m gpu
	$(BIN)/python bench/bench_gpu.py --json output/bench_gpu.json $(ARGS)

clean: ## remove caches (keeps .venv, data and output)
	$(PYTHON) -c 'import pathlib, shutil; [shutil.rmtree(path) for path in [*pathlib.Path().rglob("__pycache__")] if not path.parts[0].startswith(".venv")]'
	rm -rf .pytest_cache .ruff_cache
