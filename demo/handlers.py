"""What the steps of the demo do, for examples/workflow/worker.py; the audit itself is examples/license_audit."""

import csv
import sys
from pathlib import Path

from worker import Result

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples" / "license_audit"))
from licenses import NoLicense, declared_licenses, tagged_licenses  # noqa: E402
from produce import installed_packages  # noqa: E402

WORKER = None


def collect(step):
    """Lists what is installed, and makes an audit for every few packages."""
    packages = list(installed_packages())
    size = step.context["packages_per_step"]
    batches = [packages[first:first + size] for first in range(0, len(packages), size)]
    return Result(
        {"packages": len(packages)},
        create_steps=[{"name": "audit", "as": f"audit {batch[0]['package']} to {batch[-1]['package']}",
                       "inputs": {"packages": batch}} for batch in batches],
        in_transaction=lambda connection: connection.cursor().executemany(
            "insert into audit.package (name, version) values (%(package)s, %(version)s)", packages))


def audit(step):
    """Audits its packages one by one, saves how far it has come after each, and writes all of them at its end."""
    findings = step.saved or []
    for package in step.inputs["packages"][len(findings):]:
        step.check()
        findings.append(finding_of(package))
        step.save(findings)
    rows = [{**finding, "step": step.uuid} for finding in findings]
    return Result(
        {"packages": len(rows), "files": sum(row["files_read"] for row in rows)},
        in_transaction=lambda connection: connection.cursor().executemany(
            "insert into audit.finding (package, licenses, spdx_tags, files_read, problem, worker, step)"
            " values (%(package)s, %(licenses)s, %(spdx_tags)s, %(files_read)s, %(problem)s, %(worker)s, %(step)s)", rows))


def finding_of(package):
    licenses, problem = [], None
    try:
        licenses = declared_licenses(package["copyright"])
    except NoLicense as error:
        problem = str(error)
    spdx_tags, files_read = tagged_licenses(package["files"])
    return {"package": package["package"], "licenses": licenses, "spdx_tags": spdx_tags, "files_read": files_read,
            "problem": problem, "worker": WORKER.name}


def aggregate(step):
    """Adds up what the audits have returned, and counts the licences that they have found."""
    parts = step.results.values()
    return Result(
        {"packages": sum(part["packages"] for part in parts), "files": sum(part["files"] for part in parts)},
        in_transaction=lambda connection: connection.execute(
            "insert into audit.total (license, packages) select min(license), count(*)"
            " from audit.finding, unnest(licenses) license group by lower(license)"))


def report(step):
    """Writes the findings into a folder that need not be there yet; then it fails, and is tried again."""
    with open(Path(step.context["out"]) / "licenses.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["package", "licenses", "spdx_tags", "files_read", "problem"])
        writer.writerows(WORKER.connect().cursor(row_factory=tuple_of).execute(
            "select package, array_to_string(licenses, '; '), array_to_string(spdx_tags, '; '), files_read, problem"
            " from audit.finding order by package"))
    return {"written": step.results["aggregate"]["packages"]}


def tuple_of(_cursor):
    return tuple


def register(worker):
    global WORKER
    WORKER = worker
    for function in (collect, audit, aggregate, report):
        worker.handler(function.__name__)(function)
