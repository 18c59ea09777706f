"""Who runs which trial, and which trials count: on a journal, as several processes would see it."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from optuna.trial import TrialState

from toolkit.errors import UsageError
from toolkit.tune import ledger as ledgers
from toolkit.tune.ledger import INTERRUPTED, LOST, open_ledger
from toolkit.tune.space import suggest
from toolkit.tune.storage import open_storage

SETUP = {"preset": "default", "epochs": 3}


@pytest.fixture
def journal(tmp_path):
    return str(tmp_path / "study.journal")


def ledger(journal, places=3, seed=0):
    """A ledger on a storage of its own, as in another process."""
    return open_ledger(open_storage(journal, make=True), "s", SETUP, places, seed)


def finish(mine, claim, value=0.5):
    parameters = suggest(claim.trial)
    mine.study.tell(claim.trial, value)
    return parameters


def completed(mine):
    return [trial for trial in mine.trials() if trial.state == TrialState.COMPLETE]


def run_all(mine):
    """Run trials until there is none left; return their parameters and seeds in order."""
    done = []
    while claim := mine.claim("w"):
        # A score that depends on the parameters alone.
        parameters = suggest(claim.trial)
        mine.study.tell(claim.trial, -parameters["reg_lambda"] - abs(parameters["dropout_main"]))
        done.append((parameters, claim.seed))
    return done


def test_a_study_has_room_for_its_trials_and_no_more(journal):
    mine = ledger(journal)
    for _ in range(3):
        finish(mine, mine.claim("w"))
    assert mine.claim("w") is None
    assert mine.complete()


def test_more_trials_can_be_asked_for_later(journal):
    run_all(ledger(journal, places=2))
    more = ledger(journal, places=5)
    assert not more.complete()
    run_all(more)
    assert len(completed(more)) == 5


def test_many_that_claim_at_once_never_take_more_places_than_there_are(journal):
    many = [ledger(journal, places=5) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        claims = [each for each in pool.map(lambda one: one.claim("w"), many) if each]
    assert len(claims) == 5
    assert len({claim.trial.number for claim in claims}) == 5
    assert len({claim.seed for claim in claims}) == 5
    assert not many[0].claim("w")


def test_a_lost_trial_is_run_again_once_with_its_parameters_and_seed(journal):
    mine, other = ledger(journal), ledger(journal)
    lost = mine.claim("dead")
    parameters = suggest(lost.trial)
    assert other.give_up_worker("dead", LOST) == [0]
    retry = other.claim("w")
    assert finish(other, retry) == parameters
    assert retry.seed == lost.seed
    again = other.claim("dead")
    suggest(again.trial)
    other.give_up_worker("dead", LOST)
    retried = other.claim("dead")
    other.give_up_worker("dead", LOST)
    assert retried.trial.number + 1 == len(other.trials())
    # Lost twice, it keeps its place: something is wrong with it.
    assert other.trials()[-1].user_attrs[ledgers.FAILURE] == ledgers.LOST_AGAIN
    finish(other, other.claim("w"))
    assert other.claim("w") is None
    assert len(completed(other)) == 2


def test_a_trial_begun_while_another_is_given_up_has_a_seed_of_its_own(journal, monkeypatch):
    mine, other = ledger(journal, places=4), ledger(journal, places=4)
    claims = [mine.claim(f"w{index}") for index in range(3)]
    enqueue = other.study.enqueue_trial

    def late(*arguments, **options):
        claims.append(mine.claim("w3"))
        enqueue(*arguments, **options)

    monkeypatch.setattr(other.study, "enqueue_trial", late)
    assert other.give_up_worker("w0", LOST) == [0]
    claims.append(mine.claim("w4"))
    *others, retry = (claim.seed for claim in claims)
    assert retry == others[0]
    assert len(set(others)) == 4


def test_a_trial_lost_before_its_seed_was_written_has_one_of_its_own(journal):
    mine = ledger(journal, places=4)
    first = mine.claim("w")
    lost = mine.study.ask()
    third = mine.claim("w")
    assert mine.give_up(mine.trials()[lost.number], LOST)
    retry, fourth = mine.claim("w"), mine.claim("w")
    assert len({first.seed, third.seed, retry.seed, fourth.seed}) == 4


def test_an_interrupted_trial_is_run_again_however_often(journal):
    mine = ledger(journal, places=1)
    parameters = []
    for _ in range(4):
        claim = mine.claim("w")
        parameters.append(suggest(claim.trial))
        assert mine.give_up_worker("w", INTERRUPTED) == [claim.trial.number]
    parameters.append(finish(mine, mine.claim("w")))
    assert all(each == parameters[0] for each in parameters)
    assert mine.complete() and len(completed(mine)) == 1


def test_a_trial_that_failed_by_itself_keeps_its_place(journal):
    mine = ledger(journal, places=1)
    claim = mine.claim("w")
    claim.trial.set_user_attr(ledgers.FAILURE, "diverged")
    mine.study.tell(claim.trial, state=TrialState.FAIL)
    assert mine.complete()
    assert mine.claim("w") is None


def test_of_several_that_give_a_trial_up_one_is_told_so(journal):
    mine, other = ledger(journal), ledger(journal)
    mine.claim("w")
    running = mine.trials()[0]
    assert [each.give_up(running, LOST) for each in (mine, other)] == [True, False]
    assert [trial.state for trial in mine.trials()].count(TrialState.WAITING) == 1


def test_a_finished_trial_is_never_given_up(journal):
    mine, other = ledger(journal), ledger(journal)
    claim = mine.claim("w")
    running = other.trials()[0]
    finish(mine, claim)
    assert not other.give_up(running, LOST)
    assert len(other.trials()) == 1 == len(completed(other))


def test_silence_makes_a_trial_stale_and_a_heartbeat_does_not(journal, monkeypatch):
    mine, other = ledger(journal), ledger(journal)
    now = [1000.0]
    monkeypatch.setattr(ledgers.time, "monotonic", lambda: now[0])
    silent, alive = mine.claim("a"), mine.claim("b")
    for beat in range(5):
        assert other.give_up_stale(60) == []
        alive.trial.set_user_attr(ledgers.HEARTBEAT, beat)
        now[0] += 14
    assert other.give_up_stale(60) == [silent.trial.number]


def test_an_interrupted_study_comes_to_the_trials_of_an_unbroken_one(journal, tmp_path):
    unbroken = run_all(ledger(journal, places=25))
    broken = str(tmp_path / "broken.journal")
    resumed = []
    for _ in range(6):
        mine = ledger(broken, places=25)
        for _ in range(4):
            claim = mine.claim("w")
            parameters = suggest(claim.trial)
            value = -parameters["reg_lambda"] - abs(parameters["dropout_main"])
            mine.study.tell(claim.trial, value)
            resumed.append((parameters, claim.seed))
        suggest(mine.claim("w").trial)
        mine.give_up_worker("w", INTERRUPTED)
    resumed += run_all(ledger(broken, places=25))
    assert resumed == unbroken
    assert len({seed for _, seed in unbroken}) == 25


def test_another_seed_gives_other_trials(journal, tmp_path):
    other = ledger(str(tmp_path / "other.journal"), seed=1)
    assert run_all(ledger(journal)) != run_all(other)


@pytest.mark.parametrize("change", [{"epochs": 4}, {"preset": "study"}])
def test_a_study_does_not_go_on_with_another_setup(journal, change):
    ledger(journal)
    storage = open_storage(journal, make=True)
    with pytest.raises(UsageError, match=f"{next(iter(change))} was"):
        open_ledger(storage, "s", SETUP | change, 3, 0)


def test_a_study_of_another_program_is_left_alone(journal):
    import optuna

    storage = open_storage(journal, make=True)
    theirs = optuna.create_study(storage=storage, study_name="s")
    theirs.tell(theirs.ask(), 1.0)
    with pytest.raises(UsageError, match="not made by"):
        ledger(journal)


def test_an_unknown_study_is_named_with_those_that_are_there(journal):
    ledger(journal)
    with pytest.raises(UsageError, match="'nope': there are s"):
        ledgers.find_study(open_storage(journal, make=False), "nope")


def test_the_sampler_is_the_studys():
    chosen = ledgers.sampler(0)
    assert chosen._multivariate is False
    assert chosen._constant_liar is False
