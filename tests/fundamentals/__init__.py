"""Read these first: one idea of the core per file, shown with real functions.

In this order: `small_runtime.py` (the runtime in a page), then test_an_answer, test_a_tool_call, test_replay,
test_what_a_model_gets_wrong, test_joining, test_cancelling, test_limits, test_instructions, test_changed_code,
test_input, test_the_result.
"""
