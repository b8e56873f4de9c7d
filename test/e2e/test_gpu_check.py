"""scripts/gpu-check without a GPU: its report's arithmetic, and the script with programs that print what a GPU would.

All rows here are INVENTED, round numbers that are easy to judge; no GPU printed them.
"""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from daemon import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import gpu_report  # noqa: E402

OPS = "op,model,part,a,b,c,us,us_p10,us_p90,bytes,flops"
ROUNDS = ("op,model,part,a,b,c,us,us_p10,us_p90,draft_us,verify_us,rest_us,bookkeeping_us,draft_bytes,tokens,"
          "tokens_a_s,speculative_over_plain")
# 4 MB/us = 4000 GB/s, and 800 MFLOP/us = 800 TFLOP/s.
LIMITS = ["copy,,,0,0,0,1000,1,1,4000000000,0", "matmul,,,8192,8192,8192,1000,1,1,0,800000000000"]


def rows(header, lines):
    return [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]


def judged(goal, ops=(), rounds=(), gpu="NVIDIA H200"):
    """(measured, verdict, worst case) of the goal whose text begins so."""
    report = {"gpu": gpu, "ops": rows(OPS, ops), "rounds": rows(ROUNDS, rounds)}
    found = next(g for g in gpu_report.goals(report) if g["goal"].startswith(goal))
    return found["measured"], found["verdict"], found["case"]


def op(name, us, n_bytes=0, flops=0):
    return f"{name},{us},1,1,{n_bytes},{flops}"


def a_round(part="1 sequences", us=5000, draft=1000, verify=3800, rest=150, own=40, tokens=3, ratio=2):
    return f"round,llava-7b,{part},1000,30,70,{us},1,1,{draft},{verify},{rest},{own},3200000000,{tokens},1,{ratio}"


@pytest.mark.parametrize("goal", [g.text for g in gpu_report.GOALS])
def test_a_goal_without_rows_is_not_measured(goal):
    assert judged(goal) == (None, "not measured", "")


def test_a_share_of_the_limit_needs_the_limits_of_the_same_run():
    case = op("gemm,llava-7b,qkv,8,12288,4096", 30, 100e6)
    assert judged("skinny gemm", [case])[1] == "not measured"
    assert judged("skinny gemm", [*LIMITS[:1], case])[1] == "not measured"
    assert judged("skinny gemm", [*LIMITS, case])[1] == "missed"


@pytest.mark.parametrize("us,percent,verdict", [(27.5, 90.9, "stretch"), (28.5, 87.7, "must"), (30, 83.3, "missed")])
def test_a_goal_is_judged_by_must_and_stretch(us, percent, verdict):
    measured = judged("skinny gemm", [*LIMITS, op("gemm,llava-7b,qkv,8,12288,4096", us, 100e6)])
    assert measured == (pytest.approx(percent, abs=0.1), verdict, "gemm llava-7b qkv 8 12288 4096")


def test_the_worst_case_counts_and_cases_outside_a_goal_do_not():
    cases = [op("gemm,llava-7b,qkv,8,12288,4096", 28, 100e6), op("gemm,llava-7b,down,64,4096,11008", 40, 90e6),
             op("gemm,llava-7b,down,128,4096,11008", 400, 90e6), op("gemm,qwen-3b,o,1,2048,2048", 40, 8e6)]
    assert judged("skinny gemm", LIMITS + cases) == (pytest.approx(56.25), "missed", "gemm llava-7b down 64 4096 11008")


def test_the_limit_is_the_longer_of_bytes_and_products():
    few_bytes = op("pass,llava-7b,16 sequences,1024,30,0", 10000, 4e9, 7.2e12)
    assert judged("verify pass, 128", [*LIMITS, few_bytes])[:2] == (pytest.approx(90), "stretch")
    assert judged("verify pass, 1 s", [*LIMITS, op("pass,qwen-7b,1 sequences,1024,60,0", 5000, 16.4e9, 1e12)])[:2] == (
        pytest.approx(82), "must")


def test_attention_is_judged_by_what_bounds_it():
    mha = op("attention,llava-7b,1 sequences,16384,60,0", 110, 400e6, 1e9)
    assert judged("tree attention, MHA", [*LIMITS, mha])[:2] == (pytest.approx(90.9, abs=0.1), "stretch")
    gqa = op("attention,qwen-7b,4 sequences,4096,60,0", 100, 40e6, 40e9)
    assert judged("tree attention, GQA", [*LIMITS, gqa])[:2] == (pytest.approx(50), "must")
    assert judged("tree attention, GQA", [*LIMITS, gqa.replace(",4 seq", ",1 seq")])[1] == "not measured"
    short = op("attention,qwen-7b,1 sequences,1024,8,0", 8)
    assert judged("tree attention, 1 x", [short])[:2] == (8, "must")


def test_a_tree_is_compared_with_one_row_on_the_same_cache():
    cases = [op("attention,llava-7b,4 sequences,4096,1,0", 100), op("attention,llava-7b,4 sequences,4096,60,0", 108),
             op("attention,llava-7b,1 sequences,4096,60,0", 200)]
    assert judged("60-row tree", cases)[:2] == (pytest.approx(1.08), "must")


@pytest.mark.parametrize("goal,name,n_bytes,flops", [
    ("verify pass, 1 s", "pass,llava-7b,4 sequences,1024,30,0", 1e9, 0),
    ("verify pass, 1 s", "pass,llava-13b,1 sequences,1024,30,0", 1e9, 0),
    ("verify pass, 128", "pass,llava-7b,4 sequences,1024,30,0", 1e9, 0),
    ("tree attention, MHA", "attention,llava-7b,4 sequences,1024,8,0", 1e9, 0),
    ("tree attention, MHA", "attention,qwen-7b,1 sequences,16384,8,0", 1e9, 0),
    ("tree attention, GQA", "attention,qwen-7b,1 sequences,16384,1,0", 1e9, 1e9),
    ("tree attention, GQA", "attention,llava-7b,1 sequences,16384,8,0", 0, 1e9),
    ("tree attention, 1 x", "attention,llava-7b,1 sequences,4096,8,0", 0, 0),
    ("60-row tree", "attention,llava-7b,1 sequences,4096,30,0", 0, 0),
    ("60-row tree", "attention,qwen-7b,1 sequences,4096,60,0", 0, 0),
])
def test_a_case_outside_a_goal_is_not_judged_by_it(goal, name, n_bytes, flops):
    one_row = [op(f"attention,{model},1 sequences,4096,1,0", 1) for model in ("llava-7b", "qwen-7b")]
    assert judged(goal, [*LIMITS, *one_row, op(name, 1000, n_bytes, flops)])[1] == "not measured"


def test_goals_of_rounds_come_from_their_own_columns():
    assert judged("draft forwards", LIMITS, [a_round()])[:2] == (pytest.approx(80), "stretch")
    assert judged("all drafting", rounds=[a_round()])[:2] == (pytest.approx(0.263, abs=1e-3), "must")
    assert judged("select", rounds=[a_round(), a_round("16 sequences", own=41)])[:2] == (41, "missed")
    assert judged("GPU idle", rounds=[a_round()])[:2] == (pytest.approx(1), "must")
    assert judged("speculative", rounds=[a_round(tokens=2.5)])[:2] == (pytest.approx(1.01, abs=1e-2), "stretch")
    assert judged("all drafting", rounds=[a_round("4 sequences")])[1] == "not measured"


def test_the_ceilings_are_judged_on_an_h200_only():
    assert judged("copy", LIMITS)[:2] == (pytest.approx(4000), "missed")
    assert judged("copy", LIMITS, gpu="NVIDIA H100")[1] == "not measured"
    assert judged("bf16 product", LIMITS)[:2] == (pytest.approx(800), "must")


def test_the_benches_print_the_columns_that_the_report_reads():
    for file, header in (("bench.c", OPS), ("round.c", ROUNDS)):
        assert header in re.sub(r'"\s*"', "", (ROOT / "bench/gpu" / file).read_text())


# ---- the script -------------------------------------------------------------------------------------

SANITIZED = ("accept_test", "attention_test", "draft_attention_test", "gemm_test", "topk_test", "tree_test")


@pytest.fixture
def check(tmp_path):
    """check(*steps) runs gpu-check on a build of programs that only print; gives exit status and report."""
    build, path = tmp_path / "build", tmp_path / "bin"

    def write(file, text):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)

    def prints(file, header, lines):
        write(file, "\n".join(["cat <<END", "a greeting", header, *lines, "END"]))

    write(path / "nvidia-smi", "echo NVIDIA H200 INVENTED, 1, 2")
    write(path / "make", "exit 0")
    write(path / "compute-sanitizer", 'echo "== ERROR SUMMARY: 0 errors"')
    for name in SANITIZED:
        write(build / "gpu/test" / f"{name}-bf16", "echo ok 1 - it is right")
    write(build / "gpu/test/models_test-bf16", "echo ok 1 - trees are right; echo 'ok 2 - pictures # SKIP'")
    prints(build / "gpu/bench/limits", OPS, LIMITS)
    prints(build / "gpu/bench/ops", OPS, [op("gemm,llava-7b,qkv,8,12288,4096", 28, 100e6),
                                          op("cublaslt,llava-7b,qkv,8,12288,4096", 35, 100e6)])
    prints(build / "gpu/bench/pass", OPS, [op("pass,llava-7b,1 sequences,1024,60,0", 4000, 14e9)])
    prints(build / "gpu/bench/round", ROUNDS, [a_round()])

    def run(*steps, script=ROOT / "scripts/gpu-check"):
        done = subprocess.run([sys.executable, script, build, tmp_path / "report", *steps],
                              env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}"}, timeout=60, check=False,
                              stdout=subprocess.DEVNULL)
        return done.returncode, json.loads((tmp_path / "report/report.json").read_text())

    run.write, run.build, run.bin, run.report = write, build, path, tmp_path / "report"
    return run


def states(report):
    return {name: step["state"].split(":")[0] for name, step in report["steps"].items()}


def test_the_report_lies_in_the_chosen_folder(check):
    status, report = check()
    assert status == 0
    assert set(states(report)) == {"build", "tests", "models", "sanitizer", "limits", "ops", "pass", "round", "peers", "generate"}
    assert set(states(report).values()) <= {"done", "skipped"}
    assert report["gpu"] == "NVIDIA H200 INVENTED, 1, 2"
    assert {goal["verdict"] for goal in report["goals"]} == {"missed", "must", "not measured", "stretch"}
    assert report["tests"] == {"passed": len(SANITIZED), "skipped": 0}
    assert report["models"] == {"passed": 1, "skipped": 1}
    assert {file.name for file in check.report.iterdir()} >= {"report.json", "report.md", "ops.csv", "log.txt"}
    text = (check.report / "report.md").read_text()
    assert "| verify pass, 1 sequence, <= 64 rows, 7B | 87.5 | 80 | 88 | % of limit | must |" in text
    assert "| gemm llava-7b qkv 8 12288 4096 | 28.0 | 89 | 35.0 (1.25) |  |" in text
    assert "| GPU idle between rounds | 1 | 2 | 0.5 | % | must |" in text
    assert "| tree attention, 1 x 1024, merge included |  | 10 | 7 | us | not measured |" in text


def test_a_failed_test_ends_the_run(check):
    check.write(check.build / "gpu/test/gemm_test-bf16", "echo not ok 1 - a product; exit 1")
    status, report = check()
    assert status == 1
    assert states(report) == {"build": "done", "tests": "failed"}
    assert "gemm_test-bf16: not ok 1 - a product" in report["failed"][0]


def test_a_failed_model_ends_the_run(check):
    check.write(check.build / "gpu/test/models_test-bf16", "echo not ok 1 - trees; exit 1")
    status, report = check()
    assert (status, states(report)) == (1, {"build": "done", "tests": "done", "models": "failed"})


def test_a_program_that_dies_without_a_word_is_a_failed_test(check):
    check.write(check.build / "gpu/test/gemm_test-bf16", "kill -9 $$")
    status, report = check("tests")
    assert (status, states(report)) == (1, {"build": "done", "tests": "failed"})


def test_a_failed_build_ends_the_run(check):
    check.write(check.bin / "make", "echo no nvcc; exit 2")
    status, report = check()
    assert (status, states(report), report["failed"]) == (1, {"build": "failed"}, ["build: no nvcc"])


def test_what_the_sanitizer_finds_fails_the_run_and_the_benches_still_run(check):
    check.write(check.bin / "compute-sanitizer", 'echo "== ERROR SUMMARY: 2 errors"')
    status, report = check("sanitizer", "limits")
    assert (status, states(report)) == (1, {"build": "done", "sanitizer": "failed", "limits": "done"})


def test_what_is_sanitized_are_tests_that_exist():
    names = re.findall(r'"(\w+)-bf16": "(\w+)"', (ROOT / "scripts/gpu-check").read_text())
    assert [program for program, _ in names] == list(SANITIZED)
    for program, test in names:
        assert re.search(rf"^TEST\(\w*{test}", (ROOT / f"test/unit/{program}.c").read_text(), re.M), test


def test_a_sanitizer_that_does_not_work_on_this_machine_is_skipped(check):
    check.write(check.bin / "compute-sanitizer", "echo this device is not supported; exit 1")
    status, report = check("sanitizer")
    assert (status, states(report)["sanitizer"]) == (0, "skipped")
    check.write(check.bin / "compute-sanitizer", """
        [ $4 != initcheck ] || { echo died; exit 1; }
        echo "== ERROR SUMMARY: 0 errors" """)
    status, report = check("sanitizer")
    assert (status, states(report)["sanitizer"]) == (1, "failed")
    assert "initcheck gemm_test-bf16: did not run: died" in "".join(report["failed"])


def test_a_bench_that_dies_keeps_its_rows_and_fails_the_run(check):
    check.write(check.build / "gpu/bench/limits", f"echo {OPS}; echo {LIMITS[0]}; echo out of memory >&2; exit 1")
    status, report = check("limits")
    assert (status, states(report)["limits"]) == (1, "failed")
    assert [row["op"] for row in report["ops"]] == ["copy"]
    assert "not ok: limits: exit status 1: out of memory" in (check.report / "report.md").read_text()


def test_without_a_gpu_there_is_no_report(check):
    (check.bin / "nvidia-smi").unlink()
    done = subprocess.run([sys.executable, ROOT / "scripts/gpu-check", check.build, check.report],
                          env={**os.environ, "PATH": str(check.bin)}, timeout=60, check=False, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "gpu-check: there is no nvidia-smi, and so no GPU\n")
    assert not (check.report / "report.json").exists()


@pytest.fixture
def hasty(tmp_path):
    """The script with four seconds, outside a repository."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    script = tmp_path / "scripts/gpu-check"
    script.write_text(script.read_text().replace("RUN_SECONDS = 480", "RUN_SECONDS = 4"))
    return script


def test_a_late_build_ends_the_run(check, hasty):
    check.write(check.bin / "make", "sleep 60")
    status, report = check(script=hasty)
    assert (status, states(report)) == (1, {"build": "late"})


def test_a_late_step_is_stopped_and_outside_a_repository_the_commit_is_unknown(check, hasty):
    check.write(check.build / "gpu/bench/limits", f"echo {OPS}; echo {LIMITS[0]}; printf matm; sleep 60")
    status, report = check("limits", "ops", script=hasty)
    assert (status, report["commit"]) == (1, "unknown")
    assert states(report) == {"build": "done", "limits": "late", "ops": "late"}
    assert report["steps"]["ops"]["state"] == "late: no time was left"
    assert [row["op"] for row in report["ops"]] == ["copy"]
