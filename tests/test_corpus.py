"""Bytes that broke something once, kept small in tests/corpus, and bytes like them: an answer, or one sentence."""

import struct, zlib
from io import BytesIO
from pathlib import Path
import numpy as np, pytest
from hypothesis import given, settings as examples, strategies as st
from PIL import Image
from rim.base.images import image_size, read_image, read_labels
from rim.measure.folders import read_names
from rim.method.vocabulary import Vocabulary

SOUND = {"tiff-turned-by-xmp", "png-turned-by-xmp", "exif-short-below-zero"}  # the others are refused
CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())
pytestmark = [pytest.mark.promise(18, 39), pytest.mark.filterwarnings("ignore")]


def answer(read, path):
    "What reading gives; None where it is refused in one sentence that names the file."
    try:
        return read(path)
    except (ValueError, OSError) as e:
        assert path.name in str(e) and "\n" not in str(e), repr(e)


def read_all(path):
    pixels, size, labels = (answer(read, path) for read in (read_image, image_size, read_labels))
    assert pixels is None or pixels.dtype == np.uint8 and pixels.shape == (*size, 3)
    assert labels is None or labels.dtype in (np.uint8, np.uint16) and labels.ndim == 2
    return pixels


def test_the_corpus_is_there():
    assert len(CORPUS) >= 7 and sum(f.stat().st_size for f in CORPUS) < 20_000


@pytest.mark.parametrize("path", CORPUS, ids=lambda p: p.name)
def test_what_broke_once_is_answered(path):
    assert (read_all(path) is not None) == (path.stem in SOUND)


def saved(kind, pixels, **how):
    Image.fromarray(pixels).save(file := BytesIO(), kind, **how)
    return file.getvalue()


GREY = np.random.default_rng(0).integers(0, 4, (7, 9), dtype=np.uint8)
EXIF = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0" + bytes(4)
SEEDS = [f.read_bytes() for f in CORPUS] + [
    saved("PNG", GREY),
    saved("PNG", GREY, bits=2),
    saved("PNG", GREY.astype(np.uint16) * 999, exif=EXIF),
    saved("BMP", GREY),
    saved("TIFF", GREY, compression="tiff_lzw", tiffinfo={274: 6}),
    saved("TIFF", GREY.astype(np.int32)),
    saved("TIFF", GREY.astype(np.float32)),
    saved("JPEG", GREY, exif=EXIF),
    saved("WEBP", np.dstack([GREY] * 3), exif=EXIF, icc_profile=bytes(40)),
    b"P5 4 4 65535\n" + bytes(32),
    b"Pf\n4 4\n-1.0\n" + bytes(64),
]


def mended(data):
    "A PNG whose checksums are right again, so that what is inside is looked at."
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    parts, at = [data[:8]], 8
    while at + 12 <= len(data) and at + 12 + (length := int.from_bytes(data[at : at + 4], "big")) <= len(data):
        body = data[at + 4 : at + 8 + length]
        parts.append(data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body)))
        at += length + 12
    return b"".join(parts) + data[at:]


@st.composite
def damaged(draw, seeds):
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        piece = draw(
            st.sampled_from([b"", b"\0", b"\xff", b"\xff" * 4, bytes(4), b"\xff\xff\xff\x7f"]) | st.binary(max_size=4)
        )
        content[at : at + draw(st.integers(0, 4))] = piece
    return bytes(content)


@examples(max_examples=300)
@given(damaged(SEEDS), st.booleans())
def test_damaged_images_and_label_maps_are_answered(tmp_path_factory, data, mend):
    path = tmp_path_factory.getbasetemp() / "fuzzed.img"
    path.write_bytes(mended(data) if mend else data)
    read_all(path)


NAMES = {
    "UTF-16": "boat\ntree\n".encode("utf-16"),
    "UTF-16, no mark": "boat\n".encode("utf-16-le"),
    "another alphabet's bytes": "Größe\n".encode("latin-1"),
    "nothing": b"",
    "remarks": b"# boat\n\n",
    "a null": b"bo\0at\n",
    "a line of commas": b"boat, tree\n",
    "columns": b"1\tboat\n2\ttree\n",
    "JSON": b'["boat", "tree"]\n',
    "background last": b"boat\nbackground\n",
    "unseen": "\u200b\n".encode(),
    "bars": b"boat||tree\n",
}


@pytest.mark.parametrize("which", NAMES)
def test_files_that_are_no_list_of_names_are_refused(tmp_path, which):
    (tmp_path / "names.txt").write_bytes(NAMES[which])
    for read in (read_names, Vocabulary.of):
        with pytest.raises(ValueError) as refusal:
            read(tmp_path / "names.txt")
        assert "\n" not in str(refusal.value)


@examples(max_examples=300)
@given(damaged([*NAMES.values(), "\ufeffbackground\nbuilding, edifice\nsofa|couch\n# x\n小船\n“dog”\n".encode()]))
def test_damaged_names_are_a_vocabulary_that_can_be_written_and_read(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "names.txt"
    path.write_bytes(data)
    try:
        found = read_names(path)
    except ValueError as e:
        assert "\n" not in str(e)
        return
    assert Vocabulary.of(["|".join([n, *found.synonyms.get(n, ())]) for n in found.names], found.background) == found
