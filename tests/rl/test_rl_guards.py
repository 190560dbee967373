"""One bad value costs an update, many in a row stop the run, and nothing bad is ever saved or goes unnamed."""

from __future__ import annotations

import copy
import math
import multiprocessing

import pytest
import torch
from accelerate import Accelerator, debug_launcher
from attrs import evolve, frozen
from rl_tiny import TinyDenoiser
from test_rl_trainer import Run, equal

from igpo_rl.losses import GRPO
from igpo_rl.trainer import Optimizer, Updater


def made(patience: int = 10, lr: float = 0.1, **options):
    said: list[str] = []
    model = TinyDenoiser()
    optimizer = Optimizer(lr=lr, warmup=0, patience=patience, **options)
    return model, Updater(Accelerator(cpu=True), model, optimizer, 10, said.append), said


def moments(updater):
    return copy.deepcopy([optimizer.state_dict()["state"] for optimizer in updater.optimizers])


def same(one, other) -> bool:
    return all(
        torch.equal(values[name], others[name])
        for states, theirs in zip(one, other, strict=True)
        for values, others in zip(states.values(), theirs.values(), strict=True)
        for name in values
    )


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_loss_that_is_not_finite_changes_nothing_though_its_gradient_is(bad):
    model, updater, said = made()
    updater.backward(model.head.weight.square().sum())
    assert updater.step()["optimizer/skipped"] == 0
    weights, before = copy.deepcopy(model.state_dict()), moments(updater)
    updater.backward(model.head.weight.square().sum() + bad)
    assert model.head.weight.grad.isfinite().all()
    assert updater.step("igpo step 2")["optimizer/skipped"] == 1
    assert said == ["igpo step 2: the loss is not finite; this update is left out"]
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert same(moments(updater), before)
    updater.backward(model.head.weight.square().sum())  # the bad loss is forgotten
    assert updater.step()["optimizer/skipped"] == 0
    assert not torch.equal(weights["head.weight"], model.head.weight)
    assert not same(moments(updater), before)


def test_training_stops_after_so_many_in_a_row_and_says_what_was_wrong():
    model, updater, said = made(patience=3)
    good, bad = model.head.weight.square(), model.blocks[0]["q"].weight
    for part in (bad * math.nan, bad * math.nan, good, bad * math.inf, bad * math.nan):
        updater.backward(part.sum())
        updater.step("igpo step 7", math.exp(9.0))
    assert len(said) == 4
    assert said[0] == (
        "igpo step 7: the loss and the gradient of 1 of 12 weights (blocks.0.q.weight) are not finite (largest log-ratio "
        "9.0); this update is left out"
    )
    updater.backward((bad * math.nan).sum())
    with pytest.raises(ValueError, match=r"like the 2 before it.*weights are as before.*runs away.*--optimizer.lr"):
        updater.step("igpo step 7", math.exp(9.0))
    forgiving = made(patience=0)[1]
    for _ in range(20):
        forgiving.backward((forgiving.module.head.weight * math.nan).sum())
        forgiving.step()
    assert forgiving.refused == 20


def test_the_count_survives_a_resumption():
    model, updater, _ = made(patience=2)
    updater.backward((model.head.weight * math.nan).sum())
    updater.step()
    other, resumed, _ = made(patience=2)
    resumed.load_state_dict(updater.state_dict())
    resumed.backward((other.head.weight * math.nan).sum())
    with pytest.raises(ValueError, match=r"Try a lower --optimizer.lr, and weights in float32"):
        resumed.step()


@frozen(kw_only=True)
class Sick(GRPO):
    """Not a number from a step on."""

    def __call__(self, logp, old, advantage, mask, ref, group, hint, totals):
        loss = super().__call__(logp, old, advantage, mask, ref, group, hint, totals)
        Sick.calls += 1
        return evolve(loss, value=loss.value * math.nan) if Sick.calls > Sick.after else loss

    calls = after = 0


def test_a_run_that_turns_sick_keeps_its_last_good_weights(tmp_path, monkeypatch):
    straight = Run(tmp_path / "straight", stop_after=2, score_rows=64)
    straight.rl()
    Sick.calls, Sick.after = 0, 4  # two steps of two updates, one part each
    run = Run(tmp_path / "sick", score_rows=64, loss=Sick(beta=0.05))
    optimizer = Optimizer(lr=3e-3, warmup=2, schedule="linear", clip=1.0, patience=3)
    with (
        pytest.warns(UserWarning, match="igpo step 3: the loss and the gradient of 12 of 12 weights"),
        pytest.raises(ValueError, match=r"igpo step 4: .*like the 2 before it"),
    ):
        run.rl(optimizer=optimizer)
    assert [metrics["optimizer/skipped"] for _, _, metrics in run.log] == [0, 0, 1]
    saved = run.checkpoints.latest()
    assert saved.step == 3
    ours, theirs = saved.load(), straight.checkpoints.latest().load()
    assert all(torch.equal(weight, theirs["weights"][name]) for name, weight in ours["weights"].items())
    assert same([one["state"] for one in ours["optimizers"]], [one["state"] for one in theirs["optimizers"]])


def test_weights_that_are_no_numbers_are_never_saved(tmp_path):
    run = Run(tmp_path)

    class Log(list):
        """Destroys a weight between an update and its checkpoint."""

        def append(self, row):
            super().append(row)
            if len(self) == 2:
                run.policy.head.weight.data[0] = math.inf

    run.log = Log()
    with pytest.raises(
        ValueError, match=r"igpo step 2: 1 of 12 weights \(head.weight\) are not finite, and are not saved"
    ):
        run.rl()
    assert run.checkpoints.latest().step == 1


def test_sft_refuses_too():
    run = Run()
    run.policy.head.register_forward_hook(lambda module, inputs, output: output * math.nan)
    before = run.weights()
    with pytest.warns(UserWarning, match="sft step 3: the loss and the gradient of 12 of 12 weights"):
        run.sft()
    assert equal(run.weights(), before)
    assert [metrics["optimizer/skipped"] for _, _, metrics in run.log] == [1, 1, 1]


def one_sick_rank(path: str) -> None:
    torch.set_num_threads(1)
    said: list[str] = []
    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare_model(TinyDenoiser())
    updater = Updater(accelerator, model, Optimizer(lr=0.1, warmup=0), 10, said.append)
    tokens, where = torch.ones(1, 4, dtype=torch.long), torch.arange(4)
    for step in range(3):
        value = model(tokens, tokens.bool(), where).square().mean()
        if step == 1 and accelerator.process_index == 1:
            value = value + math.inf  # its gradient is finite
        updater.backward(value)
        updater.step()
    torch.save((said, accelerator.unwrap_model(model).state_dict()), f"{path}/{accelerator.process_index}")


def launch(path: str) -> None:
    debug_launcher(one_sick_rank, (path,), num_processes=2)


def test_all_ranks_refuse_what_one_cannot_use(tmp_path):
    launched = multiprocessing.get_context("spawn").Process(target=launch, args=(str(tmp_path),))
    launched.start()
    launched.join(120)
    assert launched.exitcode == 0
    (said, weights), (also, others) = (torch.load(tmp_path / str(rank)) for rank in (0, 1))
    assert said == also == ["update 2: the loss is not finite; this update is left out"]
    assert all(torch.equal(weight, others[name]) for name, weight in weights.items())


# plug-ins -------------------------------------------------------------------------------------------------------------


def returning(value, **attributes):
    """A plug-in that always returns this, or raises it."""

    def answer(self, *inputs):
        if isinstance(value, Exception):
            raise value
        return value

    return type("Theirs", (), {"__call__": answer, **attributes})()


ESTIMATOR, LOSS = {"level": "token"}, {"levels": ("token",), "beta": 0.0}


@pytest.mark.parametrize(
    ("kind", "plugin", "error", "text"),
    [
        ("chunker", returning(ZeroDivisionError("by zero")), ZeroDivisionError, "by zero"),
        ("chunker", returning([(3, 99)]), ValueError, "chunk 3 to 99 .* has 12 tokens"),
        ("chunker", returning([(4, 6), (2, 3)]), ValueError, "chunk 2 to 3 behind 6"),
        ("chunker", returning(None), TypeError, "NoneType"),
        ("injection", returning(KeyError("x")), KeyError, "x"),
        (
            "injection",
            returning(torch.ones(1, 1)),
            ValueError,
            r"it returned \(1, 1\) torch.float32 for rows and chunks",
        ),
        ("injection", returning([[True]]), ValueError, "it returned list"),
        ("filter", returning(torch.ones(2, 2).bool()), ValueError, r"it returned \(2, 2\) torch.bool for kept"),
        ("filter", returning(RuntimeError("sizes")), RuntimeError, "sizes"),
        ("estimator", returning(IndexError("y"), **ESTIMATOR), IndexError, "y"),
        ("loss", returning(0.5, **LOSS), ValueError, "it returned float; it must be a Loss"),
        ("loss", returning(AttributeError("z"), **LOSS), AttributeError, "z"),
    ],
)
def test_a_plug_in_at_fault_is_named(kind, plugin, error, text):
    run = Run(**{kind: plugin})
    if kind in ("chunker", "injection"):
        run.play.judge = lambda one, words: False  # they are asked about stuck groups only
    with pytest.raises(error, match=rf"{text}[^\n]*\n{kind} Theirs \(test_rl_guards\)"):
        run.rl()
