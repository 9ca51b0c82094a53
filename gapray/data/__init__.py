"""gapray's stages as processors of Ray datasets, in the style of `ray.data.llm`.

    import ray
    import gapray.data

    photos = ray.data.read_parquet("s3://shop/photos")
    packages = gapray.data.package_processor("classic")(photos)
    videos = gapray.data.turntable_processor("classic", preset="web")(packages)
    scores = gapray.data.score_processor("classic")(videos)
    scores.write_parquet("s3://shop/turntables")

A processor is a function from a dataset to a dataset. Its result is lazy, has one row for each input row (that of
`stills_processor` one for each row and scene), and keeps all columns that the processor does not use. A product that cannot be
processed becomes a row with a `reject`, which later processors pass on. No catalogue is read or written.
"""

from gapray.data.packages import PACKAGES, PHOTOS, package_processor
from gapray.data.processor import Processor
from gapray.data.scores import SCORED_TURNTABLES, TRUTHS, score_processor
from gapray.data.stills import PACKAGE_STILLS, stills_processor
from gapray.data.turntables import TURNTABLES, turntable_processor

__all__ = [
    "PACKAGES",
    "PACKAGE_STILLS",
    "PHOTOS",
    "SCORED_TURNTABLES",
    "TRUTHS",
    "TURNTABLES",
    "Processor",
    "package_processor",
    "score_processor",
    "stills_processor",
    "turntable_processor",
]
