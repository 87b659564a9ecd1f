"""Django's PostgreSQL backend, on a server that is started when a connection is first opened."""

from pathlib import Path
from typing import Any

from django.db.backends.postgresql import base

from config.embedded.server import Server


class DatabaseWrapper(base.DatabaseWrapper):
    """Takes `DATA_DIR` from the database's settings instead of a host, port, user and password."""

    def get_connection_params(self) -> dict[str, Any]:
        server = Server.at(Path(self.settings_dict["DATA_DIR"]))
        self.settings_dict.update(HOST=str(server.socket_dir), USER=server.USER)
        return super().get_connection_params()

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        server = Server.at(Path(self.settings_dict["DATA_DIR"]))
        if server.is_held:
            try:
                return super().get_new_connection(conn_params)
            except self.Database.OperationalError:
                pass  # it was running, and was killed since
        server.ensure_running(database=conn_params["dbname"])
        return super().get_new_connection(conn_params)
