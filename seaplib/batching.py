"""Token ids in batches: texts of similar lengths together, so that little of a batch is padding."""

from collections.abc import Iterator, Sequence

import torch

#: on a CPU more tokens at once are slower: activations no longer fit its caches
CPU_BATCH_TOKENS = 1024
#: what starting a forward pass costs, in tokens: worth so much padding, and no more
PASS_TOKENS = 32


def affordable(device, batch_tokens: int) -> int:
    """``batch_tokens``, or less where less is faster."""
    return min(batch_tokens, CPU_BATCH_TOKENS) if torch.device(device).type == "cpu" else batch_tokens


def partition(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices of ``lengths``, batch by batch: the cheapest batches of neighbours in length, longest first.

    A batch costs its padded tokens, rows × longest, which are at most ``batch_tokens`` (a longer text
    stands alone), and ``PASS_TOKENS``. With texts in descending order the best batches of the first
    j are best(j) = min_i best(i) + cost(i … j), found in O(texts × rows in a batch).
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    best, first = [0], [0]
    for end in range(1, len(order) + 1):
        options = []
        for start in range(end - 1, -1, -1):
            padded = lengths[order[start]] * (end - start)
            if padded > batch_tokens and options:
                break
            options.append((best[start] + padded + PASS_TOKENS, start))
        cost, start = min(options)
        best.append(cost)
        first.append(start)
    parts, end = [], len(order)
    while end:
        parts.append(order[first[end] : end])
        end = first[end]
    return parts[::-1]


def batches(
    encoded: list[list[int]], batch_tokens: int, device, pad: int = 0
) -> Iterator[tuple[torch.Tensor, torch.Tensor, list[int]]]:
    """Right-padded batches of similar lengths, at most ``batch_tokens`` padded tokens each.

    Fewer where that is faster. Yields ids [b, t], attention mask [b, t] and the texts' indices.
    """
    for rows in partition(list(map(len, encoded)), affordable(device, batch_tokens)):
        longest = len(encoded[rows[0]])
        ids = torch.full((len(rows), longest), pad)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for row, index in enumerate(rows):
            ids[row, : len(encoded[index])] = torch.tensor(encoded[index])
            mask[row, : len(encoded[index])] = 1
        yield ids.to(device), mask.to(device), rows
