"""Many messages a request: mostly 10 or 100, some 1,000, the maximum.

locust -f loadtest/scenarios/batch.py --host http://127.0.0.1:3000
"""

from locust import tag, task

from loadtest.corpus.fixtures import ScenarioLayout
from loadtest.run.choices import Scenario
from loadtest.users.chat_user import ChatTasks, ChatUser


class BatchTasks(ChatTasks):
    """Of 10 requests, 5 send ten messages, 4 a hundred, and one a thousand."""

    @tag("batch")
    @task(5)
    def ten(self) -> None:
        """Send ten messages."""
        self.user.send_many(10)

    @tag("batch")
    @task(4)
    def hundred(self) -> None:
        """Send a hundred messages."""
        self.user.send_many(100)

    @tag("batch")
    @task
    def thousand(self) -> None:
        """Send a thousand messages."""
        self.user.send_many(1_000)


class BatchUser(ChatUser):
    """16 applications, 64 chats."""

    tasks = [BatchTasks]  # noqa: RUF012  # Locust declares it so
    scenario = Scenario.BATCH
    layout = ScenarioLayout(applications=16, chats=64)
