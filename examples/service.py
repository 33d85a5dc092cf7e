r"""A service that answers what words of a prompt tell about a picture, with FastAPI.

``pip install . fastapi uvicorn python-multipart`` in the clone, in this folder ``uvicorn service:app``, and then

    curl localhost:8000/explain -F image=@../demo/picture.png -F "prompt=a cow and a giraffe" \
        -F concepts=cow -F concepts=giraffe

with the picture that ``make demo`` leaves.

Requests at the same time are served by threads, which take turns at the one model.
"""

import os
from typing import Annotated, Any

from fastapi import FastAPI, Form, HTTPException, UploadFile
from PIL import Image

import dpid

explainer = dpid.Explainer.from_pretrained(os.environ.get("DPID_MODEL", "emoji"))
app = FastAPI(title="dpid")


@app.post("/explain")
def explain(
    image: UploadFile, prompt: Annotated[str, Form()], concepts: Annotated[list[str], Form()],
    samples: Annotated[int, Form(ge=1, le=1024)] = 32,
) -> dict[str, Any]:  # fmt: skip
    """All numbers, with standard errors; status 422 and a sentence where the request cannot be answered."""
    try:
        picture = Image.open(image.file, formats=("PNG", "JPEG", "WEBP"))
        result = explainer.explain(picture, prompt, concepts, samples=samples)
    except (OSError, TypeError, ValueError, Image.DecompressionBombError) as error:
        raise HTTPException(422, str(error)) from error
    return result.to_dict()
