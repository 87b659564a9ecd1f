"""A program with every right, for tests that are not about rights."""

import pytest

from tests.api.rest.programs import Program, program_of_administrator


@pytest.fixture
def program(db: None) -> Program:
    return program_of_administrator()
