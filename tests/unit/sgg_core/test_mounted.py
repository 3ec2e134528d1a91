"""An adapter's modules that are used again: what peft would make anew, and nothing left on the base model between."""

import torch
from peft import get_peft_model

from sgg_core.lora_layers import _peft_config, lora, take_off
from sgg_core.seeding import derived_seed
from sgg_core.spec import LoraSpec
from sgg_core.torch_seeding import torch_seed

SPEC = LoraSpec(rank=3)


def trained(adapted):
    return [weights for weights in adapted.parameters() if weights.requires_grad]


def test_every_job_finds_the_weights_that_peft_makes_of_its_seed(base):
    for seed in (5, 6):
        with torch_seed(derived_seed(seed, "lora")):
            adapted = get_peft_model(base.model, _peft_config(base, SPEC))
        expected = [weights.detach().clone() for weights in trained(adapted)]
        take_off(base, adapted)
        for _ in range(2):
            with lora(base, SPEC, seed) as adapted:
                assert all(torch.equal(a, b) for a, b in zip(trained(adapted), expected, strict=True))
                with torch.no_grad():
                    base.adapter.flat.add_(1.0)
                assert torch.equal(trained(adapted)[0], expected[0] + 1.0), "the parameters lie in the one tensor"


def test_modules_are_used_again_for_the_same_settings_alone(base):
    names = set(base.model.state_dict())
    with lora(base, SPEC, 1) as first:
        pass
    assert set(base.model.state_dict()) == names and base.adapter is None and not hasattr(base.model, "peft_config")
    with lora(base, SPEC, 2) as second:
        assert second is first
    with lora(base, LoraSpec(rank=2), 2) as other:
        assert other is not first and trained(other)[0].shape[0] == 2
    assert set(base.model.state_dict()) == names
