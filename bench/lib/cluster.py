"""A private PostgreSQL server for the time of a run, or one that is already running.

The private server lives in a temporary folder, listens on a unix socket in that folder only, and runs as
an unprivileged user because PostgreSQL refuses root. It is stopped and its folder removed on the way out.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from bench.lib import process

# What differs from a stock server. Everything else is the default, autovacuum included. Checkpoints are
# rare so that none falls into a run of a few seconds by chance; benchmarks that want one ask for it.
DEFAULT_SETTINGS = {
    "shared_buffers": "2GB",
    "max_connections": "300",
    "max_wal_size": "8GB",
    "min_wal_size": "1GB",
    "checkpoint_timeout": "1h",
    "max_locks_per_transaction": "256",
    "logging_collector": "off",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "track_io_timing": "off",
}


def find_bindir(given=None):
    """The folder with initdb, pg_ctl and pgbench: the given one, else that of pg_config in the path."""
    if given:
        return Path(given)
    config = os.environ.get("PG_CONFIG", "pg_config")
    return Path(subprocess.check_output([config, "--bindir"], text=True).strip())


def share_dir(bindir):
    """The server's share folder. pg_config relocates itself, so a private copy of bin answers for its own tree."""
    return Path(subprocess.check_output([bindir / "pg_config", "--sharedir"], text=True).strip())


def has_extension(bindir, name):
    """Is the extension installed for the server in `bindir`?"""
    return (share_dir(bindir) / "extension" / f"{name}.control").exists()


class Server:
    """Where to connect to. The base of both kinds of server."""

    def __init__(self, bindir, host, port, user):
        self.bindir = Path(bindir)
        self.host = str(host)
        self.port = int(port)
        self.user = user

    def dsn(self, dbname="postgres"):
        return f"host={self.host} port={self.port} user={self.user} dbname={dbname}"

    def tool(self, name):
        """The path of a client program that belongs to this server, else the one in the path."""
        own = self.bindir / name
        return str(own) if own.exists() else name

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


class PrivateCluster(Server):
    """initdb, start, and on the way out stop and remove."""

    def __init__(self, bindir, settings=None, preload=None, os_user="postgres", parent=None):
        super().__init__(bindir, host="", port=5432, user="postgres")
        self.settings = {**DEFAULT_SETTINGS, **(settings or {})}
        if preload:
            self.settings["shared_preload_libraries"] = preload
        self.os_user = os_user if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        self.parent = parent
        self.folder = None

    def _as_owner(self, command):
        if os.geteuid() == 0:
            return ["runuser", "-u", self.os_user, "--"] + command
        return command

    def _run(self, command):
        # The server inherits pg_ctl's standard files: a pipe would never see its end.
        log = self.folder / "tool.log"
        with open(log, "w") as out:
            status = subprocess.call(self._as_owner([str(word) for word in command]), stdout=out, stderr=out,
                                     stdin=subprocess.DEVNULL, cwd="/", start_new_session=True)
        if status != 0:
            server_log = self.folder / "server.log"
            tail = server_log.read_text(errors="replace")[-3000:] if server_log.exists() else ""
            raise process.CommandFailed(f"{command[0]} ended with status {status}:\n{log.read_text()}{tail}")

    def __enter__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="tasker-bench-", dir=self.parent))
        self.host = str(self.folder)
        try:
            if os.geteuid() == 0:
                owner = pwd.getpwnam(self.os_user)
                os.chown(self.folder, owner.pw_uid, owner.pw_gid)
            data = self.folder / "data"
            self._run([self.bindir / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8",
                       "--locale=C.UTF-8", "--no-sync", "--no-instructions"])
            with open(data / "postgresql.conf", "a") as conf:
                conf.write(f"\nlisten_addresses = ''\nunix_socket_directories = '{self.folder}'\n")
                for name, value in self.settings.items():
                    conf.write(f"{name} = '{value}'\n")
            self._run([self.bindir / "pg_ctl", "-D", data, "-l", self.folder / "server.log", "-w", "-t", "60",
                       "start"])
        except BaseException:
            self.__exit__()
            raise
        return self

    def log_tail(self, size=4000):
        """The end of the server's log, for the report of a failure."""
        path = self.folder / "server.log"
        return path.read_text(errors="replace")[-size:] if path.exists() else ""

    def __exit__(self, *_):
        if self.folder is None:
            return
        data = self.folder / "data"
        try:
            if (data / "postmaster.pid").exists():
                self._run([self.bindir / "pg_ctl", "-D", data, "-m", "immediate", "-w", "-t", "60", "stop"])
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None
