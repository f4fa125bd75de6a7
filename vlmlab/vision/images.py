"""Pictures in: any image file, PIL image or array to 8-bit RGB, and RGB to an encoder's pixel values. Notebook 01.

PIL is imported when it is first needed.
"""

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vlmlab.errors import BadImage, BadInput, UnknownName

if TYPE_CHECKING:
    from PIL.Image import Image

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIGLIP_MEAN, SIGLIP_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORMALISATION = {
    "clip": (CLIP_MEAN, CLIP_STD),
    "siglip": (SIGLIP_MEAN, SIGLIP_STD),
    "dinov2": (IMAGENET_MEAN, IMAGENET_STD),
    "mambavision": (IMAGENET_MEAN, IMAGENET_STD),
}
"""Family of encoders -> mean and standard deviation of the pixel values that it was trained on, by channel."""
PADS = ("square", "resize", "crop")
# No EPS, which would start Ghostscript, and no formats without a signature of their own.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO")
CHUNK_PIXELS = 2**24  # padded or enlarged pixels held at once: a square of 4096


def load_image(image: Any) -> np.ndarray:
    """A path, PIL image or HxWx3 uint8 array to uint8 RGB (H, W, 3), upright and opaque.

    Palettes are looked up, grey is repeated, 16 bits are scaled to 8, CMYK is converted, transparency is laid over
    white, and the rotation that a camera wrote into EXIF is applied; of an animation the first frame counts. Raises
    BadImage for a file that is missing, empty, truncated or not an image, and for an array of another shape or dtype.
    """
    if isinstance(image, np.ndarray):
        return _check_array(image)
    if isinstance(image, (str, os.PathLike)):
        return _load_file(Path(image))
    from PIL import Image

    if not isinstance(image, Image.Image):
        raise BadImage(f"image: expected a path, a PIL image or an HxWx3 uint8 array, got {type(image).__name__}")
    return _to_rgb(image, "image")


def _check_array(array: np.ndarray) -> np.ndarray:
    shape, dtype = array.shape, array.dtype
    if array.ndim != 3 or shape[2] != 3:
        hint = "stack a grey image three times" if array.ndim == 2 else "drop or composite what is not red, green, blue"
        if array.ndim == 3 and shape[0] == 3:
            hint = "move the channels last with array.transpose(1, 2, 0)"
        raise BadImage(f"image: expected an array of shape (H, W, 3), got {shape}; {hint}")
    if dtype != np.uint8:
        hint = "multiply values in 0..1 by 255, round, and use .astype(np.uint8)"
        raise BadImage(f"image: expected an array of dtype uint8, got {dtype}; {hint}")
    if not array.size:
        raise BadImage(f"image: the array of shape {shape} has no pixels")
    return np.ascontiguousarray(array)


def _load_file(path: Path) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise BadImage(f"no such image file: {path}") from None
    except (OSError, ValueError) as error:
        raise BadImage(f"cannot read the image file {path} ({_one_line(error)})") from None
    if not path.is_file():
        raise BadImage(f"{path} is not a file; give the path of one image")
    if not size:
        raise BadImage(f"{path} is empty (0 bytes); fetch or save it again")
    Image.init()
    try:
        with warnings.catch_warnings():  # PIL's remarks about odd files; what matters is raised
            warnings.simplefilter("ignore")
            with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
                return _to_rgb(image, str(path))
    except UnidentifiedImageError:
        raise BadImage(f"{path} is not a readable image, or its header is damaged; use a PNG or JPEG file") from None
    except Image.DecompressionBombError:
        raise BadImage(f"{path} has too many pixels to decode safely; make it smaller first") from None
    except BadImage:
        raise
    except Exception as error:  # decoders meet damaged headers with errors of any class
        raise BadImage(f"{path} is damaged ({_one_line(error)}); fetch or save it again") from None


def _to_rgb(image: "Image", name: str) -> np.ndarray:
    """Decode a PIL image to (H, W, 3) uint8. `name` stands for it in messages."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image.load()
        except Exception as error:  # decoders meet damaged data with errors of any class
            raise BadImage(f"{name} is truncated or damaged ({_one_line(error)}); fetch or save it again") from None
        if not all(image.size):
            raise BadImage(f"{name} has no pixels ({image.width}x{image.height})")
        try:
            return np.array(_flatten(_eight_bit(_upright(image), name, image.format)))
        except BadImage:
            raise
        except Exception as error:  # a colour space that PIL does not convert
            raise BadImage(f"{name} has mode {image.mode}, which cannot become RGB ({_one_line(error)})") from None


def _eight_bit(image: "Image", name: str, file_format: str | None) -> "Image":
    """Images of 16 bits, 32 bits or floats scaled to 8-bit grey; PIL would clip them at 255."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    from PIL import Image

    values = np.asarray(image)
    low, high = values.min(), values.max()
    if not np.isfinite(low) or not np.isfinite(high):
        raise BadImage(f"{name} holds pixels that are not finite numbers")
    # "I" holds 16-bit files too; without a file behind it, small values are 8-bit values that were widened.
    sixteen = image.mode.startswith("I;16") or file_format in ("PNG", "PPM") or high > 255
    top = (65535 if sixteen else 255) if image.mode != "F" else (1.0 if high <= 1 else 255)
    if low < 0 or high > top:
        raise BadImage(f"{name} holds values from {low} to {high}; scale them to 0..255 and save 8 bits")
    grey = Image.fromarray(np.rint(values.astype(np.float32) * (255 / top)).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _upright(image: "Image") -> "Image":
    """Turn and mirror the picture as its EXIF orientation says."""
    from PIL import ExifTags, ImageOps

    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # damaged EXIF: the picture itself is fine, show it as it is stored
        return image


def _flatten(image: "Image") -> "Image":
    """Any 8-bit mode to RGB, transparency laid over white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    from PIL import Image

    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@dataclass(frozen=True)
class Preprocess:
    """A picture to pixel values float32 (3, S, S): make it `size` pixels square, then (rgb / 255 - mean) / std.

    `pad` says how: "square" pads with the mean colour, then resizes (LLaVA-1.5); "resize" ignores the
    aspect (SigLIP); "crop" resizes the short side and cuts the centre out (CLIP; LLaVA's stage 1). Resizing is PIL's
    bicubic; a picture of the right size is left as it is. Raises BadInput or UnknownName for unusable settings.
    """

    size: int
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    pad: str = "square"

    def __post_init__(self) -> None:
        if self.pad not in PADS:
            raise UnknownName("pad", self.pad, PADS)
        if not isinstance(self.size, int) or self.size < 1:
            raise BadInput(f"Preprocess: size={self.size} must be a whole number of pixels, at least 1")
        for name in ("mean", "std"):  # lists, as JSON gives them, become tuples
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
            if len(getattr(self, name)) != 3:
                raise BadInput(f"Preprocess: {name} needs three numbers, got {getattr(self, name)}")
        if min(self.std) <= 0:
            raise BadInput(f"Preprocess: std={self.std} must be positive")

    def __call__(self, image: Any) -> Tensor:
        """Whatever `load_image` takes -> float32 (3, S, S). Raises BadImage."""
        return self.normalise(self.square(image))

    def batch(self, images: Iterable[Any]) -> Tensor:
        """Several images -> float32 (B, 3, S, S)."""
        return self.normalise(np.stack([self.square(image) for image in images]))

    def square(self, image: Any) -> np.ndarray:
        """The S x S picture the encoder sees, uint8 (S, S, 3), before normalisation."""
        array = load_image(image)
        if array.shape[:2] == (self.size, self.size):
            return array
        from PIL import Image

        picture, size = Image.fromarray(array), self.size
        if self.pad == "square":
            out = _padded(picture, size, tuple(int(value * 255) for value in self.mean))
        elif self.pad == "resize":
            out = picture.resize((size, size), Image.Resampling.BICUBIC)
        else:
            out = _cropped(picture, size)
        return np.array(out)

    def normalise(self, pixels: np.ndarray) -> Tensor:
        """uint8 (..., S, S, 3), one picture or a batch of equal sizes -> float32 (..., 3, S, S)."""
        if pixels.dtype != np.uint8 or pixels.ndim < 3 or pixels.shape[-1] != 3:
            raise BadImage(f"pixels: expected uint8 (..., S, S, 3), got {pixels.dtype} {pixels.shape}")
        values = torch.from_numpy(np.array(np.moveaxis(pixels, -1, -3), order="C")).float()
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (self.mean, self.std))
        return values.div_(255).sub_(mean).div_(std)

    def picture(self, pixel_values: Tensor) -> np.ndarray:
        """Back from pixel values (..., 3, S, S) to uint8 (..., S, S, 3), for figures."""
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (self.mean, self.std))
        values = (pixel_values.detach().cpu().float() * std + mean).mul(255).round().clamp(0, 255).byte()
        return values.movedim(-3, -1).numpy()


def _padded(picture: "Image", size: int, colour: tuple[int, ...]) -> "Image":
    """Pad centred to a square, then resize to `size`."""
    from PIL import Image

    bicubic, (width, height), side = Image.Resampling.BICUBIC, picture.size, max(picture.size)
    corner = ((side - width) // 2, (side - height) // 2)
    across = down = side
    if side * side > CHUNK_PIXELS:  # resize the long side before padding the other: equal but for 8-bit rounding
        across, down = (size, side) if width == side else (side, size)
        picture = picture.resize((size, height) if width == side else (width, size), bicubic)
        corner = (0, corner[1]) if width == side else (corner[0], 0)
    square = Image.new("RGB", (across, down), colour)
    square.paste(picture, corner)
    return square.resize((size, size), bicubic)


def _cropped(picture: "Image", size: int) -> "Image":
    """Short side to S, long side to int(S * long / short), then the S x S pixels of the centre."""
    from PIL import Image

    bicubic, short = Image.Resampling.BICUBIC, min(picture.size)
    width, height = [int(size * side / short) for side in picture.size]
    left, top = (width - size) // 2, (height - size) // 2
    if width * height <= CHUNK_PIXELS:
        return picture.resize((width, height), bicubic).crop((left, top, left + size, top + size))
    # A very long picture: compute the centre alone. The box is in pixels of the picture, rounded by PIL to float32.
    across, down = picture.width / width, picture.height / height
    box = (
        left * across,
        top * down,
        min((left + size) * across, picture.width),
        min((top + size) * down, picture.height),
    )
    return picture.resize((size, size), bicubic, box=box)


def check_pixels(pixel_values: Tensor, patch_size: int = 1) -> Tensor:
    """The argument, if an encoder can take it: finite floats (B, 3, H, W), at least a patch in size; else BadInput."""
    if not isinstance(pixel_values, Tensor):
        raise BadInput(f"pixel_values: expected a tensor (B, 3, H, W), got {type(pixel_values).__name__}")
    shape = tuple(pixel_values.shape)
    if len(shape) != 4 or shape[1] != 3:
        hint = "; add a batch axis with x[None]" if len(shape) == 3 and shape[0] == 3 else ""
        hint = "; move the channels with x.permute(0, 3, 1, 2)" if len(shape) == 4 and shape[3] == 3 else hint
        raise BadInput(f"pixel_values: expected shape (B, 3, H, W), got {shape}{hint}")
    if not pixel_values.is_floating_point():
        raise BadInput(
            f"pixel_values: expected preprocessed floats, got {pixel_values.dtype}; apply a Preprocess first"
        )
    if min(shape[2:]) < patch_size:
        raise BadInput(f"pixel_values: {shape[2]}x{shape[3]} pixels are less than one patch of {patch_size}")
    traced = pixel_values.is_meta or torch.compiler.is_compiling()
    # The sum is quick but may overflow in half precision; it alone does not refuse.
    if not traced and not pixel_values.detach().sum().isfinite() and not pixel_values.isfinite().all():
        raise BadInput("pixel_values holds NaN or infinite numbers; check the image and the Preprocess")
    return pixel_values
