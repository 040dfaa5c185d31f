"""Shortlist's server: retrieve, then rerank, over gRPC."""
