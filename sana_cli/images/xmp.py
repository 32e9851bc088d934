"""The XMP packet of our pictures, which says that a trained model made them. No torch, no Pillow.

Agencies and platforms label pictures by IPTC's words in it.
"""

from collections.abc import Mapping
from typing import Any

_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
DIGITAL_SOURCE_TYPE = f"{_SOURCE_TYPES}trainedAlgorithmicMedia"
EDITED_SOURCE_TYPE = f"{_SOURCE_TYPES}compositeWithTrainedAlgorithmicMedia"
_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">
   <Iptc4xmpExt:DigitalSourceType>{source_type}</Iptc4xmpExt:DigitalSourceType>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


def xmp_of(settings: Mapping[str, Any]) -> str:
    """Return the packet of a picture with these settings; one that began with another picture says so."""
    source_type = EDITED_SOURCE_TYPE if "image" in settings else DIGITAL_SOURCE_TYPE
    return _XMP.format(source_type=source_type)
