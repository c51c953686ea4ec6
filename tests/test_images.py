"""Every kind of picture arrives as upright RGB, or is refused in one sentence."""

import io, struct, zlib
import numpy as np, pytest
from PIL import Image
from rim.base.images import read_image


def saved(folder, image, name, **options):
    image.save(folder / name, **options)
    return folder / name


@pytest.mark.promise(7)
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_modes(tmp_path, mode):
    grey = Image.fromarray(np.full((3, 5), 255, np.uint8))
    image = Image.fromarray(np.full((3, 5), 65535, np.uint16)) if mode == "I;16" else grey.convert(mode)
    assert (read_image(saved(tmp_path, image, "a.png")) == 255).all() and read_image(tmp_path / "a.png").shape == (
        3,
        5,
        3,
    )


@pytest.mark.promise(7)
def test_cmyk(tmp_path):
    red = read_image(saved(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "a.jpg"))
    assert red[4, 4, 0] > 200 and red[4, 4, 1] < 60


@pytest.mark.promise(7)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1)])
def test_thin(tmp_path, size):
    assert read_image(saved(tmp_path, Image.new("RGB", size), "a.png")).shape == (size[1], size[0], 3)


@pytest.mark.promise(7)
def test_exif_rotation(tmp_path):
    image, exif = Image.new("RGB", (8, 4), "black"), Image.Exif()
    image.paste("white", (0, 0, 4, 4))
    exif[0x0112] = 6  # to be turned clockwise: the left half becomes the top
    found = read_image(saved(tmp_path, image, "a.png", exif=exif))
    assert found.shape == (8, 4, 3) and (found[:4] == 255).all() and (found[4:] == 0).all()


@pytest.mark.promise(7)
def test_transparency_is_white(tmp_path):
    assert (read_image(saved(tmp_path, Image.new("RGBA", (2, 2), (9, 9, 9, 0)), "a.png")) == 255).all()


@pytest.mark.promise(7)
def test_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    assert tuple(read_image(saved(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:]))[0, 0]) == (
        255,
        0,
        0,
    )


@pytest.mark.promise(7)
@pytest.mark.parametrize("content", [b"", b"not an image", b"<svg/>", b"%PDF-1.4"])
def test_not_an_image(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match="a.png"):
        read_image(tmp_path / "a.png")


@pytest.mark.promise(7)
def test_truncated(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), "a.jpg")
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(ValueError, match="a.jpg"):
        read_image(path)


@pytest.mark.promise(7)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("side", [11_000, 40_000])
def test_bomb_is_refused_before_decoding(tmp_path, side):
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)) + chunk(b"IDAT", b"")
    )
    with pytest.raises(ValueError, match="at most"):
        read_image(tmp_path / "a.png")


def test_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.png"):
        read_image(tmp_path / "nothing.png")


@pytest.mark.parametrize(
    "array", [np.zeros((2, 2, 3)), np.zeros((2, 2, 4), np.uint8), np.zeros((0, 2, 3), np.uint8), np.zeros(4, np.uint8)]
)
def test_arrays(array):
    with pytest.raises(ValueError, match="uint8"):
        read_image(array)
