"""The photographs of the load, and what a lone call to the model makes of each."""

import io
import json
from functools import cache
from hashlib import sha256

import numpy as np
from PIL import Image

from contract.catalog import Lane
from contract.ids import PredictionId
from contract.limits import INLINE_BYTES_MAX
from contract.prediction import File, Ticket
from inference import Triton, read_catalog
from tasks.registry import task
from tests.chaos.attack import Samples
from tests.chaos.load import Photograph
from tests.services import MODEL_REPOSITORY, ROOT

MODEL = "efficientnet_lite0"
INFER_S_MAX = 30.0
LARGE_PIXELS = (2000, 1500)


@cache
def photographs() -> list[Photograph]:
    """Three as they are, a smaller one, and one that is too large to travel inside its ticket."""
    folder = ROOT / "samples"
    found = [
        Photograph(name, "image/jpeg", (folder / name).read_bytes())
        for name in ("cat.jpg", "espresso.jpg", "palace.jpg")
    ]
    small = _scaled(found[1].content, (320, 240), quality=80)
    large = _scaled(found[2].content, LARGE_PIXELS, quality=100)
    assert len(large) > INLINE_BYTES_MAX
    return [
        *found,
        Photograph("small.jpg", "image/jpeg", small),
        Photograph("large.jpg", "image/jpeg", large),
    ]


async def lone_answers(triton_address: str) -> Samples:
    """Ask Triton for each photograph alone, without gateway, queue or dispatcher."""
    catalog = read_catalog(MODEL_REPOSITORY, offered=(MODEL,), config_name="cpu")
    model, version = catalog.resolve(MODEL, None)
    work = task(model.task)
    triton = Triton(triton_address)
    known: dict[str, object] = {}
    try:
        for photograph in photographs():
            content = photograph.content
            file = File(photograph.media_type, len(content), sha256(content).hexdigest(), content)
            ticket = Ticket(PredictionId("0" * 26), MODEL, version, {}, {"image": file})
            rows = {name: np.stack([row]) for name, row in work.encode(model, ticket).items()}
            names = [tensor.name for tensor in model.outputs]
            outputs = await triton.infer(Lane(MODEL, version), rows, names, timeout_s=INFER_S_MAX)
            output = work.decode(model, ticket, {name: outputs[name][0] for name in names})
            known[f"image:{photograph.name}"] = json.loads(json.dumps(output))
    finally:
        await triton.close()
    return Samples(photographs(), known)


def _scaled(content: bytes, size: tuple[int, int], *, quality: int) -> bytes:
    image = Image.open(io.BytesIO(content)).convert("RGB").resize(size)
    if quality == 100:  # grain, as cameras have it: it is what makes photographs large
        grain = np.random.default_rng(1).integers(-20, 20, (size[1], size[0], 3))
        image = Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))
    into = io.BytesIO()
    image.save(into, "jpeg", quality=quality)
    return into.getvalue()
