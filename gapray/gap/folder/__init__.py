"""Reading and writing GAP folders in the prototype's layout.

::

    multiview_manifest.json
    view_045/canonical/reference.png            RGB
    view_045/canonical/reference_no_bg.png      RGBA
    view_045/geometry/depth_000.png             8-bit grey
    view_045/geometry/mask_000.png              8-bit grey
    view_045/identity_embedding.pt              torch.save of a float32 tensor [517]
    view_045/metadata.json
    view_045/geometry/depth16_000.png           16-bit grey, `GapView.depth` itself
    view_045/geometry/canny_000.png             8-bit grey

Files are named ``…_000`` in the folder of every view, because the prototype's loader expects it. The last two files are specific to
gapray. The prototype scaled the 8-bit depth of each view separately; gapray writes it on the common scale of the set. The prototype
only knew whole degrees: exact azimuths are in the manifest and in `metadata.json`, and the folder's number is rounded.
"""

from gapray.gap.folder.layout import INLINE, MANIFEST_NAME
from gapray.gap.folder.reading import read
from gapray.gap.folder.writing import write

__all__ = ["INLINE", "MANIFEST_NAME", "read", "write"]
