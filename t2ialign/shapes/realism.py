"""How far a picture is from a drawing of what it shows."""

import numpy as np
from PIL import Image

from t2ialign.shapes.render import render_array
from t2ialign.shapes.scene import CANVAS, Scene


def residual(image: Image.Image, scene: Scene) -> float:
    """Mean absolute difference between the picture and the drawing of the scene read in it, in [0, 255].

    True renders have about 3, for their colors and radii are jittered and the drawing's are not; blur, bent edges and
    stains come on top.

    Args:
        image: any mode and size; another size than 64 x 64 px is resized first.
        scene: what `verify.read` saw in it.
    """
    image = image.convert("RGB")
    if image.size != (CANVAS, CANVAS):
        image = image.resize((CANVAS, CANVAS), Image.Resampling.BOX)
    return float(np.abs(np.asarray(image, np.float32) - render_array(scene)).mean())
