"""The augmentations a YAML can name.

Every builder takes ``mirror_axis``, the array axis (0 rows, 1 columns) that runs from
the patient's left to right, and returns transforms in the order they are applied.
Masks move by nearest neighbour, what comes from beyond the frame is 0, and the
background of the image stays 0.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from seglab.data.augment.transform import Transform, pipeline

Probability = Annotated[float, Field(ge=0, le=1)]
Degrees = Annotated[float, Field(ge=0, le=180)]
Share = Annotated[float, Field(ge=0, lt=1)]
Exponent = Annotated[float, Field(ge=1, le=5)]
Strength = Annotated[float, Field(ge=0, le=3)]


@pipeline("none")
def none(mirror_axis: int) -> list[Transform]:
    """Nothing: every slice as it is in the cache."""
    return []


@pipeline("mirror")
def mirror(mirror_axis: int, *, p: Probability = 0.5) -> list[Transform]:
    """The anatomical mirror: left and right swapped."""
    return [_flip(mirror_axis, p)]


@pipeline("front_back")
def front_back(mirror_axis: int, *, p: Probability = 0.5) -> list[Transform]:
    """The flip that swaps front and back of the head, which no patient shows."""
    return [_flip(1 - mirror_axis, p)]


@pipeline("flips")
def flips(mirror_axis: int, *, p: Probability = 0.5) -> list[Transform]:
    """Both flips, each with its own coin."""
    return [_flip(mirror_axis, p), _flip(1 - mirror_axis, p)]


@pipeline("rotate")
def rotate(mirror_axis: int, *, limit_deg: Degrees = 15, p: Probability = 0.8) -> list[Transform]:
    """Rotation about the centre."""
    return affine(mirror_axis, rotate_deg=limit_deg, scale=0, shift=0, p=p)


@pipeline("scale")
def scale(mirror_axis: int, *, limit: Share = 0.15, p: Probability = 0.8) -> list[Transform]:
    """Larger or smaller about the centre."""
    return affine(mirror_axis, rotate_deg=0, scale=limit, shift=0, p=p)


@pipeline("affine")
def affine(
    mirror_axis: int,
    *,
    rotate_deg: Degrees = 15,
    scale: Share = 0.15,
    shift: Share = 0.04,
    p: Probability = 0.8,
) -> list[Transform]:
    """Rotation, scale and shift in one resampling."""
    from seglab.data.augment.warp import Affine, Warp

    return [Warp(affine=Affine(rotate_deg, scale, shift), p=p)]


@pipeline("elastic")
def elastic(
    mirror_axis: int,
    *,
    alpha: Annotated[float, Field(ge=0)] = 250,
    sigma: Annotated[float, Field(ge=1)] = 10,
    edges: Literal["free", "replicate"] = "free",
    p: Probability = 0.5,
) -> list[Transform]:
    """Smooth random displacement, as albumentations' ElasticTransform (alpha, sigma in pixels).

    With ``edges: replicate`` it equals theirs up to the frame's edge, where displacements
    grow fourfold; on slices cropped to the brain that tears the cortex, so ``free`` does not.
    """
    from seglab.data.augment.warp import Elastic, Warp

    return [Warp(elastic=Elastic(alpha, sigma, edges), p=p)]


@pipeline("grid")
def grid(
    mirror_axis: int,
    *,
    steps: Annotated[int, Field(ge=2, le=32)] = 5,
    limit: Share = 0.2,
    p: Probability = 0.5,
) -> list[Transform]:
    """Grid distortion: rows and columns of cells stretched at random."""
    import albumentations as A

    return [A.GridDistortion(num_steps=steps, distort_limit=(-limit, limit), p=p)]


@pipeline("brightness_contrast")
def brightness_contrast(
    mirror_axis: int, *, brightness: Share = 0.1, contrast: Share = 0.2, p: Probability = 0.5
) -> list[Transform]:
    """Brightness and contrast of the brain."""
    from seglab.data.augment.intensity import Tone

    return [Tone(brightness=brightness, contrast=contrast, p=p)]


@pipeline("gamma")
def gamma(mirror_axis: int, *, limit: Exponent = 1.4, p: Probability = 0.5) -> list[Transform]:
    """Grey values to a power between 1/limit and limit."""
    from seglab.data.augment.intensity import Tone

    return [Tone(gamma=limit, p=p)]


@pipeline("noise")
def noise(mirror_axis: int, *, sd: Share = 0.05, p: Probability = 0.5) -> list[Transform]:
    """Gaussian noise on the brain, SD as a share of the range."""
    from seglab.data.augment.intensity import Noise

    return [Noise(sd=sd, p=p)]


@pipeline("blur")
def blur(
    mirror_axis: int,
    *,
    sigma: Annotated[float, Field(gt=0, le=10)] = 1.0,
    p: Probability = 0.5,
) -> list[Transform]:
    """Gaussian blur, pixels."""
    from seglab.data.augment.intensity import Blur

    return [Blur(sigma=sigma, p=p)]


@pipeline("bias_field")
def bias_field(
    mirror_axis: int, *, strength: Strength = 0.15, p: Probability = 0.5
) -> list[Transform]:
    """Smooth shading across the slice, as of a receive coil."""
    from seglab.data.augment.intensity import BiasField

    return [BiasField(strength=strength, p=p)]


@pipeline("intensity")
def intensity(mirror_axis: int, *, strength: Strength = 1.0) -> list[Transform]:
    """Brightness, contrast and gamma together, noise, blur, bias field."""
    from seglab.data.augment.intensity import BiasField

    return [*_tone_noise_blur(strength), BiasField(strength=0.15 * strength, p=0.2)]


@pipeline("dropout")
def dropout(
    mirror_axis: int,
    *,
    holes: Annotated[int, Field(ge=1, le=64)] = 8,
    size: Annotated[float, Field(gt=0, le=0.5)] = 0.12,
    p: Probability = 0.5,
) -> list[Transform]:
    """Coarse dropout: up to so many boxes of the image set to 0; the mask is kept."""
    import albumentations as A

    side = (size / 2, size)
    return [
        A.CoarseDropout(
            num_holes_range=(1, holes), hole_height_range=side, hole_width_range=side, fill=0, p=p
        )
    ]


@pipeline("geometric")
def geometric(mirror_axis: int, *, strength: Strength = 1.0) -> list[Transform]:
    """Mirror, affine and elastic; the last two share one resampling."""
    return [_flip(mirror_axis, 0.5), _warp(strength)]


@pipeline("default")
def default(mirror_axis: int, *, strength: Strength = 1.0) -> list[Transform]:
    """Mirror, affine, elastic, brightness, contrast, gamma, noise and blur; all limits scale."""
    return [_flip(mirror_axis, 0.5), _warp(strength), *_tone_noise_blur(strength)]


@pipeline("all")
def everything(mirror_axis: int, *, strength: Strength = 1.0) -> list[Transform]:
    """Both flips, affine, elastic, grid, every intensity change and dropout."""
    return [
        *flips(mirror_axis),
        _warp(strength),
        *grid(mirror_axis, limit=min(0.1 * strength, 0.5), p=0.2),
        *intensity(mirror_axis, strength=strength),
        *dropout(mirror_axis, p=0.2),
    ]


def _flip(axis: int, p: float) -> Transform:
    import albumentations as A

    flip: Transform = A.VerticalFlip(p=p) if axis == 0 else A.HorizontalFlip(p=p)
    return flip


def _warp(strength: float) -> Transform:
    from seglab.data.augment.warp import Affine, Elastic, Warp

    limits = Affine(15 * strength, min(0.15 * strength, 0.9), 0.04 * strength, p=0.7)
    return Warp(affine=limits, elastic=Elastic(250 * strength, 10, "free", p=0.3))


def _tone_noise_blur(strength: float) -> list[Transform]:
    from seglab.data.augment.intensity import Blur, Noise, Tone

    tone = Tone(
        brightness=0.1 * strength,
        contrast=min(0.2 * strength, 0.9),
        gamma=1.3**strength,
        p=0.7,
    )
    return [tone, Noise(sd=0.04 * strength, p=0.2), Blur(sigma=max(0.3, 0.8 * strength), p=0.1)]
