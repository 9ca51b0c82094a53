"""The scorer: LPIPS by angle, and a verdict for the whole video."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from gapray.errors import GaprayError, as_gapray_error
from gapray.fidelity.comparison import Comparison, judge_comparison, judge_comparisons
from gapray.fidelity.foreign import aligned_scores, dissimilar_products, refuse_other_product
from gapray.fidelity.lpips import Lpips
from gapray.fidelity.protocol import Protocol
from gapray.fidelity.score import FrameScore, Verdict
from gapray.fidelity.shown import NormalizedView
from gapray.models.load import best_device, load_identity
from gapray.serve.settings import ServeSettings
from gapray.serve.threads import use_threads

log = logging.getLogger("gapray.serve")


class Scorer:
    """Scores comparisons: LPIPS by angle, and a verdict for the whole video."""

    def __init__(self, settings: ServeSettings, *, device: str | None = None) -> None:
        profile = settings.loaded_profile()
        self._settings = profile.fidelity
        self._mask = profile.packaging.mask.model
        device = device or best_device()
        self._threads = settings.scorer.threads
        self._metric = Lpips(profile.fidelity.net, device=device)
        self._identity = load_identity(profile.packaging, device=device, batch=32)

    def warm_up(self) -> None:
        """Compare one pair of grey images, so that the first request does not pay for start-up."""
        grey = np.full((1, 64, 64, 3), 128, np.uint8)
        self._metric.distance(grey, grey)

    def judge(self, comparison: Comparison) -> dict[str, Any]:
        """Return one video's scores: by angle, their mean, and the baselines' scores at the same angles."""
        use_threads(self._threads)
        return self._result(comparison, *judge_comparison(comparison, self._metric, self._identity, self._settings))

    def judge_together(self, comparisons: Sequence[Comparison]) -> list[dict[str, Any] | GaprayError]:
        """Judge several videos with their images batched; if the batch fails, each video is judged on its own."""
        use_threads(self._threads)
        try:
            outcomes = judge_comparisons(comparisons, self._metric, self._identity, self._settings)
            return [
                self._result(comparison, *outcome) for comparison, outcome in zip(comparisons, outcomes, strict=True)
            ]
        except Exception as error:
            log.exception("%d comparisons failed together", len(comparisons))
            if len(comparisons) == 1:
                return [as_gapray_error(error)]
            return [result for comparison in comparisons for result in self.judge_together([comparison])]

    def _result(
        self, comparison: Comparison, scores: Sequence[FrameScore], verdicts: Sequence[Verdict]
    ) -> dict[str, Any]:
        verdict = verdicts[0]  # the video's own; the baselines' follow
        return {
            "lpips": verdict.lpips,
            "worst_lpips": verdict.worst_lpips,
            "key_lpips": verdict.key_lpips,
            "iou": verdict.iou,
            "flicker": verdict.flicker,
            "loop_gap": verdict.loop_gap,
            "span_deg": verdict.span_deg,
            "gate": verdict.gate,
            "reasons": list(verdict.reasons),
            "angles": [
                {
                    "azimuth_deg": score.azimuth_deg,
                    "kind": score.kind,
                    "lpips": score.lpips,
                    "iou": score.iou,
                    "frame": score.frame,
                }
                for score in scores
                if score.label == verdict.label
            ],
            "baselines": {baseline.label: baseline.lpips for baseline in verdicts[1:]},
            "protocol": self._protocol(comparison.framing, comparison.truth, aligned=False),
        }

    def judge_foreign(
        self,
        clip: Sequence[NormalizedView],
        photos: Sequence[NormalizedView],
        others: Sequence[Sequence[NormalizedView]] = (),
    ) -> dict[str, Any]:
        """Align a foreign video with photos of its product, and score it.

        Args:
            clip: Frames of the video.
            photos: Photos of the product that the video is said to show.
            others: Photos of other products, one sequence each: a video that fits one of them about as well does not show
                this product.

        Raises:
            InputError: `score.too_short` or `score.not_this_product`.
        """
        use_threads(self._threads)
        scores = aligned_scores(clip, photos, self._metric)
        nulls = [
            aligned_scores(clip, other, self._metric) for other in dissimilar_products(photos, others, self._metric)
        ]
        refuse_other_product(scores, nulls, "the video")
        angles = [
            {"azimuth_deg": photo.azimuth_deg, "lpips": value}
            for photo, value in zip(photos, scores.lpips, strict=True)
        ]
        return {
            "lpips": scores.mean,
            "span_deg": scores.alignment.span_deg,
            "angles": angles,
            "protocol": self._protocol("boxes", "given", aligned=True),
        }

    def _protocol(self, framing: Any, truth: Any, *, aligned: bool) -> dict[str, Any]:
        return Protocol(
            net=self._metric.net,
            trunk_sha256=self._metric.backbone.sha256,
            size=self._settings.size,
            mask=self._mask,
            framing=framing,
            truth=truth,
            conditions_deg=(),
            source="delivered file" if aligned else "frames before encoding",
            aligned=aligned,
        ).as_dict()
