"""Everybody in one chat: every number comes from one counter, every row goes under one parent.

locust -f loadtest/scenarios/hot_chat.py --host http://127.0.0.1:3000
"""

from locust import tag, task

from loadtest.corpus.fixtures import Layout
from loadtest.users.chat_user import ChatTasks, ChatUser


class HotChatTasks(ChatTasks):
    """Of 5 requests 4 messages, and one page."""

    @tag("send")
    @task(4)
    def send(self) -> None:
        """Say something."""
        self.user.send()

    @tag("list", "read")
    @task
    def list_newest(self) -> None:
        """Read a page."""
        self.user.list_newest()


class HotChatUser(ChatUser):
    """One application, one chat."""

    tasks = [HotChatTasks]  # noqa: RUF012  # as Locust declares it
    layout = Layout(applications=1, chats=1)
