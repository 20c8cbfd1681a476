"""A day's work: mostly sending, some reading and searching, now and then a change of mind.

locust -f loadtest/scenarios/mixed.py --host http://127.0.0.1:3000
"""

from locust import tag, task

from loadtest.corpus.fixtures import Layout
from loadtest.users.chat_user import ChatTasks, ChatUser


class MixedTasks(ChatTasks):
    """Of 100 requests: 60 messages, 15 pages, 10 searches, 8 edits, 5 deletions, 2 chats."""

    @tag("send")
    @task(60)
    def send(self) -> None:
        """Say something."""
        self.user.send()

    @tag("list", "read")
    @task(15)
    def list_newest(self) -> None:
        """Read a page."""
        self.user.list_newest()

    @tag("search", "read")
    @task(10)
    def search(self) -> None:
        """Search a chat."""
        self.user.search()

    @tag("edit")
    @task(8)
    def edit(self) -> None:
        """Change a message."""
        self.user.edit()

    @tag("delete")
    @task(5)
    def delete(self) -> None:
        """Delete a message."""
        self.user.delete()

    @tag("create")
    @task(2)
    def new_chat(self) -> None:
        """Create a chat."""
        self.user.new_chat()


class MixedUser(ChatUser):
    """16 applications, 64 chats."""

    tasks = [MixedTasks]  # noqa: RUF012  # as Locust declares it
    layout = Layout(applications=16, chats=64)
