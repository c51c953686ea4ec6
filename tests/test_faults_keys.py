"""Every setting is classified: by what has to be computed again when it changes. A new setting fails here until
somebody has thought about it."""

import functools
from types import SimpleNamespace
import pytest
from rim.method.references import plan, reference_key
from rim.method.tools import Tools
from rim.method.regions import Analyser
from rim.measure.rivals import ClipCrop
from rim.method.matcher import Matcher
from rim.method.segmenter import RIM
from rim.base.settings import _KINDS, Settings
from rim.base.files import address
from rim.peers.corrclip import CorrCLIP
from rim.peers.dense_clip import SCLIP
from rim.peers.diffsegmenter import DiffSegmenter
from rim.peers.freeda import FreeDA
from rim.peers.groupvit import GroupViT
from rim.peers.ovdiff import OVDiff
from rim.peers.proxyclip import ProxyCLIP
from rim.peers.retrieval import Retrieval
from rim.trident.trident import Trident
from rim.method.vocabulary import Vocabulary

pytestmark = pytest.mark.promise(6)
WORDS = Vocabulary.of("boat, tree")
PAINTED = {"picture", "mask", "reference", "bank", "rim"}
CUT = PAINTED - {"picture"}
PROPOSED = {"proposals", "analysis", "rim", "clip-crops", "corrclip"}
# CLIP on crops and CorrCLIP share their keys with RIM's analysis
SEEN = {"reference", "bank", "analysis", "rim", "clip-crops", "corrclip"}
VIEWED = {"sclip", "proxyclip", "corrclip"}  # peers that look through CLIP's windows
NAMED = VIEWED | {"groupvit"}  # by texts
CLIPPED = {"freeda", "ovdiff", "diffsegmenter"}  # they ask CLIP about the whole image
NOTHING = set()


def followers(expected):
    "What uses RIM's references and regions changes with them."
    found = {"match", "retrieval"} if expected & {"bank", "analysis"} else set()
    featured = "bank" in expected or "analysis" in expected and "proposals" not in expected
    return found | ({"freeda", "ovdiff"} if featured else set())


def row(value, missed, **context):
    return value, missed, context


def rows(missed, context={}, **values):
    return {name: (value, missed, context) for name, value in values.items()}


WHICH = {
    "seed": row(1, PAINTED | {"diffsegmenter"}, pretrained=True),
    "pretrained": row(True, PAINTED | PROPOSED | CLIPPED | NAMED | {"trident"}),
    "dtype": row("float16", PAINTED | PROPOSED | CLIPPED | NAMED | {"trident"}, device="cuda"),
    "prompt": row("one {}", PAINTED | CLIPPED | NAMED | {"trident"}, trident_templates="prompt"),
    "sam_side": row(32, CUT | PROPOSED | {"trident"}, sam="tiny:mobile-sam"),
    "sam": row("other", CUT | PROPOSED | {"trident"}),
    "clip": row(
        "other", CLIPPED | VIEWED | {"trident", "clip-crops", "match"}
    ),  # the toybox's matcher sees CLIP beside DINOv2
    "fusion": row("mae", SEEN),
    "trident_dino": row("other", {"trident", "proxyclip", "corrclip"}),
    "groupvit": row("other", {"groupvit"}),
    "feature": row("mae", SEEN),
    "reference_side": row(64, {"reference", "bank", "rim"}),
    "region_side": row(128, PROPOSED - {"proposals"}),
    "clip_side": row(64, CLIPPED | {"clip-crops"}),
    "painting": row("score", {"rim", "clip-crops", "retrieval"}),
    "needs": row("sam", CLIPPED),
    "ranking_temperature": row(2, {"rim"}, ranking="softmax"),
    "dense_thresh": row(0.3, PROPOSED, proposals="dense"),
    "feature_kind": row("values", SEEN, feature="clip"),
    "feature_layer": row("2", SEEN),
    "efficientnet": row("other", SEEN, feature="efficientnet"),
    "mae": row("other", SEEN, feature="mae"),
    "diffusion": row("other", PAINTED | {"diffsegmenter"}),
    **rows(
        PAINTED,
        images_per_class=3,
        image_size=128,
        denoising_steps=3,
        guidance=2,
        compile=True,
        degenerate_std=1,
        redraws=1,
        attention_resolutions="8",
    ),
    **rows(CUT, attention_threshold=0.6, attention_points=4, attention_top=0.1, mask_min_area=0.1, mask_max_area=0.9),
    **rows(
        PROPOSED,
        proposer="none",
        proposals="dense",
        mask_generator="stock",
        points_per_side=9,
        pred_iou_thresh=0.1,
        stability_score_thresh=0.1,
        stability_score_offset=0.5,
        box_nms_thresh=0.5,
    ),
    **rows(
        PROPOSED,
        {"proposer": "maskformer"},
        maskformer="other",
        maskformer_side=64,
        maskformer_score=0.1,
        maskformer_thresh=0.1,
    ),
    **rows(SEEN, {"feature": "sd"}, sd_timestep=1, sd_block=1, sd_scale=1),
    **rows({"rim"}, dino="other") | rows(SEEN, dino="other"),
    **rows(
        {"rim"},
        subcategories=3,
        background_subcategories=3,
        agents=2,
        agent_choice="random",
        candidates="all",
        ranking="softmax",
        score_floor=0.1,
    ),
    **rows({"rim", "retrieval"}, centring="bank", uncovered="patches"),
    **rows(
        {"trident"},
        trident_side=96,
        trident_crop=64,
        trident_stride=8,
        trident_splice="windows",
        trident_correlation="clip",
        trident_sam_correlation=False,
        trident_cos_fac=1,
        trident_refine_neg_cos=True,
        trident_halves=True,
        trident_prob_thd=0.5,
        trident_refine=False,
        trident_coarse_thresh=0.5,
        trident_min_area=1,
        trident_mask_weight=0.1,
        trident_iou_thresh=0.1,
        trident_faithful=False,
    ),
    **rows(NAMED | {"trident"}, trident_longest=96),
    "trident_templates": row("imagenet", CLIPPED | NAMED | {"trident"}),
    "trident_scale": row(20, {"trident", "ovdiff", "diffsegmenter"}),
    "image_peer_presence": row(0.2, {"ovdiff", "diffsegmenter"}),
    **rows(
        {"freeda"},
        freeda_scale=50,
        freeda_sigma=0.5,
        freeda_min_size=50,
        freeda_nearest=350,
        freeda_local=0.5,
        freeda_background=0.4,
    ),
    **rows({"ovdiff"}, ovdiff_images=4, ovdiff_parts=4),
    **rows(
        {"diffsegmenter"},
        diffseg_side=64,
        diffseg_timestep=10,
        diffseg_weights="1",
        diffseg_background=0.3,
    ),
    **rows({"retrieval"}, retrieval_nearest=3, retrieval_own=0.3),
    **rows({"trident", "proxyclip"}, trident_beta=1, trident_gamma=1),
    **rows({"groupvit"}, groupvit_keep=3),
    **rows(
        {"corrclip"},
        corrclip_similarity="tokens",
        corrclip_eps=0.1,
        corrclip_sharpness=2,
        corrclip_spatial=0.5,
        corrclip_semantic=1,
    ),
    **rows(NAMED, peer_side=96, peer_crop=64, peer_stride=8, peer_scale=20, peer_threshold=0.5),
    **rows(
        {"match"},
        match_fusion="",
        match_references=2,
        match_negatives=2,
        match_margin=0.5,
        match_centring="none",
        match_presence=0.1,
        match_temperature=1,
        match_voting="smallest",
    ),
    "confidence_curve": row("1,2,3,4,5,0.5", {"match"}, unknown=0.5, confidence_curve="1,1,1,1,1,0.5"),
    "unknown": row(0.7, {"match"}, confidence_curve="1,1,1,1,1,0.5"),
    # locations, batch sizes, which images are asked for, what is drawn from the results: the content decides, not these
    **rows(
        NOTHING,
        method="rim",
        device="cuda",
        threads=3,
        store="elsewhere",
        models_dir="elsewhere",
        data_dir="elsewhere",
        profile="paper",
        synthesis_batch=7,
        points_per_batch=3,
        benchmark="voc21",
        benchmark_images=3,
        names="engineered",
        bootstrap=5,
        shipped="",
        trident_background="sky",
        **{
            f"{role}_revision": "other"
            for role in ("diffusion", "dino", "clip", "mae", "maskformer", "trident_dino", "groupvit")
        },
    ),
}


@functools.cache
def known(settings):
    return artefacts(settings)


def artefacts(settings):
    "What is kept under these settings -> the addresses that it is kept under."
    tools, made = Tools(settings), [item for batch in plan(WORDS, settings) for item in batch]
    named = [{"prompt": prompt, "start": prompt.start, "word": word, "k": k} for _, prompt, word, k in made]
    references, analyser = [reference_key(item, tools) for item in made], Analyser(settings, tools)
    bank = address({"bank": sorted(map(address, references))})
    generated = SimpleNamespace(digest=bank, record={"source": "diffusion"})
    keys = {
        "picture": [n | tools.painting_key for n in named],
        "mask": [n | {"picture": tools.painting_key} | tools.cutting_key for n in named],
        "reference": references,
        "bank": [{"bank": bank}],
        "proposals": [analyser.proposals_key],
        "analysis": [analyser.analysis_key],
        "rim": [RIM(settings).method(WORDS, SimpleNamespace(digest=bank)).key],
        "match": [Matcher(settings).method(WORDS, SimpleNamespace(digest=bank)).key],
        "trident": [Trident(settings).method(WORDS).key],
        **{peer.name: [peer(settings).method(WORDS).key] for peer in (SCLIP, ProxyCLIP, CorrCLIP, GroupViT)},
        "clip-crops": [ClipCrop(settings).method(WORDS).key],
        **{kind.name: [kind(settings).method(WORDS, generated).key] for kind in (FreeDA, OVDiff, Retrieval)},
        "diffsegmenter": [DiffSegmenter(settings).method(WORDS).key],
    }
    return {name: set(map(address, found)) for name, found in keys.items()}


def missed(before, after):
    return {name for name in after if after[name] - before[name]}


@pytest.fixture(scope="module")
def base():
    "Settings without weights on the disk: a key then names them, and any name will do."
    return Settings.from_profile("toybox", pretrained=False, images_per_class=2, device="cpu")


def test_every_setting_is_classified():
    assert set(WHICH) == set(_KINDS)


@pytest.mark.parametrize("name", _KINDS)
def test_what_a_setting_changes_is_computed_again_and_nothing_else(base, name):
    value, expected, context = WHICH[name]
    before = base.replace(**context)
    assert getattr(before, name) != before.replace(**{name: value}).as_dict()[name], "the value must be another one"
    assert missed(known(before), artefacts(before.replace(**{name: value}))) == expected | followers(expected)


def test_the_same_settings_hit(base):
    assert missed(artefacts(base), artefacts(base.replace(seed=base.seed))) == set()


@pytest.mark.parametrize(
    "role, expected",
    [
        ("diffusion", PAINTED | {"diffsegmenter"}),
        ("dino", SEEN),
        ("sam", CUT | PROPOSED | {"trident"}),
        ("clip", CLIPPED | VIEWED | {"trident", "clip-crops", "match"}),
    ],
)
def test_weights_of_other_content_miss(base, root, tmp_path, role, expected):
    import shutil

    folder = tmp_path / role
    shutil.copytree(root / "rim/toybox/weights" / role, folder)
    before = base.replace(pretrained=True, **{role: str(folder)})
    then = artefacts(before)
    file = next(f for f in sorted(folder.rglob("*.safetensors")) if f.name != "teacher.safetensors")
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert missed(then, artefacts(before)) == expected | followers(expected)
