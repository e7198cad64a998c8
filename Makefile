# Every target is a thin call of scripts/dev.py, which needs only Python.
PYTHON ?= python3
TARGETS = install run test check wheel bench bench-peers soak lock clean

.PHONY: help bump-qwen $(TARGETS)

help:
	@$(PYTHON) scripts/dev.py --help

$(TARGETS):
	@$(PYTHON) scripts/dev.py $@ $(ARGS)

bump-qwen:
	@$(PYTHON) scripts/dev.py $@ $(VERSION) $(ARGS)
