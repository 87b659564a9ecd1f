import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.config.processes import manage, wait_for

ONE_TRANSACTION = """
from billing import ledger
from billing.models import Channel
from users.models import User
user = User.objects.create(email="kept@example.com")
ledger.change_balance(
    user, amount="12.5", description="Paid at the desk", actor=None, channel=Channel.PANEL
)
"""


@pytest.fixture(scope="session")
def prepared_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with all tables and one transaction, its server stopped. Tests copy it."""
    data_dir = tmp_path_factory.mktemp("prepared") / "var"
    for arguments in (["migrate", "-v0"], ["shell", "-v0", "-c", ONE_TRANSACTION]):
        done = manage(*arguments, DATA_DIR=str(data_dir))
        log = data_dir / "postgres.log"
        assert done.returncode == 0, "\n".join(
            [done.stdout, done.stderr, log.read_text() if log.exists() else "no log"]
        )
    return data_dir


@pytest.fixture
def data_dir(prepared_data_dir: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy for one test, in a directory whose name a shell would misread."""
    copy = tmp_path / """it's "my" $HOME""" / "var"
    copy.parent.mkdir()
    subprocess.run(["cp", "-a", prepared_data_dir, copy], check=True)  # keeps the owner
    yield copy

    def is_gone() -> bool:
        shutil.rmtree(copy, ignore_errors=True)
        return not copy.exists()

    wait_for(is_gone)  # a server whose panel was killed may still write there
