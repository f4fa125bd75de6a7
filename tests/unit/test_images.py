"""Pictures of every odd kind: each is read as a person would expect, or refused in one clear line."""

import contextlib
import io
import re
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from vlmlab.errors import BadImage, BadInput, UnknownName
from vlmlab.vision import CLIP_MEAN, CLIP_STD, Preprocess, load_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def quarters(height: int = 20, width: int = 30) -> np.ndarray:
    """Red, green / blue, white: every flip and turn of it is different."""
    array = np.zeros((height, width, 3), np.uint8)
    array[: height // 2, : width // 2], array[: height // 2, width // 2 :] = RED, GREEN
    array[height // 2 :, : width // 2], array[height // 2 :, width // 2 :] = BLUE, WHITE
    return array


def refused(image, *words: str) -> str:
    with pytest.raises(BadImage) as caught:
        load_image(image)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "webp", "gif"])
def test_lossless_files_come_back_exactly(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    array = quarters()
    Image.fromarray(array).save(path, **({"lossless": True} if suffix == "webp" else {}))
    for given in (path, str(path), array, Image.fromarray(array)):
        out = load_image(given)
        assert out.dtype == np.uint8
        assert out.flags["C_CONTIGUOUS"]
        assert out.flags["WRITEABLE"]
        np.testing.assert_array_equal(out, array)


def test_jpeg(tmp_path):
    Image.fromarray(quarters()).save(tmp_path / "a.jpg", quality=95)
    out = load_image(tmp_path / "a.jpg").astype(int)
    assert abs(out[2:8, 2:8] - RED).max() < 20
    assert out.shape == (20, 30, 3)


def test_missing_and_folder_and_empty(tmp_path):
    refused(tmp_path / "none.png", "no such image file", "none.png")
    refused(tmp_path, "is not a file")
    refused("", "is not a file")
    refused(tmp_path / "a.png" / "b", "b")
    refused("bad\0name.png", "cannot read")
    (tmp_path / "zero.png").touch()
    refused(tmp_path / "zero.png", "zero.png", "empty (0 bytes)")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp", "tiff"])
def test_truncated_files_are_named(tmp_path, suffix):
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(noise(64, 64)).save(path)
    whole = path.read_bytes()
    for part in (0.9, 0.5, 0.1):
        path.write_bytes(whole[: int(len(whole) * part)])
        refused(path, f"cut.{suffix}")
    path.write_bytes(whole[:3])
    refused(path, "not a readable image")


def test_damaged_png_data(tmp_path):
    Image.fromarray(noise(64, 64)).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "a.png").write_bytes(data)
    refused(tmp_path / "a.png", "a.png", "damaged")


def test_truncated_pil_image():
    data = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(data, "PNG")
    lazy = Image.open(io.BytesIO(data.getvalue()[:4000]))
    refused(lazy, "image is truncated or damaged")


@pytest.mark.parametrize(
    "content",
    [
        b"hello, I am text\n" * 20,
        b"%PDF-1.7\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\x00" * 500,
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
        b"PK\x03\x04" + b"\x00" * 60,
    ],
)
def test_non_images(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    refused(tmp_path / "a.png", "a.png", "not a readable image")


def test_random_bytes_never_escape_as_another_error(tmp_path):
    rng = np.random.default_rng(1)
    heads = [
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"GIF89a",
        b"BM",
        b"II*\x00",
        b"P6 9 9 255\n",
        b"RIFF....WEBPVP8 ",
    ]
    for number in range(140):
        (tmp_path / "a").write_bytes(heads[number % len(heads)] + rng.bytes(int(rng.integers(0, 400))))
        with contextlib.suppress(BadImage):
            assert load_image(tmp_path / "a").shape[2] == 3


def test_decompression_bomb(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(data)
    refused(tmp_path / "bomb.png", "too many pixels")


def test_palette(tmp_path):
    Image.fromarray(quarters()).quantize(8).save(tmp_path / "p.png")
    assert Image.open(tmp_path / "p.png").mode == "P"
    np.testing.assert_array_equal(load_image(tmp_path / "p.png"), quarters())


def test_palette_with_a_transparent_entry(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.save(tmp_path / "p.png", transparency=0)
    assert load_image(tmp_path / "p.png").tolist() == [[list(WHITE), list(BLUE)]]


def test_grey_and_one_bit(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "g.png")
    np.testing.assert_array_equal(load_image(tmp_path / "g.png"), np.stack([grey] * 3, -1))
    Image.fromarray(grey > 100).save(tmp_path / "1.png")
    assert Image.open(tmp_path / "1.png").mode == "1"
    np.testing.assert_array_equal(load_image(tmp_path / "1.png")[..., 0], np.where(grey > 100, 255, 0))


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path, suffix):
    values = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    image = Image.fromarray(values)
    assert image.mode == "I;16"
    image.save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(load_image(tmp_path / f"a.{suffix}")[..., 1], np.arange(256).reshape(16, 16))
    np.testing.assert_array_equal(load_image(image)[..., 0], np.arange(256).reshape(16, 16))


def test_sixteen_bit_dark_picture_stays_dark(tmp_path):
    Image.fromarray(np.full((4, 4), 200, np.uint16)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").max() == 1  # 200 of 65,535 is nearly black


def test_sixteen_bit_colour(tmp_path):
    """A 16-bit RGB PNG written by hand, which PIL cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\x00" + struct.pack(">6H", 65535, 0, 32896, 257, 65535, 0)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(data)
    assert load_image(tmp_path / "a.png").tolist() == [[[255, 0, 128], [1, 255, 0]]]


def test_wide_integers_and_floats():
    eight = np.arange(256, dtype=np.int32).reshape(16, 16)
    np.testing.assert_array_equal(load_image(Image.fromarray(eight))[..., 0], eight)  # mode I, 8-bit values
    np.testing.assert_array_equal(load_image(Image.fromarray(eight * 257))[..., 0], eight)
    np.testing.assert_array_equal(load_image(Image.fromarray(eight.astype(np.float32)))[..., 0], eight)
    np.testing.assert_array_equal(load_image(Image.fromarray((eight / 255).astype(np.float32)))[..., 0], eight)
    refused(Image.fromarray(eight * 100_000), "25500000")
    refused(Image.fromarray(np.full((2, 2), -3, np.int32)), "-3")
    refused(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "not finite")


def test_cmyk(tmp_path):
    Image.fromarray(quarters(32, 32)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert Image.open(tmp_path / "a.jpg").mode == "CMYK"
    out = load_image(tmp_path / "a.jpg").astype(int)
    assert abs(out - quarters(32, 32)).mean() < 8
    Image.fromarray(quarters()).convert("CMYK").save(tmp_path / "a.tiff")
    np.testing.assert_array_equal(load_image(tmp_path / "a.tiff"), quarters())


@pytest.mark.parametrize("mode", ["HSV", "YCbCr"])
def test_other_colour_spaces(mode):
    assert abs(load_image(Image.fromarray(quarters()).convert(mode)).astype(int) - quarters()).max() <= 3


def test_transparency_is_laid_over_white(tmp_path):
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 0], rgba[0, :, 3] = 255, (0, 128, 255)  # red: clear, half, solid
    for name in ("a.png", "a.webp", "a.tiff"):
        Image.fromarray(rgba).save(tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))
        assert load_image(tmp_path / name).tolist() == [[[255, 255, 255], [255, 127, 127], [255, 0, 0]]]
    grey = Image.fromarray(np.array([[[0, 0], [0, 255]]], np.uint8))
    assert grey.mode == "LA"
    assert load_image(grey)[0, :, 0].tolist() == [255, 0]


def test_transparent_colour_key(tmp_path):
    Image.fromarray(quarters()).save(tmp_path / "a.png", transparency=RED)
    assert load_image(tmp_path / "a.png")[0, 0].tolist() == list(WHITE)
    Image.fromarray(np.array([[7, 30000]], np.uint16)).save(tmp_path / "b.png", transparency=7)
    assert load_image(tmp_path / "b.png")[0, :, 0].tolist() == [255, 117]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
def test_exif_rotation(tmp_path, orientation, suffix):
    upright = Image.fromarray(quarters(16, 32))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transpose that stores the picture as this orientation says
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(
        tmp_path / f"a.{suffix}", exif=exif, **{"webp": {"lossless": True}, "jpg": {"quality": 95}}.get(suffix, {})
    )
    out = load_image(tmp_path / f"a.{suffix}").astype(int)
    assert out.shape == (16, 32, 3)
    assert abs(out - quarters(16, 32)).mean() < (8 if suffix == "jpg" else 0.01)


def test_exif_rotation_of_sixteen_bits_and_damaged_exif(tmp_path):
    values = np.array([[0, 65535, 0]], np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    assert load_image(tmp_path / "a.png")[..., 0].tolist() == [[0], [255], [0]]
    Image.fromarray(quarters()).save(tmp_path / "b.png", exif=b"Exif\x00\x00MM\x00\x2anonsense")
    np.testing.assert_array_equal(load_image(tmp_path / "b.png"), quarters())


def test_a_pil_image_is_not_changed():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = io.BytesIO()
    Image.fromarray(quarters()).save(data, "PNG", exif=exif)
    image = Image.open(data)
    first = load_image(image)
    assert image.size == (30, 20)
    assert first.shape == (30, 20, 3)
    np.testing.assert_array_equal(load_image(image), first)


def test_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert load_image(tmp_path / "a.gif")[0, 0].tolist() == list(RED)


def test_arrays_are_checked():
    refused(np.zeros((4, 4), np.uint8), "(H, W, 3)", "grey")
    refused(np.zeros((3, 4, 5), np.uint8), "transpose")
    refused(np.zeros((4, 5, 4), np.uint8), "(4, 5, 4)")
    refused(np.zeros((4, 5, 3), np.float32), "uint8", "float32", "255")
    refused(np.zeros((0, 5, 3), np.uint8), "no pixels")
    refused(None, "NoneType")
    refused(torch.zeros(3, 4, 4), "Tensor")
    refused(Image.new("RGB", (0, 5)), "no pixels")


def test_nothing_is_written_to_stderr(tmp_path, capfd, recwarn, monkeypatch):
    image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    image.save(tmp_path / "p.png", transparency=b"\x00\xff")
    load_image(tmp_path / "p.png")
    frozen = quarters(8, 8)
    frozen.flags.writeable = False
    Preprocess(8)(frozen)
    large = tmp_path / "large.png"
    Image.fromarray(quarters(8, 10)).save(large)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # from here PIL warns, and refuses twice as many
    assert load_image(large).shape == (8, 10, 3)
    assert not recwarn.list
    assert capfd.readouterr().err == ""


# Preprocess


def by_hand(pixels: np.ndarray, mean=CLIP_MEAN, std=CLIP_STD) -> np.ndarray:
    return ((pixels / 255.0 - np.array(mean)) / np.array(std)).transpose(2, 0, 1)


def test_right_size_is_only_normalised():
    array = noise(24, 24)
    for pad in ("square", "resize", "crop"):
        out = Preprocess(24, pad=pad)(array)
        assert out.dtype == torch.float32
        assert out.shape == (3, 24, 24)
        assert out.is_contiguous()
        np.testing.assert_allclose(out.numpy(), by_hand(array), atol=2e-6)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (41, 60), (50, 50), (13, 7)])
def test_square_equals_padding_the_whole_picture(shape):
    """As LLaVA's expand2square, then CLIP's bicubic resize."""
    array = noise(*shape)
    side = max(shape)
    whole = Image.new("RGB", (side, side), (122, 116, 104))
    whole.paste(Image.fromarray(array), ((side - shape[1]) // 2, (side - shape[0]) // 2))
    expected = np.asarray(whole.resize((24, 24), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(Preprocess(24).square(array), expected)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (41, 60), (50, 50)])
def test_square_of_a_huge_picture_differs_by_rounding_only(shape, monkeypatch):
    array = noise(*shape)
    once = Preprocess(24).square(array).astype(int)
    monkeypatch.setattr("vlmlab.vision.images.CHUNK_PIXELS", 0)
    assert abs(Preprocess(24).square(array) - once).max() <= 2


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (41, 67), (31, 200), (12, 9), (24, 50)])
def test_crop_equals_resize_then_crop(shape, monkeypatch):
    array = noise(*shape)
    short = min(shape)
    width, height = int(24 * shape[1] / short), int(24 * shape[0] / short)
    whole = Image.fromarray(array).resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - 24) // 2, (height - 24) // 2
    expected = np.asarray(whole.crop((left, top, left + 24, top + 24)), int)
    np.testing.assert_array_equal(Preprocess(24, pad="crop").square(array), expected)
    monkeypatch.setattr("vlmlab.vision.images.CHUNK_PIXELS", 0)  # as for a very long picture
    assert abs(Preprocess(24, pad="crop").square(array) - expected).max() <= 6


def test_agrees_with_transformers_clip_processor():
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    array = noise(37, 61)
    expected = processor(Image.fromarray(array), return_tensors="np")["pixel_values"][0]
    ours = Preprocess(24, pad="crop")(array).numpy()
    assert np.abs(ours - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("pad", ["square", "resize", "crop"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 10_000), (10_000, 1), (60, 10_000), (10_000, 60), (3, 2)])
def test_extreme_shapes(pad, shape):
    out = Preprocess(32, pad=pad)(np.full((*shape, 3), 200, np.uint8))
    assert out.shape == (3, 32, 32)
    assert bool(out.isfinite().all())
    if pad != "square" or shape == (1, 1):
        np.testing.assert_array_equal(Preprocess(32, pad=pad).picture(out), np.full((32, 32, 3), 200))


@pytest.mark.parametrize("shape", [(60_000, 1), (1, 60_000)])
@pytest.mark.parametrize("pad", ["square", "crop"])
def test_extreme_shapes_need_little_memory(pad, shape):
    """60,000 pixels in a row: padded at once they would take 14 GB, enlarged at once for the crop 12 GB."""
    resource = pytest.importorskip("resource", reason="peak memory is read through the Unix module 'resource'")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert Preprocess(224, pad=pad)(noise(*shape)).shape == (3, 224, 224)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < 300e6


def test_wide_file(tmp_path):
    array = np.zeros((50, 10_000, 3), np.uint8)
    array[:, 5000:] = 255
    Image.fromarray(array).save(tmp_path / "wide.png")
    row = Preprocess(32).square(tmp_path / "wide.png")[16]
    assert row[:10].max() < row[-10:].min()


def test_batch_normalise_and_back():
    step = Preprocess(16, mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])
    arrays = [noise(16, 16, seed) for seed in range(3)]
    batch = step.batch(arrays)
    assert batch.shape == (3, 3, 16, 16)
    torch.testing.assert_close(batch[1], step(arrays[1]), rtol=0, atol=0)
    torch.testing.assert_close(step.normalise(np.stack(arrays)), batch, rtol=0, atol=0)
    np.testing.assert_array_equal(step.picture(batch), np.stack(arrays))
    assert step == Preprocess(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert hash(step)


def test_settings_are_checked():
    with pytest.raises(UnknownName, match="square"):
        Preprocess(24, pad="sqare")
    for values in ({"size": 0}, {"size": 24.0}, {"size": 24, "mean": (0.5,)}, {"size": 24, "std": (0.0, 1.0, 1.0)}):
        with pytest.raises(BadInput):
            Preprocess(**values)
    with pytest.raises(BadImage, match=re.escape("(..., S, S, 3)")):
        Preprocess(24).normalise(np.zeros((24, 24, 3), np.float32))
