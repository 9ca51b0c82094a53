"""SQL of the views that hold the current rows of each table."""

from __future__ import annotations

CURRENT_SQL: dict[str, str] = {
    "products": (
        "SELECT * FROM {products} QUALIFY row_number() OVER "
        "(PARTITION BY product_id ORDER BY created_at DESC, key DESC, run_id DESC) = 1"
    ),
    "views": (
        "SELECT v.* FROM {views} v SEMI JOIN ({current_products}) p "
        "ON v.product_id = p.product_id AND v.key = p.key QUALIFY row_number() OVER "
        "(PARTITION BY v.product_id, v.azimuth_deg ORDER BY v.created_at DESC, v.run_id DESC) = 1"
    ),
    "videos": (
        "SELECT v.* FROM {videos} v SEMI JOIN ({current_products}) p "
        "ON v.product_id = p.product_id AND v.product_key = p.key QUALIFY row_number() OVER "
        "(PARTITION BY v.product_id, v.backend, v.seed, v.preset "
        "ORDER BY v.created_at DESC, v.key DESC, v.run_id DESC) = 1"
    ),
    "verdicts": (
        "SELECT s.* FROM {verdicts} s SEMI JOIN ({current_products}) p "
        "ON s.product_id = p.product_id AND s.product_key = p.key "
        "WHERE s.foreign_video OR s.video_key IN (SELECT key FROM videos) QUALIFY row_number() OVER "
        "(PARTITION BY s.product_id, s.video_key, s.label ORDER BY s.created_at DESC, s.key DESC, s.run_id DESC) = 1"
    ),
    "scores": (
        "SELECT s.* FROM {scores} s SEMI JOIN verdicts v "
        "ON s.product_id = v.product_id AND s.key = v.key AND s.label = v.label QUALIFY row_number() OVER "
        "(PARTITION BY s.product_id, s.key, s.label, s.kind, s.azimuth_deg ORDER BY s.created_at DESC, s.run_id DESC) = 1"
    ),
    "best_exports": (
        "SELECT v.*, s.gate, s.lpips FROM videos v LEFT JOIN verdicts s "
        "ON v.product_id = s.product_id AND v.key = s.video_key AND s.label = 'gapray' AND NOT s.foreign_video QUALIFY row_number() OVER "
        "(PARTITION BY v.product_id, v.preset ORDER BY s.gate = 'pass' DESC NULLS LAST, s.lpips NULLS LAST, v.seed, v.backend, "
        "v.created_at DESC) = 1"
    ),
    "best_videos": (
        "SELECT * FROM best_exports QUALIFY row_number() OVER "
        "(PARTITION BY product_id ORDER BY gate = 'pass' DESC NULLS LAST, preset = 'web' DESC, lpips NULLS LAST, seed, backend, "
        "created_at DESC, preset) = 1"
    ),
    "stills": (
        "SELECT v.* FROM {stills} v SEMI JOIN ({current_products}) p "
        "ON v.product_id = p.product_id AND v.product_key = p.key QUALIFY row_number() OVER "
        "(PARTITION BY v.product_id, v.scene, v.backend, v.seed ORDER BY v.created_at DESC, v.key DESC, v.run_id DESC) = 1"
    ),
    "best_stills": (
        "SELECT * FROM stills QUALIFY row_number() OVER "
        "(PARTITION BY product_id, scene ORDER BY gate = 'pass' DESC, score DESC, seed, backend) = 1"
    ),
    "rejects": (
        "SELECT r.* FROM {rejects} r WHERE NOT EXISTS (SELECT 1 FROM ("
        "SELECT product_id, 'package' AS stage, '' AS item, created_at FROM {products} "
        "UNION ALL SELECT product_id, 'render', concat_ws('/', backend, seed, preset), created_at FROM {videos} "
        "UNION ALL SELECT product_id, 'score', video_key, created_at FROM {verdicts} WHERE NOT foreign_video "
        "UNION ALL SELECT product_id, 'stills', concat_ws('/', scene, backend, seed), created_at FROM {stills}"
        ") d WHERE d.product_id = r.product_id AND d.stage = r.stage AND d.item = coalesce(r.item, d.item) "
        "AND d.created_at >= r.created_at) "
        "AND (r.stage <> 'score' OR r.item IS NULL OR r.item IN (SELECT key FROM videos)) QUALIFY row_number() OVER "
        "(PARTITION BY r.product_id, r.stage, r.item ORDER BY r.created_at DESC, r.key DESC, r.run_id DESC) = 1"
    ),
}
"""Definition of the current rows of each table and view. A product's newest row is current. Its views and videos are those of
that row's package; of its videos, the newest for each backend, seed and preset. A reject is current until the same stage succeeds
for the same item; a reject of scoring also requires that its video is current. The best of a product's videos in one preset passes
the gate with the lowest LPIPS; among presets `web`, the default, comes first, so that a further export never replaces what is
published."""
