"""The shapes of bench/gpu/bench.c for the peers."""
import typing


class Shape(typing.NamedTuple):
    hidden: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    n_layers: int


SHAPES = {
    "llava-7b": Shape(4096, 32, 32, 128, 11008, 32064, 32),
    "llava-13b": Shape(5120, 40, 40, 128, 13824, 32064, 40),
    "qwen-3b": Shape(2048, 16, 2, 128, 11008, 151936, 36),
    "qwen-7b": Shape(3584, 28, 4, 128, 18944, 152064, 28),
}
