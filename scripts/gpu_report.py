"""What scripts/gpu-check makes of the rows that its benches printed (bench/gpu/bench.h says their columns):
goals judged by the limits of the same run, and the report's tables.

A report is a dict: gpu, commit, date; steps {name: {seconds, state}}; tests, models, sanitizer; and the
benches' rows as csv.DictReader gives them: ops, rounds, peers, generate.  What is missing was not measured.
The tables also want its goals, as goals() judges them.
"""
from __future__ import annotations

import typing

MHA = ("llava-7b", "llava-13b")  # every head has keys of its own
GQA = ("qwen-3b", "qwen-7b")


class Row:
    """A row of a bench with its columns as numbers."""

    def __init__(self, fields: dict):
        self.fields = fields
        self.op, self.model, self.part = fields["op"], fields["model"], fields["part"]
        self.a, self.b, self.c = (int(fields[name]) for name in "abc")
        self.us = float(fields["us"])
        self.n_seqs = int(self.part.split()[0]) if self.part.endswith("sequences") else 0

    def __getattr__(self, name):  # the other columns
        return float(self.fields[name])

    @property
    def key(self):
        return self.op, self.model, self.part, self.a, self.b, self.c

    @property
    def name(self):
        numbers = [str(n) for n in (self.a, self.b, self.c) if n]
        return " ".join(part for part in (self.op, self.model, self.part.replace(" sequences", " x"), *numbers) if part)


class Run:
    """The rows of a report, and what this GPU can do at most."""

    def __init__(self, report: dict):
        self.ops, self.rounds, self.peers, self.generate = (
            [Row(row) for row in report.get(name, [])] for name in ("ops", "rounds", "peers", "generate"))
        self.is_h200 = "H200" in report.get("gpu", "")
        self.bytes_a_us = next((row.bytes / row.us for row in self.ops if row.op == "copy"), None)
        self.flops_a_us = next((row.flops / row.us for row in self.ops if row.op == "matmul"), None)

    def us_of_bytes(self, row):
        return row.bytes / self.bytes_a_us

    def us_of_flops(self, row):
        return row.flops / self.flops_a_us

    def percent(self, row):
        """Of the limit: the time that bytes or operations need at least, by the time that the row took."""
        return 100 * max(self.us_of_bytes(row), self.us_of_flops(row)) / row.us

    @property
    def has_limits(self):
        return bool(self.bytes_a_us and self.flops_a_us)

    def limited(self, op):
        """Rows of an operation, where its limits are known."""
        return [row for row in self.ops if row.op == op] if self.has_limits else []

    def speculative(self, max_seqs=1):
        return [row for row in self.rounds if row.b > 1 and row.n_seqs <= max_seqs]


# ---- goals ------------------------------------------------------------------------------------------
#
# Each gives (value, name of the case) of every row that it judges; the worst one counts.


def ceiling_copy(run):
    return [(row.bytes / row.us / 1e3, row.name) for row in run.ops if row.op == "copy" and run.is_h200]


def ceiling_product(run):
    return [(row.flops / row.us / 1e6, row.name) for row in run.ops if row.op == "matmul" and run.is_h200]


def skinny_gemm(run):
    return [(run.percent(row), row.name) for row in run.limited("gemm") if row.a <= 64 and 2 * row.b * row.c >= 30e6]


def pass_alone(run):
    return [(run.percent(row), row.name) for row in run.limited("pass")
            if row.n_seqs == 1 and row.b <= 64 and row.model.endswith("-7b")]


def pass_together(run):
    return [(run.percent(row), row.name) for row in run.limited("pass") if 128 <= row.n_seqs * row.b <= 960]


def attention_of_bytes(run):
    return [(100 * run.us_of_bytes(row) / row.us, row.name) for row in run.limited("attention")
            if row.model in MHA and row.n_seqs * row.a >= 16384]


def attention_of_flops(run):
    return [(100 * run.us_of_flops(row) / row.us, row.name) for row in run.limited("attention")
            if row.model in GQA and row.n_seqs * row.a >= 16384 and run.us_of_flops(row) > run.us_of_bytes(row)]


def attention_latency(run):
    return [(row.us, row.name) for row in run.ops if row.op == "attention" and row.n_seqs == 1 and row.a == 1024]


def attention_of_trees(run):
    one = {(row.model, row.part, row.a): row.us for row in run.ops if row.op == "attention" and row.b == 1}
    return [(row.us / one[row.model, row.part, row.a], row.name) for row in run.ops
            if row.op == "attention" and row.model in MHA and row.b == 60 and (row.model, row.part, row.a) in one]


def draft_forwards(run):
    if not run.has_limits:
        return []
    return [(100 * row.draft_bytes / run.bytes_a_us / row.draft_us, row.name) for row in run.speculative(4)]


def drafting(run):
    return [(row.draft_us / row.verify_us, row.name) for row in run.speculative()]


def bookkeeping(run):
    return [(row.bookkeeping_us, row.name) for row in run.speculative(16)]


def idle(run):
    return [(100 * (1 - (row.draft_us + row.verify_us + row.rest_us) / row.us), row.name) for row in run.speculative()]


def speedup(run):
    """Of what the tokens a round would give if only drafting and verifying took time."""
    return [(row.speculative_over_plain * (1 + row.draft_us / row.verify_us) / row.tokens, row.name)
            for row in run.speculative()]


class Goal(typing.NamedTuple):
    text: str
    values: typing.Callable
    unit: str
    must: float
    stretch: float | None
    is_least: bool = True  # else at most


GOALS = (
    Goal("copy (of an H200)", ceiling_copy, "GB/s", 0.97 * 4300, None),
    Goal("bf16 product (of an H200)", ceiling_product, "TFLOP/s", 0.95 * 790, None),
    Goal("skinny gemm, <= 64 rows, weight >= 30 MB", skinny_gemm, "% of limit", 85, 90),
    Goal("verify pass, 1 sequence, <= 64 rows, 7B", pass_alone, "% of limit", 80, 88),
    Goal("verify pass, 128 to 960 rows", pass_together, "% of limit", 75, 85),
    Goal("tree attention, MHA, >= 16k cached tokens", attention_of_bytes, "% of copy", 80, 88),
    Goal("tree attention, GQA, bound by products", attention_of_flops, "% of product", 45, 60),
    Goal("tree attention, 1 x 1024, merge included", attention_latency, "us", 10, 7, False),
    Goal("60-row tree against 1 row, MHA, same cache", attention_of_trees, "x", 1.10, 1.03, False),
    Goal("draft forwards, <= 4 sequences", draft_forwards, "% of copy", 65, 80),
    Goal("all drafting, of a verify pass", drafting, "x", 0.30, 0.16, False),
    Goal("select + accept + compact, <= 16 sequences", bookkeeping, "us", 40, 20, False),
    Goal("GPU idle between rounds", idle, "%", 2, 0.5, False),
    Goal("speculative / plain, of tokens / (1 + draft / verify)", speedup, "x", 0.80, 0.92),
)


def judge(goal: Goal, run: Run) -> dict:
    found = goal.values(run)
    result = {"goal": goal.text, "unit": goal.unit, "must": goal.must, "stretch": goal.stretch,
              "measured": None, "case": "", "verdict": "not measured"}
    if not found:
        return result
    sign = 1 if goal.is_least else -1
    value, case = min(found, key=lambda pair: sign * pair[0])

    def is_reached(bound):
        return bound is not None and sign * value >= sign * bound

    verdict = "stretch" if is_reached(goal.stretch) else "must" if is_reached(goal.must) else "missed"
    return result | {"measured": value, "case": case, "verdict": verdict}


def goals(report: dict) -> list[dict]:
    run = Run(report)
    return [judge(goal, run) for goal in GOALS]


# ---- tables -----------------------------------------------------------------------------------------


def table(columns, rows):
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(str(value) for value in line) + " |" for line in lines] + [""]


def short(value):
    return "" if value is None else f"{value:.4g}"


def goal_table(report):
    return table(["goal", "measured", "must", "stretch", "unit", "verdict", "worst case"],
                 [[g["goal"], short(g["measured"]), short(g["must"]), short(g["stretch"]), g["unit"], g["verdict"],
                   g["case"]] for g in report["goals"]])


def op_table(run):
    """Each case, and who else did the same: PyTorch, and for products the library by itself."""
    torch = {row.key: row.us for row in run.peers}
    library = {("gemm", *row.key[1:]): row.us for row in run.ops if row.op == "cublaslt"}
    rows = []
    for row in run.ops:
        if row.op == "cublaslt":
            continue
        theirs = [others.get(row.key) for others in (library, torch)]
        rows.append([row.name, f"{row.us:.1f}", f"{run.percent(row):.0f}" if run.has_limits else "",
                     *(f"{us:.1f} ({us / row.us:.2f})" if us else "" for us in theirs)])
    return table(["operation", "us", "% of limit", "cuBLASLt us (/ ours)", "PyTorch us (/ ours)"], rows)


def round_table(run):
    columns = ("us", "draft_us", "verify_us", "rest_us", "bookkeeping_us", "tokens", "tokens_a_s", "speculative_over_plain")
    return table(["round", "% accepted", *columns],
                 [[f"{row.model}, {row.part} of {row.a}, {row.b} nodes", row.c, *(row.fields[c] for c in columns)]
                  for row in run.rounds])


def generate_table(run):
    """Our plain decoding (whole rounds) and transformers' generate, the same shapes and sequences."""
    ours = {(row.model, row.n_seqs): row.tokens_a_s for row in run.rounds if row.b == 1}
    rows = []
    for row in run.generate:
        plain = ours.get((row.model, row.n_seqs))
        rows.append([f"{row.model}, {row.part} of {row.a}", f"{row.tokens_a_s:.1f}",
                     *([f"{plain:.1f}", f"{plain / row.tokens_a_s:.2f}"] if plain else ["", ""])])
    return table(["plain decoding", "transformers tokens/s", "ours", "ours / transformers"], rows)


def markdown(report: dict) -> str:
    run = Run(report)
    lines = [f"# {report['gpu']}, {report['date']}, commit {report['commit']}", ""]
    if run.has_limits:
        lines += [f"Limits of this run: copy {run.bytes_a_us / 1e3:.0f} GB/s, bf16 product {run.flops_a_us / 1e6:.0f} TFLOP/s.", ""]
    lines += table(["step", "seconds", "state"],
                   [[name, step["seconds"], step["state"]] for name, step in report["steps"].items()])
    for name in ("tests", "models"):
        if name in report:
            lines += [f"{name}: {report[name]['passed']} passed, {report[name]['skipped']} skipped", ""]
    lines += [f"not ok: {failure}" for failure in report.get("failed", [])] + [""]
    lines += goal_table(report) + op_table(run) + round_table(run) + generate_table(run)
    return "\n".join(lines)
