"""The XMP packet is XML, and says how a picture came to be."""

from xml.etree import ElementTree as ET

from sana_cli.images.xmp import DIGITAL_SOURCE_TYPE, EDITED_SOURCE_TYPE, xmp_of


def test_source_types() -> None:
    for settings, expected in (({}, DIGITAL_SOURCE_TYPE), ({"image": "a.png"}, EDITED_SOURCE_TYPE)):
        packet = ET.fromstring(xmp_of(settings))
        assert expected in [element.text for element in packet.iter()]
