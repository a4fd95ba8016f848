"""The bookshop's own tasks. Their arguments are objects, which is why the shop pickles."""

from dataclasses import dataclass

from bookshop.celery import app


@dataclass(frozen=True)
class Parcel:
    book: str
    address: str


@app.task
def print_label(parcel: Parcel) -> str:
    return f"{parcel.book} → {parcel.address}"


@app.task
def take_stock() -> int:
    return 0
