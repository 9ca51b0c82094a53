"""The catalogue: Parquet tables in a folder or bucket, written by pyarrow and read by pyarrow and DuckDB, without Ray.

Contract (docs/architecture.md): parts are complete or absent; rows are append-only; a product's newest row is current; a view
counts only if its product's row exists.
"""
