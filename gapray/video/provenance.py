"""Provenance of a video: a JSON sidecar, and an XMP packet with IPTC's digital source type inside the file."""

from __future__ import annotations

import json
import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from xml.sax.saxutils import escape

from pydantic import ValidationError

from gapray.errors import InputError
from gapray.orbit.settings import OrbitSettings
from gapray.video.settings import VideoSettings

XMP_UUID = uuid.UUID("be7acfcb-97a9-42e8-9c71-999491e3afac")
"""Identifier of an XMP packet's box in ISO media files (XMP specification part 3, table 9)."""
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"


@dataclass(frozen=True)
class Provenance:
    """Where the pixels of one video come from."""

    product_id: str
    source_type: str
    """The last part of IPTC's digital source type URI."""
    facts: Mapping[str, Any]
    """Everything else, as plain data: backend, models, seed, settings, photos' hashes, calibration, azimuths."""

    def sidecar(self) -> bytes:
        """Content of the JSON file beside the video."""
        body = {
            "product_id": self.product_id,
            "digital_source_type": SOURCE_TYPES + self.source_type,
            **self.facts,
        }
        return (json.dumps(body, indent=2, sort_keys=True, default=str) + "\n").encode()

    @classmethod
    def from_sidecar(cls, text: str) -> Self:
        """Parse what `sidecar` wrote."""
        body: dict[str, Any] = json.loads(text)
        source_type = str(body.pop("digital_source_type")).removeprefix(SOURCE_TYPES)
        return cls(str(body.pop("product_id")), source_type, body)

    def drawn_with(self) -> tuple[OrbitSettings, VideoSettings]:
        """The settings that the frames were drawn with, from `settings` in `facts`.

        Raises:
            InputError: `score.not_as_drawn` if a release with other settings wrote them.
        """
        try:
            recorded = self.facts["settings"]
            return OrbitSettings.model_validate(recorded["orbit"]), VideoSettings.model_validate(recorded["video"])
        except (KeyError, TypeError, ValidationError) as error:
            raise InputError(
                "score.not_as_drawn", f"the record of {self.product_id}'s video has other settings than this release"
            ) from error

    def xmp(self) -> bytes:
        """An XMP packet: source type, software, and what the video shows."""
        return (
            '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
            'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/">'
            f"<Iptc4xmpExt:DigitalSourceType>{SOURCE_TYPES}{escape(self.source_type)}</Iptc4xmpExt:DigitalSourceType>"
            f"<xmp:CreatorTool>{escape(str(self.facts.get('software', 'gapray')))}</xmp:CreatorTool>"
            f"<dc:identifier>{escape(self.product_id)}</dc:identifier>"
            "</rdf:Description></rdf:RDF></x:xmpmeta>"
            '<?xpacket end="w"?>'
        ).encode()


def with_xmp_box(mp4: bytes, xmp: bytes) -> bytes:
    """Append an XMP packet to an mp4 as a top-level `uuid` box; players skip it."""
    return mp4 + struct.pack(">I4s", 24 + len(xmp), b"uuid") + XMP_UUID.bytes + xmp
