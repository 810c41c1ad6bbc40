"""The catalog, as read from a model repository."""

from pathlib import Path

import pytest

from contract.catalog import Tensor
from inference import BrokenRepository, read_catalog

CONFIG = """
backend: "onnxruntime"
max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP16 dims: [ 2, -1 ] } ]
output [ { name: "y" data_type: TYPE_STRING dims: [ 3 ] label_filename: "labels.txt" } ]
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    add_model(tmp_path, "m")
    return tmp_path


def add_model(
    repository: Path, name: str, config: str = CONFIG, versions: tuple[str, ...] = ("1",)
) -> Path:
    folder = repository / name
    folder.mkdir()
    (folder / "config.pbtxt").write_text(config)
    (folder / "labels.txt").write_text("Katze\nHund\nÄffchen\n", encoding="utf-8")
    for version in versions:
        (folder / version).mkdir()
        (folder / version / "model.onnx").touch()
    return folder


def versions(repository: Path, name: str = "m") -> tuple[int, ...]:
    return read_catalog(repository).model(name).versions


def test_a_model_is_what_its_config_says(repository: Path) -> None:
    extra = (
        'name: "full" instance_group [ { count: 2 }, { count: 3 gpus: [ 0, 1 ] } ]\n'
        'parameters { key: "task" value { string_value: "image-classification" } }\n'
        'parameters { key: "description" value { string_value: "Says what it sees." } }\n'
    )
    add_model(repository, "full", CONFIG + extra)
    model = read_catalog(repository).model("full")
    assert model.inputs == (Tensor("x", "FP16", (2, -1)),)
    assert model.outputs == (Tensor("y", "BYTES", (3,), ("Katze", "Hund", "Äffchen")),)
    assert (model.task, model.description) == ("image-classification", "Says what it sees.")
    assert (model.max_batch_size, model.instances, model.versions) == (4, 8, (1,))


def test_what_a_config_leaves_out_has_a_default(repository: Path) -> None:
    model = read_catalog(repository).model("m")
    assert (model.name, model.task, model.description, model.instances) == ("m", "tensor", "", 1)


def test_the_named_config_is_read_where_a_model_has_it(repository: Path) -> None:
    add_model(repository, "other")
    (repository / "m" / "configs").mkdir()
    (repository / "m" / "configs" / "cpu.pbtxt").write_text(CONFIG.replace("4", "16"))
    catalog = read_catalog(repository, config_name="cpu")
    assert [model.max_batch_size for model in catalog] == [16, 4]
    assert [model.max_batch_size for model in read_catalog(repository)] == [4, 4]


def test_models_come_in_the_order_offered_or_by_name(repository: Path) -> None:
    add_model(repository, "a")
    add_model(repository, "z")
    assert [model.name for model in read_catalog(repository)] == ["a", "m", "z"]
    assert [model.name for model in read_catalog(repository, offered=("z", "a"))] == ["z", "a"]


def test_only_versions_that_are_built_count(repository: Path) -> None:
    folder = add_model(repository, "n", versions=("2", "10", "03", "draft"))
    (folder / "11").mkdir()  # without a file: being built
    (folder / "12").touch()
    assert versions(repository, "n") == (10,)  # Triton's default: the latest


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", (10,)),
        ("version_policy { all { } }", (1, 2, 10)),
        ("version_policy { latest { num_versions: 2 } }", (2, 10)),
        ("version_policy { specific { versions: [ 1, 7 ] } }", (1,)),
    ],
)
def test_the_version_policy_chooses_what_is_on_offer(
    repository: Path, policy: str, expected: tuple[int, ...]
) -> None:
    add_model(repository, "n", CONFIG + policy, versions=("1", "2", "10"))
    assert versions(repository, "n") == expected


@pytest.mark.parametrize(
    ("backend", "file"),
    [
        ('backend: "tensorrt"', "model.plan"),
        ('platform: "onnxruntime_onnx"', "model.onnx"),
        ('platform: "tensorrt_plan"', "model.plan"),
        ('backend: "onnxruntime" default_model_filename: "net.onnx"', "net.onnx"),
        ('backend: "mine"', "anything"),
    ],
)
def test_the_file_of_a_version_depends_on_the_backend(
    repository: Path, backend: str, file: str
) -> None:
    config = CONFIG.replace('backend: "onnxruntime"', backend)
    folder = add_model(repository, "n", config, versions=())
    (folder / "1").mkdir()
    assert "n" not in [model.name for model in read_catalog(repository)]
    (folder / "1" / file).touch()
    assert versions(repository, "n") == (1,)


def test_a_model_that_is_not_built_is_left_out_unless_it_is_asked_for(repository: Path) -> None:
    add_model(repository, "planned", versions=())
    assert [model.name for model in read_catalog(repository)] == ["m"]
    with pytest.raises(BrokenRepository, match=r"planned: no version of it is built"):
        read_catalog(repository, offered=("m", "planned"))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (CONFIG + "max_batch_szie: 3", r'm/config\.pbtxt:6:1 : .* no field named "max_batch_szie"'),
        (CONFIG.replace("4", '"four"'), r"m/config\.pbtxt:3:17 : .*integer"),
        (CONFIG.replace("TYPE_FP16", "FP16"), r"m/config\.pbtxt:4:.*FP16"),
        ("input [", r"m/config\.pbtxt:1:"),
        ('backend: "onnxruntime"', r"m/config\.pbtxt: name every input and output"),
        (CONFIG.replace('name: "x"', ""), r"m/config\.pbtxt: each input and output needs a name"),
        (CONFIG + 'name: "n"', r"m/config\.pbtxt: name is 'n', and the folder 'm'"),
        (CONFIG.replace("labels.txt", "nowhere.txt"), r"label_filename nowhere\.txt"),
        (b"\xff\xfe", r"m/config\.pbtxt: not UTF-8"),
    ],
)
def test_a_broken_config_is_named_with_its_line(
    repository: Path, config: str | bytes, words: str
) -> None:
    content = config.encode() if isinstance(config, str) else config
    (repository / "m" / "config.pbtxt").write_bytes(content)
    with pytest.raises(BrokenRepository, match=words):
        read_catalog(repository)


def test_what_is_not_there_is_named(repository: Path) -> None:
    with pytest.raises(BrokenRepository, match=r"there is no model repository .*/nowhere"):
        read_catalog(repository / "nowhere")
    with pytest.raises(BrokenRepository, match=r"n/config\.pbtxt: No such file"):
        read_catalog(repository, offered=("n",))


def test_a_folder_whose_name_triton_refuses_is_refused(repository: Path) -> None:
    add_model(repository, "two words")
    with pytest.raises(BrokenRepository, match="two words: a model's name is"):
        read_catalog(repository)
