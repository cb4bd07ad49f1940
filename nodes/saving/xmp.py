"""An XMP packet: what photo programs, archives and picture sites read about a file, in the words of IPTC."""

from __future__ import annotations

import re
from collections.abc import Mapping

NAMESPACES = {
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "fluxkrea": "https://github.com/flux-krea/flux-krea/ns/1.0/",
}
CREATOR, SOURCE_TYPE = "xmp:CreatorTool", "Iptc4xmpExt:DigitalSourceType"
SYSTEM, PROMPT = "Iptc4xmpExt:AISystemUsed", "Iptc4xmpExt:AIPromptInformation"
RECEIPT, GENERATION = "fluxkrea:Receipt", "fluxkrea:Generation"  # JSON, all ASCII

SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
MADE_BY_AI = SOURCE_TYPES + "trainedAlgorithmicMedia"
MADE_FROM_PICTURE = SOURCE_TYPES + "compositeWithTrainedAlgorithmicMedia"

NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"}  # a reader makes a bare \r a \n


def packet(properties: Mapping[str, str]) -> bytes:
    """UTF-8. Names are `prefix:Name` of NAMESPACES; what XML cannot hold, such as NUL, becomes the sign U+FFFD."""
    spaces = "".join(f' xmlns:{prefix}="{address}"' for prefix, address in NAMESPACES.items())
    values = "".join(f"<{name}>{xml_text(value)}</{name}>" for name, value in properties.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about=""{spaces}>{values}</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    ).encode()


def xml_text(text: str) -> str:
    for sign, escape in ESCAPES.items():
        text = text.replace(sign, escape)
    return NOT_XML.sub("\ufffd", text)
