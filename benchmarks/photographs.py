"""The photographs that every benchmark classifies: JPEGs of 500 x 375, as ImageNet's are about."""

import io
from pathlib import Path

from PIL import Image, ImageOps

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
SIZE = (500, 375)


def photographs(count: int) -> list[bytes]:
    """`count` different JPEGs of SIZE: the samples, mirrored and shifted."""
    sources = [
        ImageOps.fit(Image.open(path).convert("RGB"), (600, 450))
        for path in sorted(SAMPLES.iterdir())
        if path.suffix in (".jpg", ".png")
    ]
    made = []
    for number in range(count):
        image = sources[number % len(sources)]
        shift = number // len(sources)
        left, top = shift * 7 % 100, shift * 11 % 75
        image = image.crop((left, top, left + SIZE[0], top + SIZE[1]))
        if shift % 2:
            image = ImageOps.mirror(image)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
        made.append(buffer.getvalue())
    return made
