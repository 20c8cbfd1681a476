"""Many messages a request: mostly 10 or 100, some 1,000, the most that is allowed.

locust -f loadtest/scenarios/batch.py --host http://127.0.0.1:3000
"""

from locust import tag, task

from loadtest.corpus.fixtures import Layout
from loadtest.users.chat_user import ChatTasks, ChatUser


class BatchTasks(ChatTasks):
    """Of 10 requests 5 of ten messages, 4 of a hundred, one of a thousand."""

    @tag("batch")
    @task(5)
    def ten(self) -> None:
        """Ten messages."""
        self.user.send_many(10)

    @tag("batch")
    @task(4)
    def hundred(self) -> None:
        """A hundred messages."""
        self.user.send_many(100)

    @tag("batch")
    @task
    def thousand(self) -> None:
        """A thousand messages."""
        self.user.send_many(1_000)


class BatchUser(ChatUser):
    """16 applications, 64 chats."""

    tasks = [BatchTasks]  # noqa: RUF012  # as Locust declares it
    layout = Layout(applications=16, chats=64)
