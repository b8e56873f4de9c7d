"""First stage: the tower and projector learn to name what every patch shows.

Captions alone teach a small tower nothing for a long time: the gradient that reaches a patch is
tiny and noisy.  Here each projected patch feature is classified directly: kind, colour, the item's
cell, how many of its group there are, its size.  The heads are thrown away afterwards.
"""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from PIL import Image
from scenes import CELLS, COLOURS, MAX_COUNT, NAMES, SIZES, PatchLabels
from torch import Tensor, nn

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)
SIZES_OF = {
    "kind": len(NAMES) + 1,
    "colour": len(COLOURS),
    "cell": len(CELLS),
    "count": MAX_COUNT,
    "size": len(SIZES),
}


def to_pixels(picture: Image.Image) -> np.ndarray:
    """CLIP's normalisation: RGB bytes -> [3, side, side] float32."""
    return ((np.asarray(picture, dtype=np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1)


def stack_labels(labels: PatchLabels) -> np.ndarray:
    """[len(SIZES_OF), n_patches]"""
    return np.stack([getattr(labels, name).ravel() for name in SIZES_OF])


class LabelHeads(nn.Module):
    def __init__(self, hidden: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.heads = nn.ModuleDict({n: nn.Linear(hidden, size) for n, size in SIZES_OF.items()})

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        """features [N, P, H], labels [N, len(SIZES_OF), P] -> loss and accuracy of each head.

        Patches of items weigh as much as all the background together.
        """
        x = self.norm(features)
        loss = features.new_zeros(())
        right = {}
        is_item = labels[:, 0] != len(NAMES)
        for i, (name, head) in enumerate(self.heads.items()):
            logits, want = head(x), labels[:, i]
            nll = F.cross_entropy(logits.transpose(1, 2), want, ignore_index=-1, reduction="none")
            known = want >= 0
            for part in (known & is_item, known & ~is_item):
                if part.any():
                    loss = loss + nll[part].mean() * (1.0 if name in ("kind", "count") else 0.5)
            judged = known & is_item if name != "colour" else known
            right[name] = (logits.argmax(-1) == want)[judged].float().mean().item()
        return loss, right
