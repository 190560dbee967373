"""The cost model against the counters of real passes."""

from __future__ import annotations

import pytest
from rl_tiny import MASK, Player, TinyDenoiser, endless, problems
from test_rl_trainer import WIDTH, judge

from igpo_rl.cost import LLADA_8B, Count, learning
from igpo_rl.estimators import ELBO, Coupled, LeftToRight, MeanField, RandomMask, Sandwich, Trajectory
from igpo_rl.igpo import IGPO
from igpo_rl.losses import GRPO, GSPO

ESTIMATORS = [
    MeanField(),
    MeanField(prompt_mask=0.3),
    RandomMask(),
    Coupled(),
    Coupled(normalised=True),
    ELBO(),
    ELBO(rule="gauss", samples=3),
    Trajectory(steps=1),
    LeftToRight(block=4),
    Sandwich(),
]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
@pytest.mark.parametrize(("updates", "group", "score_rows"), [(1, 4, 64), (3, 4, 5), (2, 2, 1)])
def test_counts_are_those_of_a_real_step(estimator, updates, group, score_rows):
    loss = (GRPO if estimator.level == "token" else GSPO)(beta=0.1)
    algorithm = IGPO(group=group, prompts=4, updates=updates, score_rows=score_rows, estimator=estimator, loss=loss)
    player = Player(TinyDenoiser(), WIDTH, judge, end_share=0.3)
    batch = algorithm.collect(player, endless(problems(8)), 0.0, 0)
    planned = learning(algorithm, batch, 0, MASK, reference=True)
    policy, reference = TinyDenoiser(), TinyDenoiser(seed=1)
    assert len(list(algorithm.learn(policy, reference, batch, 0, mask_id=MASK))) >= updates
    for name, model in (("old", None), ("reference", reference), ("update", policy)):
        if model is None:
            continue
        count = planned["old"] + planned["update"] if name == "update" else planned[name]
        assert (count.inputs, count.head) == (sum(model.inputs), sum(model.head_rows))
        assert count.columns == count.inputs * (WIDTH + batch.prompt.shape[1])


def test_a_group_shares_its_mean_field_forward_and_repeated_views_are_scored_once():
    algorithm = IGPO(group=4, prompts=4, updates=4, keep_zero_signal=True, loss=GRPO(beta=0.1))
    batch = algorithm.collect(Player(TinyDenoiser(), WIDTH, judge), endless(problems(4)), 0.0, 0)
    assert {
        name: (count.inputs, count.head) for name, count in learning(algorithm, batch, 0, MASK, reference=True).items()
    } == {
        "old": (4, 4 * WIDTH),
        "reference": (4, 4 * WIDTH),
        "update": (16, 16 * WIDTH),
    }


def test_operations_of_an_8b_model():
    """A published denoising step of 8 rows of 768 columns reads all of them; an exact one the 32 blanks of a block."""
    published, exact = (Count.of(8, 768, head).flops(LLADA_8B) for head in (8 * 768, 8 * 32))
    assert published / 1e12 == pytest.approx(94.6, abs=0.1)
    assert exact / 1e12 == pytest.approx(88.5, abs=0.1)


Q, G, MU = 4, 4, 3
TABLE = [
    # canvases of a view, distinct views of MU updates, head positions of a view
    (MeanField(), Q, 1, Q * WIDTH),
    (MeanField(prompt_mask=0.3), Q, MU, Q * WIDTH),
    (RandomMask(), Q * G, MU, Q * G * WIDTH),
    (Coupled(), 2 * Q * G + Q, MU, Q * G * WIDTH + Q * WIDTH),
    (Coupled(normalised=True), 2 * Q * G, MU, Q * G * WIDTH),
    (ELBO(), 2 * ELBO().samples * Q * G, MU, 2 * ELBO().samples * Q * G * WIDTH),
    (ELBO(rule="gauss", samples=3), 3 * Q * G, MU, 3 * Q * G * WIDTH),
    (Sandwich(), Sandwich().samples * Q * G, MU, Sandwich().samples * Q * G * WIDTH),
    (Trajectory(steps=1), Q, 1, Q * WIDTH),  # the player's only step shows nothing, so that a group shares it
    (LeftToRight(block=4), Q * G * -(-WIDTH // 4), 1, Q * G * WIDTH),
]


@pytest.mark.parametrize(("estimator", "canvases", "distinct", "head"), TABLE, ids=lambda value: repr(value)[:40])
def test_the_table_of_the_documentation_bounds_what_is_counted(estimator, canvases, distinct, head):
    """Full completions, all groups scored: docs/cost.md says at most so many, and not many times as many as there are."""
    loss = (GRPO if estimator.level == "token" else GSPO)(beta=0.1)
    algorithm = IGPO(group=G, prompts=Q, updates=MU, keep_zero_signal=True, estimator=estimator, loss=loss)
    batch = algorithm.collect(Player(TinyDenoiser(), WIDTH, judge), endless(problems(Q)), 0.0, 0)
    planned = learning(algorithm, batch, 0, MASK, reference=True)
    for part, views in (("old", distinct), ("reference", distinct), ("update", MU)):
        assert views * canvases / 2 < planned[part].inputs <= views * canvases
        assert views * head / 3 < planned[part].head <= views * head
