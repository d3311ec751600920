"""A bare PyTorch loop: fullrank's views, head and loss around your own encoder, and the rank of its features.

uv run python examples/bare_loop.py
"""

import torch
from torch import nn

from fullrank import InfoNCELoss, LinearProbe, SubvectorHead, source, view_pipeline
from fullrank.batch import as_float
from fullrank.data import BatchLoader
from fullrank.spectrum.functional import effective_rank
from fullrank.views import step_generator

EPOCHS, SEED = 3, 0

torch.manual_seed(SEED)
encoder = nn.Sequential(  # images (N, 1, 8, 8) in 0 to 1 -> h (N, 64)
    nn.Conv2d(1, 32, 3, padding=1),
    nn.BatchNorm2d(32),
    nn.ReLU(),
    nn.Conv2d(32, 64, 3, stride=2, padding=1),
    nn.BatchNorm2d(64),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
)
head, loss = SubvectorHead(in_dim=64, dim=16), InfoNCELoss(temperature=0.2)
views = view_pipeline("simclr,scale=0.4,blur=0", image_size=8, channels=1)
optimizer = torch.optim.AdamW(encoder.parameters(), lr=3e-3)

train, test = source("digits").load("train"), source("digits").load("test")
loader = BatchLoader(train, batch_size=256, seed=SEED)
for epoch in range(EPOCHS):
    for step, batch in enumerate(loader):
        view_a, view_b = views.apply(batch, views.sample(len(batch), step_generator(SEED, epoch, step)))
        h = encoder(torch.cat([view_a, view_b]))
        z_a, z_b = head(h).chunk(2)
        value = loss(z_a, z_b)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    rank = effective_rank(h.detach())
    print(f"epoch {epoch + 1}: loss {value.item():.2f} (chance {loss.chance(256):.2f}), rank of h {rank:.1f}")

encoder.eval()
with torch.no_grad():
    h_train, h_test = (encoder(as_float(images.tensor())) for images in (train, test))
accuracy = LinearProbe().fit(h_train, train.labels["label"]).score(h_test, test.labels["label"])
print(f"linear probe on h: {100 * accuracy:.1f} %")
