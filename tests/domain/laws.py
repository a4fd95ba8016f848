"""How property tests run: few examples, no deadline, and the same examples every time.

`LASH_TEST_EXPLORE=500 pytest --timeout 600 tests/domain tests/machine` looks at that many new examples of each law
instead, and makes what it finds small, which may take minutes.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

_EXPLORE = int(os.environ.get("LASH_TEST_EXPLORE", "0"))

law = settings(
    max_examples=_EXPLORE or 50,
    derandomize=not _EXPLORE,
    phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if _EXPLORE else [])],
    report_multiple_bugs=False,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
"""Decorates a property test, above its `@given`."""
