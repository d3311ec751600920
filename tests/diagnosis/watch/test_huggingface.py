"""TrainerMonitor under the real Trainers of transformers and sentence-transformers, on tiny models."""

import json
import re
import runpy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import assert_names, refuses

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")  # which the Trainer needs

from transformers import (  # noqa: E402
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from fullrank.diagnosis.watch.alerts import ALERT_RULES, AlertRule, CollapseWarning  # noqa: E402
from fullrank.diagnosis.watch.huggingface import TrainerMonitor  # noqa: E402
from fullrank.diagnosis.watch.measurements import MEASURES  # noqa: E402
from fullrank.errors import UsageError  # noqa: E402
from fullrank.files import load_arrays  # noqa: E402
from fullrank.record import Record  # noqa: E402

EXAMPLES = Path(__file__).parents[3] / "examples"
WORDS = [f"w{number}" for number in range(40)]
LAYER = "bert.encoder.layer.1"


def config(**more):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return BertConfig(vocab_size=45, max_position_embeddings=16, **sizes, **more)


def sentences(count, longest=8):
    """Sentences of unlike lengths, as numbers of tokens (N, T) with 0 for padding."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 45, (count, longest), generator=generator)
    lengths = torch.randint(2, longest + 1, (count, 1), generator=generator)
    return tokens * (torch.arange(longest) < lengths)


TOKENS = sentences(32)
ROWS = [
    {"input_ids": tokens, "attention_mask": (tokens > 0).long(), "labels": torch.tensor(index % 2)}
    for index, tokens in enumerate(TOKENS)
]


def classifier(rate=0.0):
    torch.manual_seed(0)
    return BertForSequenceClassification(config(hidden_dropout_prob=rate, attention_probs_dropout_prob=rate))


def trained(folder, *monitors, model=None, lr=0.0, resume=None, **settings):
    """A Trainer after training: 4 batches of 8 rows are an epoch, and 2 of them a step."""
    arguments = TrainingArguments(
        str(folder),
        **{"max_steps": 8, "gradient_accumulation_steps": 2, "logging_steps": 2} | settings,
        per_device_train_batch_size=8,
        learning_rate=lr,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    model = model or classifier()
    callbacks = list(monitors)
    trainer = Trainer(model, arguments, train_dataset=ROWS, eval_dataset=ROWS[:4], callbacks=callbacks)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_looks_are_those_of_the_models_outputs_without_padding_and_without_evaluation(tmp_path):
    monitor = TrainerMonitor({"layer": LAYER, "bert": "bert", "pooled": "bert.pooler"}, every=2, samples=32)
    rare = TrainerMonitor([LAYER], every=4, samples=32)
    evaluated = {"eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True}
    trainer = trained(tmp_path, monitor, rare, **evaluated)
    model = trainer.model
    assert {name: [(look.step, look.rows) for look in looks] for name, looks in monitor.looks.items()} == {
        name: [(2, 32), (4, 32), (6, 32), (8, 32)] for name in ("layer", "bert", "pooled")
    }
    # Nothing was learned, and each look is at all rows once, in some order.
    with torch.no_grad():
        plain = model.bert(TOKENS, attention_mask=(TOKENS > 0).long())
    means = [hidden[row > 0].mean(0) for hidden, row in zip(plain.last_hidden_state, TOKENS, strict=True)]
    for name, rows in (("layer", torch.stack(means)), ("bert", torch.stack(means)), ("pooled", plain[1])):
        values = np.linalg.svd(rows.double().numpy() - rows.double().mean(0).numpy(), compute_uv=False) ** 2
        for look in monitor.looks[name]:
            np.testing.assert_allclose(look.singular_values, values / 32, rtol=1e-3, atol=1e-7)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    # The loss is the one that the Trainer logs. The first look is at the first 32 rows, at step 2.
    logged = {row["step"]: row["loss"] for row in trainer.state.log_history if "loss" in row}
    assert list(logged) == [2, 4, 6, 8] == monitor.arrays()["loss/step"].tolist()
    assert rare.arrays()["loss/step"].tolist() == [2, 4, 8]
    expected = [logged[2], logged[4], (logged[6] + logged[8]) / 2]
    np.testing.assert_allclose(rare.arrays()["loss/value"], expected, rtol=1e-6)


OWN = AlertRule("own", "rankme", share=0.5, means="m")
RESUMED = {"max_steps": 9, "save_steps": 4, "lr": 1e-2}


def two_monitors():
    """One looks at each second step, the other at each third one and keeps all rows in between."""
    often = TrainerMonitor([LAYER], every=2, samples=16, rules=[*ALERT_RULES, OWN])
    return often, TrainerMonitor({"all": LAYER}, every=3, samples=99)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The first monitor of a training with a checkpoint at step 4, and its folder."""
    folder, monitors = tmp_path_factory.mktemp("unbroken"), two_monitors()
    trained(folder, *monitors, **RESUMED)
    return monitors[0], folder


@pytest.mark.parametrize("restored", [False, True])
def test_looks_of_several_monitors_go_on_after_a_checkpoint(unbroken, tmp_path, restored):
    first, folder = unbroken
    new = TrainerMonitor(["classifier"], every=2, samples=16)
    monitors = two_monitors() if restored else (new, *two_monitors())
    how = {"resume": str(folder / "checkpoint-4"), "restore_callback_states_from_checkpoint": restored}
    callbacks = trained(tmp_path, *monitors, **how, **RESUMED).callback_handler.callbacks
    # transformers makes new callbacks where it restores them.
    again, rare = [each for each in callbacks if isinstance(each, TrainerMonitor)][-2:]
    assert again._watched.rules[-1] == OWN
    looks, resumed = first.looks[LAYER], again.looks[LAYER]
    assert [look.step for look in resumed] == [look.step for look in looks] == [1, 2, 4, 6, 8]
    for look, same in zip(looks[:3], resumed[:3], strict=True):
        assert [getattr(look, name) for name in MEASURES] == [getattr(same, name) for name in MEASURES]
        assert torch.equal(look.singular_values, same.singular_values)
    np.testing.assert_allclose(resumed[-1].effective_rank, looks[-1].effective_rank, rtol=1e-3)
    assert again.arrays()["loss/step"].tolist() == [2, 4, 6, 8]
    # The checkpoint lies between two looks and holds no rows, so the look after it is left out.
    assert [(look.step, look.rows) for look in rare.looks["all"]] == [(3, 48), (9, 48)]
    if not restored:
        # A monitor that was not there before starts at the checkpoint, and is in the next one.
        assert [look.step for look in new.looks["classifier"]] == [5, 6, 8]
        state = json.loads((tmp_path / "checkpoint-8" / "trainer_state.json").read_text())
        assert "classifier" in json.dumps(state["stateful_callbacks"]["TrainerMonitor"])


def test_a_second_training_starts_again(tmp_path):
    monitor = TrainerMonitor([LAYER], every=2, samples=16)
    trainer = trained(tmp_path, monitor, max_steps=2)
    trainer.train()
    assert [look.step for look in monitor.looks[LAYER]] == [1, 2]


def test_unknown_names_are_refused_when_training_begins(tmp_path):
    with refuses(UsageError, "'bert.encoder.layer.2'", f"'{LAYER}'", "classifier"):
        trained(tmp_path, TrainerMonitor(["bert.encoder.layer.2"]))
    with refuses(UsageError, "TrainerMonitor", "every", 0, 50):
        TrainerMonitor([LAYER], every=0)


def test_without_transformers_the_extra_is_named(monkeypatch):
    from fullrank.diagnosis.watch import huggingface

    huggingface._joined.cache_clear()
    monkeypatch.setattr(huggingface, "find_spec", lambda name: None)
    with refuses(UsageError, "TrainerMonitor", "transformers", "fullrank[huggingface]"):
        TrainerMonitor([LAYER])


# sentence-transformers


@pytest.fixture
def sentence_model(tmp_path):
    """A SentenceTransformer of a Bert and the mean of its tokens."""
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path / "bert"
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(config()).save_pretrained(folder)
    return library.SentenceTransformer(modules=[Transformer(str(folder)), Pooling(16)], device="cpu")


def test_sentence_transformers_is_watched_and_a_healthy_training_raises_no_alert(sentence_model, tmp_path):
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    texts = [" ".join(WORDS[token - 5] for token in row if token) for row in TOKENS.tolist()]
    columns = {"anchor": texts, "positive": [f"{text} {WORDS[row]}" for row, text in enumerate(texts)]}
    monitor = TrainerMonitor({"layer": "0.model.encoder.layer.1", "tokens": "0", "sentence": "1"}, 5, 64)
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path),
        max_steps=20,
        per_device_train_batch_size=16,
        learning_rate=1e-3,
        logging_steps=5,
        save_strategy="no",
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    SentenceTransformerTrainer(
        model=sentence_model,
        args=arguments,
        train_dataset=Dataset.from_dict(columns),
        loss=MultipleNegativesRankingLoss(sentence_model),
        callbacks=[monitor],
    ).train()
    layer, tokens, sentence = (monitor.looks[name] for name in ("layer", "tokens", "sentence"))
    assert [(look.step, look.rows) for look in sentence] == [(2, 64), (5, 64), (10, 64), (15, 64), (20, 64)]
    # The pooling is the mean without padding, so all three give the same rows.
    for other in (layer, tokens):
        for look, same in zip(sentence, other, strict=True):
            torch.testing.assert_close(look.singular_values, same.singular_values, rtol=1e-3, atol=1e-7)
    assert monitor.arrays()["loss/step"].tolist() == [5, 10, 15, 20] and not monitor.alerts


def test_the_example_without_negatives_collapses_which_is_found_and_saved(capsys):
    pytest.importorskip("sentence_transformers")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        example = runpy.run_path(str(EXAMPLES / "sentence_transformers_watched.py"), run_name="__main__")
    printed, monitor, saved = capsys.readouterr().out, example["monitor"], example["folder"] / "watched"
    cosines = [float(value) for value in re.findall(r"mean cosine ([\d.]+)$", printed, re.MULTILINE)]
    assert len(cosines) == len(monitor.looks["sentence"]) == 7 and cosines[-1] > 0.99
    assert [w.message.alert for w in caught if isinstance(w.message, CollapseWarning)] == monitor.alerts
    collapses = [alert for alert in monitor.alerts if alert.rule == "complete-collapse"]
    alert = next(alert for alert in collapses if alert.module == "sentence")
    assert alert.value > alert.threshold >= 0.99 and str(alert) in printed
    record = Record.load(saved)
    assert record.diagnosis.collapsed and record.diagnosis.target == "SentenceTransformer"
    assert "complete-collapse" in {finding.cause for finding in record.diagnosis.findings}
    arrays = load_arrays(saved)
    assert arrays["spectrum/sentence/step"].tolist() == [look.step for look in monitor.looks["sentence"]]
    page = Path(re.search(r"Page: (.+)", printed)[1])
    assert_names(page.read_text(encoding="utf-8"), "sentence", alert.title)
