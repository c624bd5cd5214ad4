"""Dependencies of the routes: the node, and a caller with the role that the route needs."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, HTTPException, Request

from service.api.node import Node
from service.api.security import Caller


def _node(request: Request) -> Node:
    node: Node = request.app.state.node
    return node


TheNode = Annotated[Node, Depends(_node)]


def _anyone(request: Request, node: TheNode) -> Caller | None:
    return node.guard.of_request(request)


Anyone = Annotated[Caller | None, Depends(_anyone)]


def _reader(caller: Anyone, node: TheNode) -> Caller:
    if caller is None:
        if node.guard.open or not node.guard.signs_in:
            raise HTTPException(
                403, "open only on loopback without tokens: set AGATSTON_TOKENS to let others in"
            )
        raise HTTPException(401, "a token is needed", headers={"WWW-Authenticate": "Bearer"})
    return caller


Reader = Annotated[Caller, Depends(_reader)]


def _operator(caller: Reader) -> Caller:
    if not caller.operates:
        raise HTTPException(403, "this needs a token with the role operate")
    return caller


Operator = Annotated[Caller, Depends(_operator)]

NEEDS_READER = Depends(_reader)
NEEDS_OPERATOR = Depends(_operator)
