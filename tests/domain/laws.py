"""How property tests run: few examples, no deadline, and the same examples every time.

`LASH_TEST_EXPLORE=5000 pytest tests/domain tests/machine` looks at that many new examples of each law instead.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_EXPLORE = int(os.environ.get("LASH_TEST_EXPLORE", "0"))

law = settings(
    max_examples=_EXPLORE or 80,
    derandomize=not _EXPLORE,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
"""Decorates a property test, above its `@given`."""
