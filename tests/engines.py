"""The engines that the tests of the index run on."""

from __future__ import annotations

import pytest

# For a test of what the index does by the operations of its engine, whichever it is. A local file is the faster one.
# That the engines do the same is tested by index/test_engine.py and index/test_engine_model.py.
on_one_engine = pytest.mark.parametrize("uri", ["local"], indirect=True)
