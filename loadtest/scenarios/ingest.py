"""IngestTasks only, one message a request: how much is taken.

locust -f loadtest/scenarios/ingest.py --host http://127.0.0.1:3000
"""

from locust import tag, task

from loadtest.corpus.fixtures import Layout
from loadtest.users.chat_user import ChatTasks, ChatUser


class IngestTasks(ChatTasks):
    """Nothing but messages."""

    @tag("send")
    @task
    def send(self) -> None:
        """Say something."""
        self.user.send()


class IngestUser(ChatUser):
    """32 applications, 128 chats."""

    tasks = [IngestTasks]  # noqa: RUF012  # as Locust declares it
    layout = Layout(applications=32, chats=128)
