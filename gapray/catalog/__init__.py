"""The catalogue: Parquet tables in a folder or bucket. pyarrow and DuckDB only, no Ray.

Contract (docs/architecture.md): parts are complete or absent; rows are append-only; per product the newest row is current;
a view counts only when its product's row exists.
"""
