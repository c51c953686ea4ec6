import pickle

import pytest
from rim.base.settings import _KINDS, Settings, settings_for, _convert
from rim.base.values import own_file, read_ini, shipped_file


@pytest.mark.parametrize("profile", ["toybox", "paper", "rehearsal"])
def test_every_profile_reads(profile):
    settings = Settings.from_profile(profile)
    assert settings.profile == profile
    assert all(type(value) is _KINDS[key] for key, value in settings.as_dict().items())


def test_the_file_names_every_field_and_no_other():
    assert set(read_ini(shipped_file()).defaults()) == set(_KINDS) - {"profile"}


def test_overrides_win_and_are_typed(monkeypatch):
    monkeypatch.setenv("RIM_STORE", "/somewhere")
    assert Settings.from_profile("toybox").store == "/somewhere"
    settings = Settings.from_profile("toybox", store="/elsewhere", agents="3", pretrained="off", guidance=2)
    assert (settings.store, settings.agents, settings.pretrained, settings.guidance) == ("/elsewhere", 3, False, 2.0)
    assert settings.replace(agents="5").agents == 5 and settings.agents == 3


@pytest.mark.parametrize(
    "wrong, words",
    [
        (dict(agent=3), "'agents'"),
        (dict(agents="four"), "agents"),
        (dict(agents=2.5), "agents"),
        (dict(agents=True), "agents"),
        (dict(agents=0), "greater than 0"),
        (dict(pretrained="maybe"), "pretrained"),
        (dict(painting="size"), "area, score"),
        (dict(attention_threshold=70), "between 0 and 1"),
        (dict(prompt="a photo"), "{}"),
        (dict(attention_threshold="nan"), "between 0 and 1"),
        (dict(profile="paper"), "profile"),
    ],
)
def test_a_wrong_value_is_named(wrong, words):
    with pytest.raises(ValueError, match=words.replace("{}", r"\{\}")):
        Settings.from_profile("toybox", **wrong)


def test_an_unknown_profile_names_the_nearest():
    with pytest.raises(ValueError, match="'toybox'"):
        Settings.from_profile("toybx")


def test_an_own_file_is_laid_over_the_shipped_one(tmp_path, monkeypatch):
    (tmp_path / "settings.ini").write_text("[toybox]\nagents = 2\n")
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    settings = Settings.from_profile("toybox")
    assert settings.agents == 2 and settings.subcategories == 8


def test_a_strangers_file_is_neither_obeyed_nor_complained_about(tmp_path):
    for text in ("[other]\nagents = 2\n", "no section at all\n", "\ufeff\x00"):
        (tmp_path / "settings.ini").write_text(text)
        assert own_file(tmp_path) != tmp_path / "settings.ini"


def test_a_named_file_must_be_there_and_be_sound(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.ini"):
        Settings.from_profile("toybox", file=tmp_path / "none.ini")
    (tmp_path / "bad.ini").write_text("agents = 2\n")
    with pytest.raises(ValueError, match="bad.ini"):
        Settings.from_profile("toybox", file=tmp_path / "bad.ini")
    (tmp_path / "typo.ini").write_text("[toybox]\nagnets = 2\n")
    with pytest.raises(ValueError, match="'agents'"):
        Settings.from_profile("toybox", file=tmp_path / "typo.ini")


def test_subset_refuses_what_is_no_setting():
    settings = Settings.from_profile("paper")
    assert settings.subset("agents", "seed") == dict(agents=4, seed=0)
    with pytest.raises(ValueError, match="seeds"):
        settings.subset("seeds")


def sections():
    return [section for section in read_ini(shipped_file()).sections() if "." in section]


def test_a_section_with_a_dot_is_no_profile():
    assert sections()
    for section in sections():
        with pytest.raises(ValueError, match="unknown profile"):
            Settings.from_profile(section)


def test_tridents_sections_are_the_eight_benchmarks_and_hold_known_keys():
    from rim.measure.sources import SOURCES

    tridents = [name for name in sections() if name.startswith("trident.")]
    assert sorted(tridents) == sorted(f"trident.{name}" for name in SOURCES)
    paper, ini = Settings.from_profile("paper"), read_ini(shipped_file())
    for name in SOURCES:
        own = {key: value for key, value in ini[f"trident.{name}"].items() if value != ini.defaults().get(key)}
        assert all(key.startswith("trident_") for key in own)
        assert settings_for(paper, name).subset(*own) == paper.replace(**own).subset(*own)


@pytest.mark.parametrize(
    "name, side, stride, prob, coarse, cos, negative, halves",
    [
        ("voc21", 448, 224, 0.20, 0.20, 1.2, True, False),
        ("context60", 576, 224, 0.15, 0.15, 1.2, True, False),
        ("coco-object", 448, 224, 0.25, 0.25, 1.2, True, False),
        ("voc20", 336, 112, 0, 0.20, 0, True, False),
        ("context59", 576, 224, 0, 0.15, 1.2, True, False),
        ("coco-stuff", 448, 224, 0, 0.05, 1.2, True, False),
        ("cityscapes", 688, 224, 0, 0.10, 3, False, True),
        ("ade20k", 576, 224, 0, 0.05, 1.2, False, False),
    ],
)
def test_tridents_published_values(name, side, stride, prob, coarse, cos, negative, halves):
    s = settings_for(Settings.from_profile("paper"), name)
    assert (
        s.trident_side,
        s.trident_stride,
        s.trident_prob_thd,
        s.trident_coarse_thresh,
        s.trident_cos_fac,
        s.trident_refine_neg_cos,
        s.trident_halves,
    ) == (side, stride, prob, coarse, cos, negative, halves)


def test_a_benchmark_without_a_section_changes_nothing_and_overrides_stay():
    paper = Settings.from_profile("paper")
    assert settings_for(paper, "mine") is paper
    assert settings_for(paper.replace(trident_side=500), "voc20").subset("trident_side", "trident_stride") == dict(
        trident_side=500, trident_stride=112
    )


@pytest.mark.parametrize("said", [dict(trident_side=448), dict(trident_side="448")])
def test_what_is_said_explicitly_wins_though_it_equals_the_profiles_value(said):
    paper = Settings.from_profile("paper")
    assert paper.trident_side == 448 and settings_for(paper, "voc20").trident_side == 336
    for settings in (Settings.from_profile("paper", **said), paper.replace(**said)):
        settings = pickle.loads(pickle.dumps(settings.replace(agents=3)))  # what a worker gets
        own = settings_for(settings, "voc20")
        assert (own.trident_side, own.trident_stride) == (448, 112)
        assert settings_for(own, "voc20") == own


def test_what_was_said_is_no_value_and_no_part_of_a_key():
    paper = Settings.from_profile("paper")
    said = paper.replace(agents=paper.agents)
    assert said == paper and hash(said) == hash(paper) and said.as_dict() == paper.as_dict()
    assert said.said == {"agents"} and paper.said == set() and "said" not in repr(said)


def test_a_peers_values_are_the_benchmarks_then_the_profiles_then_its_own_for_all():
    paper, toybox = (Settings.from_profile(name) for name in ("paper", "toybox"))
    seen = lambda s: (s.peer_side, s.peer_crop, s.peer_threshold)
    assert seen(settings_for(paper, "voc21", method="clearclip")) == (448, 224, 0.5)
    assert seen(settings_for(paper, "mine", method="clearclip")) == (448, 224, 0.1)
    assert seen(settings_for(toybox, "voc21", method="clearclip")) == (64, 32, 0.5), "the profile's windows stay"
    assert seen(settings_for(paper.replace(peer_crop=112), "voc21", method="clearclip")) == (448, 112, 0.5)
    assert settings_for(paper, "mine", method="another") is paper


def test_sections_of_peers_are_benchmarks_or_all_and_hold_known_keys():
    from rim.measure.sources import SOURCES

    ini = read_ini(shipped_file())
    for name in sections():
        method, benchmark = name.split(".")
        assert benchmark in (*SOURCES, "*", "toybox")
        _convert({key: value for key, value in ini[name].items() if value != ini.defaults().get(key)})


def test_an_own_file_may_have_sections_of_its_own(tmp_path):
    file = tmp_path / "settings.ini"
    file.write_text("[trident.mine]\ntrident_side = 300\n[trident.typo]\ntrident_sides = 3\n")
    assert settings_for(Settings.from_profile("paper"), "mine", file).trident_side == 300
    with pytest.raises(ValueError, match="'trident_side'"):
        settings_for(Settings.from_profile("paper"), "typo", file)


@pytest.mark.parametrize(
    "wrong, words",
    [
        (dict(trident_crop=0), "greater than 0"),
        (dict(trident_splice="paste"), "spliced, windows"),
        (dict(trident_prob_thd=2), "between 0 and 1"),
        (dict(trident_cos_fac=-1), "0 or more"),
    ],
)
def test_tridents_rules(wrong, words):
    with pytest.raises(ValueError, match=words):
        Settings.from_profile("toybox", **wrong)


def test_a_section_is_a_record_of_its_own_fields():
    import copy, pickle
    from dataclasses import asdict
    from rim.base.settings import _SECTIONS

    settings = Settings.from_profile("toybox", image_size=48)
    assert settings.synthesis.image_size == 48 and settings.trident.trident_beta == settings.trident_beta
    joined = {key: value for name in _SECTIONS for key, value in asdict(getattr(settings, name)).items()}
    own = {key: value for key, value in settings.as_dict().items() if key in joined}
    assert joined == own
    assert pickle.loads(pickle.dumps(settings)) == copy.deepcopy(settings) == settings
    with pytest.raises(AttributeError, match="no field or section 'sythesis'"):
        settings.sythesis
