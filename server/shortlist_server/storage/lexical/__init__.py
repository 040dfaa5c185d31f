"""The lexical index: BM25 within a budget."""
