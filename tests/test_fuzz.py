"""A fixed part of the fuzzing (tests/fuzz.py). What it has found stands beside the modules, each a case of its own."""

import fuzz
import pytest
from conftest import needs_proc


@needs_proc
@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_damaged_and_hostile_files_give_a_result_or_one_line(kind, tmp_path):
    assert fuzz.fuzz(kind, range(10 if kind == "text" else 40), tmp_path) == {}
