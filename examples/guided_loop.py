"""Guidance in a training loop of your own: wrap the optimizer, and hand its step a function that computes the loss."""

import torch
from torch.nn import functional

from sgg_core.guidance.optimizer import GuidedOptimizer
from sgg_core.spec import GuidanceSpec

torch.manual_seed(0)
inputs = torch.randn(64, 10)
labels = (inputs[:, 0] * inputs[:, 1] > 0).long()
model = torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.Tanh(), torch.nn.Dropout(0.1), torch.nn.Linear(32, 2))

STEPS = 200
optimizer = GuidedOptimizer(
    torch.optim.AdamW(model.parameters(), lr=0.01),
    GuidanceSpec(radius=0.05, magnitude=0.7, direction=0.3),
    total_steps=STEPS,
)
scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, STEPS)

for step in range(STEPS):
    batch = torch.randint(64, (16,))
    loss = optimizer.step(lambda batch=batch: functional.cross_entropy(model(inputs[batch]), labels[batch]))
    scheduler.step()
    if step % 50 == 49:
        found = optimizer.outcome
        cosine = f"{found.reference_cosine:.2f}"
        print(f"step {step + 1}: loss {loss:.3f}, |g| {found.gradient_norm:.3f}, cosine to the reference {cosine}")

model.eval()
accuracy = (model(inputs).argmax(1) == labels).float().mean().item()
print(f"accuracy {accuracy:.2f}")
