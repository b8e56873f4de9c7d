"""PyTorch on the shapes of bench/gpu/ops.c.

    python3 bench/gpu/peers.py OPS.csv

Reads the cases that our own bench has printed, and prints rows of the same form: `gemm` and `head` rows are torch's
linear (cuBLAS), `attention` rows are scaled_dot_product_attention over contiguous keys with the tree as a
mask.  Times are medians over replays of a CUDA graph; inputs are random and take turns over
more memory than the L2 holds.
"""
import csv
import statistics
import sys

import torch
import torch.nn.functional as F

from shapes import SHAPES

SAMPLES = 15
ROTATED_BYTES = 400 << 20
SAMPLE_US = 2000


def time_us(call, n):
    """Median, p10 and p90 microseconds of one of n calls in a graph."""
    for i in range(3):
        call(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(n):
            call(i)
    times = []
    for _ in range(SAMPLES + 1):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1000 / n)
    times = sorted(times[1:])
    return statistics.median(times), times[SAMPLES // 10], times[SAMPLES - 1 - SAMPLES // 10]


def run(names, call, n_bytes, flops, expected_us):
    n = max(8, min(1000, int(SAMPLE_US / expected_us)))
    us, p10, p90 = time_us(call, n)
    print(",".join(map(str, names)), f"{us:.2f},{p10:.2f},{p90:.2f},{n_bytes:.0f},{flops:.0f}", sep=",", flush=True)


def random(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * 0.3


def gemm(row):
    n, n_out, n_in = int(row["a"]), int(row["b"]), int(row["c"])
    ws = [random(n_out, n_in) for _ in range(ROTATED_BYTES // (2 * n_out * n_in) + 1)]
    x = random(n, n_in)
    run((row["op"], row["model"], row["part"], n, n_out, n_in), lambda i: F.linear(x, ws[i % len(ws)]),
        float(row["bytes"]), float(row["flops"]), float(row["us"]))


def attention(row):
    shape = SHAPES[row["model"]]
    n_heads, n_kv, d = shape.n_heads, shape.n_kv_heads, shape.head_dim
    n_seqs, ctx, nodes = int(row["part"].split()[0]), int(row["a"]), int(row["b"])
    keys = ctx + nodes
    n_copies = ROTATED_BYTES // (4 * n_seqs * n_kv * keys * d) + 1
    q = random(n_seqs, n_heads, nodes, d)
    k, v = ([random(n_seqs, n_kv, keys, d) for _ in range(n_copies)] for _ in range(2))
    mask = torch.zeros(nodes, keys, device="cuda", dtype=torch.bool)
    mask[:, :ctx] = True
    for node in range(nodes):
        mask[node, ctx] = True
        ancestor = node
        while ancestor > 0:
            mask[node, ctx + ancestor] = True
            ancestor = (ancestor - 1) // 3
    run((row["op"], row["model"], row["part"], ctx, nodes, 0),
        lambda i: F.scaled_dot_product_attention(q, k[i % n_copies], v[i % n_copies], attn_mask=mask,
                                                 enable_gqa=n_heads != n_kv),
        float(row["bytes"]), float(row["flops"]), float(row["us"]))


def main():
    torch.manual_seed(1)
    print("op,model,part,a,b,c,us,us_p10,us_p90,bytes,flops")
    for row in csv.DictReader(open(sys.argv[1])):
        if row["op"] in ("gemm", "head"):
            gemm(row)
        if row["op"] == "attention":
            attention(row)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
