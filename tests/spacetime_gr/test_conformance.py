"""What a user of transformers relies on, in the spirit of its common model tests.

Every test runs with both backbones, tied and untied, and with tiles, vectors of places and fine positions, unless it
says why not. Exactness of the method (typed heads, mixture, packing) is in `test_modeling_spacetime_gr.py`, decoding in
`test_generate.py`, Auto classes without a model in `test_auto_classes.py`.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    DataCollatorWithPadding,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

from spacetime_gr import SpacetimeGRConfig, SpacetimeGRForCausalLM, SpacetimeGRModel, SpacetimeGRTokenizer
from tests.spacetime_gr.conftest import make_histories
from tests.spacetime_gr.test_modeling_spacetime_gr import batch_of, make_model

KINDS: dict[str, dict[str, Any]] = {
    "qwen3-tied": {"backbone": "qwen3"},
    "qwen3-untied": {"backbone": "qwen3", "tie_word_embeddings": False},
    "llama-tied": {"backbone": "llama", "num_key_value_heads": 1},
    "llama-untied": {"backbone": "llama", "tie_word_embeddings": False},
    "tiles-vectors-fine": {
        "tie_word_embeddings": False, "block_ancestors": True, "poi_embedding_size": 6, "use_fine_position": True,
    },
}  # fmt: skip


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Options of one kind of model."""
    return KINDS[request.param]


@pytest.fixture
def model(tokenizer: SpacetimeGRTokenizer, kind: dict[str, Any]) -> SpacetimeGRForCausalLM:
    """A small model of the kind, its places loaded, in evaluation mode."""
    return make_model(tokenizer, **kind)


@pytest.fixture
def labelled(tokenizer: SpacetimeGRTokenizer) -> dict[str, Tensor]:
    """Two histories, left-padded, with labels."""
    return batch_of(tokenizer, 60, [9, 4])


@pytest.fixture
def batch(labelled: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same without labels."""
    return {name: values for name, values in labelled.items() if name != "labels"}


def real(batch: dict[str, Tensor], logits: Tensor) -> Tensor:
    """Logits of the tokens that are no padding."""
    return logits[batch["attention_mask"].bool()]


# -------------------------------------------------------------------- saving and loading


@pytest.mark.parametrize("max_shard_size", ["5GB", "20KB"])
@torch.no_grad()
def test_save_and_load(
    model: SpacetimeGRForCausalLM, batch: dict[str, Tensor], tmp_path: Path, max_shard_size: str
) -> None:
    """All weights and place tables come back bit by bit, from safetensors in one file or in several."""
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    files = list(tmp_path.glob("*.safetensors"))
    assert (len(files) > 1) == (max_shard_size == "20KB")
    assert not list(tmp_path.glob("*.bin"))
    loaded, report = SpacetimeGRForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    saved = model.state_dict()
    assert loaded.state_dict().keys() == saved.keys()
    assert all(torch.equal(values, saved[name]) for name, values in loaded.state_dict().items())
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_tied_weights_are_one_tensor(model: SpacetimeGRForCausalLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = SpacetimeGRForCausalLM.from_pretrained(tmp_path)
    for each in (model, loaded):
        tied = each.get_output_embeddings().weight is each.get_input_embeddings().weight
        assert tied == each.config.tie_word_embeddings


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_dtype_and_device_map(
    model: SpacetimeGRForCausalLM, batch: dict[str, Tensor], tmp_path: Path, dtype: torch.dtype
) -> None:
    """Weights take the dtype, coordinates stay float32, and log-probabilities are float32 without NaN."""
    model.save_pretrained(tmp_path)
    loaded = SpacetimeGRForCausalLM.from_pretrained(tmp_path, dtype=dtype, device_map="cpu")
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    assert torch.equal(loaded.places.block_centers, model.places.block_centers)
    logits = real(batch, loaded(**batch).logits)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(len(logits)), rtol=1e-4, atol=1e-4)


def test_auto_classes(model: SpacetimeGRForCausalLM, batch: dict[str, Tensor], tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), SpacetimeGRConfig)
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path), SpacetimeGRForCausalLM)
    body = AutoModel.from_pretrained(tmp_path).eval()
    assert isinstance(body, SpacetimeGRModel)
    batch.pop("local_time")
    assert torch.equal(body(**batch).last_hidden_state, model.model(**batch).last_hidden_state)


def test_config_survives_json(model: SpacetimeGRForCausalLM) -> None:
    written = json.loads(model.config.to_json_string())
    assert SpacetimeGRConfig.from_dict(written).to_dict() == model.config.to_dict()


def test_resizing_the_vocabulary_is_refused(model: SpacetimeGRForCausalLM) -> None:
    size = model.config.vocab_size
    for each in (model, model.model):
        assert each.resize_token_embeddings(size) is each.get_input_embeddings()
        with pytest.raises(ValueError, match=r"model.grow\(tokenizer\)"):
            each.resize_token_embeddings(size + 8)


# -------------------------------------------------------------------- forward


@torch.no_grad()
def test_eager_equals_sdpa(model: SpacetimeGRForCausalLM, batch: dict[str, Tensor]) -> None:
    """Switched on a live model, so that the body follows. Other back ends: `modules/test_attention.py`."""
    sdpa = model(**batch).logits
    model.set_attn_implementation("eager")
    assert model.model.decoder.config._attn_implementation == "eager"
    torch.testing.assert_close(real(batch, model(**batch).logits), real(batch, sdpa), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("positions", ["given", "derived", "naive"])
@torch.no_grad()
def test_padding_changes_nothing(
    model: SpacetimeGRForCausalLM, tokenizer: SpacetimeGRTokenizer, batch: dict[str, Tensor], positions: str
) -> None:
    """Left, right or none; `naive` positions count from the first column, padding or not."""
    right = SpacetimeGRTokenizer(tokenizer.index, tokenizer.actions, "right")
    other = {name: values for name, values in batch_of(right, 60, [9, 4]).items() if name != "labels"}
    for each in (batch, other):
        if positions != "given":
            del each["position_ids"]
        if positions == "naive":
            each["position_ids"] = torch.arange(36).expand(2, -1)
    logits = real(batch, model(**batch).logits)
    torch.testing.assert_close(real(other, model(**other).logits), logits, rtol=1e-4, atol=1e-4)
    if positions == "derived":
        alone = {name: values[1:, 20:] for name, values in batch.items()}
        torch.testing.assert_close(real(alone, model(**alone).logits), logits[36:], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_logits_to_keep(model: SpacetimeGRForCausalLM, batch: dict[str, Tensor]) -> None:
    logits = model(**batch).logits
    for keep in (1, 3, 36, 99):
        torch.testing.assert_close(model(**batch, logits_to_keep=keep).logits, logits[:, -keep:])
    columns = torch.tensor([3, 35, 12])
    torch.testing.assert_close(model(**batch, logits_to_keep=columns).logits, logits[:, columns])


def test_ignored_labels_and_number_of_items(model: SpacetimeGRForCausalLM, labelled: dict[str, Tensor]) -> None:
    """-100 takes a token out of the sum; all -100 gives zero; `num_items_in_batch` replaces the divisor."""
    output = model(**labelled)
    assert int(output.loss_counts.sum()) == int((labelled["labels"] != -100).sum())
    torch.testing.assert_close(output.loss, output.loss_sums.sum() / output.loss_counts.sum())
    for total in (7, torch.tensor(7)):
        torch.testing.assert_close(model(**labelled, num_items_in_batch=total).loss, output.loss_sums.sum() / 7)
    fewer = labelled | {"labels": labelled["labels"].index_fill(1, torch.arange(32, 36), -100)}
    assert int(model(**fewer).loss_counts.sum()) == int(output.loss_counts.sum()) - 6
    none = model(**labelled | {"labels": torch.full_like(labelled["labels"], -100)})
    none.loss.backward()
    assert none.loss.item() == 0.0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_hidden_states_and_attentions(
    tokenizer: SpacetimeGRTokenizer, kind: dict[str, Any], batch: dict[str, Tensor]
) -> None:
    """Asked for at the call or in the configuration."""
    model = make_model(tokenizer, attn_implementation="eager", **kind)
    names = ("output_hidden_states", "output_attentions")
    asked = model(**batch, **dict.fromkeys(names, True))
    for name in names:
        setattr(model.config, name, True)
    configured = model(**batch)
    for output in (asked, configured):
        assert [tuple(states.shape) for states in output.hidden_states] == [(2, 36, 32)] * 3
        assert [tuple(weights.shape) for weights in output.attentions] == [(2, 2, 36, 36)] * 2
    assert model(**batch, **dict.fromkeys(names, False)).hidden_states is None


def test_no_dict_and_no_cache(model: SpacetimeGRForCausalLM, batch: dict[str, Tensor]) -> None:
    output = model(**batch)
    parts = model(**batch, return_dict=False)
    assert isinstance(parts, tuple)
    assert torch.equal(parts[0], output.logits)
    assert isinstance(model.model(batch["input_ids"], return_dict=False), tuple)
    assert len(model(**batch, return_dict=False, use_cache=False)) == 1
    assert model(**batch, labels=batch["input_ids"], use_cache=True).past_key_values is None  # it could not be read on
    model.config.use_cache = False
    assert model(**batch).past_key_values is None


@torch.no_grad()
def test_inputs_embeds(model: SpacetimeGRForCausalLM, batch: dict[str, Tensor]) -> None:
    """In place of the tokens' embeddings; the tokens are needed all the same: the heads read their types."""
    embeds = model.get_input_embeddings()(batch["input_ids"])
    if model.model.ancestors is not None:
        embeds = embeds + model.model.ancestors.at(batch["input_ids"], model.model.tile_sums())
    torch.testing.assert_close(model(**batch, inputs_embeds=embeds).logits, model(**batch).logits)
    assert not torch.allclose(model(**batch, inputs_embeds=2 * embeds).logits, model(**batch).logits)
    with pytest.raises(ValueError, match="the tokens tell what type comes next"):
        model(input_ids=None, inputs_embeds=embeds)


@torch.no_grad()
def test_cache(model: SpacetimeGRForCausalLM, batch: dict[str, Tensor]) -> None:
    """Prefill and one step more; in all detail in `test_generate.py`."""
    mask = batch.pop("attention_mask")
    head, tail = ({name: values[:, part] for name, values in batch.items()} for part in (slice(33), slice(33, 36)))
    cache = model(**head, attention_mask=mask[:, :33]).past_key_values
    step = model(**tail, attention_mask=mask, past_key_values=cache)
    whole = model(**batch, attention_mask=mask, logits_to_keep=3)
    torch.testing.assert_close(step.logits, whole.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"do_sample": True}, {"num_beams": 3}], ids=["greedy", "sampling", "beams"])
def test_generate(
    model: SpacetimeGRForCausalLM, tokenizer: SpacetimeGRTokenizer, batch: dict[str, Tensor], options: dict[str, Any]
) -> None:
    """Whole actions at places that exist, whatever the decoding; in all detail in `test_generate.py`."""
    rows = model.generate(**batch, max_new_tokens=8, **({"do_sample": False} | options))
    assert rows.shape == (2, 44)
    for actions in tokenizer.batch_decode(rows):
        assert all(action["poi_id"] is not None for action in actions)


# -------------------------------------------------------------------- training


def test_gradient_checkpointing(model: SpacetimeGRForCausalLM, labelled: dict[str, Tensor]) -> None:
    model.train()
    model(**labelled).loss.backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    model(**labelled).loss.backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(model: SpacetimeGRForCausalLM, labelled: dict[str, Tensor], dtype: torch.dtype) -> None:
    """A cast of the live model: finite loss and gradients, near those of float32."""
    full = model(**labelled).loss.item()
    centers = model.places.block_centers.clone()
    model.to(dtype)
    assert torch.equal(model.places.block_centers, centers)
    loss = model(**labelled).loss
    loss.backward()
    assert loss.item() == pytest.approx(full, rel=0.1)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


class Histories(Dataset):
    """Encoded histories of several lengths, one per item."""

    def __init__(self, tokenizer: SpacetimeGRTokenizer) -> None:
        self.items = [dict(tokenizer(history)) for history in make_histories(61, [5, 8, 3, 6, 9, 4])]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.items[number]


def test_trainer(model: SpacetimeGRForCausalLM, tokenizer: SpacetimeGRTokenizer, tmp_path: Path) -> None:
    """A few steps with accumulation and evaluation; the checkpoint holds model and tokenizer."""
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=2, gradient_accumulation_steps=2,
        learning_rate=1e-2, logging_steps=1, save_steps=3, use_cpu=True, report_to=[],
        disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Histories(tokenizer),
        eval_dataset=Histories(tokenizer),
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
    folder = tmp_path / "checkpoint-3"
    assert SpacetimeGRTokenizer.from_pretrained(folder).vocabulary == tokenizer.vocabulary
    assert torch.equal(SpacetimeGRForCausalLM.from_pretrained(folder).lm_head.weight, model.lm_head.weight)


def test_lora(model: SpacetimeGRForCausalLM, labelled: dict[str, Tensor], tmp_path: Path) -> None:
    """Adapters alone learn, are saved alone, and change what the model says and generates."""
    base = {name: values.clone() for name, values in model.state_dict().items()}
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    optimizer = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(4):
        loss = tuned(**labelled).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    assert tuned.generate(**labelled, max_new_tokens=4, do_sample=False).shape == (2, 40)
    tuned.save_pretrained(tmp_path)
    plain = SpacetimeGRForCausalLM(model.config).eval()
    plain.load_state_dict(base)
    loaded = PeftModel.from_pretrained(plain, tmp_path)
    torch.testing.assert_close(loaded(**labelled).loss, tuned.eval()(**labelled).loss)


# -------------------------------------------------------------------- compilers


TRACED = [("qwen3-tied", "eager"), ("qwen3-tied", "aot_eager"), ("llama-untied", "eager")]  # seconds each


@pytest.mark.parametrize(("name", "backend"), TRACED)
def test_compile_without_graph_breaks(
    tokenizer: SpacetimeGRTokenizer, labelled: dict[str, Tensor], name: str, backend: str
) -> None:
    """Training and inference as one graph each."""
    model = make_model(tokenizer, num_hidden_layers=1, **KINDS[name])
    expected = model(**labelled)
    expected.loss.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    output = compiled(**labelled)
    output.loss.backward()
    torch.testing.assert_close(output.loss_sums, expected.loss_sums)
    assert torch.equal(output.loss_counts, expected.loss_counts)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        logits = model(**labelled | {"labels": None}).logits
        torch.testing.assert_close(compiled(**labelled | {"labels": None}).logits, logits)
    torch.compiler.reset()


@pytest.mark.parametrize("name", ["qwen3-tied", "llama-untied"])
def test_export(tokenizer: SpacetimeGRTokenizer, batch: dict[str, Tensor], name: str) -> None:
    """The inference forward as one program, for other histories of that shape, too."""
    model = make_model(tokenizer, num_hidden_layers=1, **KINDS[name])
    program = torch.export.export(model, (), kwargs=batch | {"use_cache": False}).module()
    for seed in (60, 62):
        other = {name: values for name, values in batch_of(tokenizer, seed, [9, 4]).items() if name != "labels"}
        torch.testing.assert_close(program(**other, use_cache=False).logits, model(**other).logits)


# -------------------------------------------------------------------- a text decoder as the starting point


def text_decoder(config: SpacetimeGRConfig, **options: Any) -> PreTrainedModel:
    """A text decoder with random weights and a vocabulary of its own."""
    settings = config.decoder_config()
    settings.update({"vocab_size": 50, "eos_token_id": 1, **options})
    return AutoModelForCausalLM.from_config(settings)


def test_body_from_a_text_decoder(model: SpacetimeGRForCausalLM, batch: dict[str, Tensor], tmp_path: Path) -> None:
    text = text_decoder(model.config)
    text.save_pretrained(tmp_path)
    for source in (text, tmp_path, str(tmp_path)):
        started = SpacetimeGRForCausalLM.from_text_decoder(source, model.config).eval()
        embeds = torch.randn(2, 7, 32)
        expected = text.base_model.eval()(inputs_embeds=embeds).last_hidden_state
        torch.testing.assert_close(started.model(inputs_embeds=embeds).last_hidden_state, expected)
        assert started(**batch).logits.shape == (2, 36, model.config.vocab_size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"intermediate_size": 48}, "intermediate_size: 48 there, 128 here"),
        ({"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}, "num_hidden_layers: 3 there, 2 here"),
        ({"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8}, "num_attention_heads: 4 there, 2 here"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "rope_theta: 500000.0 there, 10000.0 here"),
        ({"attention_bias": True}, "options such as attention_bias"),
    ],
)
def test_a_text_decoder_that_does_not_fit_is_refused(
    model: SpacetimeGRForCausalLM, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SpacetimeGRForCausalLM.from_text_decoder(text_decoder(model.config, **options), model.config)


def test_a_text_decoder_of_another_kind_is_refused(tokenizer: SpacetimeGRTokenizer) -> None:
    qwen3, llama = (make_model(tokenizer, backbone=name).config for name in ("qwen3", "llama"))
    with pytest.raises(ValueError, match="model_type: 'qwen3' there, 'llama' here"):
        SpacetimeGRForCausalLM.from_text_decoder(text_decoder(qwen3), llama)
