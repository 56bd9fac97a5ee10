"""Peers from the npm registry: installed once into a cache folder, never into the repository."""

import json
import os
import shutil
from pathlib import Path

from bench.lib import process
from bench.lib.contestant import Unavailable

HERE = Path(__file__).parent


def modules(cache):
    """The node_modules folder with the pinned peers; installs them at the first call. Raises Unavailable."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            raise Unavailable(f"{tool} is not installed")
    cache = Path(cache)
    cache.mkdir(parents=True, exist_ok=True)
    wanted = (HERE / "package.json").read_text()
    stamp = cache / "installed.json"
    if not stamp.exists() or stamp.read_text() != wanted:
        (cache / "package.json").write_text(wanted)
        try:
            process.run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"],
                        cwd=cache, env={**os.environ, "npm_config_update_notifier": "false"})
        except process.CommandFailed as failure:
            raise Unavailable(f"npm install failed: {str(failure).splitlines()[-1][:200]}") from failure
        stamp.write_text(wanted)
    return cache / "node_modules"


def capture(script, cache, server, dbname):
    """Run a capture script: it migrates the database and prints the library's statements."""
    url = f"postgresql://{server.user}@/{dbname}?host={server.host}&port={server.port}"
    try:
        out = process.run(["node", str(HERE / script), str(modules(cache)), url])
    except process.CommandFailed as failure:
        raise Unavailable(str(failure).splitlines()[0]) from failure
    return json.loads(out)
