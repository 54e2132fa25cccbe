"""The training loop on problems whose course and minimum are known."""

from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from identica.data import Dataset
from identica.errors import NonFiniteError, Status
from identica.training import LBFGS, Adam, Stage, compiled, fit
from identica.training.records import still_improving

N = 50
ROWS = np.random.default_rng(0).normal([1.0, -2.0], [1.0, 0.5], (N, 2)).astype(np.float32)


class Point(eqx.Module):
    """A place to be moved to the mean of the rows, and a clock that every step moves on."""

    place: jax.Array
    clock: jax.Array


@dataclass(frozen=True)
class Distance:
    """Half the mean squared distance of rows to the place, minus the clock; noise and NaN if asked."""

    noise: float = 0.0
    share_nan: float = 0.0

    def __call__(self, system, batch, *, key):
        place = system.place + self.noise * jax.random.normal(key, (2,))
        loss = 0.5 * ((batch.x - place) ** 2).sum(1).mean() - system.clock
        failed = jax.random.uniform(jax.random.fold_in(key, 1)) < self.share_nan
        return jnp.where(failed, jnp.nan, loss), {}


@dataclass(frozen=True)
class Evaluation:
    """Held-out values that follow a rule stated by name."""

    rule: str

    def __call__(self, system, data, held_out, key):
        if self.rule == "later is better":
            return -system.clock
        if self.rule == "distance":
            return 0.5 * ((held_out.x - system.place) ** 2).sum(1).mean()
        if self.rule == "best at clock 0.3":
            return (system.clock - 0.3) ** 2
        if self.rule == "finite on the right":
            return jnp.where(system.place[0] > 0, system.clock, jnp.nan)
        return jnp.asarray(jnp.nan)


@jax.jit
def _draw(key):
    return Point(3 * jax.random.normal(key, (2,)), jnp.zeros(()))


def create(system, data, key):
    return _draw(key)


def unchanged(system, data, key):
    return system


def stage(name="only", *, prepare=create, objective=None, rule="later is better", **kwargs) -> Stage:
    options = {"solver": Adam(rate=0.05, warmup=5), "steps": 40, "chunk": 10, **kwargs}
    return Stage(name, prepare, objective or Distance(), Evaluation(rule), **options)


def run(*stages, seed=0, held_out=None, **kwargs):
    return fit(list(stages), Dataset(jnp.asarray(ROWS)), held_out, seed=seed, **kwargs)


def leaves(system):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(system)])


# Solvers --------------------------------------------------------------------------------------------


def adam_by_hand(gradient, start, *, steps, rate, b2, clip, warmup):
    """Kingma and Ba (2015), algorithm 1, with a clipped gradient and the schedule in words:

    from a tenth of the peak rate to the peak in the warm-up, then along half a cosine to a hundredth.
    """
    x = np.array(start, np.float64)
    first, second, places = np.zeros_like(x), np.zeros_like(x), []
    warmup = min(warmup, steps // 10)
    for t in range(steps):
        g = gradient(x)
        g = g * min(1.0, clip / np.linalg.norm(g))
        first, second = 0.9 * first + 0.1 * g, b2 * second + (1 - b2) * g**2
        if t < warmup:
            now = rate * (0.1 + 0.9 * t / warmup)
        else:
            now = rate * (0.01 + 0.99 * (1 + np.cos(np.pi * (t - warmup) / (steps - warmup))) / 2)
        x -= now * (first / (1 - 0.9 ** (t + 1))) / (np.sqrt(second / (1 - b2 ** (t + 1))) + 1e-8)
        places.append(x.copy())
    return np.array(places)


def test_adam_is_the_published_algorithm_with_its_schedule():
    mean = ROWS.mean(0).astype(np.float64)
    expected = adam_by_hand(lambda x: x - mean, [30.0, 4.0], steps=60, rate=0.5, b2=0.99, clip=2.0, warmup=4)
    solver = Adam(rate=0.5, b2=0.99, clip=2.0, warmup=4)
    loss = lambda x: 0.5 * ((x - mean.astype(np.float32)) ** 2).sum()
    step = jax.jit(lambda x, state, i: solver.step(loss, x, state, i, jnp.asarray(60)))
    x, places = jnp.array([30.0, 4.0]), []
    state = solver.init(x)
    for i in range(60):
        before = float(loss(x))
        x, state, value, finite = step(x, state, jnp.asarray(i))
        places.append(x)
        assert float(value) == pytest.approx(before, rel=1e-5)
        assert bool(finite)
    np.testing.assert_allclose(places, expected, atol=1e-4)


def test_adam_is_optax_under_the_same_schedule():
    solver = Adam(rate=0.1, b2=0.95, clip=1.0, warmup=3)
    schedule = optax.warmup_cosine_decay_schedule(0.01, 0.1, 3, 40, 0.001)
    for i in range(41):
        assert float(solver.rate_at(jnp.asarray(i), jnp.asarray(40))) == pytest.approx(
            float(schedule(i)), rel=1e-4
        )
    reference = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b2=0.95))
    loss = lambda x: (jnp.cosh(x["a"]) + x["b"] ** 4).sum()

    @jax.jit
    def both(x, ours, y, theirs, i):
        x, ours, _, _ = solver.step(loss, x, ours, i, jnp.asarray(40))
        updates, theirs = reference.update(jax.grad(loss)(y), theirs, y)
        return x, ours, optax.apply_updates(y, updates), theirs

    x = y = {"a": jnp.array([2.0, -1.0]), "b": jnp.array([0.5])}
    ours, theirs = solver.init(x), reference.init(y)
    for i in range(40):
        x, ours, y, theirs = both(x, ours, y, theirs, jnp.asarray(i))
    np.testing.assert_allclose(leaves(x), leaves(y), atol=1e-5)


def test_steps_that_are_not_finite_leave_parameters_and_moments_alone():
    solver = Adam(rate=0.1, warmup=0)
    loss = lambda x, bad: jnp.where(bad, jnp.nan, (x**2).sum())
    step = jax.jit(lambda x, state, i, bad: solver.step(lambda x: loss(x, bad), x, state, i, jnp.asarray(9)))
    x, state = jnp.array([1.0, 2.0]), solver.init(jnp.array([1.0, 2.0]))
    x, state, _, _ = step(x, state, jnp.asarray(0), False)
    same, same_state, _, finite = step(x, state, jnp.asarray(1), True)
    assert not bool(finite)
    np.testing.assert_array_equal(leaves((x, state)), leaves((same, same_state)))


def test_lbfgs_reaches_the_minimum_of_a_quadratic():
    @dataclass(frozen=True)
    class WithoutClock:
        def __call__(self, system, batch, *, key):
            return Distance()(eqx.tree_at(lambda s: s.clock, system, 0.0), batch, key=key)

    result = run(stage(objective=WithoutClock(), rule="distance", solver=LBFGS(), steps=30, chunk=15))
    np.testing.assert_allclose(result.system.place, ROWS.mean(0), atol=1e-4)
    assert result.history["held_out"][-1] == pytest.approx(0.5 * ROWS.var(0).sum(), abs=1e-4)


def test_lbfgs_keeps_the_start_where_the_objective_is_not_finite():
    result = run(stage(objective=Distance(share_nan=1.1), rule="distance", solver=LBFGS(), steps=5))
    np.testing.assert_array_equal(result.system.place, _draw_of(0).place)
    assert result.status is Status.NON_FINITE


def _draw_of(restart, seed=0):
    from identica.random import named_key

    return _draw(named_key(seed, "prepare", 0, restart))


# The loop -------------------------------------------------------------------------------------------


def test_minimising_finds_the_mean_and_reports_the_loss_of_each_chunk():
    result = run(stage(rule="distance", steps=300, chunk=1, solver=Adam(rate=0.2, warmup=10)))
    np.testing.assert_allclose(result.system.place, ROWS.mean(0), atol=2e-2)
    assert result.n_steps == 300
    history = result.history
    # With chunks of one step the loss is the objective before it: of the same rows, less the clock.
    assert history["loss"][1] == pytest.approx(history["held_out"][0], rel=1e-5)
    assert (history["loss"][2:] < history["held_out"][1:-1]).all()


@pytest.mark.parametrize("batch_size", [None, 16])
def test_how_steps_are_cut_into_chunks_changes_not_a_bit(batch_size):
    results = [
        run(stage(objective=Distance(noise=0.5), chunk=chunk, batch_size=batch_size, restarts=2))
        for chunk in (1, 7, 40)
    ]
    for other in results[1:]:
        np.testing.assert_array_equal(leaves(results[0].system), leaves(other.system))


def test_noise_and_batches_change_from_step_to_step_and_with_the_seed():
    one = run(stage(objective=Distance(noise=0.5), batch_size=16), seed=1)
    same = run(stage(objective=Distance(noise=0.5), batch_size=16), seed=1)
    other = run(stage(objective=Distance(noise=0.5), batch_size=16), seed=2)
    np.testing.assert_array_equal(leaves(one.system), leaves(same.system))
    assert not np.array_equal(leaves(one.system), leaves(other.system))
    losses = run(
        stage(prepare=lambda *_: Point(jnp.zeros(2), jnp.zeros(())), batch_size=16, chunk=1)
    ).history["loss"]
    assert len(np.unique(losses)) > 30


def test_a_restart_does_not_feel_how_many_others_there_are(monkeypatch):
    def histories(restarts):
        history = run(
            stage(objective=Distance(noise=0.5), rule="distance", batch_size=16, restarts=restarts)
        ).history
        return np.stack([history["held_out"][history["restart"] == r] for r in range(min(restarts, 5))])

    eight = histories(8)
    # Groups of four share one compiled function, so to the bit; a single one is compiled by itself.
    np.testing.assert_array_equal(histories(5), eight)
    np.testing.assert_allclose(histories(1), eight[:1], rtol=1e-5)
    monkeypatch.setattr(compiled.os, "cpu_count", lambda: 1)
    np.testing.assert_array_equal(histories(8), eight)
    assert len(np.unique(eight[:, 0])) == 5, "restarts start from different places"


def test_every_row_is_equally_often_in_a_batch():
    wrapped = compiled.wrap(Dataset(jnp.arange(N)[:, None], jnp.arange(N)), 16)
    counts = np.zeros(N)
    for offset in range(N):
        np.add.at(counts, np.asarray(wrapped.u[offset : offset + 16]), 1)
    assert (counts == 16).all()


def test_a_share_of_steps_that_fail_is_skipped():
    result = run(stage(objective=Distance(share_nan=0.3), rule="distance", steps=300, solver=Adam(rate=0.2)))
    np.testing.assert_allclose(result.system.place, ROWS.mean(0), atol=5e-2)
    assert np.isfinite(result.history["loss"][1:]).all()
    assert result.status in (Status.CONVERGED, Status.MAX_ITER)


def test_an_objective_that_is_never_finite_is_an_error_that_says_what_to_try():
    with pytest.raises(NonFiniteError, match=r"stage 'first' was not finite in any of 3 restart.*float64"):
        run(stage("first", rule="never", restarts=3))


def test_an_objective_that_stops_being_finite_keeps_what_was_and_says_so():
    result = run(stage(objective=Distance(share_nan=1.1), rule="distance"))
    assert result.status is Status.NON_FINITE
    np.testing.assert_array_equal(result.system.place, _draw_of(0).place)


def test_restarts_that_are_not_finite_are_named_and_lose():
    result = run(stage(rule="finite on the right", restarts=6, steps=2, chunk=1))
    starts = np.array([float(_draw_of(r).place[0]) for r in range(6)])
    assert (np.abs(starts) > 0.2).all(), "choose another seed: a start is too near the border"
    assert 0 < (starts > 0).sum() < 6
    expected = np.where(starts > 0, "converged", "non_finite").tolist()
    assert [r["status"] for r in result.restarts] == expected
    assert [r["seed"] for r in result.restarts] == list(range(6))
    assert float(result.system.place[0]) > 0


def test_patience_ends_a_stage_and_the_best_weights_come_back():
    result = run(
        stage(rule="best at clock 0.3", steps=400, chunk=5, patience=3, solver=Adam(rate=0.02, warmup=0))
    )
    held_out, steps = result.history["held_out"], result.history["step"]
    best = held_out.argmin()
    assert len(held_out) == best + 4, "three chunks without improvement"
    assert steps[-1] == result.n_steps < 400
    assert (float(result.system.clock) - 0.3) ** 2 == pytest.approx(held_out[best], abs=1e-9)
    assert held_out[-1] > held_out[best]


def test_without_patience_the_best_weights_come_back_as_well():
    result = run(stage(rule="best at clock 0.3", steps=60, chunk=5, solver=Adam(rate=0.02, warmup=0)))
    assert result.n_steps == 60
    assert (float(result.system.clock) - 0.3) ** 2 == pytest.approx(
        result.history["held_out"].min(), abs=1e-9
    )


def test_a_fit_that_still_improves_in_its_last_chunk_says_so():
    assert run(stage(rule="later is better", solver=Adam(rate=0.5))).status is Status.MAX_ITER
    assert run(stage(rule="later is better", solver=Adam(rate=1e-5))).status is Status.CONVERGED


def test_a_callback_that_returns_true_stops_and_later_stages_still_shape_the_system():
    seen, prepared = [], []

    def stop_at_second(progress):
        seen.append(progress)
        return len(seen) == 2

    def later(system, data, key):
        prepared.append(system)
        return Point(system.place + 100, system.clock)

    result = run(stage("first"), stage("second", prepare=later), callbacks=[stop_at_second])
    assert result.status is Status.STOPPED
    assert [p.step for p in seen] == [10, 20]
    assert result.n_steps == 20
    assert len(prepared) == 1
    np.testing.assert_allclose(result.system.place, prepared[0].place + 100, rtol=1e-6)


def test_only_true_stops():
    result = run(stage(), callbacks=[lambda progress: 1, lambda progress: "yes"])
    assert result.n_steps == 40


def test_progress_counts_rows_times_steps_up_to_one():
    seen = []
    run(
        stage("a", steps=20, restarts=2),
        stage("b", prepare=unchanged, steps=40, batch_size=10),
        callbacks=[seen.append],
    )
    assert [(p.name, p.stage, p.step) for p in seen] == [
        ("a", 0, 10), ("a", 0, 20), ("b", 1, 10), ("b", 1, 20), ("b", 1, 30), ("b", 1, 40),
    ]  # fmt: skip
    first, second = 20 * 2 * N, 40 * 10
    expected = [first / 2, first, *(first + second * k / 4 for k in (1, 2, 3, 4))]
    np.testing.assert_allclose([p.fraction for p in seen], np.array(expected) / (first + second))
    assert all(p.n_stages == 2 for p in seen)
    assert (np.diff([p.seconds for p in seen]) >= 0).all()


def test_history_has_one_entry_per_chunk_and_restart():
    result = run(stage("a", steps=25, restarts=3), stage("b", prepare=unchanged, steps=10))
    history = result.history
    assert {len(column) for column in history.values()} == {4 * 3 + 2}
    assert history["stage"].tolist() == ["a"] * 12 + ["b"] * 2
    assert history["step"].tolist() == [s for s in (0, 10, 20, 25) for _ in range(3)] + [0, 10]
    assert history["restart"].tolist() == [0, 1, 2] * 4 + [0, 0]
    assert np.isnan(history["loss"][history["step"] == 0]).all()
    assert np.isfinite(history["loss"][history["step"] > 0]).all()
    assert result.n_steps == 35


def test_the_best_go_on_in_order_and_are_dealt_round():
    received = []

    def note(system, data, key):
        received.append(float(system.place[0]))
        return system

    first = stage("a", restarts=4, keep=2, rule="distance")
    result = run(first, stage("b", prepare=note, restarts=3, rule="distance"))
    history = result.history
    last = history["step"] == 40
    ends = history["held_out"][last & (history["stage"] == "a")]
    starts = history["held_out"][(history["step"] == 0) & (history["stage"] == "b")]
    first_two = np.sort(ends)[:2]
    assert first_two[1] - first_two[0] > 1e-3
    np.testing.assert_allclose(starts, first_two[[0, 1, 0]], rtol=1e-5)
    assert received[0] == received[2] == float(run(first).system.place[0])
    assert received[1] != received[0]


def test_held_out_rows_choose_not_the_fitted_ones():
    elsewhere = Dataset(jnp.asarray(ROWS + 5))
    result = run(stage(rule="distance", steps=300, chunk=5, solver=Adam(rate=0.2)), held_out=elsewhere)
    history = result.history
    chosen = history["held_out"].argmin()
    distance = 0.5 * ((ROWS + 5 - np.asarray(result.system.place)) ** 2).sum(1).mean()
    assert distance == pytest.approx(history["held_out"][chosen], rel=1e-4)
    assert np.linalg.norm(result.system.place - ROWS.mean(0)) > 0.05


def test_a_second_fit_of_the_same_shape_compiles_nothing():
    one = stage(objective=Distance(noise=0.5), rule="distance", batch_size=16, restarts=5, steps=30)
    run(one, stage(prepare=unchanged, solver=LBFGS(), steps=3), seed=3)
    traced = []

    def listen(event, duration, **kwargs):
        if event == "/jax/core/compile/jaxpr_trace_duration":
            traced.append(kwargs.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        again = stage(
            objective=Distance(noise=0.5), rule="distance", batch_size=16, restarts=5, steps=50, chunk=20
        )
        result = run(again, stage(prepare=unchanged, solver=LBFGS(), steps=2), seed=4)
        counted = list(traced)
        jax.jit(lambda x: x + 1.25)(jnp.zeros(3))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert result.n_steps == 52
    assert len(traced) > len(counted), "the counter counts"
    assert counted == []


def test_restarts_remember_which_first_one_they_were_grown_from():
    first = stage("a", restarts=4, keep=2, rule="distance", solver=Adam(rate=1e-6), steps=1, chunk=1)
    second = stage("b", prepare=unchanged, restarts=5, rule="distance", steps=1, chunk=1)
    result = run(first, second)
    places = np.array([_draw_of(r).place for r in range(4)])
    nearest = np.argsort(((places - ROWS.mean(0)) ** 2).sum(1))[:2]
    assert [r["origin"] for r in result.restarts] == [int(nearest[i % 2]) for i in range(5)]
    assert [r["origin"] for r in run(first).restarts] == [0, 1, 2, 3]
    apart = replace(second, independent=True)
    assert [r["origin"] for r in run(first, apart).restarts] == [0, 1, 2, 3, 4]
    assert [r["origin"] for r in run(first, apart, replace(second, name="c")).restarts] == [0, 0, 0, 0, 0]


def test_what_the_last_stage_keeps_is_handed_on_best_first():
    result = run(stage(restarts=4, keep=2, rule="distance", solver=Adam(rate=1e-6), steps=1, chunk=1))
    places = np.array([np.asarray(system.place) for system in result.kept])
    distances = ((places - ROWS.mean(0)) ** 2).sum(1)
    every = np.array([_draw_of(r).place for r in range(4)])
    assert distances == pytest.approx(np.sort(((every - ROWS.mean(0)) ** 2).sum(1))[:2], rel=1e-3)
    assert result.system is result.kept[0]


def test_restarts_are_compared_where_a_stage_names_sources():
    told = stage("a", restarts=3, rule="distance", steps=1, chunk=1, sources=_rows_times_place)
    records = run(told).restarts
    best = min(records, key=lambda r: r["held_out"])
    assert best["agreement"] == pytest.approx(1.0)
    assert all("agreement" not in r for r in run(replace(told, sources=None)).restarts)


def _rows_times_place(system, rows):
    return rows.x * system.place


@pytest.mark.parametrize(
    ("held_out", "improving"),
    [
        ([3.0, 2.0, 1.0], True),
        ([3.0, 1.0, 0.98], False),
        # Back from a rise to above the best, which is older: no progress.
        ([0.6, 0.8, 0.7], False),
        ([0.6, np.inf, 0.7], False),
        ([0.6, np.nan, 0.3], True),
        ([1.0], False),
    ],
)
def test_progress_is_what_falls_below_all_before(held_out, improving):
    earlier = {"stage": 0, "held_out": [9.0, 9.0]}
    records = [earlier, *({"stage": 1, "held_out": [5.0, value]} for value in held_out)]
    assert still_improving(records, 1, 0.05) is improving
