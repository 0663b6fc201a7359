import asyncio

import numpy as np
import pytest

from features.errors import DataError, UnavailableError
from serving.async_client import AsyncClient
from serving.client import Client
from tests.serving.service import served
from tests.serving.small import table_of, write_version


def test_the_awaited_client_answers_as_the_plain_one(tmp_path):
    write_version(tmp_path, 1, "int8")
    table = table_of(500)
    values = {name: table.column(name).combine_chunks() for name in table.column_names}

    async def many(address):
        async with AsyncClient(address) as client:
            found = await asyncio.gather(*(client.lookup(values) for _ in range(8)))
            versions = await client.versions()
            with pytest.raises(DataError, match="nobody"):
                await client.lookup({"nobody": [1]})
        return found, versions.stamp.version

    with served(tmp_path, max_lookups=3000) as service:
        address = f"127.0.0.1:{service.port}"
        with Client(address) as client:
            expected = client.lookup(values)
        found, version = asyncio.run(many(address))

    assert version == "v-0000000001"
    for each in found:
        assert list(each) == list(expected)
        assert all(np.array_equal(each[name], expected[name]) for name in expected)


def test_a_service_that_is_not_there_is_an_error_in_time():
    async def call():
        async with AsyncClient("127.0.0.1:1", timeout_s=0.4) as client:
            await client.lookup({"user": [1]})

    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1"):
        asyncio.run(call())
    with Client("127.0.0.1:1", timeout_s=0.4) as client, pytest.raises(UnavailableError):
        client.lookup({"user": [1]})
