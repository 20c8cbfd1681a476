"""Checks of Redis: a single server, or each primary and replica of a cluster."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from backend.domain.errors import EngineDown, InstaChatError
from backend.domain.plurals import counted
from backend.domain.shards_away import format_shards
from backend.monitoring.checks import CheckResult, Severity, error_result, ok_result
from backend.monitoring.durability import (
    STRICT_REDIS,
    find_wrong_settings,
    format_node,
)
from backend.settings import Durability, Settings
from backend.storage.redis.errors import RedisError
from backend.storage.redis.keys import shard_slot
from backend.storage.redis.log import Log
from backend.storage.redis.memory import NodeMemory
from backend.storage.redis.nodes import SLOTS, NodeReport
from backend.storage.redis.readiness import MAX_MEMORY_SHARE
from backend.storage.versions import parse_version

MIN_REDIS_VERSION = (7, 0)
MAX_CLOCK_SKEW_SECONDS = 1.0  # a worker counts as stopped after three seconds without a heartbeat
MAX_REPLICA_LAG_SECONDS = 10
_SETTINGS = (*STRICT_REDIS, "min-replicas-to-write", "cluster-require-full-coverage")


class RedisNodes(NamedTuple):
    """The results of `check_nodes`; without `reports`, Redis can't be used."""

    results: list[CheckResult]
    reports: list[NodeReport]

    @property
    def answering(self) -> list[NodeReport]:
        """The nodes that answer."""
        return [report for report in self.reports if not report.problem]


def check_nodes(log: Log) -> RedisNodes:
    """Ask each node, and check that it answers and is recent enough."""
    try:
        if not log.is_cluster:
            log.ping()
        reports = log.node_reports(_SETTINGS)
    except InstaChatError as error:
        return RedisNodes([error_result("Redis", error)], [])
    nodes = RedisNodes([], reports)
    nodes.results.extend(_check_versions(log, nodes))
    nodes.results.extend(_check_silent_nodes(nodes))
    return nodes


def _check_versions(log: Log, redis: RedisNodes) -> Iterator[CheckResult]:
    answering, total = redis.answering, len(redis.reports)
    refusing = [report for report in answering if report.info is None]
    if refusing:
        yield CheckResult(
            "Redis",
            Severity.ERROR,
            f"Redis refuses INFO, which accept needs{_on(refusing, answering)}:"
            f" {refusing[0].refusal}",
            "permit INFO for its user: ACL SETUSER … +info",
        )
    found = Counter(_product(report) for report in answering if report.info is not None)
    for product, count in found.items():
        nodes = "" if total == 1 else f", {count} of {total} nodes"
        yield ok_result("Redis", f"{product} answers{nodes}")
    old = [report for report in answering if report.info and _version(report) < MIN_REDIS_VERSION]
    if old:
        yield CheckResult(
            "Redis",
            Severity.ERROR,
            f"{_product(old[0])} answers{_on(old, answering)}; this program needs Redis 7.0, or any"
            " Valkey",
            "upgrade the server",
        )
    if log.replica_wait:
        for report in answering:
            try:
                log.replica_wait.check_version(report.info or {"redis_version": "9"})
            except EngineDown as error:
                yield CheckResult("Redis", Severity.ERROR, error.message, error.hint)
                break


def _check_silent_nodes(nodes: RedisNodes) -> Iterator[CheckResult]:
    """Nodes without shards; `check_shards` names the others."""
    silent = [report for report in nodes.reports if report.problem and not report.slots]
    if silent:
        each = "; ".join(
            f"{report.name} {report.problem}"
            + (f", a replica of {report.primary}" if report.primary else "")
            for report in silent
        )
        yield CheckResult(
            "Redis's nodes",
            Severity.WARNING,
            f"{counted(len(silent), 'node serves', 'nodes serve')} nothing, of {len(nodes.reports)}: {each}",
            "start them, or remove them by CLUSTER FORGET; until then fewer replicas can take over",
        )


def check_shards(
    log: Log, reports: Sequence[NodeReport], shards: Sequence[int]
) -> Iterator[CheckResult]:
    """Check that the node of each shard works. Yields nothing for a single server."""
    if not log.is_cluster:
        return
    check = "Redis's shards"
    try:
        away = log.shard_health(shards, seconds=3.0).away
    except EngineDown as error:
        yield error_result(check, error)
        return
    if away:
        causes = sorted(
            {f"{_owner(reports, shard_slot(shard))} {reason}" for shard, reason in away.items()}
        )
        yield CheckResult(
            check,
            Severity.ERROR,
            f"no answer from {format_shards(away, len(shards))} ({'; '.join(causes)}): nothing is accepted,"
            " stored or counted there; the others work",
            "start the node, or have a replica take over: redis-cli -h REPLICA cluster failover force",
            unreachable=True,
        )
    served = sum(len(part) for report in reports for part in report.slots)
    if served < SLOTS:
        yield CheckResult(
            check,
            Severity.ERROR,
            f"{SLOTS - served:,} of {SLOTS:,} slots have no node",
            "redis-cli --cluster fix HOST:PORT",
        )
    elif not away:
        yield ok_result(check, f"all {len(shards)} answer, and every slot has a node")
    strict_coverage = [
        report
        for report in reports
        if (report.settings or {}).get("cluster-require-full-coverage") == "yes"
    ]
    if strict_coverage:
        yield CheckResult(
            check,
            Severity.WARNING,
            f"cluster-require-full-coverage is yes{_on(strict_coverage, reports)}: if one shard is lost,"
            " all refuse",
            "redis-cli CONFIG SET cluster-require-full-coverage no, and the same in the configuration"
            " file of each node",
        )


def _owner(reports: Sequence[NodeReport], slot: int) -> str:
    return next((report.name for report in reports if report.serves(slot)), "a slot without a node")


def check_durability(settings: Settings, answering: Sequence[NodeReport]) -> Iterator[CheckResult]:
    """Check the settings of each node that the durability depends on: a replica may become a primary."""
    check, promised = "Redis's durability", f"INSTACHAT_DURABILITY={settings.durability}"
    wrong = find_wrong_settings(settings, answering)
    unknown = [report for report in answering if report.settings is None]
    if unknown:
        yield CheckResult(
            check,
            Severity.UNKNOWN,
            f"could not be evaluated: Redis denies reading its settings{_on(unknown, answering)};"
            f" {promised} needs appendonly yes, appendfsync always (fast: everysec), maxmemory-policy"
            " noeviction",
            "check them where this Redis is managed",
        )
    if wrong:
        wanted = " ".join(dict.fromkeys(f"{setting.name} {setting.wanted}" for setting in wrong))
        yield CheckResult(
            check,
            Severity.ERROR,
            f"{promised} is not kept: {'; '.join(map(str, wrong))}",
            f"redis-cli CONFIG SET {wanted}, and the same in its configuration file",
        )
    elif not unknown:
        nodes = "" if len(answering) == 1 else f" by all {len(answering)} nodes that answer"
        yield ok_result(check, f"{promised} is kept{nodes}")


def check_replicas(settings: Settings, nodes: RedisNodes) -> Iterator[CheckResult]:
    """Check the role of each node, and that replicas follow their primaries."""
    check = "Redis's replicas"
    durable = settings.durable_replicas if settings.durability is Durability.STRICT else 0
    found = list(_check_primaries(check, durable, nodes))
    links = [
        f"{report.name} has lost {report.primary}" for report in nodes.answering if report.is_behind
    ]
    if links:
        found.append(
            CheckResult(
                check,
                Severity.WARNING,
                f"{len(links)} can't take over without a loss: {'; '.join(links)}",
                "check the network between them, and their logs",
            )
        )
    replicas = sum(bool(report.primary) for report in nodes.answering)
    if not found and replicas:
        found.append(
            ok_result(
                check,
                counted(replicas, "replica follows its primary", "replicas follow their primaries"),
            )
        )
    yield from found


def _check_primaries(check: str, durable: int, nodes: RedisNodes) -> Iterator[CheckResult]:
    lonely, unguarded = [], []
    in_cluster = len(nodes.reports) > 1
    for report in nodes.answering:
        info = report.info
        if info is None or report.primary or (in_cluster and not report.slots):
            continue
        if info.get("role") == "slave":
            yield CheckResult(
                check,
                Severity.ERROR,
                f"{format_node(report)} is a replica: it takes no writes",
                "set INSTACHAT_REDIS_URL to its primary",
            )
            continue
        followers = [
            value
            for name, value in info.items()
            if name.startswith("slave") and isinstance(value, dict)
        ]
        current = [one for one in followers if _is_current(one)]
        wanted = max(durable, int((report.settings or {}).get("min-replicas-to-write", 0)))
        if len(current) < wanted:
            yield CheckResult(
                check,
                Severity.ERROR,
                f"{format_node(report)} has {counted(len(current), 'current replica')}, and needs {wanted}"
                f" ({'INSTACHAT_DURABLE_REPLICAS' if durable == wanted else 'min-replicas-to-write'}):"
                " it refuses what it is sent",
                "start its replicas, or lower the setting",
            )
        elif in_cluster and not current:
            lonely.append(report)
        elif current and not wanted:
            unguarded.append(report)
    if lonely:
        yield CheckResult(
            check,
            Severity.WARNING,
            f"{', '.join(map(format_node, lonely))} have no replica that follows them: if such a node is"
            " lost, so are its shards until it is back",
            "add replicas: redis-cli --cluster add-node … --cluster-slave",
        )
    if unguarded:
        yield CheckResult(
            check,
            Severity.WARNING,
            f"min-replicas-to-write is 0{_on(unguarded, nodes.reports)}: a primary that is cut off from its"
            " replicas answers until it learns that one of them took over, and what it answered is lost",
            "redis-cli CONFIG SET min-replicas-to-write 1 on each node; or set INSTACHAT_DURABLE_REPLICAS",
        )


def _is_current(follower: dict[str, object]) -> bool:
    return follower.get("state") == "online" and int(str(follower.get("lag", 0))) <= (
        MAX_REPLICA_LAG_SECONDS
    )


def check_memory(answering: Sequence[NodeReport]) -> Iterator[CheckResult]:
    """Check that each node has memory left: accept refuses for the shards of one that has not."""
    check = "Redis's memory"
    results = []
    for report in answering:
        info = report.info
        if info is None:
            continue
        memory = NodeMemory.of(info)
        if memory.share is None or memory.share <= MAX_MEMORY_SHARE:
            continue
        refused = "this node's shards" if report.name else "requests"
        results.append(
            CheckResult(
                check,
                Severity.ERROR,
                f"{report.name and f'{report.name}: '}{_mib(memory.used)} of {_mib(memory.limit)} used"
                f"{_limit_note(info)}: accept refuses {refused} above {MAX_MEMORY_SHARE:.0%}",
                "check that a worker is running (`instachat status`), or raise maxmemory"
                if info.get("maxmemory")
                else "check that a worker is running (`instachat status`), and set maxmemory",
            )
        )
    yield from results
    fullest = max((r for r in answering if r.info), key=_memory_share, default=None)
    if not results and fullest is not None and fullest.info is not None:
        memory = NodeMemory.of(fullest.info)
        message = f"{_mib(memory.used)} of {_mib(memory.limit)} used{_limit_note(fullest.info)}"
        yield ok_result(check, f"{message}, by the fullest node" if fullest.name else message)


def _limit_note(info: Mapping[str, Any]) -> str:
    return "" if int(info.get("maxmemory") or 0) else ", all that its machine has: no limit is set"


def _memory_share(report: NodeReport) -> tuple[float, int]:
    used = int(report.info["used_memory"]) if report.info else 0
    return report.memory_share or 0.0, used


def check_clocks(answering: Sequence[NodeReport]) -> CheckResult:
    """Check the clock of each node against this machine's."""
    worst = max(answering, key=lambda report: abs(report.clock_skew))
    if abs(worst.clock_skew) <= MAX_CLOCK_SKEW_SECONDS:
        return ok_result("clocks", "this machine's clock and Redis's agree")
    return CheckResult(
        "clocks",
        Severity.WARNING,
        f"this machine's clock and {format_node(worst)}'s are {abs(worst.clock_skew):,.1f} s apart:"
        " creation times come from Redis, and a running worker may be taken for a stopped one",
        "synchronise both by NTP",
    )


def check_scripts(log: Log, shards: Sequence[int]) -> CheckResult:
    """Check that a node runs this program's scripts."""
    failure: Exception | None = None
    for shard in shards:
        try:
            log.probe(shard)
            return ok_result("Redis's scripts", "this program's scripts can run")
        except EngineDown as error:
            failure = failure or error
        except (InstaChatError, RedisError) as error:
            failure = error
            break
    return CheckResult(
        "Redis's scripts",
        Severity.ERROR,
        f"Redis refuses scripts, which accept needs: {failure}",
        "permit them for its user: ACL SETUSER … +@scripting +info, and all commands on instachat:*",
    )


def _product(report: NodeReport) -> str:
    info = report.info or {}
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info.get('redis_version')}"


def _version(report: NodeReport) -> tuple[int, ...]:
    return parse_version(str((report.info or {}).get("redis_version")))


def _on(some: Sequence[NodeReport], nodes: Sequence[NodeReport]) -> str:
    """On which nodes, if there are several."""
    if len(nodes) == 1:
        return ""
    if len(some) == len(nodes):
        return " on every node"
    return f" on {', '.join(report.name for report in some)}"


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
