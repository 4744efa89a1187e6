# Aliases of dev.py, which needs nothing but Python 3.11: `make test` is `python3 dev.py test`.
# More words go in ARGS: make test ARGS="tests/test_config.py -x"

PYTHON ?= python3

.PHONY: help run test lint format bench lock tools

help:
	@echo "make run     start the server on http://127.0.0.1:3000 (makes an API key when there is none)"
	@echo "make test    lint and all tests"
	@echo "make lint    style, types and layers"
	@echo "make format  put the code into the project's style"
	@echo "make bench   measure, print a table, write JSON"
	@echo "make lock    renew the pinned versions in requirements/"
	@echo "make tools   install the programs that tests run (test does it by itself)"

run test lint format bench lock tools:
	@exec $(PYTHON) dev.py $@ $(ARGS)
