# The two commands: `make demo` and `make test`. Both set everything up first.
#
# On machines whose package index offers only the CUDA build of torch, point TORCH_INDEX at PyTorch's CPU
# index (its address is on the install page of PyTorch): `make demo TORCH_INDEX=...`.

PYTHON ?= python3.11
TORCH_INDEX ?=
REQUIREMENTS ?= requirements.txt
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check
# The stamp's name holds the hash of the pins and of the interpreter, so a changed pin makes a new one.
KEY := $(shell { cat $(REQUIREMENTS); $(PYTHON) -VV; } 2>/dev/null | sha256sum | cut -c1-16)
STAMP := $(VENV)/.ready-$(KEY)
NATIVE := build/.native-$(KEY)
SOURCES := pyproject.toml native/CMakeLists.txt $(wildcard native/src/*)
unexport PYTHONDONTWRITEBYTECODE
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: setup native demo test check format acceptance fuzz bench sanitize checkov stubgen proto docs clean
setup: $(STAMP)
native: $(NATIVE)

$(STAMP):
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(shell grep -E '^(setuptools|pip)==' $(REQUIREMENTS))
	$(PIP) --no-compile $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(shell grep -E '^torch==' $(REQUIREMENTS))
	$(PIP) --no-compile --no-deps --no-build-isolation -r $(REQUIREMENTS)
	rm -f $(VENV)/.ready-*
	touch $@

$(NATIVE): $(STAMP) $(SOURCES)
	$(PIP) --no-build-isolation --no-deps -e .
	mkdir -p build && rm -f build/.native-*
	touch $@

demo: native
	$(BIN)/python -m muxtable demo

test: native
	$(BIN)/python -m pytest -q

check: native
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: native
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Slow tests: kills, soaks, large tables. KILLS sets the number of kill -9 instants.
KILLS ?= 30
acceptance: native
	MUXTABLE_KILLS=$(KILLS) $(BIN)/python -m pytest -q -m slow --timeout 3600

# Parsers of requests, against protobuf and against any bytes: 100,000 examples of each test.
fuzz: native
	$(BIN)/python -m pytest -q tests/native/test_frames.py tests/serving/test_fuzz.py --hypothesis-profile fuzz \
	  --timeout 3600 -o faulthandler_timeout=0

bench: native
	for name in hashing kernel step input exchange checkpoint codecs ml1m serving versions; do $(BIN)/python -m benchmarks.$$name --json || exit 1; done

# The kernel tests under address and undefined-behaviour sanitizers, in a thin environment on top of .venv.
ASAN := build/asan-venv
sanitize: native
	test -x $(ASAN)/bin/python || $(BIN)/python -m venv --without-pip $(ASAN)
	echo "$(CURDIR)/$(VENV)/lib/python3.11/site-packages" > $(ASAN)/lib/python3.11/site-packages/base.pth
	$(ASAN)/bin/python -m pip install -q --no-build-isolation --no-deps -C build-dir=build/asan \
	  -C cmake.build-type=RelWithDebInfo -C cmake.define.MUXTABLE_SANITIZE=address,undefined \
	  -C install.strip=false -e .
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so):$$(g++ -print-file-name=libubsan.so):$$(g++ -print-file-name=libstdc++.so.6)" \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
	PYTHONMALLOC=malloc $(ASAN)/bin/python -m pytest -q tests/native --timeout 600

# Heavy, and at odds with our releases: in an environment of its own. The tests of k8s use it where it is.
CHECKOV := build/checkov
checkov:
	$(PYTHON) -m venv $(CHECKOV)
	$(CHECKOV)/bin/python -m pip install -q --disable-pip-version-check checkov==3.3.30

stubgen: native
	$(BIN)/python -m nanobind.stubgen -m native._native -o native/_native.pyi

# The generated classes import each other from here: `muxtable` is a module of ours, not a package.
STUBS := serving/stubs
proto: native
	$(BIN)/python -m grpc_tools.protoc -I proto --python_out=build --pyi_out=build proto/muxtable/v1/*.proto
	for name in parameter admin; do for kind in py pyi; do \
	  sed 's/^from muxtable\.v1 import/from serving.stubs import/' build/muxtable/v1/$${name}_pb2.$$kind \
	    > $(STUBS)/$${name}_pb2.$$kind; done; done

docs: native
	$(BIN)/python -m launch.settings_page > docs/settings.md

clean:
	rm -rf $(VENV) build
