r"""A service that answers what words of a prompt tell about a picture, with FastAPI.

``pip install . fastapi uvicorn python-multipart`` in the clone, in this folder ``uvicorn service:app``, and then

    curl localhost:8000/explain -F image=@../demo/picture.png -F "prompt=a cow and a giraffe" \
        -F concepts=cow -F concepts=giraffe

with the picture that ``make demo`` leaves.

Requests at the same time are served by threads, which take turns at the one model. A request may ask for so many
evaluations of it, and takes so long at most, the wait for others included.
"""

import os
from time import monotonic
from typing import Annotated, Any

from fastapi import FastAPI, Form, HTTPException, UploadFile
from PIL import Image

import dpid

EVALUATIONS, SECONDS = 16384, 60
explainer = dpid.Explainer.from_pretrained(os.environ.get("DPID_MODEL", "emoji"))
RULE = "adaptive" if explainer.density is not None else "shifted-grid"  # "learning" would learn from earlier requests
app = FastAPI(title="dpid")


@app.post("/explain")
def explain(
    image: UploadFile, prompt: Annotated[str, Form()], concepts: Annotated[list[str], Form()],
    samples: Annotated[int, Form(ge=1)] = 32,
) -> dict[str, Any]:  # fmt: skip
    """All numbers, with standard errors; a sentence with status 422 where a request is refused, 503 where it fails."""
    end = monotonic() + SECONDS
    if samples * 2 ** len(concepts) > EVALUATIONS:  # every subset of the concepts is asked
        told = f"samples: found {samples} for {len(concepts)} concepts, at most {EVALUATIONS} / 2^concepts are allowed"
        raise HTTPException(422, told)
    try:
        picture = Image.open(image.file, formats=("PNG", "JPEG", "WEBP"))
        result = explainer.explain(
            picture, prompt, concepts, samples=samples, rule=RULE, stop=lambda: monotonic() > end
        )
    except (OSError, TypeError, ValueError, Image.DecompressionBombError) as error:
        raise HTTPException(422, str(error)) from error
    except dpid.Stopped as error:
        raise HTTPException(503, f"not done in {SECONDS} seconds; ask for fewer samples, or later") from error
    except (FloatingPointError, RuntimeError) as error:  # the model returned NaN; there is too little memory
        raise HTTPException(503, str(error)) from error
    return result.to_dict()
