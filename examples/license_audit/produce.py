#!/usr/bin/env python3
"""Producer: one record for each package that is installed on this Debian machine.

    python3 produce.py [--flow license_audit]

Connects with the usual PG* variables. Packages and records are written in one transaction: either the audit knows a
package and its record is in the queue, or neither.
"""

import argparse
import subprocess
from pathlib import Path

import psycopg
from psycopg.types.json import Jsonb


def installed_packages():
    """One description for each installed package, as dpkg knows it."""
    listing = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Status}\t${binary:Package}\t${Package}\t${Version}\n"],
        check=True, capture_output=True, text=True).stdout
    for line in listing.splitlines():
        status, name, plain_name, version = line.split("\t")
        if status == "installed":
            yield {
                "package": name,
                "version": version,
                "copyright": f"/usr/share/doc/{plain_name}/copyright",
                "files": str(file_list(name, plain_name)),
            }


def file_list(name, plain_name):
    """Where dpkg keeps the names of a package's files; architecture-qualified for some."""
    qualified = Path(f"/var/lib/dpkg/info/{name}.list")
    return qualified if qualified.exists() else Path(f"/var/lib/dpkg/info/{plain_name}.list")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flow", default="license_audit", help="the flow to put the records into")
    flow = parser.parse_args().flow
    packages = list(installed_packages())
    with psycopg.connect("") as connection, connection.cursor() as cursor:
        cursor.executemany(
            "insert into audit.package (package, version, record_id)"
            " values (%(package)s, %(version)s, tasker.enqueue(%(flow)s, %(payload)s))",
            [{**package, "flow": flow, "payload": Jsonb(package)} for package in packages])
    print(f"{len(packages)} packages are in the queue")


if __name__ == "__main__":
    main()
