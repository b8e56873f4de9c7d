"""The include rule: server -> runtime -> kernels, one way; third-party headers in .c files only.

Silent when the tree obeys; else one line for each include that does not, and exit status 1.
"""

import pathlib
import re
import subprocess
import sys

# What a folder may include of ours.  test/ and bench/ may include anything; nothing includes them.
ALLOWED = {
    "kernels": ("kernels/",),
    "runtime": ("runtime/", "kernels/"),
    "server": ("server/", "runtime/engine/", "runtime/text/chat_template.h", "runtime/error.h",
               "runtime/mem.h"),
}
# The C library's and the compiler's headers; everything else in <> is third-party.
STANDARD = re.compile(
    r"(assert|complex|ctype|errno|fcntl|float|getopt|immintrin|inttypes|limits|locale|malloc|math|"
    r"netdb|omp|poll|pthread|setjmp|signal|stdalign|stdarg|stdatomic|stdbool|stddef|stdint|stdio|"
    r"stdlib|stdnoreturn|string|strings|time|unistd|dirent|libgen|"
    r"(arpa|netinet|sys|linux)/[a-z0-9_]+)\.h$"
)


def problems(path: pathlib.Path):
    """Yields a line of text for each bad include of one file."""
    top = path.parts[0]
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = re.match(r'\s*#\s*include\s*(["<])([^">]+)[">]', line)
        if not match:
            continue
        is_ours, name = match[1] == '"', match[2]
        if is_ours and top in ALLOWED and not name.startswith(ALLOWED[top]):
            yield f"{path}:{number}: {top}/ may not include {name}"
        if (top in ALLOWED and not is_ours and path.suffix == ".h"
                and not STANDARD.match(name)):
            yield f"{path}:{number}: third-party header {name} in a header"


def main() -> int:
    listed = subprocess.run(["git", "ls-files", "*.c", "*.h"], capture_output=True, text=True,
                            check=True)
    found = [p for name in listed.stdout.split() for p in problems(pathlib.Path(name))]
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
