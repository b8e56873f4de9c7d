"""Compares the registers of the CUDA kernels with the table in docs/performance.md.

usage: scripts/cuda_ceilings.py LOG...        the logs of nvcc -Xptxas -v, one a .cu file

The table's rows are `| kernel | types and sizes | sm_90a | sm_80 |`: the most registers that any
instance of the kernel may have.  Prints one line for each kernel that is above its ceiling, has none,
or uses stack; exit status 1 if there is any.  A ceiling that is too high is no finding.
"""

import pathlib
import re
import sys

ROW = re.compile(r"^\| `(\w+_kernel)` \|.*\| (\d+) \| (\d+) \|$", re.M)
KERNEL = re.compile(r"Compiling entry function '_Z(?:L)?(\d+)(\w+)' for '(sm_\d+a?)'")
STACK = re.compile(r"(\d+) bytes stack frame")
REGISTERS = re.compile(r"Used (\d+) registers")


def measured(text: str):
    """Yields (kernel, architecture, registers, bytes of stack) from one log."""
    kernel = architecture = None
    stack = 0
    for line in text.splitlines():
        if match := KERNEL.search(line):
            kernel, architecture = match[2][: int(match[1])], match[3]
        elif match := STACK.search(line):
            stack = int(match[1])
        elif (match := REGISTERS.search(line)) and kernel:
            yield kernel, architecture, int(match[1]), stack
            kernel = None


def main() -> int:
    document = pathlib.Path(__file__).parent.parent / "docs/performance.md"
    ceilings = {}
    for name, sm_90a, sm_80 in ROW.findall(document.read_text()):
        ceilings[name, "sm_90a"], ceilings[name, "sm_80"] = int(sm_90a), int(sm_80)
    most, failed = {}, False
    for log in sys.argv[1:]:
        for kernel, architecture, registers, stack in measured(pathlib.Path(log).read_text()):
            key = kernel, architecture
            most[key] = max(most.get(key, 0), registers)
            if stack > 0:
                print(f"{kernel} on {architecture}: {stack} bytes of stack")
                failed = True
    for (kernel, architecture), registers in sorted(most.items()):
        ceiling = ceilings.get((kernel, architecture))
        if ceiling is None or registers > ceiling:
            print(f"{kernel} on {architecture}: {registers} registers, ceiling {ceiling}")
            failed = True
    print(f"cuda-check: {len(most)} kernels by architecture, {'failed' if failed else 'all right'}")
    return 1 if failed or not most else 0


if __name__ == "__main__":
    sys.exit(main())
