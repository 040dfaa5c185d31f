"""The gate: whether the models of a run rank better than what serves, by real searches on queries that nothing saw."""
