"""An engine in a process of its own (peers.py), driven from here: a job a line in, an answer a line out."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from fewer.errors import BadRequest

PATIENCE = 30  # seconds a process may take to end


@dataclass
class Peer:
    """A running engine. seen: case -> tokens a second, one a round; peak_mb: its largest resident memory so far."""

    name: str
    process: subprocess.Popen[str]
    chatter: IO[str]
    version: str = ""
    load: float = 0.0
    peak_mb: float = 0.0
    seen: dict[str, list[float]] = field(default_factory=dict)

    def ask(self, prompts: list[list[int]], new: int, **more: Any) -> dict[str, Any]:
        """One job of peers.py; `more` as the engine knows it. Raises RuntimeError, with the engine's last words, if it
        died."""
        out = self.job({"prompts": prompts, "new": new, **more})
        self.peak_mb = out["peak_mb"]
        return out

    def job(self, what: dict[str, Any]) -> dict[str, Any]:
        """Any job and its answer. Raises RuntimeError as ask()."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(what) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next line. Raises RuntimeError as ask()."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        code = self.process.wait(timeout=PATIENCE)
        self.chatter.seek(0)
        last = (self.chatter.read().strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{self.name} ended with code {code}: {last[:200]}")

    def close(self) -> None:
        """End the process; it is killed if it does not end by itself."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.chatter.close()


def launch(name: str, path: Path, threads: int, module: str = "fewer.bench.peers", more: Sequence[str] = ()) -> Peer:
    """Start an engine of a module like peers.py and wait until its model is loaded. Raises RuntimeError if it cannot."""
    return _started(name, [sys.executable, "-m", module, name, path, str(threads), *more])


def launch_script(name: str, python: Path, script: str, *args: Any) -> Peer:
    """The same of a script beside this file, which imports nothing of fewer, in another environment. Raises BadRequest
    if `python` cannot be run, RuntimeError as above."""
    try:
        return _started(name, [str(python), Path(__file__).with_name(script), *args])
    except OSError as e:
        raise BadRequest(f"cannot run {python}: {e.strerror or e}") from None


def _started(name: str, command: list[Any]) -> Peer:
    """Run a command; paths in it are given whole, since some engines look for a file's folder."""
    given = [str(a.absolute() if isinstance(a, Path) else a) for a in command]
    chatter = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  (closed with the peer)
    process = subprocess.Popen(
        given, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=chatter, text=True, encoding="utf-8"
    )
    peer = Peer(name, process, chatter)
    try:
        ready = peer.answer()
    except RuntimeError:
        peer.close()
        raise
    peer.version, peer.load = ready["version"], ready["load"]
    return peer
