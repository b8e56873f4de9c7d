"""transformers' generate on the language models of bench/gpu/round, with random weights: plain greedy decoding.

    python3 bench/gpu/generate.py [MODEL ...]        the models of seven billion weights by default

One CSV row a case: sequences, context; microseconds of a token of each sequence, and tokens/s of all.  The
prompt's own pass is taken out: a sample is the time of N_TOKENS tokens less that of one.
"""
import statistics
import sys
import time

import torch
from shapes import SHAPES
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

CTX = 1000  # as in round.c
N_TOKENS = 41
SAMPLES = 3
SEQUENCES = (1, 4, 16)


def random_model(name, shape):
    kinds = (Qwen2Config, Qwen2ForCausalLM) if name.startswith("qwen") else (LlamaConfig, LlamaForCausalLM)
    config = kinds[0](hidden_size=shape.hidden, intermediate_size=shape.intermediate, num_hidden_layers=shape.n_layers,
                      num_attention_heads=shape.n_heads, num_key_value_heads=shape.n_kv_heads, vocab_size=shape.vocab,
                      max_position_embeddings=2 * CTX, tie_word_embeddings=False, eos_token_id=None, pad_token_id=0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        return kinds[1](config).eval()


def seconds(model, ids, n):
    """Of an answer of n tokens."""
    start = time.perf_counter()
    model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=n)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def main():
    torch.manual_seed(1)
    print("op,model,part,a,b,c,us,tokens_a_s")
    for name in sys.argv[1:] or ("llava-7b", "qwen-7b"):
        model = random_model(name, SHAPES[name])
        for n_seqs in SEQUENCES:
            ids = torch.randint(1, SHAPES[name].vocab, (n_seqs, CTX), device="cuda")
            seconds(model, ids, 2)
            times = [seconds(model, ids, N_TOKENS) - seconds(model, ids, 1) for _ in range(SAMPLES)]
            us = 1e6 * statistics.median(times) / (N_TOKENS - 1)
            print(f"generate,{name},{n_seqs} sequences,{CTX},1,0,{us:.1f},{1e6 * n_seqs / us:.1f}", flush=True)
        del model
        torch.cuda.empty_cache()


if __name__ == "__main__":
    with torch.inference_mode():
        main()
