"""Django's PostgreSQL backend, for a server that is started by the first connection."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from config.embedded import programs
from config.embedded.server import Server
from config.postgresql import base


class DatabaseClient(base.DatabaseClient):
    """Runs `manage.py dbshell` with the psql that belongs to the server."""

    @classmethod
    def settings_to_cmd_args_env(
        cls, settings_dict: dict[str, Any], parameters: Iterable[str]
    ) -> tuple[list[str], dict[str, str] | None]:
        server = Server.at(Path(settings_dict["DATA_DIR"]))
        server.ensure_running(database=settings_dict["NAME"])
        place = {"HOST": str(server.socket_dir), "USER": server.USER}
        arguments, environment = super().settings_to_cmd_args_env(settings_dict | place, parameters)
        return [str(programs.directory() / "psql"), *arguments[1:]], environment


class DatabaseWrapper(base.DatabaseWrapper):
    """Takes `DATA_DIR` from the database's settings instead of a host, port, user and password."""

    client_class = DatabaseClient

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
                pass  # the server was killed since this process took hold of it
        server.ensure_running(database=conn_params["dbname"])
        return super().get_new_connection(conn_params)
