"""Every kind of image arrives as upright RGB, or is refused in one sentence."""

import io, struct, zlib
import numpy as np, pytest
from PIL import Image
from hypothesis import given, strategies as st
from rim.base.images import image_size, read_image, read_labels, typeset


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


HALVES = np.zeros((8, 16, 3), np.uint8)
HALVES[:, :8] = 255  # the left half is white
HEAD = 0x0128, 8, 1, struct.pack("<h", -2)  # resolution unit as a negative short


def exif_of(*fields):
    "EXIF of (tag, type, count, 4 bytes), which no writer would write."
    body = b"".join(struct.pack("<HHI", *f[:3]) + f[3].ljust(4, b"\0")[:4] for f in fields)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(fields)) + body + bytes(4)


def turned(value, kind=3, size=1):
    return 0x0112, kind, size, struct.pack("<H", value)


XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
RAW = "\nexif\n" + f"{len(exif_of(turned(6))):8}\n" + exif_of(turned(6)).hex() + "\n"


def png_with(*chunks):
    "HALVES as a PNG with these chunks before its pixels."
    Image.fromarray(HALVES).save(file := io.BytesIO(), "PNG")
    pack = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return file.getvalue()[:33] + b"".join(pack(*c) for c in chunks) + file.getvalue()[33:]


def jpeg_with(exif):
    Image.fromarray(HALVES).save(file := io.BytesIO(), "JPEG", exif=exif, quality=95)
    return file.getvalue()


def tiff_with(**how):
    Image.fromarray(HALVES).save(file := io.BytesIO(), "TIFF", **how)
    return file.getvalue()


QUARTER_TURN = {
    "beside a negative short": jpeg_with(exif_of(turned(6), HEAD)),
    "beside a type that EXIF has not": jpeg_with(exif_of(turned(6), (0x010F, 99, 1, b"?"))),
    "beside a text that ends outside": jpeg_with(exif_of(turned(6), (0x010F, 2, 2**31, struct.pack("<I", 2**31)))),
    "beside a fraction with 0 below": jpeg_with(exif_of(turned(6), (0x011A, 5, 1, struct.pack("<I", 8)))),
    "as a byte": jpeg_with(exif_of(turned(6, kind=1))),
    "as a long": jpeg_with(exif_of(turned(6, kind=4))),
    "in a PNG's chunk": png_with((b"eXIf", exif_of(turned(6), HEAD)[6:])),
    "in a PNG's XMP": png_with((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.encode())),
    "in a PNG's text": png_with((b"tEXt", b"Raw profile type exif\0" + RAW.encode())),
    "in a TIFF": tiff_with(tiffinfo={274: 6}),
    "in a packed TIFF": tiff_with(tiffinfo={274: 6}, compression="tiff_lzw"),
    "in a TIFF's XMP": tiff_with(tiffinfo={700: XMP.encode()}),
}


@pytest.mark.promise(30)
@pytest.mark.parametrize("where", QUARTER_TURN)
def test_the_orientation_is_read_wherever_it_stands_and_whatever_stands_beside_it(tmp_path, where):
    (tmp_path / "a").write_bytes(QUARTER_TURN[where])
    found = read_image(tmp_path / "a")
    assert found.shape == (16, 8, 3) and found[:6].mean() > 250 and found[10:].mean() < 5, "the left half is on top"
    assert image_size(tmp_path / "a") == (16, 8)


@pytest.mark.promise(30)
@pytest.mark.parametrize(
    "exif",
    [exif_of(turned(0)), exif_of(turned(9)), exif_of(turned(6, kind=2)), exif_of(turned(6, size=9)), b"Exif\0\0II*\0"]
    + [b"Exif\0\0junk", b"Exif\0\0", exif_of()[:-5], exif_of(turned(6))[:20]],
)
def test_metadata_that_say_nothing_leave_the_pixels_as_they_lie(tmp_path, exif):
    (tmp_path / "a").write_bytes(jpeg_with(exif))
    assert read_image(tmp_path / "a").shape == (8, 16, 3) and image_size(tmp_path / "a") == (8, 16)


@pytest.mark.promise(30)
@pytest.mark.parametrize("number", range(1, 9))
def test_all_eight_orientations_agree_between_formats_and_with_the_size(tmp_path, number):
    Image.fromarray(HALVES).save(tmp_path / "a.webp", lossless=True, exif=exif_of(turned(number), HEAD))
    (tmp_path / "a.png").write_bytes(png_with((b"eXIf", exif_of(turned(number))[6:])))
    (tmp_path / "a.tif").write_bytes(tiff_with(tiffinfo={274: number}))
    found = [read_image(tmp_path / f"a.{kind}") for kind in ("webp", "png", "tif")]
    assert all(np.array_equal(found[0], other) for other in found[1:])
    assert {image_size(tmp_path / f"a.{kind}") for kind in ("webp", "png", "tif")} == {found[0].shape[:2]}


@pytest.mark.promise(30)
@given(fields=st.lists(st.tuples(*[st.integers(0, 2**16 - 1)] * 2, st.integers(0, 2**32 - 1), st.binary(max_size=4))))
def test_no_exif_can_spoil_sound_pixels(tmp_path_factory, fields):
    path = tmp_path_factory.getbasetemp() / "exif.jpg"
    path.write_bytes(jpeg_with(exif_of(*fields)))
    assert read_image(path).shape[:2] == image_size(path)


@pytest.mark.promise(30)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("before", [True, False])
def test_a_png_s_large_profile_or_text_does_not_matter(tmp_path, before):
    large = zlib.compress(bytes(3_000_000))
    data = png_with((b"iCCP", b"printer\0\0" + large), (b"eXIf", exif_of(turned(6))[6:]))
    if not before:
        chunk = b"zTXtwork\0\0" + large
        whole = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        data = png_with((b"eXIf", exif_of(turned(6))[6:]))
        data = data[:-12] + whole + data[-12:]
    (tmp_path / "a.png").write_bytes(data)
    assert read_image(tmp_path / "a.png").shape == (16, 8, 3) and image_size(tmp_path / "a.png") == (16, 8)


@pytest.mark.promise(31)
@pytest.mark.parametrize("white, kind", [(1, np.float32), (255, np.float32), (65535, np.float32), (255, np.int32)])
def test_white_is_white_in_every_depth_of_a_tiff(tmp_path, white, kind):
    Image.fromarray((np.float64([[0, 0.5, 1]]) * white).astype(kind)).save(tmp_path / "a.tif")
    assert np.abs(read_image(tmp_path / "a.tif")[0, :, 0].astype(int) - [0, 128, 255]).max() <= 1


@pytest.mark.promise(31)
def test_a_dark_scan_of_16_bit_stays_dark(tmp_path):
    dark = np.full((2, 2), 200, np.uint16)
    Image.fromarray(dark).save(tmp_path / "a.png")
    (tmp_path / "a.pgm").write_bytes(b"P5 2 2 65535\n" + dark.astype(">u2").tobytes())
    assert (read_image(tmp_path / "a.png") == 1).all() and (read_image(tmp_path / "a.pgm") == 1).all()


@pytest.mark.promise(31)
@pytest.mark.parametrize("values", [[-1.0, 1.0], [0.0, 70000.0], [0.0, np.nan], [0.0, np.inf]])
def test_measurements_are_no_image(tmp_path, values):
    Image.fromarray(np.float32([values])).save(tmp_path / "depth.tif")
    with pytest.raises(ValueError, match="depth.tif.*grey values must lie in 0..1 or 0..255 or 0..65535"):
        read_image(tmp_path / "depth.tif")


@pytest.mark.promise(31)
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_labels_are_the_values_of_the_file_whatever_its_depth(tmp_path, bits):
    labels = np.arange(2**bits, dtype=np.uint8).reshape(-1, 2)
    if bits == 1:
        Image.fromarray(labels.astype(bool)).save(tmp_path / "a.png")
    else:
        Image.fromarray(labels).save(tmp_path / "a.png", bits=bits)
    assert np.array_equal(read_labels(tmp_path / "a.png"), labels) and read_labels(tmp_path / "a.png").dtype == np.uint8


@pytest.mark.promise(31)
@pytest.mark.parametrize(
    "kind, how",
    [("JPEG", {}), ("WEBP", {}), ("JPEG2000", {}), ("GIF", {}), ("PPM", {}), ("TIFF", {"compression": "jpeg"})],
)
def test_label_maps_that_may_hold_what_nobody_drew_are_refused(tmp_path, kind, how):
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "a.png", kind, **how)
    with pytest.raises(ValueError, match="keep every value.*a.png"):
        read_labels(tmp_path / "a.png")


@pytest.mark.promise(31)
def test_a_label_map_whose_white_is_0_is_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.tif", tiffinfo={262: 0})
    with pytest.raises(ValueError, match="0 for white"):
        read_labels(tmp_path / "a.tif")


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


WORDS = ["Größe", "vélo", "niño", "żółw", "лодка", "σκύλος", "قطة", "כלב", "小船", "boat"]


def drawn(text):
    text, font = typeset(text, 13)
    core = font.getmask(text)
    return core.size, bytes(core.getpixel((x, y)) for y in range(core.size[1]) for x in range(core.size[0]))


@pytest.mark.promise(38)
@pytest.mark.parametrize("word", WORDS)
def test_every_letter_of_a_name_is_drawn_or_told_from_others_by_its_number(word):
    boxes = {drawn(letter) for letter in "\u0378\u0379"}  # no font has them
    assert len(boxes) == 2 and not boxes & {drawn(letter) for letter in word}
    text, font = typeset(word, 13)
    assert text == word or word == "小船" and text in (word, "[5C0F][8239]")
    if word != "小船":
        assert all(font.getmask(letter).getbbox() for letter in word)


@pytest.mark.promise(38)
def test_a_font_of_the_machine_is_taken_where_it_has_all_letters(monkeypatch):
    from rim.base import images

    monkeypatch.setattr(
        images, "_letters", lambda path: set(range(256)) | {0x5C0F} if "DejaVuSerif" in str(path) else set()
    )
    serif = str(images._font_file(frozenset([65]))[0]).replace("DejaVuSans.ttf", "DejaVuSerif.ttf")
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: ["/gone.ttf", serif])
    images._font_file.cache_clear()
    assert typeset("小", 13)[1].getname()[0] == "DejaVu Serif" and typeset("船", 13)[0] == "[8239]"
    images._font_file.cache_clear()
