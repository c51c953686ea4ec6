"""Loaders: every class by the same path, from a folder or with random weights; refusals that name the rule."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from segment_anything import build_sam_vit_b, build_sam_vit_h, build_sam_vit_l

from rim.models import architectures, loading as models, needs, roles
from rim.base.settings import Settings

NAMES = dict(trident_dino="vit")  # roles whose loader has another name


@pytest.fixture
def tiny():
    return Settings.from_profile(
        "toybox", pretrained=False, device="cpu", **{role: f"tiny:{NAMES.get(role, role)}" for role in roles.ROLES}
    )


@pytest.fixture
def folder(tmp_path, tiny):
    "The tiny models as folders, half precision, as the toybox weights are."
    models.load_diffusion(tiny).to(torch.float16).save_pretrained(tmp_path / "diffusion")
    (tmp_path / "sam").mkdir()
    (tmp_path / "sam/config.json").write_text(json.dumps(architectures._TINY_SAM))
    save_file({k: v.half() for k, v in models.load_sam(tiny).state_dict().items()}, tmp_path / "sam/model.safetensors")
    models.load_dino(tiny).half().save_pretrained(tmp_path / "dino")
    for name, load in (("clip", models.load_clip), ("groupvit", models.load_groupvit)):
        model, processor = load(tiny)
        model.half().save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
    models.load_mae(tiny).half().save_pretrained(tmp_path / "mae")
    models.load_maskformer(tiny).half().save_pretrained(tmp_path / "maskformer")
    models.load_vit(tiny).half().save_pretrained(tmp_path / "trident_dino")
    (tmp_path / "efficientnet").mkdir()
    network = {
        k: v.half() if v.is_floating_point() else v for k, v in models.load_efficientnet(tiny).state_dict().items()
    }
    save_file(network, tmp_path / "efficientnet/model.safetensors")
    config = dict(architecture="tf_efficientnet_lite0", num_classes=10)
    (tmp_path / "efficientnet/config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.fixture
def saved(folder):
    return Settings.from_profile("toybox", device="cpu", models_dir=str(folder), **{role: role for role in roles.ROLES})


def parameters(model):
    return {k: v for k, v in model.state_dict().items() if v.is_floating_point()}


@pytest.mark.parametrize(
    "file, build",
    [
        ("sam_vit_b_01ec64.pth", build_sam_vit_b),
        ("sam_vit_l_0b3195.pth", build_sam_vit_l),
        ("sam_vit_h_4b8939.pth", build_sam_vit_h),
    ],
)
def test_sams_are_the_published_ones(file, build):
    with torch.device("meta"):
        ours, theirs = architectures.build_sam(roles.SAM_SIZES[file]), build()
    shapes = [{k: tuple(v.shape) for k, v in sam.state_dict().items()} for sam in (ours, theirs)]
    assert shapes[0] == shapes[1] and str(ours) == str(theirs)
    assert [b.window_size for b in ours.image_encoder.blocks] == [b.window_size for b in theirs.image_encoder.blocks]


def test_sam_configuration_is_checked():
    with pytest.raises(ValueError, match="colour"):
        architectures.build_sam({"colour": 1})


def test_every_loader_reads_its_folder_as_float32(saved, tiny):
    def all_of(s):
        return [
            models.load_diffusion(s).unet,
            models.load_sam(s),
            models.load_dino(s),
            models.load_clip(s)[0],
            models.load_mae(s),
            models.load_maskformer(s),
            models.load_vit(s),
            models.load_efficientnet(s),
        ]

    loaded, fresh = all_of(saved), all_of(tiny)
    for a, b in zip(loaded, fresh):
        assert not a.training and not any(p.requires_grad for p in a.parameters())
        a, b = parameters(a), parameters(b)
        assert a.keys() == b.keys() and {v.dtype for v in a.values()} == {torch.float32}
        assert all(torch.equal(a[k], b[k].half().float()) for k in a)


def test_tridents_dino_may_be_dinov2_and_nothing_else(folder, saved, tiny):
    assert type(models.load_vit(saved.replace(trident_dino="dino"))).__name__ == "Dinov2Model"
    with pytest.raises(ValueError, match="vit or dinov2; mae is of type 'vit_mae'"):
        models.load_vit(saved.replace(trident_dino="mae"))


def test_tokenizers_survive_the_folder(saved, tiny):
    for text in ("a photo of a sofa", "Ein Foto: Bäume, 木"):
        assert (
            models.load_diffusion(saved).tokenizer(text).input_ids
            == models.load_diffusion(tiny).tokenizer(text).input_ids
        )
        assert (
            models.load_clip(saved)[1].tokenizer(text).input_ids == models.load_clip(tiny)[1].tokenizer(text).input_ids
        )


def test_random_weights_are_seeded_and_leave_the_global_generator(tiny):
    state = torch.get_rng_state()
    a, b, c = (architectures.random_model("tiny:sam", seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    key = "image_encoder.patch_embed.proj.weight"
    assert torch.equal(a[key], b[key]) and not torch.equal(a[key], c[key])
    with pytest.raises(ValueError, match="nobody/knows"):
        models.load_dino(tiny.replace(dino="nobody/knows"))


@pytest.mark.promise(10)
@pytest.mark.parametrize("role", roles.ROLES)
def test_missing_weights_name_the_command_that_fetches_them(role, tmp_path):
    settings = Settings.from_profile(
        "paper", models_dir=str(tmp_path), **{role: "nobody/nothing" if role != "sam" else "sam_vit_b_01ec64.pth"}
    )
    with pytest.raises(FileNotFoundError, match="fetch them with: (hf download nobody/nothing|curl )") as error:
        getattr(models, f"load_{NAMES.get(role, role)}")(settings)
    assert "\n" not in str(error.value)


def test_a_half_copied_folder_is_not_taken(saved, folder):
    (folder / "dino/model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="dino"):
        models.load_dino(saved)


@pytest.mark.promise(11)
def test_pickle_with_another_hash_is_refused(tmp_path, tiny):
    torch.save({}, tmp_path / "sam_vit_b_01ec64.pth")
    with pytest.raises(ValueError, match="sha256"):
        models.load_sam(tiny.replace(pretrained=True, sam="sam_vit_b_01ec64.pth", models_dir=str(tmp_path)))


@pytest.mark.promise(11)
def test_pickled_hub_weights_are_refused(saved, folder):
    weights = folder / "dino/model.safetensors"
    torch.save({}, folder / "dino/pytorch_model.bin")
    weights.unlink()
    with pytest.raises(FileNotFoundError):
        models.load_dino(saved)


def test_digest_follows_the_content(saved, folder):
    before = models.weights_key("sam", saved)
    (folder / "sam/record.json").write_text("{}")
    assert models.weights_key("sam", saved) == before
    (folder / "sam/config.json").write_text(json.dumps(architectures._TINY_SAM | {"pixel_std": [1, 1, 1]}))
    assert models.weights_key("sam", saved) != before
    assert models.weights_key("sam", saved.replace(pretrained=False, sam="tiny:sam")) == dict(name="tiny:sam", random=0)


def test_doctor_tells_what_is_there(saved, tiny, tmp_path):
    assert all(row.present and not row.command for row in needs.doctor(saved) + needs.doctor(tiny))
    rows = needs.doctor(Settings.from_profile("paper", models_dir=str(tmp_path / "none"), dino="nobody/nothing"))
    assert not rows[2].present and rows[2].command.startswith("hf download nobody/nothing")
    rows = {row.name: row for row in needs.doctor(Settings.from_profile("paper", models_dir=str(tmp_path / "none")))}
    for name in (
        "CompVis/stable-diffusion-v1-4",
        "facebook/dinov2-base",
        "openai/clip-vit-base-patch16",
        "facebook/vit-mae-base",
        "facebook/dino-vitb16",
        "facebook/maskformer-resnet101-coco-stuff",
    ):
        assert (
            len(rows[name].revision) in (7, 40)
            and int(rows[name].revision, 16)
            and f"--revision {rows[name].revision}" in rows[name].command
        )
    assert rows["sam_vit_b_01ec64.pth"].revision == "sha256 " + roles.SAM_FILES["sam_vit_b_01ec64.pth"]
    assert all(row.licence and row.megabytes > 100 and row.command for row in rows.values() if not row.present)


def test_a_short_revision_is_found_under_its_whole_commit(tmp_path, monkeypatch):
    "The hub's cache as a download by the first digits leaves it: a reference by them, a folder by all."
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    settings = Settings.from_profile("paper", models_dir=str(tmp_path / "none"))
    short, commit = settings.maskformer_revision, settings.maskformer_revision + 33 * "0"
    assert len(short) == 7 and int(short, 16)
    repository = tmp_path / "hub" / ("models--" + settings.maskformer.replace("/", "--"))
    for file, text in {
        f"refs/{short}": commit,
        f"snapshots/{commit}/config.json": "{}",
        f"snapshots/{commit}/model.safetensors": "",
    }.items():
        (repository / file).parent.mkdir(parents=True, exist_ok=True)
        (repository / file).write_text(text)
    assert roles.resolve(settings.maskformer, settings) == repository / "snapshots" / commit
    with pytest.raises(FileNotFoundError, match="--revision 1234567 "):
        roles.resolve(settings.maskformer, settings.replace(maskformer_revision="1234567"))


def test_doctor_measures_what_is_there(saved, folder):
    row = next(row for row in needs.doctor(saved) if row.name == "mae")
    assert row.megabytes == round(
        sum((folder / "mae" / f).stat().st_size for f in ("config.json", "model.safetensors")) / 1e6, 1
    )


def test_the_encoder_of_a_whole_autoencoder_is_read(saved, folder, tiny):
    from transformers import ViTMAEForPreTraining

    encoder = models.load_mae(tiny)
    whole = ViTMAEForPreTraining(encoder.config)
    whole.vit.load_state_dict(encoder.state_dict())
    whole.save_pretrained(folder / "mae")
    read = models.load_mae(saved)
    assert all(torch.equal(v, read.state_dict()[k]) for k, v in encoder.state_dict().items())


def test_an_autoencoder_without_its_encoder_is_refused(saved, folder, capfd):
    from safetensors.torch import load_file

    file = folder / "mae/model.safetensors"
    weights = {k: v for k, v in load_file(file).items() if "layernorm_before" not in k}
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks layers.0.layernorm_before"):
        models.load_mae(saved)


def test_a_cpu_computes_in_float32(tiny):
    assert roles.dtype_of(tiny.replace(dtype="float16")) == torch.float32


@pytest.mark.slow
def test_rehearsal_runs_the_paper_architectures_end_to_end():
    "One class, one image through models, synthesis, proposals and features at full size with random weights."
    from rim.method.crops import ClipCrops
    from rim.method.features import DinoKeys
    from rim.method.pooling import pool, pool_complement
    from rim.method.proposals import Proposer, foreground_mask
    from rim.method.synthesis import synthesise

    settings = Settings.from_profile("rehearsal", device="cpu")
    pipeline = models.load_diffusion(settings)
    assert sum(p.numel() for p in pipeline.unet.parameters()) == 859_520_964
    (reference,) = synthesise(pipeline, [("a photo of a dog", "dog", 0)], settings)
    del pipeline
    assert (
        reference.image.shape == (512, 512, 3)
        and reference.attention.shape == (64, 64)
        and reference.attention.max() == 1
    )
    proposer = Proposer(models.load_sam(settings), settings)
    mask, how = foreground_mask(proposer, reference.image, reference.attention, settings, reference.seed)
    proposals = proposer.proposals(reference.image[:384])
    assert mask.shape == (512, 512) and how in ("sam", "attention") and proposals.masks.shape[1:] == (384, 512)
    dino = models.load_dino(settings)
    grid = DinoKeys(dino, settings.reference_side).features(reference.image)
    assert grid.shape == (768, 37, 37) and DinoKeys(dino, settings.region_side).features(
        reference.image[:384]
    ).shape == (768, 28, 37)
    for pooled, valid in (pool(grid, mask[None]), pool_complement(grid, mask[None])):
        assert pooled.shape == (1, 768) and valid.all()
    clip = ClipCrops(*models.load_clip(settings), settings.clip_side)
    assert (clip.images([reference.image]) @ clip.texts(["a photo of a dog"]).T).shape == (1, 1)
