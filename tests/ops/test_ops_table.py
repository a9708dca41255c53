"""``docs/ops.md`` says what is."""

import pytest
from ops_table import FILE, text


def test_the_table_of_ops_is_up_to_date():
    if FILE.read_text() != text():
        pytest.fail("docs/ops.md is not what the ops say: run `make ops-table`")
