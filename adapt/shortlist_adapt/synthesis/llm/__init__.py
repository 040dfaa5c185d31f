"""Queries written by an LLM, in two steps: who would search for a document and how; then the query.

The two steps follow the report on Qwen3 Embedding (arXiv 2506.05176). ``source.LlmSource`` is what the synthesis calls;
everything else here serves it. The LLM is an OpenAI-compatible endpoint (``endpoint``) or a checkpoint on this machine
(``local``).
"""

from __future__ import annotations
