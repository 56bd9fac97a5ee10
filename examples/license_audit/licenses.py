"""Which licences does a Debian package come under? Reads what is on the disk; knows nothing of queues."""

import re
from pathlib import Path

COMMON_LICENSES = re.compile(r"/usr/share/common-licenses/([A-Za-z][A-Za-z0-9.-]*[A-Za-z0-9])")
FIELD = re.compile(r"^License:[ \t]*(\S.*)$", re.MULTILINE | re.IGNORECASE)
BETWEEN_NAMES = re.compile(r",?\s+(?:and/or|and|or)\s+|\s*[,|]\s*")
SHORT_NAME = re.compile(r"[A-Za-z0-9][\w.+/~-]*(?: with [\w.+ -]+ exceptions?)?", re.IGNORECASE)
SPDX_TAG = re.compile(rb"SPDX-License-Identifier:[ \t]*([A-Za-z0-9.+-]+(?: (?:AND|OR|WITH) [A-Za-z0-9.+-]+)*)")

# Sentences that identify a licence text which nobody labelled. White space is folded first.
PHRASES = [(name, re.compile(phrase, re.IGNORECASE)) for name, phrase in [
    ("Expat", "Permission is hereby granted, free of charge, to any person obtaining a copy of this software"),
    ("X11", "Permission is hereby granted, free of charge, to any person obtaining a copy of this font software"),
    ("ISC", r"Permission to use, copy, modify,? and(?:/or)? distribute this software for any purpose with or"),
    ("HPND", r"Permission to use, copy, modify,? (?:and )?distribute,? (?:and sell )?this software and its"),
    ("BSD", "Redistribution and use in source and binary forms"),
    ("Apache-2.0", r"Apache License,? Version 2\.0"),
    ("PSF-2", "PYTHON SOFTWARE FOUNDATION LICENSE"),
    ("TCL", "This software is copyrighted by the Regents of the University of California, Sun Microsystems"),
    ("Zlib", r"This software is provided ['`]+as-is['`]+, without any express or implied warranty"),
    ("MPL", "Mozilla Public License"),
    ("LGPL", r"GNU (?:Lesser|Library) General Public License"),
    ("GPL", "GNU General Public License"),
    ("Info-ZIP", "Info-ZIP"),
    ("Unicode", "Unicode, Inc"),
    ("public-domain", r"(?:placed in|is in) the public domain"),
]]


class NoLicense(Exception):
    """There is no copyright file, or it names no licence that we know."""


def declared_licenses(copyright_file):
    """The licences that a package's copyright file declares, sorted. Raises NoLicense where there is none."""
    path = Path(copyright_file)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise NoLicense(f"no copyright file to read: {error.strerror}") from error
    found = labelled(text) or referred_to(text) or recognised(text)
    if not found:
        raise NoLicense(f"no known licence in a copyright file of {len(text):,} characters")
    return sorted(found)


def labelled(text):
    """The short names in the `License:` fields of the machine-readable format. Fields with prose are passed over."""
    names = set()
    for field in FIELD.findall(text):
        parts = [part.strip(" .;()") for part in BETWEEN_NAMES.split(field)]
        if all(SHORT_NAME.fullmatch(part) for part in parts):
            names.update(parts)
    return names


def referred_to(text):
    """The texts in /usr/share/common-licenses that the file points to."""
    return set(COMMON_LICENSES.findall(text))


def recognised(text):
    """Licences known by one of their sentences."""
    folded = re.sub(r"\s+(?:(?:[*#;>%]|//|--)\s+)*", " ", text)
    return {name for name, phrase in PHRASES if phrase.search(folded)}


def tagged_licenses(file_list):
    """The SPDX tags in the heads of a package's installed files: (tags, number of files read)."""
    tags, files = set(), 0
    for line in Path(file_list).read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        path = Path(line)
        try:
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    tags.update(tag.decode() for tag in SPDX_TAG.findall(file.read(4096)))
                files += 1
        except PermissionError:
            continue  # not ours to read
    return sorted(tags), files
