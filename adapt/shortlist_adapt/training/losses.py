"""The losses: contrastive for embedders, yes/no and listwise for rerankers.

Pure functions of tensors. Half-precision input is computed in float32. Importing this module loads torch.

Source: "Qwen3 Embedding: Advancing Text Embedding and Reranking Through Foundation Models" (arXiv 2506.05176), section
on training. The listwise cross-entropy is ListNet's for one relevant text (Cao et al., 2007).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

MARGIN = 0.1
"""A text that scores above the positive by more than this counts as an answer that nobody judged."""


def improved_info_nce(
    queries: Tensor, documents: Tensor, *, related: Tensor, temperature: float, margin: float = MARGIN
) -> Tensor:
    """The report's improved InfoNCE, averaged over the rows; a scalar.

    Row i is a query, its positive and its hard negatives. Its loss is ``-log(exp(s / t) / Z)``, where s is the cosine
    of the query and the positive, and Z sums ``exp(score / t)`` over these scores:

    1. the query and its positive,
    2. the query and its own hard negatives,
    3. the query and the queries of other rows,
    4. the positive and the documents of other rows,
    5. the query and the documents of other rows.

    The documents of a row are its positive and its hard negatives; the report leaves open whether the latter count for
    other rows, and here they do. Terms 2 to 5 leave out a score that exceeds the first one by more than ``margin``, and
    a document that is known to answer the query. Term 3 leaves out a query whose positive is known to answer this query
    too.

    Args:
        queries: shape (rows, dimension), of any length.
        documents: shape (rows, documents, dimension), of any length; the positive comes first.
        related: shape (rows, rows, documents), bool: whether document [j, c] is known to answer query i.
        temperature: what scores are divided by; the report's models use small ones, 0.02 to 0.05.
    """
    rows, per_row, _ = documents.shape
    query = functional.normalize(_full(queries), dim=-1)
    document = functional.normalize(_full(documents), dim=-1)
    positive = document[:, 0]
    flat = document.flatten(0, 1)
    same_row = torch.eye(rows, dtype=torch.bool, device=query.device)
    answers = related.flatten(1)
    first = (query * positive).sum(dim=-1, keepdim=True)

    def kept(scores: Tensor, left_out: Tensor) -> Tensor:
        return scores.masked_fill(left_out | (scores.detach() > first.detach() + margin), -torch.inf)

    # The row's own positive is term 1, so it is left out of the others even where ``related`` does not say so.
    own_positive = torch.zeros_like(related)
    own_positive[:, :, 0] = same_row
    scores = torch.cat(
        [
            first,
            kept(query @ flat.T, answers | own_positive.flatten(1)),  # terms 2 and 5
            kept(query @ query.T, same_row | related[:, :, 0]),
            kept(positive @ flat.T, answers | same_row.repeat_interleave(per_row, dim=1)),
        ],
        dim=1,
    )
    # Of the differences only: with a small temperature the scores themselves are large, and their last digits are lost.
    return torch.logsumexp((scores - first) / temperature, dim=1).mean()


def yes_no_likelihood(differences: Tensor, labels: Tensor) -> Tensor:
    """The negative log-likelihood of the right answer, yes or no, averaged over the texts; a scalar.

    With only two possible answers the likelihood of yes is ``sigmoid(difference)``, as in the server's score.

    Args:
        differences: shape (texts,): the logit of yes less the logit of no.
        labels: shape (texts,): 1 where yes is right, 0 where no is.
    """
    return functional.binary_cross_entropy_with_logits(_full(differences), labels.to(_full(differences).dtype))


def listwise_cross_entropy(scores: Tensor, present: Tensor | None = None) -> Tensor:
    """The cross-entropy of the positive among the texts of its query, averaged over the queries; a scalar.

    Args:
        scores: shape (queries, texts): raw scores (logits); the positive comes first.
        present: shape (queries, texts), bool: False where a query has fewer texts than the widest one; None if every
            text is there. The positive must be there.
    """
    scores = _full(scores)
    if present is not None:
        scores = scores.masked_fill(~present, -torch.inf)
    return (torch.logsumexp(scores, dim=1) - scores[:, 0]).mean()


def _full(values: Tensor) -> Tensor:
    """The values in float32 where they are in half precision, else as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
