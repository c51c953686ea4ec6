import pytest
from rim.settings import KINDS, Settings, own_file, read_ini, shipped_file

@pytest.mark.parametrize("profile", ["toybox", "paper", "rehearsal"])
def test_every_profile_reads(profile):
    settings = Settings.from_profile(profile)
    assert settings.profile == profile
    assert all(type(value) is KINDS[key] for key, value in settings.as_dict().items())

def test_the_file_names_every_field_and_no_other():
    assert set(read_ini(shipped_file()).defaults()) == set(KINDS) - {"profile"}

def test_overrides_win_and_are_typed(monkeypatch):
    monkeypatch.setenv("RIM_STORE", "/somewhere")
    assert Settings.from_profile("toybox").store == "/somewhere"
    settings = Settings.from_profile("toybox", store="/elsewhere", agents="3", pretrained="off", guidance=2)
    assert (settings.store, settings.agents, settings.pretrained, settings.guidance) == ("/elsewhere", 3, False, 2.0)
    assert settings.replace(agents="5").agents == 5 and settings.agents == 3

@pytest.mark.parametrize("wrong, words", [
    (dict(agent=3), "'agents'"), (dict(agents="four"), "agents"), (dict(agents=2.5), "agents"), (dict(agents=True), "agents"), (dict(agents=0), "greater than 0"),
    (dict(pretrained="maybe"), "pretrained"), (dict(painting="size"), "area, score"), (dict(attention_threshold=70), "between 0 and 1"), (dict(prompt="a photo"), "{}"),
    (dict(attention_threshold="nan"), "between 0 and 1"), (dict(profile="paper"), "profile")])
def test_a_wrong_value_is_named(wrong, words):
    with pytest.raises(ValueError, match=words.replace("{}", r"\{\}")): Settings.from_profile("toybox", **wrong)

def test_an_unknown_profile_names_the_nearest():
    with pytest.raises(ValueError, match="'toybox'"): Settings.from_profile("toybx")

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
    with pytest.raises(FileNotFoundError, match="none.ini"): Settings.from_profile("toybox", file=tmp_path / "none.ini")
    (tmp_path / "bad.ini").write_text("agents = 2\n")
    with pytest.raises(ValueError, match="bad.ini"): Settings.from_profile("toybox", file=tmp_path / "bad.ini")
    (tmp_path / "typo.ini").write_text("[toybox]\nagnets = 2\n")
    with pytest.raises(ValueError, match="'agents'"): Settings.from_profile("toybox", file=tmp_path / "typo.ini")

def test_subset_refuses_what_is_no_setting():
    settings = Settings.from_profile("paper")
    assert settings.subset("agents", "seed") == dict(agents=4, seed=0)
    with pytest.raises(ValueError, match="seeds"): settings.subset("seeds")
