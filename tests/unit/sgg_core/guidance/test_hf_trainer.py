"""GuidedTrainer: transformers' Trainer to the bit without guidance, SAM where it is that, and open about its limits."""

import copy
import gc

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments

from sgg_core.guidance.hf_trainer import GuidedTrainer
from sgg_core.spec import GuidanceSpec

ROWS = [{"x": torch.randn(5, generator=torch.Generator().manual_seed(n)), "labels": n % 2} for n in range(16)]
ZERO = GuidanceSpec(magnitude=0.0, direction=0.0, clip_z=None)
SAM = GuidanceSpec(every=1, magnitude=1.0, direction=0.0, ramp_fraction=0.0, clip_z=None, radius=0.05)


@pytest.fixture(scope="module", autouse=True)
def _no_old_garbage():
    """Trainer collects garbage after each training, and would look through all that earlier tests have left."""
    gc.collect()
    gc.freeze()


class Net(torch.nn.Module):
    """A small classifier with dropout that speaks to Trainer."""

    def __init__(self, dropout=0.2):
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Dropout(dropout))
        self.head = torch.nn.Linear(7, 2)

    def forward(self, x, labels):
        scores = self.head(self.body(x))
        return {"loss": torch.nn.functional.cross_entropy(scores, labels), "logits": scores}


def trained(kind, tmp_path, dropout=0.2, model=None, arguments=None, **named):
    model = model or Net(dropout)
    settings = {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 0.01, "seed": 3}
    quiet = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "dataloader_pin_memory": False}
    settings = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **settings | quiet | (arguments or {}))
    trainer = kind(model=model, args=settings, train_dataset=ROWS, **named)
    trainer.train()
    return torch.cat([p.detach().flatten() for p in model.parameters()]), trainer


@pytest.mark.parametrize("guidance", [ZERO, GuidanceSpec(variant="off")])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_without_guidance_it_is_trainer_bit_for_bit(guidance, accumulation, tmp_path):
    arguments = {"gradient_accumulation_steps": accumulation}
    plain, _ = trained(Trainer, tmp_path, arguments=arguments)
    guided, _ = trained(GuidedTrainer, tmp_path, arguments=arguments, guidance=guidance)
    assert torch.equal(guided, plain)


def test_full_magnitude_is_a_step_of_sam(tmp_path):
    arguments = {"max_steps": 1, "per_device_train_batch_size": 16, "optim": "sgd", "max_grad_norm": 0.0}
    model = Net(dropout=0.0)
    parameters = list(model.parameters())
    x = torch.stack([row["x"] for row in ROWS])
    y = torch.tensor([row["labels"] for row in ROWS])
    at = copy.deepcopy(model)
    g = torch.autograd.grad(at(x, y)["loss"], list(at.parameters()))
    length = torch.cat([part.flatten() for part in g]).norm()
    with torch.no_grad():
        for p, part in zip(at.parameters(), g, strict=True):
            p += 0.05 * part / length
    ascended = torch.autograd.grad(at(x, y)["loss"], list(at.parameters()))
    expected = torch.cat([(p - 0.01 * part).flatten() for p, part in zip(parameters, ascended, strict=True)])
    found, trainer = trained(GuidedTrainer, tmp_path, model=model, arguments=arguments, guidance=SAM)
    assert torch.allclose(found, expected.detach(), atol=1e-6)
    assert trainer.outcome.gradient_norm == pytest.approx(float(length), rel=1e-4)


def test_guidance_acts(tmp_path):
    plain, _ = trained(Trainer, tmp_path)
    assert not torch.equal(trained(GuidedTrainer, tmp_path, guidance=SAM)[0], plain)


def test_references_that_it_has_not_are_refused(tmp_path):
    with pytest.raises(ValueError, match="split"):
        trained(GuidedTrainer, tmp_path, guidance=GuidanceSpec(reference="split"))


def test_adapters_of_unequal_rank_and_scale_are_guided(tmp_path):
    """Of peft's patterns of ranks and alphas; the projected norm is that of each layer's own scale."""
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["0", "head"], rank_pattern={"head": 2}, alpha_pattern={"head": 6}
    )
    model = get_peft_model(Net(dropout=0.0), config)
    _, trainer = trained(GuidedTrainer, tmp_path, model=model, arguments={"max_steps": 1}, guidance=ZERO)
    assert sorted(pair.scale for pair in trainer._guided.pairs) == [2.0, 3.0]
    assert trainer.outcome.projected.gradient_norm > 0
