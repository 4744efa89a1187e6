"""`python -m bench`: measures a real server against the bare agent, prints a table and writes JSON.

Client, server and agents share the machine. Each figure is the median of its rounds; `floor` is the same agent without
a server, measured in the same run. Every stream is checked to be complete.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import faces, files, fleet, frames, git, history, python_client, rows, strangers, terminal
from bench.rows import Row

ROWS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "a": rows.throughput,
    "b": rows.latency,
    "c": rows.fan_out,
    "d": rows.replay,
    "e": rows.footprint,
    "f": rows.first_event,
    "g": terminal.throughput,
    "h": terminal.echo,
    "i": terminal.stall,
    "l": git.git,
    "n": files.files,
    "o": python_client.client,
    "p": history.recovery,
    "q": history.history,
    "r": fleet.fleet,
    "s": frames.frames,
    "t": strangers.strangers,
    "u": faces.faces,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], help="which rows (default: all)")
    parser.add_argument("--rounds", type=int, default=1, help="repeat each row so often and take the medians")
    parser.add_argument("--json", type=Path, default=Path("bench-result.json"), help="where to write them")
    arguments = parser.parse_args()
    gc.disable()
    found: list[Row] = []
    print(f"{'row':52} {'measured':>12} {'floor':>12} {'target':>12}")
    for name in arguments.rows or ROWS:
        for row in median_of([measure(ROWS[name]) for _ in range(arguments.rounds)]):
            found.append(row)
            print(row.text(), flush=True)
        gc.collect()
    arguments.json.write_text(json.dumps(report(found), indent=2) + "\n")
    print(f"\nwritten to {arguments.json}; rows marked ! miss their target")


def measure(row: Callable[[Path], Iterator[Row]]) -> list[Row]:
    with scratch() as directory:
        return list(row(directory))


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="agentsrv-bench-") as name:
        yield Path(name)


def median_of(rounds: list[list[Row]]) -> Iterator[Row]:
    for same in zip(*rounds, strict=True):
        floors = [row.floor for row in same if row.floor is not None]
        yield Row(
            same[0].name,
            statistics.median(row.value for row in same),
            same[0].unit,
            floor=statistics.median(floors) if floors else None,
            target=same[0].target,
        )


def report(found: list[Row]) -> dict[str, object]:
    machine = {"cpus": os.cpu_count(), "python": sys.version.split()[0], "system": platform.platform()}
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"measuredAt": when, "machine": machine, "rows": [row.json() for row in found]}


if __name__ == "__main__":
    main()
