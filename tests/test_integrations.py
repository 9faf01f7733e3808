"""BIMT in other loops gives what the plain loop gives."""

import inputs
import pytest
import torch

import bimt_fast as bf
from bimt_fast.integrations import hooks

STEPS, EVERY, LAM = 12, 4, 1e-2


def batches():
    g = inputs.generator("integrations", 0)
    return [(torch.randn(8, 5, generator=g), torch.randn(8, 3, generator=g)) for _ in range(STEPS)]


def model():
    return inputs.mlp(5, 33, 17, 3, dtype=torch.float32)


def loss_of(network, batch):
    return (network(batch[0]) - batch[1]).pow(2).mean()


def trained_plainly():
    network = model()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for step, batch in enumerate(batches(), 1):
        optimizer.zero_grad()
        loss_of(network, batch).backward()
        network.wiring.add_grad_(LAM)
        optimizer.step()
        if step % EVERY == 0:
            network.wiring.relocate("matching", optimizer=optimizer)
    return network


def assert_like_the_plain_loop(network):
    for p, q in zip(network.parameters(), trained_plainly().parameters(), strict=True):
        torch.testing.assert_close(p, q)
    for group in network.wiring.groups:
        assert torch.equal(network.wiring.permutation(group), trained_plainly().wiring.permutation(group))


def test_hooks():
    network = model()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    hooked = hooks.register(optimizer, network.wiring, every=EVERY, lam=LAM, strategy="matching")
    for batch in batches():
        optimizer.zero_grad()
        loss_of(network, batch).backward()
        optimizer.step()
    assert_like_the_plain_loop(network)
    assert hooked.steps == STEPS and hooked.report.cost_after <= hooked.report.cost_before
    hooked.remove()
    optimizer.step()
    assert hooked.steps == STEPS


def test_hooks_with_the_fused_optimizer():
    network = model()
    optimizer = bf.optim.AdamW(network.wiring, lr=1e-2, weight_decay=1e-2, lam=LAM)
    hooks.register(optimizer, network.wiring, every=EVERY, strategy="matching")
    for batch in batches():
        optimizer.zero_grad()
        loss_of(network, batch).backward()
        optimizer.step()
    assert_like_the_plain_loop(network)


@pytest.mark.parametrize(
    "changes, error, name",
    [
        ({"wiring": 3}, TypeError, "wiring"),
        ({"every": 0}, ValueError, "every"),
        ({"every": 2.5}, TypeError, "every"),
        ({"strategy": "best"}, ValueError, "strategy"),
        ({"optimizer": 3}, TypeError, "optimizer"),
    ],
)
def test_errors(changes, error, name):
    network = model()
    settings = {"optimizer": torch.optim.SGD(network.parameters()), "wiring": network.wiring} | changes
    with pytest.raises(error, match=name):
        hooks.register(**settings)


def test_lightning(tmp_path):
    pytest.importorskip("lightning.pytorch", reason="Lightning is not installed")
    import lightning.pytorch as pl

    from bimt_fast.integrations.lightning import BIMT

    class Task(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = model()

        def training_step(self, batch, _):
            return loss_of(self.network, batch)

        def configure_optimizers(self):
            return torch.optim.AdamW(self.network.parameters(), lr=1e-2)

    task = Task()
    callback = BIMT(task.network.wiring, every=EVERY, lam=LAM, strategy="matching")
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(task, torch.utils.data.DataLoader(batches(), batch_size=None))
    assert_like_the_plain_loop(task.network)
    kept, other = callback.state_dict(), BIMT(model().wiring)
    other.load_state_dict(kept)
    assert torch.equal(other.wiring.permutation("in"), task.network.wiring.permutation("in"))


def test_huggingface(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    from bimt_fast.integrations.huggingface import BIMT

    class Task(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = model()

        def forward(self, x, y):
            return {"loss": loss_of(self.network, (x, y))}

    task = Task()
    rows = [{"x": x, "y": y} for x, y in batches()]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=STEPS,
        per_device_train_batch_size=1,
        learning_rate=1e-2,
        weight_decay=1e-2,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        optim="adamw_torch",
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )

    class InOrder(transformers.Trainer):
        def get_train_dataloader(self):
            return torch.utils.data.DataLoader(rows, batch_size=None)

        def create_optimizer(self, *_):
            self.optimizer = torch.optim.AdamW(task.parameters(), lr=1e-2)
            return self.optimizer

    callback = BIMT(task.network.wiring, every=EVERY, lam=LAM, strategy="matching")
    InOrder(model=task, args=arguments, train_dataset=rows, callbacks=[callback]).train()
    assert_like_the_plain_loop(task.network)
