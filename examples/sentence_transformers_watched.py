"""A training of sentence-transformers without negatives: it collapses, and the monitor says so.

uv run --with sentence-transformers --with accelerate python examples/sentence_transformers_watched.py
"""

import tempfile
from pathlib import Path

from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, set_seed

from fullrank import TrainerMonitor, write_page

folder = Path(tempfile.mkdtemp())
set_seed(0)

# A tiny model, so that nothing is downloaded; put SentenceTransformer("...") here for yours.
people, acts = ["Ann", "Bo", "Cy", "Di"], ["sees", "buys", "sells", "hides"]
things = ["cars", "tea", "wool", "maps"]
words = ["[PAD]", "[UNK]", *people, *acts, *things, "and", "again"]
tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(folder / "bert")
sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder / "bert")
model = SentenceTransformer(modules=[Transformer(str(folder / "bert")), Pooling(16)], device="cpu")

# Each pair is said to be alike, and nothing keeps other sentences apart: MultipleNegativesRankingLoss would.
texts = [f"{who} {does} {what}" for who in people for does in acts for what in things]
pairs = {"sentence1": texts, "sentence2": [f"{text} again" for text in texts], "score": [1.0] * len(texts)}

monitor = TrainerMonitor({"layer": "0.model.encoder.layer.1", "sentence": "1"}, every=5, samples=128)
trainer = SentenceTransformerTrainer(
    model=model,
    args=SentenceTransformerTrainingArguments(
        str(folder / "training"),
        max_steps=30,
        per_device_train_batch_size=32,
        learning_rate=5e-3,
        logging_steps=5,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    ),
    train_dataset=Dataset.from_dict(pairs),
    loss=CosineSimilarityLoss(model),
    callbacks=[monitor],
)
trainer.train()

for look in monitor.looks["sentence"]:
    print(f"step {look.step}: effective rank {look.effective_rank:.1f}, mean cosine {look.mean_cosine:.3f}")
for alert in monitor.alerts:
    print(alert)
monitor.save(folder / "watched")
print("Page:", write_page(folder / "watched"))
