"""Jobs in a database, SQLite and PostgreSQL alike: limits, fair claims, leases, deaths, the end."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from alembic import command
from serving import new_job
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import SQLAlchemyError

from kleinod.errors import InputError
from kleinod.server.job_queue import claims as claims_module
from kleinod.server.job_queue import processes
from kleinod.server.job_queue.api_keys import Keys
from kleinod.server.job_queue.claims import Claims, Outcome, Terms
from kleinod.server.job_queue.database import Database, migration_config
from kleinod.server.job_queue.job import JobStatus, LimitReached, QueueFull, StoredImage
from kleinod.server.job_queue.store import JobStore, Limits
from kleinod.server.job_queue.tables import JobRow, WebhookRow, WorkerRow

TERMS = Terms(lease_seconds=20, max_attempts_alone=2, result_seconds=100)
IMAGE = StoredImage("results/x/0.png", 7, 64, 64, "png")
READY = Outcome(JobStatus.READY, results=(IMAGE,))


@pytest.fixture
def store(database: Database) -> JobStore:
    return _store(database)


def _store(database: Database, *, queue: int = 100, running: int = 24, rate: int = 100) -> JobStore:
    limits = Limits(
        max_queue=queue, key_concurrency=running, key_requests_per_minute=rate, result_seconds=100
    )
    return JobStore(database, limits)


def _worker(database: Database) -> Claims:
    worker = Claims(database, TERMS, ("mini",))
    worker.register()
    return worker


def _kill(database: Database, worker: Claims) -> None:
    """The worker's process has ended without a word: no process has this number and beginning."""
    with database.writing() as session:
        session.execute(
            update(WorkerRow).where(WorkerRow.id == worker.worker_id).values(process="1 never")
        )


def _wait(database: Database, seconds: float) -> None:
    """As if all jobs had gone back to the queue so much earlier."""
    with database.writing() as session:
        for row in session.scalars(select(JobRow)):
            row.queued_at -= timedelta(seconds=seconds)


@pytest.fixture
def other(database: Database, store: JobStore) -> Callable[[], list[str]]:
    """Lets a new worker bury the dead and tells which jobs ended by that."""
    return lambda: [job.id for job in _worker(database).bury().ended]


def test_migrations_make_the_tables_of_the_models(database: Database) -> None:
    config = migration_config()
    with database.engine.connect() as connection, connection.begin():
        config.attributes["connection"] = connection
        command.check(config)  # raises if a migration is missing


def test_migrations_can_be_taken_back_and_made_again(database: Database) -> None:
    config = migration_config()
    with database.engine.connect() as connection, connection.begin():
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    database.migrate()
    assert _store(database).counts() == {}


def test_servers_that_start_at_once_migrate_once(database_url: str) -> None:
    databases = [Database(database_url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(Database.migrate, databases))
    assert _store(databases[0]).counts() == {}
    for one in databases:
        one.close()


def test_job_comes_back_as_it_was_accepted(store: JobStore) -> None:
    new = new_job("a fox 🦊 \0 end", request={"seed": 2**62})
    job = store.job(store.add(new).id)
    assert job is not None and job.request == new.request and job.status is JobStatus.PENDING
    assert abs(job.created_at - datetime.now(UTC)) < timedelta(seconds=60)


def test_another_keys_job_is_no_job(store: JobStore) -> None:
    job = store.add(new_job(key_id="mine"))
    assert store.job(job.id, "mine") is not None
    assert store.job(job.id, "other") is None
    assert store.cancel(job.id, "other") is None
    assert store.job(job.id, "") is None


def test_job_with_references_is_unseen_until_they_are_stored(
    database: Database, store: JobStore
) -> None:
    job = store.add(new_job(references=(b"x",)))
    assert store.job(job.id) is None and _worker(database).take(8) == []
    store.open(job.id)
    assert [claim.num_references for claim in _worker(database).take(8)] == [1]


def test_full_queue_refuses_and_says_when(database: Database) -> None:
    store = _store(database, queue=2)
    store.add(new_job())
    store.add(new_job())
    with pytest.raises(QueueFull, match="2 jobs wait") as refused:
        store.add(new_job())
    assert 1 <= refused.value.retry_after_seconds <= 60


def test_key_may_have_so_many_unfinished_jobs(database: Database) -> None:
    store = _store(database, running=2)
    first = store.add(new_job(key_id="a"))
    store.add(new_job(key_id="a"))
    with pytest.raises(LimitReached, match="limit of 2"):
        store.add(new_job(key_id="a"))
    store.add(new_job(key_id="b"))
    store.cancel(first.id, "a")
    store.add(new_job(key_id="a"))


def test_keys_own_limit_goes_before_the_servers(database: Database) -> None:
    key = Keys(database).create("big", max_concurrent=3).record
    store = _store(database, running=1)
    for _ in range(3):
        store.add(new_job(key_id=key.id))
    with pytest.raises(LimitReached, match="limit of 3"):
        store.add(new_job(key_id=key.id))


def test_key_may_bring_so_many_jobs_a_minute(database: Database) -> None:
    store = _store(database, rate=2)
    for _ in range(2):
        store.cancel(store.add(new_job(key_id="a")).id, "a")
    with pytest.raises(LimitReached, match="within a minute") as refused:
        store.add(new_job(key_id="a"))
    assert 50 <= refused.value.retry_after_seconds <= 60
    with database.writing() as session:
        session.execute(update(JobRow).values(created_at=datetime.now(UTC) - timedelta(minutes=2)))
    store.add(new_job(key_id="a"))


def test_concurrent_jobs_of_a_key_never_pass_its_limit(database: Database) -> None:
    key = Keys(database).create("many", max_concurrent=5).record
    store = _store(database)

    def add(_: int) -> bool:
        try:
            store.add(new_job(key_id=key.id))
        except LimitReached:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(add, range(20))) == 5


def test_claims_take_turns_between_keys(database: Database, store: JobStore) -> None:
    for key in "aaaaabb":
        store.add(new_job(key_id=key))
    worker = _worker(database)
    assert sorted(claim.job.key_id for claim in worker.take(4)) == ["a", "a", "b", "b"]
    store.add(new_job(key_id="c"))
    assert [claim.job.key_id for claim in worker.take(1)] == ["c"]


def test_no_job_is_taken_twice(database: Database, store: JobStore) -> None:
    ids = {store.add(new_job()).id for _ in range(40)}
    workers = [_worker(database) for _ in range(4)]

    def drain(worker: Claims) -> list[str]:
        return [claim.job.id for _ in range(20) for claim in worker.take(3)]

    with ThreadPoolExecutor(4) as pool:
        taken = [job_id for one in pool.map(drain, workers) for job_id in one]
    assert sorted(taken) == sorted(ids)


def test_result_counts_once_and_only_for_its_worker(database: Database, store: JobStore) -> None:
    job = store.add(new_job())
    first, second = _worker(database), _worker(database)
    first.take(1)
    assert second.end(job.id, READY) is None
    ended = first.end(job.id, READY)
    assert ended is not None and ended.status is JobStatus.READY and ended.results == (IMAGE,)
    assert first.end(job.id, Outcome(JobStatus.FAILED, error="late")) is None


def test_job_of_a_dead_process_waits_again(
    database: Database, store: JobStore, other: Callable[[], list[str]]
) -> None:
    jobs = [store.add(new_job()) for _ in range(2)]
    worker = _worker(database)
    worker.take(2)
    assert other() == [] and store.counts() == {"running": 2}  # it lives: it is this process
    _kill(database, worker)
    assert other() == [] and store.counts() == {"pending": 2}
    assert worker.end(jobs[0].id, READY) is None, "the dead one's result came back"


def test_job_of_a_silent_server_elsewhere_waits_again(
    database: Database, store: JobStore, other: Callable[[], list[str]]
) -> None:
    store.add(new_job())
    worker = _worker(database)
    worker.take(1)
    own = update(WorkerRow).where(WorkerRow.id == worker.worker_id)
    with database.writing() as session:
        session.execute(own.values(machine="elsewhere", process="1 never"))
    other()
    assert store.counts() == {"running": 1}
    with database.writing() as session:
        session.execute(own.values(lease_until=datetime.now(UTC) - timedelta(seconds=1)))
    other()
    assert store.counts() == {"pending": 1}
    assert not worker.beat({}).is_alive
    assert worker.take(1) == [], "a buried worker took a job that nobody would ever get back"


def test_suspects_run_alone_and_after_the_others(
    database: Database, store: JobStore, other: Callable[[], list[str]]
) -> None:
    for _ in range(3):
        store.add(new_job("suspect"))
    worker = _worker(database)
    worker.take(3)
    _kill(database, worker)
    other()
    store.add(new_job("fresh"))
    second = _worker(database)
    assert [claim.job.request["prompt"] for claim in second.take(8)] == ["fresh"]
    assert not second.is_suspect_due()
    assert [claim.is_suspect for claim in second.take_suspect()] == [True]


def test_suspect_that_waited_long_is_due(
    database: Database, store: JobStore, other: Callable[[], list[str]]
) -> None:
    for _ in range(2):
        store.add(new_job())
    worker = _worker(database)
    worker.take(2)
    _kill(database, worker)
    other()
    assert not _worker(database).is_suspect_due()
    _wait(database, claims_module.SUSPECT_WAIT_SECONDS + 1)
    assert _worker(database).is_suspect_due()


def test_job_that_was_alone_at_a_death_pauses_and_comes_last(
    database: Database, store: JobStore, other: Callable[[], list[str]]
) -> None:
    ids = []
    for count in (1, 2):
        ids += [store.add(new_job()).id for _ in range(count)]
        worker = _worker(database)
        worker.take(count)
        _kill(database, worker)
        other()
    worker = _worker(database)
    order = [claim.job.id for _ in range(3) for claim in worker.take_suspect()]
    assert sorted(order) == sorted(ids[1:]), "the one that was alone is still in its pause"
    _wait(database, claims_module.ALONE_PAUSE_SECONDS + 1)
    assert not worker.is_suspect_due()
    _wait(database, claims_module.ALONE_WAIT_SECONDS)
    assert worker.is_suspect_due()
    assert [claim.job.id for claim in worker.take_suspect()] == ids[:1]


def test_job_that_kills_the_process_twice_fails(
    database: Database, store: JobStore, other: Callable[[], list[str]]
) -> None:
    job = store.add(new_job())
    for take in (lambda worker: worker.take(1), lambda worker: worker.take_suspect()):
        worker = _worker(database)
        take(worker)
        _kill(database, worker)
        ended = other()
        _wait(database, claims_module.ALONE_PAUSE_SECONDS + 1)
    assert ended == [job.id]
    failed = store.job(job.id)
    assert failed is not None and failed.status is JobStatus.FAILED and failed.attempts == 2
    assert "died 2 times" in str(failed.error)


def test_bystanders_of_deaths_do_not_fail(
    database: Database, store: JobStore, other: Callable[[], list[str]]
) -> None:
    killer, bystander = store.add(new_job("killer")), store.add(new_job("bystander"))
    worker = _worker(database)
    worker.take(2)
    _kill(database, worker)
    other()
    while not store.counts().get("failed"):
        worker = _worker(database)
        (claim,) = worker.take_suspect()
        if claim.job.id == killer.id:
            _kill(database, worker)
            other()
            _wait(database, claims_module.ALONE_PAUSE_SECONDS + 1)
        else:
            worker.end(claim.job.id, READY)
    states = [store.job(job.id) for job in (killer, bystander)]
    assert [job and job.status for job in states] == [JobStatus.FAILED, JobStatus.READY]


def test_given_back_jobs_keep_their_place_and_name(database: Database, store: JobStore) -> None:
    first, _ = store.add(new_job()), store.add(new_job())
    worker = _worker(database)
    worker.take(1)
    worker.give_back([first.id])
    (again,) = worker.take(1)
    assert again.job.id == first.id and not again.is_suspect


def test_heartbeat_keeps_progress_and_hears_of_cancelling(
    database: Database, store: JobStore
) -> None:
    job = store.add(new_job(key_id="a"))
    worker = _worker(database)
    worker.take(1)
    assert worker.beat({job.id: 0.5}).cancelled == ()
    seen = store.job(job.id)
    assert seen is not None and seen.progress == 0.5
    assert store.cancel(job.id, "a") is not None
    assert worker.beat({}).cancelled == (job.id,)
    ended = worker.end(job.id, READY)
    assert ended is not None and ended.status is JobStatus.CANCELLED and ended.results == ()


def test_waiting_job_is_cancelled_at_once(database: Database, store: JobStore) -> None:
    job = store.add(new_job())
    cancelled = store.cancel(job.id, "")
    assert cancelled is not None and cancelled.status is JobStatus.CANCELLED
    assert store.cancel(job.id, "") is None and _worker(database).take(1) == []


def test_end_owes_the_webhook_in_the_same_transaction(database: Database, store: JobStore) -> None:
    job = store.add(new_job(webhook_url="https://example.com/hook"))
    worker = _worker(database)
    worker.take(1)
    worker.end(job.id, READY)
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(WebhookRow)) == 1


def test_old_jobs_expire_and_unfinished_do_not(database: Database, store: JobStore) -> None:
    old, _ = store.add(new_job("old")), store.add(new_job("waiting"))
    store.add(new_job(references=(b"x",)))
    worker = _worker(database)
    worker.take(1)
    worker.end(old.id, READY)
    assert store.expired() == []
    past = datetime.now(UTC) - timedelta(days=2)
    with database.writing() as session:
        session.execute(update(JobRow).values(expires_at=past, created_at=past))
    expired = store.expired()
    assert len(expired) == 2 and old.id in expired  # it, and the one that was never opened
    store.remove(expired)
    assert store.counts() == {"pending": 1}


def test_shared_secret_is_made_once(database: Database) -> None:
    stores = [_store(database) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        secrets = set(pool.map(lambda store: store.secret("urls"), stores))
    assert len(secrets) == 1 and len(secrets.pop()) == 32


def test_errors_of_the_database_hold_no_prompts(database: Database, store: JobStore) -> None:
    with database.engine.connect() as connection, connection.begin():
        connection.execute(text("DROP TABLE jobs"))
    with pytest.raises(SQLAlchemyError) as failed:
        store.add(new_job("a secret fox", webhook_secret="geheim"))
    assert "jobs" in str(failed.value)
    assert "secret fox" not in str(failed.value) and "geheim" not in str(failed.value)


def test_wrong_database_url_is_one_line() -> None:
    for url in ("nonsense", "mysql://x", "sqlite://", "sqlite:////proc/none/x.db"):
        with pytest.raises(InputError, match="database_url") as refused:
            Database(url).migrate()
        assert "\n" not in str(refused.value)


def test_processes_are_told_apart() -> None:
    own = processes.process()
    assert not processes.is_dead(own) and processes.machine() == processes.machine()
    number = own.split()[0]
    assert processes.is_dead(f"{number} 1"), "another process had this number before"
    assert processes.is_dead("4194300 5")
