"""Our program and a Python library taking turns at the same work, in one run on one core."""

import math
import pathlib
import statistics
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
TURNS = 25


class Program:
    """build/bench/NAME, which works once for each line that it gets (turns.h)."""

    def __init__(self, name: str, *arguments: str):
        self.process = subprocess.Popen([ROOT / "build" / "bench" / name, *arguments], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self) -> tuple[float, float]:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        seconds, result = self.process.stdout.readline().split()
        return float(seconds), float(result)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def timed(work) -> tuple[float, float]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def compare(case: str, program: Program, work):
    """Prints a CSV row: the medians in ms, and our speed over theirs, turn by turn: median, lowest, highest."""
    ours, theirs = program(), timed(work)  # warms both up
    assert math.isclose(ours[1], theirs[1], rel_tol=1e-5), f"{case}: {ours[1]} and {theirs[1]}"
    pairs = [(program()[0], timed(work)[0]) for _ in range(TURNS)]
    program.close()
    ratios = sorted(their / our for our, their in pairs)
    medians = [1e3 * statistics.median(column) for column in zip(*pairs, strict=True)]
    print(f"{case},{medians[0]:.2f},{medians[1]:.2f},{statistics.median(ratios):.2f},{ratios[0]:.2f},{ratios[-1]:.2f}",
          flush=True)


def print_header():
    print("case,ms,ms_theirs,ratio,lowest,highest", flush=True)
