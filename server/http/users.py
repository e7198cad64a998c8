"""The operator's routes: `/api/users`. For everybody else they are forbidden, there or not."""

from collections.abc import Awaitable, Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from protocol.errors import ErrorCode, ProtocolError
from protocol.ids import UserId
from protocol.rest import parse_body
from protocol.users import Admitted, NewToken, NewUser, ProjectChange, UserKind, UserList
from server.http.answers import json
from server.http.asking import concerns, guest_of, signed_in
from server.http.bodies import json_body
from server.http.sign_in import SignIn
from server.users.audit import Deed

Ask = Callable[[Request], Awaitable[Response]]


class UserRoutes:
    def __init__(self, *, sign_in: SignIn) -> None:
        self._sign_in = sign_in
        self._accounts = sign_in.accounts

    def routes(self) -> list[Route]:
        table: list[tuple[str, str, Ask, Deed | None]] = [
            ("GET", "/api/users", self.all, None),
            ("POST", "/api/users", self.add, Deed.USER_ADDED),
            ("DELETE", "/api/users/{name}", self.revoke, Deed.USER_REVOKED),
            ("POST", "/api/users/{name}/tokens", self.add_token, Deed.TOKEN_ADDED),
            ("DELETE", "/api/users/{name}/tokens/{token}", self.revoke_token, Deed.TOKEN_REVOKED),
            ("POST", "/api/users/{name}/projects", self.change, Deed.PROJECTS_CHANGED),
        ]
        return [
            Route(path, signed_in(self._sign_in, _operator(ask), deed), methods=[method])
            for method, path, ask, deed in table
        ]

    async def all(self, request: Request) -> Response:
        return json(UserList(await self._accounts.all()))

    async def add(self, request: Request) -> Response:
        new = parse_body(await json_body(request), NewUser)
        concerns(request, user=new.name)
        admitted = await self._accounts.add(new)
        return json(self._with_link(request, admitted), 201)

    async def add_token(self, request: Request) -> Response:
        wanted = parse_body(await json_body(request), NewToken)
        name = _name(request)
        admitted = await self._accounts.new_token(name, wanted)
        concerns(request, token_id=admitted.token_id)
        return json(self._with_link(request, admitted), 201)

    async def revoke(self, request: Request) -> Response:
        return json(await self._accounts.revoke(_name(request)))

    async def revoke_token(self, request: Request) -> Response:
        token_id = request.path_params["token"]
        info = await self._accounts.revoke_token(_name(request), token_id)
        concerns(request, token_id=token_id)
        return json(info)

    async def change(self, request: Request) -> Response:
        change = parse_body(await json_body(request), ProjectChange)
        return json(await self._accounts.change_projects(_name(request), change))

    def _with_link(self, request: Request, admitted: Admitted) -> Admitted:
        """With the link that signs a browser in; a service has no browser."""
        if admitted.user.kind is UserKind.SERVICE:
            return admitted
        # The Host was found to be ours.
        here = f"{request.url.scheme}://{request.headers['host']}"
        link = login_url(self._sign_in.public_url or here, admitted.token)
        return msgspec.structs.replace(admitted, login_url=link)


def login_url(base: str, token: str) -> str:
    """The token is in the fragment, which a browser keeps to itself."""
    return f"{base.rstrip('/')}/#token={token}"


def _name(request: Request) -> str:
    name: str = request.path_params["name"]
    concerns(request, user=name[:100])
    return name


def _operator(ask: Ask) -> Callable[[Request, UserId], Awaitable[Response]]:
    async def asked(request: Request, user: UserId) -> Response:
        require_operator(request, "changes users")
        return await ask(request)

    return asked


def require_operator(request: Request, deed: str) -> None:
    """Raise ProtocolError unless the operator asks."""
    if guest_of(request).kind is not UserKind.OPERATOR:
        raise ProtocolError(
            ErrorCode.FORBIDDEN,
            f"only the operator {deed}",
            hint="whoever runs podium is the operator, with the token in DIR/token",
        )
