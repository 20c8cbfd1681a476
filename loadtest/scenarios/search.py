"""SearchTasks: each chat begins with a thousand messages of its language, keywords come by Zipf's law.

locust -f loadtest/scenarios/search.py --host http://127.0.0.1:3000
"""

from locust import tag, task

from loadtest.corpus.fixtures import Layout
from loadtest.users.chat_user import ChatTasks, ChatUser


class SearchTasks(ChatTasks):
    """Of 20 requests 18 searches, one page, and one message, so that what is searched moves."""

    @tag("search", "read")
    @task(18)
    def search(self) -> None:
        """Search a chat."""
        self.user.search()

    @tag("list", "read")
    @task
    def list_newest(self) -> None:
        """Read a page."""
        self.user.list_newest()

    @tag("send")
    @task
    def send(self) -> None:
        """Say something."""
        self.user.send()


class SearchUser(ChatUser):
    """32 chats of 1,000 messages each, in 8 applications."""

    tasks = [SearchTasks]  # noqa: RUF012  # as Locust declares it
    layout = Layout(applications=8, chats=32, messages=1_000)
