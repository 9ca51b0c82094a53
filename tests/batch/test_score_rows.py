"""What is compared comes through Arrow as it was."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from gapray.batch.score_rows import COMPARED, GATHERED, comparison_columns, comparison_of, picture_columns, picture_of
from gapray.fidelity.comparison import Comparison, Pair
from gapray.fidelity.shown import NormalizedView


def through(schema, column, values):
    table = pa.Table.from_pylist([{column: values}], schema=pa.schema([schema.field(column)]))
    [row] = table.to_pylist()
    return row[column]


@given(st.integers(1, 7), st.integers(1, 7), st.booleans())
def test_pictures(height, width, contiguous):
    picture = np.random.default_rng(0).integers(0, 256, (width, height, 3), np.uint8).transpose(1, 0, 2)
    picture = np.ascontiguousarray(picture) if contiguous else picture
    [row] = through(GATHERED, "truths", [{"azimuth_deg": 15.0} | picture_columns(picture)])
    assert np.array_equal(picture_of(row), picture) and row["azimuth_deg"] == 15.0


def shown(rng, side):
    return NormalizedView(
        float(rng.uniform(0, 360)),
        rng.integers(0, 256, (side, side, 3), np.uint8),
        rng.integers(0, 256, (side, side), np.uint8),
    )


def same(one, other):
    return (
        one.azimuth_deg == other.azimuth_deg
        and np.array_equal(one.image, other.image)
        and np.array_equal(one.mask, other.mask)
    )


@given(st.integers(0, 2**32), st.integers(0, 3), st.booleans())
def test_comparisons(seed, pairs, native):
    rng = np.random.default_rng(seed)
    before = Comparison(
        pairs=tuple(
            Pair(
                shown(rng, 4),
                shown(rng, 4),
                "key" if number % 2 else "in-between",
                None if number == 2 else number,
                number or None,
                (shown(rng, 6), shown(rng, 6)) if native else None,
            )
            for number in range(pairs)
        ),
        given=(shown(rng, 4), shown(rng, 4)),
        clip=tuple(shown(rng, 4) for _ in range(3)),
        framing="boxes",
        truth="leave-one-out",
    )
    columns = comparison_columns(before)
    after = comparison_of({name: through(COMPARED, name, value) for name, value in columns.items()})
    assert (after.framing, after.truth) == (before.framing, before.truth)
    assert all(map(same, (*after.given, *after.clip), (*before.given, *before.clip)))
    assert len(after.pairs) == len(before.pairs)
    for pair, wanted in zip(after.pairs, before.pairs, strict=True):
        assert (pair.kind, pair.frame, pair.without) == (wanted.kind, wanted.frame, wanted.without)
        assert same(pair.image, wanted.image) and same(pair.truth, wanted.truth)
        assert pair.native is None if wanted.native is None else all(map(same, pair.native, wanted.native))
