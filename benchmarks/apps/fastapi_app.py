"""The workload ``fastapi``: an endpoint with a path parameter, a query parameter and a model for its reply."""

from fastapi import FastAPI
from pydantic import BaseModel

fastapi = FastAPI()


class Item(BaseModel):
    number: int
    name: str
    tags: list[str]
    prices: dict[str, float]


@fastapi.get("/items/{number}")
async def item(number: int, name: str = "thing") -> Item:
    return Item(number=number, name=name, tags=["a", "b", "c"], prices={"net": 1.5, "gross": 1.785})
