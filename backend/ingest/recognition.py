"""Recognition: whether a Redis that has nothing of this installation may issue its numbers.

Such a Redis is either the right one, whose data are lost, or a wrong one: another server, or another database
of the server. If a wrong one got an epoch, it would issue numbers that the right one issues, too. A Redis is
recognised if

1. no Redis has ever issued a number for this installation;
2. this process has found the installation in it before: its URL is still the same, so the data are lost;
3. it has the epoch of another shard of the installation; or
4. SQL names it as the server in which a current epoch began. A server has that name until it restarts, also
   if its data are deleted meanwhile.

Any other one is refused until an operator adopts it (`instachat adopt-redis`). A copy of the right Redis, or
a former one, cannot be told from it: it has the installation's numbers.
"""

from contextlib import suppress

from backend.domain.errors import EngineDown, NodeDown, Unavailable, UnknownRedis, WrongRedis
from backend.settings import redact
from backend.storage.postgres import shards
from backend.storage.postgres.database import Database
from backend.storage.redis.log import Log
from backend.storage.redis.types import EpochState


class RedisRecognition:
    """What one process knows about its Redis. Thread-safe."""

    def __init__(self, log: Log, database: Database) -> None:
        self._log = log
        self._database = database
        self.is_known = False
        """Whether this Redis was recognised, or adopted; from then on its data can only be lost."""

    def adopt(self) -> None:
        """Recognise this Redis, because an operator says that it is the right one."""
        self.is_known = True

    def check(self, state: EpochState) -> None:
        """Raise WrongRedis unless the Redis in which a shard has this state is recognised.

        Raises NodeDown if nodes of a cluster do not answer and the others have nothing of the installation.
        """
        self._check_installation(state)
        if not self.is_known:
            self._recognise(state)

    def find_wrong(self) -> WrongRedis | None:
        """Why this Redis is refused; None if it is recognised. Raises EngineDown."""
        try:
            self._recognise()
        except WrongRedis as error:
            return error
        return None

    def find_refusal(self) -> WrongRedis | None:
        """Why this process's next creation is refused; None if it is not. Raises EngineDown.

        Unlike `find_wrong`, it knows that a Redis which this process has used can only have lost its data.
        """
        if not self.is_known:
            return self.find_wrong()
        try:
            self._check_installation(self._log.probe(self._database.installation.all_shards[0]))
        except WrongRedis as error:
            return error
        return None

    def refuse_wrong(self) -> None:
        """Raise WrongRedis as `check` does, for programs that start; not if Redis does not answer."""
        with suppress(EngineDown):
            self._recognise()

    def look(self) -> None:
        """Recognise this Redis if it has the installation now, so that a loss is noticed as such later.

        Costs nothing once this `is_known`. Never raises an expected error.
        """
        if not self.is_known:
            with suppress(Unavailable):
                self._recognise()

    def _recognise(self, probed: EpochState | None = None) -> None:
        """Raise WrongRedis unless this Redis is recognised; `probed` is a state that was read already."""
        with self._database.connect() as connection:
            servers = shards.epoch_servers(connection)
        if probed and (not servers or probed.server in servers):
            self.is_known = bool(servers)  # until the first epoch begins, this may be any Redis
            return
        away: NodeDown | None = None
        for shard in self._database.installation.all_shards:
            try:
                state = self._log.probe(shard)
            except NodeDown as error:  # what another node has may be enough
                away = error
                continue
            self._check_installation(state)
            if state.installation or state.server in servers:
                self.is_known = True
                return
        if servers:
            raise away or self._unknown()

    def _check_installation(self, state: EpochState) -> None:
        if not state.installation:
            return
        if state.installation != self._database.installation.id:
            raise WrongRedis(
                "this Redis holds the numbers of another installation (another database); "
                "nothing was changed",
                "check INSTACHAT_REDIS_URL and INSTACHAT_DATABASE_URL, or give this database an "
                "empty Redis",
            )
        self.is_known = True

    def _unknown(self) -> UnknownRedis:
        return UnknownRedis(
            f"the Redis at {redact(self._log.url)} does not know this installation, whose numbers another"
            " one has issued; nothing was changed",
            "check INSTACHAT_REDIS_URL. If the data of the right Redis are lost for good, run `instachat"
            " adopt-redis`: this one then continues above all stored numbers",
        )
