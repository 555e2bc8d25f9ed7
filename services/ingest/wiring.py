"""What is each role of ingest made of? SHELL: settings and ports in, wired objects out; called by `__main__` alone."""

import time
from dataclasses import dataclass
from functools import partial

from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from fastapi import APIRouter

from services.ingest.admission.admission import Admission
from services.ingest.admission.group_log import GroupLog, Held, TakeOver
from services.ingest.admission.intake_record import IntakeRules
from services.ingest.admission.part_steps import PartSteps
from services.ingest.admission.stored_parts import StoredParts
from services.ingest.admission.topic_batches import TopicBatches
from services.ingest.api.batches import BatchesApi
from services.ingest.api.events import EventsApi
from services.ingest.api.files import FilesApi
from services.ingest.api.gate import Gate
from services.ingest.api.lines import LinesApi
from services.ingest.api.models import ModelsApi
from services.ingest.api.results import ResultsApi
from services.ingest.api.schemas import SchemasApi
from services.ingest.api.uploads import UploadsApi
from services.ingest.api.workers import WorkersApi
from services.ingest.batch_intake import BatchIntake
from services.ingest.batch_retry import BatchRetry
from services.ingest.batch_shape import BatchShape
from services.ingest.dispatcher import Dispatcher
from services.ingest.file_keeper import FileKeeper
from services.ingest.idempotency import Idempotency
from services.ingest.input_checks import InputChecks
from services.ingest.limits import TenantLimits
from services.ingest.line_story import LineStories
from services.ingest.live_results import LiveResults
from services.ingest.log_writer import LogWriter
from services.ingest.lookup import Lookup
from services.ingest.model_pools import ModelPools
from services.ingest.ownership import Ownership
from services.ingest.pool_queues import PoolQueues
from services.ingest.quota import Quota
from services.ingest.rate_limiter import RateLimiter
from services.ingest.read_model import ReadModel
from services.ingest.sealing import Sealing
from services.ingest.settings import IngestSettings
from services.ingest.uploads import Uploads
from services.ingest.validation import Validation
from services.ingest.view_feed import ViewFeed
from shared.claim_store import ClaimStore
from shared.kafka import work_options
from shared.log_reader import LogReader
from shared.object_store import ObjectStore
from shared.openai_batch import ENDPOINTS
from shared.publisher import Publisher
from shared.replies import Replies
from shared.telemetry import Telemetry
from shared.topics import RECORD_BYTES_MAX, Topics

# The largest record of the intake: what a record may have, without its headers.
INTAKE_BYTES_MAX = RECORD_BYTES_MAX - 16 * 1024


@dataclass(frozen=True)
class Ports:
    """What reaches out of the process, and the view of the log that all roles share."""

    store: ObjectStore
    claims: ClaimStore
    log_id: str
    publisher: Publisher
    telemetry: Telemetry
    view: ReadModel
    feed: ViewFeed
    ownership: Ownership
    queues: PoolQueues


@dataclass(frozen=True)
class Roles:
    """What the API, the dispatcher and the housekeeping are made of; each part is there once."""

    log_writer: LogWriter
    lookup: Lookup
    limits: TenantLimits
    quota: Quota
    pools: ModelPools
    checks: InputChecks
    keeper: FileKeeper
    uploads: Uploads
    idempotency: Idempotency


def make_roles(s: IngestSettings, topics: Topics, ports: Ports) -> Roles:
    """What the API and the dispatcher share."""
    log_writer = LogWriter(topics, ports.publisher, ports.feed)
    limits = TenantLimits(s.ingest.limits, s.ingest.tenant_limits)
    quota, pools = Quota(ports.view, limits), ModelPools(s.models, ports.view, s.ingest.worker_silence_s)
    keeper = FileKeeper(
        view=ports.view,
        store=ports.store,
        log_writer=log_writer,
        batch_file_expires_after_s=s.ingest.batch_file_expires_after_s,
        telemetry=ports.telemetry,
    )
    return Roles(
        log_writer=log_writer,
        lookup=Lookup(ports.view, ports.feed, ports.store),
        limits=limits,
        quota=quota,
        pools=pools,
        checks=InputChecks(s.ingest, s.contract, pools, quota),
        keeper=keeper,
        uploads=Uploads(ports.store, keeper),
        idempotency=Idempotency(ports.store),
    )


def make_routers(s: IngestSettings, topics: Topics, ports: Ports, roles: Roles) -> list[APIRouter]:
    """The routes of the API."""
    rates = RateLimiter()
    files, batches, models = (
        Gate(
            view=ports.view,
            feed=ports.feed,
            limits=roles.limits,
            rate_limiter=rates,
            resource=name,
            telemetry=ports.telemetry,
        )
        for name in ("files", "batches", "models")
    )
    files_api = FilesApi(
        settings=s.ingest,
        lookup=roles.lookup,
        store=ports.store,
        keeper=roles.keeper,
        quota=roles.quota,
        checks=roles.checks,
        gate=files,
    )
    uploads_api = UploadsApi(settings=s.ingest, uploads=roles.uploads, store=ports.store, quota=roles.quota, gate=files)
    shape = BatchShape(ports.view, s.contract, s.ingest.worker_silence_s)
    intake = BatchIntake(
        store=ports.store,
        view=ports.view,
        feed=ports.feed,
        log_writer=roles.log_writer,
        idempotency=roles.idempotency,
        telemetry=ports.telemetry,
    )
    batches_api = BatchesApi(
        settings=s.ingest,
        contract=s.contract,
        view=ports.view,
        lookup=roles.lookup,
        store=ports.store,
        log_writer=roles.log_writer,
        intake=intake,
        retry=BatchRetry(ports.store, roles.keeper),
        shape=shape,
        quota=roles.quota,
        gate=batches,
    )
    live_results = LiveResults(store=ports.store, view=ports.view, topics=topics, log_id=ports.log_id)
    results_api = ResultsApi(lookup=roles.lookup, results=live_results, gate=batches)
    stories = LineStories(
        store=ports.store,
        topics=topics,
        log_id=ports.log_id,
        new_reader=lambda: LogReader(s.kafka),
        telemetry=ports.telemetry,
        trace_url=s.telemetry.trace_url,
    )
    lines_api = LinesApi(lookup=roles.lookup, stories=stories, gate=batches)
    models_api = ModelsApi(pools=roles.pools, gate=models)
    workers_api = WorkersApi(view=ports.view, silence_s=s.ingest.worker_silence_s, gate=models)
    events_api = EventsApi(
        view=ports.view, lookup=roles.lookup, shape=shape, workers=workers_api, batches=batches, models=models
    )
    of_batches = (batches_api, results_api, lines_api, events_api)
    apis = (files_api, uploads_api, *of_batches, models_api, workers_api, SchemasApi())
    return [api.router() for api in apis]


def make_dispatcher(s: IngestSettings, topics: Topics, ports: Ports, roles: Roles) -> Dispatcher:
    """The dispatcher."""
    return Dispatcher(
        settings=s.ingest,
        topics=topics,
        view=ports.view,
        feed=ports.feed,
        ownership=ports.ownership,
        store=ports.store,
        claims=ports.claims,
        publisher=ports.publisher,
        queues=ports.queues,
        pools=roles.pools,
        validation=Validation(
            checks=roles.checks,
            concurrency=s.ingest.validate_concurrency,
            store=ports.store,
            topics=topics,
            publisher=ports.publisher,
            feed=ports.feed,
            telemetry=ports.telemetry,
        ),
        sealing=Sealing(
            store=ports.store,
            topics=topics,
            publisher=ports.publisher,
            view=ports.view,
            feed=ports.feed,
            keeper=roles.keeper,
        ),
        telemetry=ports.telemetry,
    )


def make_admission(s: IngestSettings, topics: Topics, ports: Ports, roles: Roles) -> Admission:
    """Admission."""
    kafka, block = s.kafka, s.ingest.intake
    names = [topics.intake.name, *block.tenant_topics, topics.admitted.name, topics.batch_events.name]

    def new_consumer() -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            **work_options(kafka),
            group_id=topics.admission_group,
            group_instance_id=s.ingest.instance_id or None,
            auto_offset_reset="earliest",
            isolation_level="read_committed",  # what a producer took back is not there
            partition_assignment_strategy=(StickyPartitionAssignor,),
        )

    def new_log(take_over: TakeOver, held: Held) -> GroupLog:
        return GroupLog(settings=kafka, topics=names, new_consumer=new_consumer, take_over=take_over, held=held)

    steps = PartSteps(
        window_s=s.ingest.completion_window_s,
        topics=topics,
        view=ports.view,
        parts=StoredParts(ports.store),
        log_writer=roles.log_writer,
        quota=roles.quota,
        replies=Replies(topics, ports.publisher),
        telemetry=ports.telemetry,
    )
    return Admission(
        settings=block,
        topics=topics,
        rules_of=partial(_rules_of, s, ports, roles),
        limits=roles.limits,
        new_log=new_log,
        new_reader=lambda: LogReader(kafka),
        batches=TopicBatches(
            lines_max=block.batch_lines_max, topics=topics, view=ports.view, feed=ports.feed, steps=steps
        ),
        claims=ports.claims,
        publisher=ports.publisher,
        telemetry=ports.telemetry,
    )


def _rules_of(s: IngestSettings, ports: Ports, roles: Roles, topic: str) -> IntakeRules:
    """What holds for records of a topic now: settings, and what live workers offer."""
    block = s.ingest
    intake = block.intake
    return IntakeRules(
        tenant=intake.tenant_topics.get(topic, intake.tenant),
        believes_tenant_header=intake.believe_tenant_header and topic not in intake.tenant_topics,
        reply_topics=frozenset(intake.reply_topics),
        line_bytes_max=INTAKE_BYTES_MAX,
        window_s=block.completion_window_s,
        window_s_max=block.completion_window_s_max,
        endpoints=frozenset(ENDPOINTS) | ports.view.endpoints_alive(int(time.time() * 1000), block.worker_silence_s),
        pool_of=roles.pools.pool_of,
        free_windows=s.contract.windows == "free",
    )
