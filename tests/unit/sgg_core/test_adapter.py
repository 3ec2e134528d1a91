"""Adapter directories: complete, self-proving, loadable by peft alone, and answering as the trainer did."""

import json
import shutil
from dataclasses import dataclass

import matplotlib.image
import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM, AutoPeftModelForFeatureExtraction, PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from sgg_core.backbone import LoadedBase
from sgg_core.base_loading import load_base
from sgg_core.catalogue import Catalogue
from sgg_core.errors import CheckpointError, DataError, DiskFullError, UnknownBaseModelError, VerificationError
from sgg_core.evaluation import log_probabilities
from sgg_core.examples import parse_examples
from sgg_core.files import sha256_of
from sgg_core.manifest import Manifest, verify_directory
from sgg_core.predictor import load_predictor
from sgg_core.proof import prove
from sgg_core.reporting import SilentReporter
from sgg_core.shapes import ClassificationExample
from sgg_core.spec import TrainingSpec
from sgg_core.tasks.choice import task_for
from sgg_core.tiny import save_tiny_base, tiny_base
from sgg_core.trainer import train

PROBES = {"encoder": 6, "causal": 3}  # whose prompts are longer
TEXTS = ["a fine day", "cold and rainy", "warm", "so so, but not awful"]
EVERYWHERE = {
    "README.md",
    "report.html",
    "verification.json",
    "plots/differences.png",
    "plots/calibration.png",
    "adapter_config.json",
    "adapter_model.safetensors",
    "answers.jsonl",
    "examples.jsonl",
    "metrics.jsonl",
    "plots/cosines.png",
    "plots/gradient_norm.png",
    "plots/loss.png",
    "report.json",
    "sgg.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@dataclass
class Trained:
    directory: object
    base: LoadedBase
    base_directory: object
    catalogue: Catalogue
    labels: tuple

    def copy(self, target):
        return shutil.copytree(self.directory, target)


def make(kind, training, validation, root):
    entry = save_tiny_base(root / "base", kind)
    base = load_base(entry)
    spec = TrainingSpec.model_validate(
        {
            "base_model": entry.name,
            "lora": {"rank": 2},
            "optimization": {"max_steps": 6, "epochs": 3, "batch_size": 4, "learning_rate": 0.02},
            "task": {"description": "How is the weather?"},
            "seed": 4,
        }
    )
    output = root / "adapter"
    train(spec, base, training, validation=validation, output=output, reporter=SilentReporter())
    return Trained(output, base, root / "base", Catalogue((entry,)), training.labels)


@pytest.fixture(scope="module")
def of_causal(training, validation, tmp_path_factory):
    return make("causal", training, validation, tmp_path_factory.mktemp("causal"))


@pytest.fixture(scope="module")
def of_encoder(training, validation, tmp_path_factory):
    return make("encoder", training, validation, tmp_path_factory.mktemp("encoder"))


@pytest.fixture(params=["causal", "encoder"])
def trained(request):
    return request.getfixturevalue(f"of_{request.param}")


def answers(trained, directory=None, base=None, texts=TEXTS):
    predictor = load_predictor(directory or trained.directory, catalogue=trained.catalogue, base=base or trained.base)
    try:
        return list(predictor.predict([{"text": text} for text in texts]))
    finally:
        predictor.close()


def probabilities(found):
    return torch.tensor([list(answer["probabilities"].values()) for answer in found])


def test_the_directory_is_complete(trained):
    found = {path.relative_to(trained.directory).as_posix() for path in trained.directory.rglob("*") if path.is_file()}
    extra = {"causal": {"chat_template.jinja"}, "encoder": {"head.safetensors"}}[trained.base.entry.kind]
    assert found == EVERYWHERE | extra
    assert [path.name for path in trained.directory.parent.iterdir() if path.name.startswith(".")] == []


def test_the_manifest_tells_all_files_and_where_the_adapter_comes_from(trained, training, validation):
    manifest = json.loads((trained.directory / "sgg.json").read_text(encoding="utf-8"))
    files = {path.relative_to(trained.directory).as_posix(): path for path in trained.directory.rglob("*.*")}
    assert manifest["files"] == {name: sha256_of(path) for name, path in files.items() if name != "sgg.json"}
    assert (manifest["kind"], manifest["labels"]) == ("classification", ["bad", "good"])
    assert manifest["base_model_sha256"] == trained.base.sha256
    assert [(data["role"], data["sha256"], data["examples"]) for data in manifest["data"]] == [
        ("training", training.sha256, 8),
        ("validation", validation.sha256, 6),
    ]
    assert manifest["spec"]["seed"] == 4 and manifest["spec"]["lora"]["rank"] == 2
    assert {"python", "sgg", "torch", "transformers", "peft", "safetensors"} == set(manifest["versions"])


def test_the_prompt_with_the_label_words_is_kept(of_causal, of_encoder):
    prompt = Manifest.model_validate_json((of_causal.directory / "sgg.json").read_bytes()).prompt
    assert prompt == (
        "<|start|>user\nHow is the weather?\nLabels: bad, good.\n\nText: {text}<|end|>\n<|start|>assistant\nLabel:"
    )
    assert Manifest.model_validate_json((of_encoder.directory / "sgg.json").read_bytes()).prompt is None


def test_the_card_and_the_pictures_can_be_read(trained):
    card = (trained.directory / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---\n")[1])["base_model"] == trained.base.entry.name
    assert f"exactly the same answers on {PROBES[trained.base.entry.kind]} examples" in card
    assert str(trained.base_directory) not in card
    for path in (trained.directory / "plots").iterdir():
        assert matplotlib.image.imread(path).shape[2] in (3, 4)


def test_the_report_says_that_the_adapter_was_loaded_again_and_answered_exactly(trained):
    report = json.loads((trained.directory / "report.json").read_text(encoding="utf-8"))
    probes = PROBES[trained.base.entry.kind]
    assert report["verification"] == {"reloaded": True, "probes": probes, "max_difference": 0.0}


def test_what_was_said_of_each_validation_example_agrees_with_the_report(trained, validation):
    report = json.loads((trained.directory / "report.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (trained.directory / "answers.jsonl").read_text().splitlines()]
    assert [(row["line"], row["label"]) for row in rows] == [
        (line, example.label) for line, example in zip(validation.lines, validation.examples, strict=True)
    ]
    right = [sum(row[name] == row["label"] for row in rows) for name in ("predicted", "predicted_before")]
    assert right == [round(report[name]["accuracy"] * len(rows)) for name in ("evaluation", "baseline")]
    worth = report["baselines"][0]["comparison"]
    assert worth["wins"] - worth["losses"] == right[0] - right[1]
    assert worth["verdict"] in (trained.directory / "README.md").read_text()
    assert report["hardest"][0]["probability"] == min(row["probability"] for row in rows)
    assert "answers" not in report["evaluation"] and report["explanations"]


def test_an_intact_directory_is_verified(trained, tmp_path):
    assert verify_directory(trained.directory).labels == ["bad", "good"]
    assert verify_directory(trained.copy(tmp_path / "copy")) == verify_directory(trained.directory)


def test_one_flipped_bit_anywhere_is_found(of_encoder, tmp_path):
    directory = of_encoder.copy(tmp_path / "copy")
    for name in verify_directory(directory).files:
        path = directory / name
        content = path.read_bytes()
        for place in (0, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            with pytest.raises(CheckpointError, match=f"{name} was changed"):
                verify_directory(directory)
        path.write_bytes(content)
    verify_directory(directory)


def test_all_files_that_are_missing_or_changed_are_named_at_once(of_causal, tmp_path):
    directory = of_causal.copy(tmp_path / "copy")
    (directory / "plots" / "loss.png").unlink()
    (directory / "report.json").write_text("{}", encoding="utf-8")
    told = r"plots/loss\.png is missing; report\.json was changed\. Download or train it again\."
    with pytest.raises(CheckpointError, match=told):
        verify_directory(directory)


def test_answers_need_whole_weights_but_neither_plots_nor_an_unchanged_card(of_encoder, tmp_path):
    directory = of_encoder.copy(tmp_path / "copy")
    (directory / "plots" / "loss.png").unlink()
    (directory / "README.md").write_text("What we use it for.", encoding="utf-8")
    load_predictor(directory, catalogue=of_encoder.catalogue)
    for name in ("adapter_model.safetensors", "adapter_config.json", "head.safetensors"):
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(content + b" ")
        with pytest.raises(CheckpointError, match=f"{name} was changed"):
            load_predictor(directory, catalogue=of_encoder.catalogue)
        (directory / name).write_bytes(content)


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"format": 1}'])
def test_a_directory_without_a_readable_manifest_is_refused(content, tmp_path):
    if content is not None:
        (tmp_path / "sgg.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"not an adapter directory: its sgg\.json") as caught:
        verify_directory(tmp_path)
    assert "\n" not in str(caught.value) and "checkpoint" not in str(caught.value)


def test_who_asks_a_checkpoint_is_told_what_it_is_for(tmp_path):
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"may be a checkpoint.*`--from`"):
        verify_directory(tmp_path)


def test_a_loaded_adapter_answers_exactly_as_the_trainer_did(trained, validation):
    report = json.loads((trained.directory / "report.json").read_text(encoding="utf-8"))
    predictor = load_predictor(trained.directory, catalogue=trained.catalogue, base=trained.base)
    items = predictor.task.encode(validation.examples)
    scores = log_probabilities(predictor.task, items)
    predictor.close()
    loss = -scores[torch.arange(6), torch.tensor([item.label for item in items])].mean()
    assert float(loss) == report["evaluation"]["loss"]


def test_an_adapter_answers_the_same_after_another_one_and_on_a_fresh_base(trained, tmp_path, training, spec_for):
    first = answers(trained)
    train(spec_for(trained.base), trained.base, training, output=tmp_path / "other", reporter=SilentReporter())
    other = answers(trained, tmp_path / "other")
    assert other != first
    assert answers(trained) == first
    from_disk = load_predictor(trained.directory, catalogue=trained.catalogue)
    assert list(from_disk.predict([{"text": text} for text in TEXTS])) == first


def test_probabilities_are_of_all_labels_and_the_label_is_the_likeliest(trained):
    for answer in answers(trained):
        assert tuple(answer["probabilities"]) == trained.labels
        assert sum(answer["probabilities"].values()) == pytest.approx(1.0, rel=1e-5)
        assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get)


def test_many_rows_come_back_in_order(trained):
    texts = [f"{word} {'x' * (n * 7 % 50)}" for n in range(12) for word in ("fine", "poor", "so so")]
    together = probabilities(answers(trained, texts=texts))
    alone = torch.cat([probabilities(answers(trained, texts=texts[n : n + 1])) for n in (0, 7, 31, 32, 35)])
    assert torch.allclose(together[[0, 7, 31, 32, 35]], alone, atol=1e-5)
    assert len(together) == 36


def naive_causal(model, tokenizer, manifest, text):
    """p(label) token by token on one unpadded row each: softmax over what labels could go on with at every place."""
    prompt = tokenizer(manifest["prompt"].replace("{text}", text), add_special_tokens=False).input_ids
    words = [
        (*tokenizer(f" {label}", add_special_tokens=False).input_ids, tokenizer.eos_token_id)
        for label in manifest["labels"]
    ]
    result = []
    for word in words:
        logits = model(input_ids=torch.tensor([[*prompt, *word]])).logits[0]
        chance = 1.0
        for place, token in enumerate(word):
            children = sorted({other[place] for other in words if other[:place] == word[:place]})
            chance *= logits[len(prompt) - 1 + place, children].softmax(-1)[children.index(token)].item()
        result.append(chance)
    return result


def naive_encoder(model, tokenizer, directory, text):
    """Mean over the states of one unpadded row, at unit length, through the head."""
    head = load_file(directory / "head.safetensors")
    state = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
    return (head["weight"] @ (state / state.norm()) + head["bias"]).softmax(-1).tolist()


@pytest.mark.parametrize("way", ["PeftModel", "AutoPeftModel"])
def test_peft_alone_loads_the_adapter_and_finds_the_same_answers(trained, way):
    causal = trained.base.entry.kind == "causal"
    if way == "AutoPeftModel":
        auto = AutoPeftModelForCausalLM if causal else AutoPeftModelForFeatureExtraction
        model = auto.from_pretrained(trained.directory)
    else:
        auto = AutoModelForCausalLM if causal else AutoModel
        model = PeftModel.from_pretrained(auto.from_pretrained(trained.base_directory), trained.directory)
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(trained.directory)
    manifest = json.loads((trained.directory / "sgg.json").read_text(encoding="utf-8"))
    found = answers(trained)
    with torch.inference_mode():
        for text, answer in zip(TEXTS, found, strict=True):
            naive = (
                naive_causal(model, tokenizer, manifest, text)
                if causal
                else naive_encoder(model, tokenizer, trained.directory, text)
            )
            assert list(answer["probabilities"].values()) == pytest.approx(naive, abs=1e-5)
    base = LoadedBase(trained.base.entry, model.get_base_model(), tokenizer, "", None, trained.base.device)
    task = task_for(base, "classification", trained.labels, "How is the weather?", 512)
    if not causal:
        task.head().load_state_dict(load_file(trained.directory / "head.safetensors"))
    rows = [{"text": text, "label": "good"} for text in TEXTS]
    items = task.encode(parsed(rows))
    own = log_probabilities(task, items).exp()  # of a model that has another attention than ours
    assert torch.equal(own, probabilities(found)) if causal else torch.allclose(own, probabilities(found), atol=1e-6)


def parsed(rows):
    return parse_examples("\n".join(json.dumps(row) for row in rows).encode(), "rows.jsonl").examples


def test_an_adapter_is_refused_on_other_base_weights(trained):
    other = tiny_base(trained.base.entry.kind, seed=1)
    with pytest.raises(CheckpointError, match="trained on another version of 'tiny-"):
        load_predictor(trained.directory, catalogue=trained.catalogue, base=other)


def test_an_adapter_whose_base_model_nobody_added_names_it(of_causal):
    with pytest.raises(UnknownBaseModelError, match="tiny-causal"):
        load_predictor(of_causal.directory, catalogue=Catalogue())


@pytest.mark.parametrize("row", [{}, {"txt": "a"}, {"text": 3}, {"text": None}, {"text": " "}, {"text": ["a"]}, "a"])
def test_rows_that_cannot_be_answered_are_named_by_line_before_the_first_answer(row, trained):
    predictor = load_predictor(trained.directory, catalogue=trained.catalogue, base=trained.base)
    with pytest.raises(DataError) as caught:
        predictor.predict([{"text": "fine"}, row, {"text": "fine"}, row], "new.jsonl")
    predictor.close()
    assert caught.value.filename == "new.jsonl"
    assert [(problem.line, problem.field) for problem in caught.value.problems] == [(2, "text"), (4, "text")]
    assert all(problem.reason and problem.remedy for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"Text": "a"}, "has 'Text'. Fill in 'text' in every row. Rename the field 'Text' if it is the one meant."),
        (
            {"txt": "a", "id": 3},
            "has 'txt', 'id'. Fill in 'text' in every row. Rename the field 'txt' if it is the one meant.",
        ),
        ({}, "has no fields. Fill in 'text' in every row."),
        ({"text": 5}, "The value 5 is not a string. Write it as a string."),
        ({"text": " "}, "is empty or has the wrong form. Fill in 'text' in every row."),
    ],
)
def test_what_a_row_lacks_is_told(row, told, of_causal):
    predictor = load_predictor(of_causal.directory, catalogue=of_causal.catalogue, base=of_causal.base)
    with pytest.raises(DataError) as caught:
        predictor.predict([row])
    predictor.close()
    assert str(caught.value.problems[0]).endswith(told)


def test_broken_characters_are_refused_before_the_first_answer(trained):
    predictor = load_predictor(trained.directory, catalogue=trained.catalogue, base=trained.base)
    rows = [{"text": "fine"}, {"text": "bad \ud83d"}, {"text": "a\0b"}, {"text": "a", "text_pair": "\udc00"}]
    with pytest.raises(DataError) as caught:
        predictor.predict(rows, "new.jsonl")
    predictor.close()
    assert [problem.line for problem in caught.value.problems] == [2, 3, 4]
    assert {problem.reason for problem in caught.value.problems} == {
        "The text holds a NUL or half of a surrogate pair."
    }


def test_rows_are_named_by_their_lines_in_the_file(of_causal, of_chats, monkeypatch):
    predictor = load_predictor(of_causal.directory, catalogue=of_causal.catalogue, base=of_causal.base)
    with pytest.raises(DataError) as caught:
        predictor.predict([{"text": "fine"}, {}], "new.csv", [2, 5])
    predictor.close()
    assert [problem.line for problem in caught.value.problems] == [5]
    predictor = load_predictor(of_chats, catalogue=of_causal.catalogue, base=of_causal.base)
    monkeypatch.setattr(of_causal.base.tokenizer, "chat_template", "{{ raise_exception('no chats') }}")
    with pytest.raises(DataError, match="no chats") as caught:
        predictor.predict([{"messages": [ASK]}] * 2, "new.jsonl", [3, 7])
    predictor.close()
    assert [problem.line for problem in caught.value.problems] == [3, 7]


@pytest.fixture(scope="module")
def of_chats(of_causal, file_of, tmp_path_factory):
    row = {"messages": [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}]}
    output = tmp_path_factory.mktemp("chats") / "adapter"
    spec = TrainingSpec.model_validate({"base_model": "tiny-causal", "optimization": {"max_steps": 1}})
    train(spec, of_causal.base, file_of([row] * 2), output=output, reporter=SilentReporter())
    return output


ASK = {"role": "user", "content": "ab"}


@pytest.mark.parametrize(
    "messages",
    [
        None,
        [],
        "ab",
        [3],
        [{"role": "user"}],
        [ASK | {"role": "tool"}],
        [ASK | {"content": ""}],
        [ASK | {"content": 1}],
    ],
)
def test_chats_that_cannot_be_answered_are_named_by_line(messages, of_causal, of_chats):
    predictor = load_predictor(of_chats, catalogue=of_causal.catalogue, base=of_causal.base)
    with pytest.raises(DataError) as caught:
        predictor.predict([{"messages": [ASK]}, {"messages": messages}])
    predictor.close()
    assert [(problem.line, problem.field) for problem in caught.value.problems] == [(2, "messages")]


def test_chats_that_leave_no_room_for_an_answer_are_named_before_the_first_answer(of_causal, of_chats):
    predictor = load_predictor(of_chats, catalogue=of_causal.catalogue, base=of_causal.base)
    most = of_causal.base.entry.context_tokens
    with pytest.raises(DataError) as caught:
        predictor.predict([{"messages": [ASK]}, {"messages": [ASK | {"content": "ab " * most}]}])
    predictor.close()
    (problem,) = caught.value.problems
    assert problem.line == 2 and f"takes fewer than {most:,}" in problem.reason


def test_a_chat_is_answered_with_the_likeliest_next_tokens(of_causal, of_chats):
    predictor = load_predictor(of_chats, catalogue=of_causal.catalogue, base=of_causal.base)
    (answer,) = predictor.predict([{"messages": [ASK, {"role": "assistant", "content": "left out"}]}])
    tokenizer, model = of_causal.base.tokenizer, of_causal.base.model
    ids = tokenizer("<|start|>user\nab<|end|>\n<|start|>assistant\n", add_special_tokens=False).input_ids
    written = []
    with torch.inference_mode():
        while len(written) < 256:
            token = int(model(input_ids=torch.tensor([ids + written])).logits[0, -1].argmax())
            if token == tokenizer.eos_token_id:
                break
            written.append(token)
    predictor.close()
    assert answer == {"completion": tokenizer.decode(written, skip_special_tokens=True)}


@pytest.mark.parametrize("limit", [100, 3_000, 7_000, 20_000])
def test_a_full_disk_leaves_nothing_half_written_and_says_what_to_do(
    limit, of_causal, training, spec_for, tmp_path, file_size_limit
):
    spec = spec_for(of_causal.base, optimization={"max_steps": 1})
    with (
        pytest.raises(DiskFullError, match=r"No space left while writing .*out\. Free disk space"),
        file_size_limit(limit),
    ):
        train(spec, of_causal.base, training, output=tmp_path / "out", reporter=SilentReporter())
    assert list(tmp_path.iterdir()) == []
    train(spec, of_causal.base, training, output=tmp_path / "out", reporter=SilentReporter())
    verify_directory(tmp_path / "out")


def test_an_older_output_is_replaced_as_a_whole(of_causal, training, spec_for, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    for name in ("sgg.json", "head.safetensors"):
        (output / name).write_bytes(b"of an older run")
    spec = spec_for(of_causal.base, optimization={"max_steps": 1})
    train(spec, of_causal.base, training, output=output, reporter=SilentReporter())
    assert not (output / "head.safetensors").exists()
    verify_directory(output)


def test_a_fresh_process_answers_the_same_through_peft_alone(trained):
    proof = json.loads((trained.directory / "verification.json").read_text())
    assert proof["passed"] and proof["probes"] == min(4, PROBES[trained.base.entry.kind])
    assert proof["max_abs_difference"] <= proof["tolerance"] == 1e-3
    assert set(proof["versions"]) == {"python", "torch", "transformers", "peft", "safetensors"}


def test_files_that_peft_reads_otherwise_are_not_delivered(trained, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(trained.directory, damaged)
    config = json.loads((damaged / "adapter_config.json").read_text())
    (damaged / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 50 * config["lora_alpha"]}))
    predictor = load_predictor(trained.directory, catalogue=trained.catalogue, base=trained.base)
    probes = predictor.task.encode([ClassificationExample("a fine day", "good")])
    assert prove(trained.base, trained.directory, probes).passed
    with pytest.raises(VerificationError, match="different answers in a fresh process"):
        prove(trained.base, damaged, probes)
    (damaged / "adapter_model.safetensors").write_bytes(b"{}")
    with pytest.raises(VerificationError, match="peft could not load"):
        prove(trained.base, damaged, probes)
    predictor.close()


def test_another_prompt_template_is_told(trained):
    predictor = load_predictor(trained.directory, catalogue=trained.catalogue, base=trained.base)
    assert predictor.warning() is None
    predictor.manifest = predictor.manifest.model_copy(update={"template_sha256": "0" * 64})
    assert "template differs" in predictor.warning()
    predictor.close()
