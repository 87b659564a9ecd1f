"""Every module can be imported, also those that only a command or a setting names."""

import importlib

import pytest

from tests.test_architecture import APPLICATIONS, modules


@pytest.mark.parametrize("name", [name for name, _ in modules(*APPLICATIONS)])
def test_it_can_be_imported(name: str) -> None:
    importlib.import_module(name)
