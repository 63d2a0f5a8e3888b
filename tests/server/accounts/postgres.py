"""A PostgreSQL server of the tests' own, in a temporary folder, as a user that is not root."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

PASSWORD = "pass word%/?"  # what an address has to escape
_NOBODY = 65534


def binaries() -> Path | None:
    """The folder of the newest PostgreSQL that is installed."""

    def version(folder: Path) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", folder.parent.name)]

    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(found, key=version) if found else None


class Postgres:
    """One server: `start`, `stop` as hard as a crash, `empty` it, `close`."""

    def __init__(self, folder_of_binaries: Path) -> None:
        self._binaries = folder_of_binaries
        self.folder = Path(tempfile.mkdtemp(prefix="alpage-postgres-"))
        self._as: dict[str, Any] = {}
        if os.getuid() == 0:  # which PostgreSQL refuses
            os.chown(self.folder, _NOBODY, _NOBODY)
            self._as = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        password = self.folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        self._process: subprocess.Popen[bytes] | None = None
        self._run(
            "initdb", "-D", self.folder / "data", "-U", "alpage", "-A", "scram-sha-256",
            f"--pwfile={password}", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync",
        )  # fmt: skip
        self.start()

    def start(self) -> None:
        if self._process is not None:
            return
        command: list[str | Path] = [
            self._binaries / "postgres", "-D", self.folder / "data", "-k", self.folder,
            "-h", "127.0.0.1", "-p", str(self.port),
            # Processes crash here and no machine does: what was written is there without it.
            "-c", "fsync=off",
        ]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            process: subprocess.Popen[bytes] = subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=log, **self._as
            )
            self._process = process
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(**self._parts()).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
                time.sleep(0.05)

    def stop(self) -> None:
        """End it without a farewell: what was committed has to be there again."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(60)
            self._process = None

    def empty(self) -> str:
        """The address of the database, after everything in it has been removed."""
        with psycopg.connect(**self._parts(), autocommit=True) as connection:
            connection.execute("SET lock_timeout = '20s'")  # somebody may not have closed it
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        return f"postgresql://alpage:pass%20word%25%2F%3F@127.0.0.1:{self.port}/postgres"

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def _parts(self) -> dict[str, Any]:
        return {
            "host": str(self.folder), "port": self.port, "user": "alpage", "password": PASSWORD,
            "dbname": "postgres", "connect_timeout": 5,
        }  # fmt: skip

    def _run(self, program: str, *arguments: str | Path) -> None:
        command = [self._binaries / program, *arguments]
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=120, **self._as
        )
        assert done.returncode == 0, done.stderr
