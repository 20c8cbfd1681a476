"""Only new messages, one a request: how many the server accepts.

locust -f loadtest/scenarios/ingest.py --host http://127.0.0.1:3000
"""

from locust import tag, task

from loadtest.corpus.fixtures import ScenarioLayout
from loadtest.run.choices import Scenario
from loadtest.users.chat_user import ChatTasks, ChatUser


class IngestTasks(ChatTasks):
    """Every request sends one message."""

    @tag("send")
    @task
    def send(self) -> None:
        """Send a message."""
        self.user.send()


class IngestUser(ChatUser):
    """32 applications, 128 chats."""

    tasks = [IngestTasks]  # noqa: RUF012  # Locust declares it so
    scenario = Scenario.INGEST
    layout = ScenarioLayout(applications=32, chats=128)
