"""Settings that are wrong, damaged or written by another editor: read, or refused in one sentence before any work."""

import pytest
from hypothesis import given, strategies as st
from rim.base.settings import Settings
from rim.base.values import own_file, _read_text

MINE = "[toybox]\nagents = 2\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.promise(50)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_settings_are_read_as_any_editor_saves_them(folder, encoding, line_end):
    (folder / "settings.ini").write_bytes((MINE + "# für Äpfel\n").replace("\n", line_end).encode(encoding))
    assert Settings.from_profile("toybox").agents == 2


@pytest.mark.promise(50)
@pytest.mark.parametrize(
    "text, why",
    [
        ("[toybox]\nagents = 2\nagents = 3\n", "already exists"),
        ("[toybox]\nagents = 2\n[toybox]\nagents = 3\n", "already exists"),
        ("agents = 3\n[toybox]\nagents = 2\n", "no section"),
        ("[toybox]\nagents = 2\nas I told you\n", "as I told you"),
        ("[toybox]\nagents = 2\nas I told you\n".encode("utf-16"), "as I told you"),
        ("[toybox]\nprompt = ein Bild: {}, schön\n".encode("latin-1"), "UTF-8"),
    ],
)
def test_damaged_settings_are_named_and_never_skipped(folder, text, why):
    (folder / "settings.ini").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ValueError, match=why) as error:
        Settings.from_profile("toybox")
    assert str(folder / "settings.ini") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.promise(50)
def test_settings_that_may_not_be_read_are_not_passed_over_in_silence(folder, monkeypatch):
    from pathlib import Path

    (folder / "settings.ini").write_text(MINE)

    def closed(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", closed)
    with pytest.warns(UserWarning, match="settings.ini cannot be read"):
        own_file(folder)


@pytest.mark.promise(18)
@given(
    text=st.text(max_size=60).filter(lambda text: "\0" not in text),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_text_comes_back_from_either_encoding(tmp_path_factory, text, encoding):
    file = tmp_path_factory.getbasetemp() / "text.txt"
    text = "[" + text.replace("\r", "\n")  # a file of settings begins with a letter of ASCII
    file.write_bytes(text.encode(encoding, "surrogatepass"))
    try:
        assert _read_text(file) == text
    except ValueError as error:
        assert any(0xD800 <= ord(letter) < 0xE000 for letter in text) and "text.txt" in str(error)


@pytest.mark.promise(51)
@pytest.mark.parametrize(
    "key, value",
    [
        ("device", "gpu"),
        ("device", "cuda:"),
        ("device", "cuda:-1"),
        ("device", ""),
        ("seed", -1),
        ("seed", 2**63),
        ("guidance", "nan"),
        ("sd_scale", "inf"),
        ("attention_resolutions", "16 and 32"),
        ("attention_resolutions", "16,,32"),
        ("prompt", "a photo\nof {}"),
    ],
)
def test_a_value_that_no_run_could_use_is_refused_at_the_start(key, value):
    with pytest.raises(ValueError, match=f"setting {key} must be") as error:
        Settings.from_profile("toybox", **{key: value})
    assert "\n" not in str(error.value)


@pytest.mark.promise(51)
@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1", "mps"])
def test_devices_have_the_names_that_pytorch_gives_them(device):
    import torch

    assert Settings.from_profile("toybox", device=device).device == device
    assert device == "auto" or torch.device(device)
