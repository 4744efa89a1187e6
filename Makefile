# Aliases of dev.py, which needs nothing but Python 3.11: `make test` is `python3 dev.py test`.
# More words go in ARGS: make test ARGS="tests/test_config.py -x"

PYTHON ?= python3

.PHONY: help run test check lint format console pictures bench door chaos soak lock audit tools image test-image

help:
	@echo "make run     start the server on http://127.0.0.1:3000 (makes an API key when there is none)"
	@echo "make test    lint and all tests"
	@echo "make check   what a minute tells: lint, and the tests without a server"
	@echo "make lint    style, types and layers"
	@echo "make format  put the code into the project's style"
	@echo "make console build the web page that ships with the package"
	@echo "make pictures  take the pictures of it in the documents anew"
	@echo "make bench   measure, print a table, write JSON"
	@echo "make door    the tests with a server once more, through another one of its fleet"
	@echo "make chaos   break a fleet for ten minutes (ARGS=\"--seed N\" does the same again)"
	@echo "make soak    use a server for ten minutes, and see what it keeps"
	@echo "make lock    renew the pinned versions in requirements/"
	@echo "make audit   look for known holes in the pinned versions (needs the network)"
	@echo "make tools   install the programs that tests run (test does it by itself)"
	@echo "make image   build the container's image (docker, or as root without an engine)"
	@echo "make test-image  build it and try it, which takes minutes and root"

run test check lint format console pictures bench door chaos soak lock audit tools image test-image:
	@exec $(PYTHON) dev.py $@ $(ARGS)
