"""What can go wrong, as one small tree. Each error knows the HTTP status that answers it, where one does."""

from http import HTTPStatus


class UvicornWorkerError(Exception):
    """The root of every error that this package raises by design."""


class InvalidOption(UvicornWorkerError, ValueError):
    """An option or setting that can't be used; the text names it, its value, and the way out."""


class InvalidApplication(UvicornWorkerError, TypeError):
    """The loaded object is not an application that this worker can call."""


class LoadFailed(UvicornWorkerError):
    """The application could not be loaded: the text is the line that says why, and ``status`` the worker's last."""

    def __init__(self, line: str, status: int, *, is_misspelt: bool = False) -> None:
        super().__init__(line)
        self.status = status
        #: Whether its module is not there, by that name.
        self.is_misspelt = is_misspelt

    @property
    def needs_traceback(self) -> bool:
        """Whether the line alone doesn't say where: an import within the application has failed."""
        return isinstance(self.__cause__, ImportError) and not self.is_misspelt


class StartupFailed(UvicornWorkerError):
    """The application could not start, and says why."""


class RequestRefused(UvicornWorkerError):
    """A request that is answered by the server itself, with a short reason, and not by the application."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        #: That of the request, as far as it is known: an answer to a HEAD has no body (RFC 9110 section 9.3.2).
        self.method = ""


class InvalidReply(UvicornWorkerError, ValueError):
    """The application sent something that can't be a part of a response; nothing of it reached the client."""


class IllegalMove(UvicornWorkerError, RuntimeError):
    """The application did something at a moment when it can't be done, such as a second start of a response."""


class ClientDisconnected(UvicornWorkerError, OSError):
    """The client has gone, or can't be understood any more: there is nobody to receive from or send to."""


class BodyStalled(ClientDisconnected):
    """No byte of the request's body came for the seconds of Gunicorn's ``timeout`` while the application waited."""


class InvalidGroupMessage(UvicornWorkerError, ValueError):
    """The application asked groups for something that can't be done or sent; nothing of it was."""


class GroupsUnavailable(UvicornWorkerError, ConnectionError):
    """The engine of groups has been out of reach for too long to take what was sent."""


class WorkerExit(SystemExit):
    """Ends the worker process from a signal handler, whatever code is running; no application's error."""
