"""Models in Hugging Face's layout, made here and saved, against transformers and timm themselves."""

import json
import re

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from refusals import assert_names, refuses
from safetensors.torch import load_file, save_file

from fullrank.encoders import encoder, without_download
from fullrank.encoders.huggingface import processor_of
from fullrank.errors import DataError, UsageError

transformers = pytest.importorskip("transformers")
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VIT = SMALL | {"image_size": 32, "patch_size": 8}
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """The folder of a tiny ViT with its processor."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("hub") / "vit"
    transformers.ViTModel(transformers.ViTConfig(**VIT)).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def pixels(picture: Image.Image, folder) -> torch.Tensor:
    return torch.from_numpy(processor_of(str(folder)).fit(picture)).permute(2, 0, 1)[None] / 255


def test_features_equal_the_library_with_its_own_processor(vit):
    net = encoder(f"hf-hub:{vit}", image_size=32).eval()
    model = transformers.AutoModel.from_pretrained(vit).eval()
    inputs = transformers.AutoImageProcessor.from_pretrained(vit)(PICTURE, return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
        features = net.features(pixels(PICTURE, vit), ["h", "layers.0.cls", "layers.0.mean"])
    torch.testing.assert_close(features["h"], output.pooler_output, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(features["layers.0.cls"], output.hidden_states[1][:, 0])
    torch.testing.assert_close(features["layers.0.mean"], output.hidden_states[1][:, 1:].mean(1))
    assert_names(net.output_note, "pooler_output")
    own = processor_of(str(vit))
    assert own.size == 32 and own.mean == (0.5, 0.5, 0.5) and processor_of(str(vit), 64).size == 64


def test_the_mean_of_tokens_replaces_a_pooling_layer_that_the_weights_lack(vit, tmp_path):
    transformers.ViTForImageClassification(transformers.ViTConfig(**VIT)).save_pretrained(tmp_path)
    net = encoder(f"hf-hub:{tmp_path}", image_size=32).eval()
    images = torch.rand(2, 3, 32, 32)
    tokens = transformers.AutoModel.from_pretrained(tmp_path).eval()(net.normalised(images)).last_hidden_state
    torch.testing.assert_close(net(images), tokens[:, 1:].mean(1))
    assert_names(net.output_note, "mean", "16 image tokens", "pooling")
    # A run that was trained from it is read without its weights.
    bare = encoder(without_download(net.spec), image_size=32)
    bare.load_state_dict(net.state_dict())
    torch.testing.assert_close(bare.eval()(images), net(images))
    state = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in state.items() if not re.search(r"layers?\.1\.", name)}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with refuses(DataError, str(tmp_path), "layers.1.attention.k_proj.bias"):
        encoder(f"hf-hub:{tmp_path}", image_size=32)


def test_of_a_model_of_images_and_texts_the_part_for_images_is_used(tmp_path):
    texts = SMALL | {"num_hidden_layers": 1, "vocab_size": 60, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.CLIPConfig(text_config=texts, vision_config=VIT, projection_dim=8)
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    net, images = encoder(f"hf-hub:{tmp_path}", image_size=32).eval(), torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(net(images), model.vision_model(net.normalised(images)).pooler_output)
    assert_names(net.output_note, "vision_model")
    assert processor_of(str(tmp_path)) is None


def test_what_takes_no_images_or_cannot_be_read_is_refused(vit, tmp_path, monkeypatch):
    settings = SMALL | {"num_hidden_layers": 1, "vocab_size": 50}
    transformers.BertModel(transformers.BertConfig(**settings)).save_pretrained(tmp_path / "bert")
    with refuses(UsageError, "bert", "BertModel", "images", "input_ids"):
        encoder(f"hf-hub:{tmp_path / 'bert'}", image_size=32)
    with refuses(UsageError, "48 x 48 pixels", "--image-size"):
        encoder(f"hf-hub:{vit}", image_size=48)
    with refuses(UsageError, "channels=3"):
        encoder(f"hf-hub:{vit}", image_size=32, in_chans=1)
    (tmp_path / "config.json").write_text((vit / "config.json").read_text())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with refuses(DataError, str(tmp_path), "safetensors", "pretrained=false"):
        encoder(f"hf-hub:{tmp_path}", image_size=32)
    assert encoder(f"hf-hub:{tmp_path},pretrained=false", image_size=32).feature_dim == 16
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": {"AutoModel": "x.Y"}}))
    with refuses(DataError, str(tmp_path)):
        encoder(f"hf-hub:{tmp_path},pretrained=false", image_size=32)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with refuses(DataError, "nobody/nothing", "folder"):
        encoder("hf-hub:nobody/nothing", image_size=32)


def test_a_repository_of_timm_is_built_by_timm(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=7).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    cfg = {"mean": [0.1, 0.2, 0.3], "std": [0.4] * 3, "input_size": [3, 40, 40], "crop_pct": 1.0}
    cfg |= {"num_classes": 7, "first_conv": "conv1.0", "classifier": "fc"}
    config = {"architecture": "test_resnet", "num_classes": 7, "pretrained_cfg": cfg}
    (tmp_path / "config.json").write_text(json.dumps(config))
    net = encoder(f"hf-hub:{tmp_path}", image_size=40).eval()
    images = torch.rand(2, 3, 40, 40)
    expected = model.forward_head(model.forward_features(net.normalised(images)), pre_logits=True)
    torch.testing.assert_close(net(images), expected)
    assert net.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert processor_of(str(tmp_path)).size == 40
